"""The environment of launch.py: what is set, that the user wins, and that the program is started again only once."""

import doctest
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import environment
import launch
from environment import ALLOCATOR, ENTERED, additions

PROGRAM = """
import os, sys
import environment
environment.enter(sys.argv)
assert "jax" not in sys.modules
names = ("LPG_JAX_ENVIRONMENT", "TF_CPP_MIN_LOG_LEVEL", *environment.ALLOCATOR)
print(os.getpid(), *(os.environ.get(name, "-") for name in names), *sys.argv[1:], flush=True)
if "wait" in sys.argv:
    sys.stdin.read()
sys.exit(7)
"""


def test_the_examples():
    assert doctest.testmod(environment).failed == 0


def test_the_additions():
    notes = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    assert additions({}, "linux", True) == notes | ALLOCATOR
    assert additions({}, "linux", False) == notes
    assert additions({}, "darwin", True) == additions({}, "win32", True) == notes
    devices = {"XLA_FLAGS": "--a=b --xla_force_host_platform_device_count=8"}
    assert additions(devices, "linux", True) == notes | ALLOCATOR | {"NPROC": "64"}
    assert "NPROC" not in additions({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}, "linux", True)


@pytest.mark.parametrize("name", [*ALLOCATOR, "TF_CPP_MIN_LOG_LEVEL", "NPROC"])
def test_what_the_user_has_set_stays(name):
    before = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    for value in ("17", ""):
        assert additions({**before, name: value}, "linux", True).keys() == additions(before, "linux", True).keys() - {
            name
        }
    whole = additions(before, "linux", True)
    assert additions(before | whole, "linux", True) == {}, "nothing is left to add when it has been entered"


@pytest.mark.parametrize(
    ("platforms", "plugins", "expected"),
    [
        (None, [], True), (None, ["cuda13"], False), ("", ["libtpu"], False), ("cpu", ["cuda13"], True),
        ("CPU", [], True), ("cuda,cpu", [], False), ("cpu,cuda", ["cuda13"], True), ("tpu", [], False),
    ],
)  # fmt: skip
def test_where_jax_computes(platforms, plugins, expected):
    environ = {} if platforms is None else {"JAX_PLATFORMS": platforms}
    assert environment.computes_on_cpu(environ, plugins) is expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True), (["--environment=asis"], False), (["-environment=asis"], False), (["--environment", "asis"], False),
        (["--environment=tuned"], True), (["--workdir=environment=asis"], True), (["environment", "asis"], True),
        (["--config=x", "--environment"], True),
    ],
)  # fmt: skip
def test_the_flag(arguments, expected):
    assert environment.is_wanted(["launch.py", *arguments]) is expected


def test_a_wrong_value_of_the_flag_is_an_error(capsys):
    assert launch.main(["launch.py", "--environment=slow"]) == 2
    assert "--environment=slow: value should be one of <tuned|asis>" in capsys.readouterr().err


def start(script, *arguments, **variables):
    ours = {ENTERED, "TF_CPP_MIN_LOG_LEVEL", *ALLOCATOR}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    paths = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(environment.__file__).parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    script.write_text(PROGRAM)
    command = [sys.executable, "-X", "utf8", str(script), *arguments]
    return subprocess.Popen(command, env={**clean, **paths, **variables}, text=True, **pipes)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is started again elsewhere")
