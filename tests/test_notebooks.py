"""Every notebook runs from top to bottom, as a script and in a kernel, and its .py and its .ipynb say the same."""

import pathlib
import runpy

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).parent.parent
FAST = {"quickstart.py"}
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def parameters(paths, fast):
    return [pytest.param(p, id=p.name, marks=[] if p.name in fast else [pytest.mark.slow]) for p in paths]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The files of what plt.show() would show: drawn in full, then closed."""
    paths = []

    def show():
        for number in plt.get_fignums():
            paths.append(tmp_path / f"{len(paths)}.png")
            plt.figure(number).savefig(paths[-1])
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    yield paths
    plt.close("all")


def run_script(path):
    """As `python PATH`; a warning is an error, as everywhere in the tests."""
    runpy.run_path(str(path), run_name="__main__")
    assert not plt.get_fignums(), "a figure without plt.show()"


@pytest.mark.parametrize("path", parameters(SCRIPTS, FAST))
def test_a_notebook_runs_as_a_script(path, capsys, pictures):
    run_script(path)
    assert capsys.readouterr().out.strip()
    assert len(pictures) == path.read_text().count("plt.show()")
    assert all(picture.stat().st_size > 1000 for picture in pictures)


BROKEN = {
    "assert 1 + 1 == 3": AssertionError,
    "import lpg_jax\nlpg_jax.no_such_name": AttributeError,
    "import warnings\nwarnings.warn('deprecated', DeprecationWarning)": DeprecationWarning,
    "import matplotlib.pyplot as plt\nplt.figure()": AssertionError,
}


@pytest.mark.parametrize("code", BROKEN, ids=["assert", "name", "warning", "figure"])
def test_a_broken_notebook_fails(code, tmp_path, pictures):
    path = tmp_path / "broken.py"
    path.write_text(f"# %% [markdown]\n# # A title\n\n# %%\n{code}\n")
    with pytest.raises(BROKEN[code]):
        run_script(path)


def content(notebook):
    """What a reader sees: kind and text of each cell, and the metadata that say more than who wrote the file."""
    volatile = {"jupytext", "language_info"}
    metadata = {key: value for key, value in notebook.metadata.items() if key not in volatile}
    return metadata, [(cell.cell_type, dict(cell.metadata), cell.source) for cell in notebook.cells]


def check_pair(script, notebook):
    """The .ipynb is what `jupytext --to ipynb` makes of the .py, and holds no outputs."""
    jupytext = pytest.importorskip("jupytext")
    made = jupytext.reads(jupytext.writes(jupytext.read(script), fmt="ipynb"), fmt="ipynb")
    found = jupytext.read(notebook)
    assert content(found) == content(made), "out of step: run `jupytext --update --to ipynb notebooks/*.py`"
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear its outputs"


def test_every_notebook_is_a_pair():
    assert SCRIPTS
    assert [path.stem for path in SCRIPTS] == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_both_files_of_a_pair_say_the_same(path):
    check_pair(path, path.with_suffix(".ipynb"))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]'),
     ('"execution_count": null', '"execution_count": 3'), ("np.bincount", "np.unique"), ("Your arrays", "My arrays")],
    ids=["output", "count", "code", "text"],
)  # fmt: skip
def test_a_pair_out_of_step_fails(old, new, tmp_path):
    text = (ROOT / "notebooks/quickstart.ipynb").read_text()
    assert old in text
    (tmp_path / "changed.ipynb").write_text(text.replace(old, new, 1))
    with pytest.raises(AssertionError, match=r"out of step|clear its outputs"):
        check_pair(ROOT / "notebooks/quickstart.py", tmp_path / "changed.ipynb")


def run_in_kernel(path):
    """As in Jupyter, started beside the notebook."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_in_a_kernel(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where lpg_jax is not installed
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = run_in_kernel(path)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert outputs
    assert len(pictures) == sum(cell.source.count("plt.show()") for cell in notebook.cells)


@pytest.mark.slow
def test_a_broken_notebook_fails_in_a_kernel(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("assert 1 + 1 == 3")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "broken.ipynb")
    with pytest.raises(Exception, match="AssertionError"):
        run_in_kernel(tmp_path / "broken.ipynb")
