"""Examples in docstrings and README run, and the rooms import only what they may."""

import ast
import doctest
import importlib
import pathlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lpg_jax

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(lpg_jax.__path__, "lpg_jax.") if not m.name.endswith("__main__"))

# a room may import itself and these
ROOMS = {
    "__init__": {"losses", "transforms", "bounds", "logit_layer", "splits", "statistics"},
    "checks": set(),
    "class_blocks": set(),
    "statistics": {"class_blocks"},
    "splits": {"statistics", "checks"},
    "bounds": {"statistics", "checks"},
    "transforms": {"splits", "bounds", "statistics", "checks", "class_blocks"},
    "logit_layer": {"statistics", "checks"},
    "losses": {"statistics", "checks"},
    "descent": {"losses", "transforms", "statistics", "checks"},
    "models": set(),
    "data": set(),
    "report": set(),
    "analysis": {"descent", "transforms", "losses", "logit_layer", "statistics", "splits", "bounds", "checks"},
    "training": {"descent", "models", "data", "losses", "transforms", "logit_layer", "statistics", "splits", "bounds"},
}


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_rooms(path, module):
    """Rooms of lpg_jax that a file imports; `import lpg_jax` itself counts as its public face "lpg_jax"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {room_of(a.name) if "." in a.name else "lpg_jax" for a in node.names
                      if a.name.split(".")[0] == "lpg_jax"}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lpg_jax":
            names = [a.name for a in node.names] if node.module == "lpg_jax" else [node.module.split(".")[1]]
            found |= set(names)
    return found


def files():
    for path in sorted((ROOT / "lpg_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(("path", "module"), list(files()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_room_imports_only_what_it_may(path, module):
    room = room_of(module)
    allowed = ROOMS[room] | {room}
    if room == "training":
        allowed |= {"lpg_jax", "__version__"}  # the public factories
    assert imported_rooms(path, module) <= allowed


def test_every_room_is_listed():
    assert {room_of(module) for _, module in files()} == set(ROOMS)


def test_only_the_logit_layer_defines_gradient_rules():
    """custom_vjp appears in logit_layer.py alone."""
    users = {path.name for path, _ in files() if "jax.custom_vjp" in path.read_text()}
    assert users == {"logit_layer.py"}


def test_only_launch_and_tests_import_configs():
    for path, _ in files():
        assert "configs" not in {n for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)
                                 for n in (a.name.split(".")[0] for a in node.names)}  # fmt: skip


NAMESPACE = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "lpg_jax": lpg_jax}


def namespace(module):
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))
    public = {name: getattr(lpg_jax, name) for name in lpg_jax.__all__}
    return {**public, **NAMESPACE, "tx": tx, "state": tx.init(jnp.zeros(10)), **vars(module)}


@pytest.mark.parametrize("name", ["lpg_jax", *MODULES])
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs=namespace(module), optionflags=flags)
    assert result.failed == 0


PUBLIC = [getattr(lpg_jax, name) for name in lpg_jax.__all__ if callable(getattr(lpg_jax, name))]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_public_docstrings_are_complete(function):
    text = function.__doc__ or ""
    assert text
    if not isinstance(function, type):
        for part in ("Args:", "Returns:", "Raises:", "Example:", ">>> "):
            assert part in text, part


def test_readme_code_runs(capsys):
    text = (ROOT / "README.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    printed = np.fromstring(capsys.readouterr().out.strip(" []\n"), sep=" ")
    np.testing.assert_allclose(printed, [-0.3, -0.23, 0.24, 0.3], atol=0.005)


def test_readme_map_names_every_room():
    text = (ROOT / "README.md").read_text()
    files = {"logit_layer.py", "statistics.py", "splits.py", "bounds.py", "launch.py"}
    folders = {f"{path.name}/" for path in (ROOT / "lpg_jax").iterdir() if (path / "__init__.py").exists()}
    for name in files | folders | {"configs/", "tests/", "notebooks/"}:
        assert name in text