@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["a b"], {}, ["entered", "3", *ALLOCATOR.values(), "a", "b"]),
        ([], {"MALLOC_TOP_PAD_": "5"}, ["entered", "3", *list(ALLOCATOR.values())[:-1], "5"]),
        ([], {**ALLOCATOR, "MALLOC_TOP_PAD_": "5"}, ["-", "3", *list(ALLOCATOR.values())[:-1], "5"]),
        (["--environment=asis"], {}, ["-", "3", *"-----", "--environment=asis"]),
        ([], {"JAX_PLATFORMS": "cuda"}, ["-", "3", *"-----"]),
        ([], {ENTERED: "entered"}, ["entered", "3", *"-----"]),  # never twice
    ],
)
def test_started_again_once_as_the_same_process(arguments, variables, expected, tmp_path):
    process = start(tmp_path / "a program.py", *arguments, **variables)
    printed, _ = process.communicate(timeout=60)
    assert printed.split() == [str(process.pid), *expected]
    assert process.returncode == 7


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is started again elsewhere")
def test_a_signal_reaches_it(tmp_path):
    process = start(tmp_path / "program.py", "wait")
    try:
        assert process.stdout.readline().split()[:2] == [str(process.pid), "entered"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_a_host_is_not_started_again(monkeypatch, tmp_path):
    """Standard input would be empty the second time, and a host would lose what it did so far."""
    script = tmp_path / "launch.py"
    script.write_text("")
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    for name in [name for name in sys.modules if name == "jax"]:
        monkeypatch.delitem(sys.modules, name)

    def is_the_program(*started):
        monkeypatch.setattr(sys, "orig_argv", ["python", *map(str, started)])
        return environment.is_the_program([str(script)])

    assert is_the_program(script, "--help")
    assert is_the_program("-X", "utf8", script)
    assert is_the_program("-m", "launch")
    assert not is_the_program("host.py")
    assert not is_the_program("-m", "ipykernel_launcher", "-f", "x")
    assert not is_the_program("-")
    assert not environment.is_the_program(["-"])
    assert not environment.is_the_program([""])
    monkeypatch.setitem(sys.modules, "jax", jax)
    assert not is_the_program(script)


def test_importing_launch_starts_nothing():
    assert ENTERED not in os.environ
    assert ALLOCATOR.keys().isdisjoint(os.environ)


def test_one_cache_per_kind_of_cpu(monkeypatch, tmp_path):
    here = environment.cache_directory({"HOME": "/home/me"})
    assert here.parent == Path("/home/me/.cache/lpg_jax")
    assert environment.cache_directory({"HOME": "/home/me", "XDG_CACHE_HOME": ""}) == here
    assert environment.cache_directory({"HOME": "/home/me", "XDG_CACHE_HOME": "/c"}) == Path("/c/lpg_jax") / here.name
    monkeypatch.setattr(environment, "_cpu", lambda: "x86_64 flags: sse2")
    assert environment.cache_directory({"HOME": "/home/me"}) != here


def test_the_oldest_programs_go(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    environment.prune(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    environment.prune(tmp_path / "nowhere")


@pytest.fixture
def cache_config():
    """jax's own settings are as before, afterwards."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_where_programs_stay(cache_config, monkeypatch, tmp_path):
    read = lambda: jax.config.jax_compilation_cache_dir  # noqa: E731
    there = read()
    assert there, "the suite has a cache of its own"
    assert launch.keep_programs(None) is None
    assert read() == there, "where jax keeps them already"
    assert launch.keep_programs("here") == read() == "here"
    assert launch.keep_programs("off") is read() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = str(environment.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}))
    assert launch.keep_programs(None) == read() == expected


@pytest.mark.parametrize("fault", ["no directory", "cut short"])
def test_a_broken_cache_costs_no_run(fault, cache_config, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # what is set stays
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    home, x = tmp_path / "cache", jnp.arange(3.0)
    if fault == "no directory":
        home.write_text("a file")

    def compiled():
        launch.keep_programs(str(home))
        compilation_cache.reset_cache()
        return jax.jit(lambda x: jnp.sin(x) * 3)(x)

    with warnings.catch_warnings():  # those of the suite are errors; `keep_programs` adds its own
        first = compiled()
        if fault == "cut short":
            files = list(home.glob("*-cache"))
            assert files
            for path in files:
                path.write_bytes(path.read_bytes()[:-20])
        np.testing.assert_array_equal(compiled(), first)
