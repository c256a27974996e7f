"""Checkpoints: what was saved comes back to the bit, on any devices, or an older one does; room on the disk."""

import collections
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lpg_jax.training import checkpoint, workdir
from lpg_jax.training.checkpoint import Checkpoints
from lpg_jax.training.settings import ConfigError

pytestmark = pytest.mark.slow


class State(NamedTuple):
    step: Any
    params: Any
    stats: Any
    key: Any


def make(step, width=3000):
    """All that a run may hold."""
    key = jax.random.key(step)
    params = {
        "w": jax.random.normal(key, (width,)),
        "half": jnp.full((7, 5), step, jnp.bfloat16),
        "none": jnp.zeros((0, 3)),
        "flags": jnp.array([True, False]),
    }
    state = State(jnp.int32(step), params, {}, jax.random.split(key, 3))
    return [(state, {"loss": jnp.float32(1 / step)})]


ABSTRACT = jax.eval_shape(lambda: make(1))


def raw(tree):
    """(dtype, shape, bytes) of every leaf."""
    typed = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(tree)]
    leaves = [jax.random.key_data(x) if is_key else x for x, is_key in zip(jax.tree.leaves(tree), typed, strict=True)]
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and raw(one) == raw(other)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make(step))
    return directory


@pytest.fixture
def home(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def restore(directory, abstract=ABSTRACT, **options):
    with Checkpoints(directory, keep=2) as checkpoints:
        return checkpoints.restore(abstract, **options)


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def files_of(directory):
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def mesh(count):
    return jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:count])


def test_the_newest_comes_back_to_the_bit_and_only_so_many_are_kept(home):
    step, tree = restore(home)
    assert step == 3
    assert same(tree, make(3))
    assert type(tree[0][0]) is State
    assert {leaf.sharding for leaf in jax.tree.leaves(tree)} == {jax.sharding.SingleDeviceSharding(jax.devices()[0])}
    assert entries(home) == ["2", "3"]


def test_without_checkpoints_there_is_none(tmp_path):
    assert restore(tmp_path / "new") is None


@pytest.mark.parametrize(("written", "read"), [(8, 3), (1, 8), (8, 1)])
def test_any_number_of_devices(tmp_path, written, read):
    source, target = (NamedSharding(mesh(count), PartitionSpec()) for count in (written, read))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(4, jax.device_put(make(4), source))
        step, tree = checkpoints.restore(ABSTRACT, sharding=target)
    assert step == 4
    assert same(tree, make(4))
    assert all(leaf.sharding.is_equivalent_to(target, leaf.ndim) for leaf in jax.tree.leaves(tree))


def test_an_array_over_the_devices(tmp_path):
    across = NamedSharding(mesh(4), PartitionSpec("batch"))
    keys = jax.random.split(jax.random.key(0), 8)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"keys": jax.device_put(keys, across)})
        _, tree = checkpoints.restore({"keys": jax.eval_shape(lambda: keys)}, sharding=across)
    assert same(tree, {"keys": keys})
    assert tree["keys"].sharding.is_equivalent_to(across, 1)


def test_arrays_may_be_donated_or_changed_once_save_returns(tmp_path):
    donated, changed = jnp.arange(2e6), np.arange(2e6, dtype=np.float32)
    abstract = jax.eval_shape(lambda: [donated, donated])
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, [donated, changed])
        jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(donated).block_until_ready()
        changed[:] = -1
        _, tree = checkpoints.restore(abstract)
    np.testing.assert_array_equal(tree, [np.arange(2e6)] * 2)


def test_another_prng_comes_back_as_such(tmp_path):
    key = jax.random.key(3, impl="rbg")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, [key])
        _, tree = checkpoints.restore(jax.eval_shape(lambda: [key]))
    assert jax.random.key_impl(tree[0]) == "rbg"
    assert same(tree, [key])


def test_in_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PIECE", 1000)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make(1))
    assert same(restore(tmp_path)[1], make(1))


def test_a_step_that_is_there_is_left_alone(home):
    with Checkpoints(home, keep=2) as checkpoints:
        checkpoints.save(3, make(1))
    assert same(restore(home)[1], make(3))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"empty": lambda path: path.write_bytes(b""), "cut": cut, "deleted": Path.unlink, "flipped": flip}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_never_passes_silently(saved, tmp_path, damage):
    """Each file in turn: the older checkpoint with a warning, or the whole newest where orbax does without the file."""
    largest = max(files_of(saved / "3"), key=lambda path: path.stat().st_size)
    assert largest.stat().st_size > 10_000
    for number, name in enumerate(path.relative_to(saved) for path in files_of(saved / "3")):
        directory = Path(shutil.copytree(saved, tmp_path / str(number)))
        DAMAGES[damage](directory / name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step, tree = restore(directory)
        assert same(tree, make(step)), name
        if step == 3:
            assert damage != "empty", name
            assert name != largest.relative_to(saved)
            assert not caught
        else:
            (warning,) = caught
            assert str(warning.message).startswith(f"{directory / '3'}: checkpoint skipped, moved to 3.damaged (")
            assert "\n" not in str(warning.message)
            assert entries(directory) == ["2", "3.damaged"]


def test_after_a_damaged_one_training_goes_on(home):
    flip(max(files_of(home / "3"), key=lambda path: path.stat().st_size))
    expected = r"3: checkpoint skipped, moved to 3\.damaged \(ValueError: its bytes are not those that were saved\)$"
    with Checkpoints(home, keep=2) as checkpoints:
        with pytest.warns(UserWarning, match=expected):
            assert checkpoints.restore(ABSTRACT)[0] == 2
        for step in (3, 4):
            checkpoints.save(step, make(step))
    assert entries(home) == ["3", "3.damaged", "4"]
    step, tree = restore(home)
    assert step == 4
    assert same(tree, make(4))


def test_what_a_kill_left_half_written_is_swept_away(home):
    (home / "4.orbax-checkpoint-tmp" / "data").mkdir(parents=True)
    assert restore(home)[0] == 3
    assert entries(home) == ["2", "3"]


def test_with_all_damaged_there_is_none(home):
    for step in (2, 3):
        shutil.rmtree(home / str(step) / "data")
    with pytest.warns(UserWarning, match="checkpoint skipped") as caught:
        assert restore(home) is None
    assert [Path(str(warning.message).split(":")[0]).name for warning in caught] == ["3", "2"]
    assert entries(home) == ["2.damaged", "3.damaged"]


def widened(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf


@pytest.mark.parametrize(
    ("abstract", "reason"),
    [
        (jax.eval_shape(lambda: make(1, width=2000)), r"holds .*\['w'\] float32\[3000\], this run .* float32\[2000\]"),
        ([*ABSTRACT, jax.ShapeDtypeStruct((2,), "f4")], r"it holds no more, this run \[1\] float32\[2\]"),
        (jax.tree.map(widened, ABSTRACT), r"\['half'\] bfloat16\[7, 5\], this run .*\['half'\] float32\[7, 5\]"),
    ],
    ids=["shape", "name", "dtype"],
)
def test_another_state_is_not_read(home, abstract, reason):
    with pytest.warns(UserWarning, match=reason) as caught:
        assert restore(home, abstract) is None
    assert len(caught) == 2


def test_one_that_cannot_be_moved_is_passed_by(home, monkeypatch):
    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    cut(max(files_of(home / "3"), key=lambda path: path.stat().st_size))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.warns(UserWarning, match=r"skipped, cannot be moved: Permission denied"):
            step, tree = restore(home)
    assert step == 2
    assert same(tree, make(2))


def test_memory_that_runs_out_moves_nothing(home, monkeypatch):
    def exhaust(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sha256", exhaust)
        with pytest.raises(MemoryError):
            restore(home)
    assert entries(home) == ["2", "3"]


def test_a_full_disk_is_a_clear_error_and_the_one_before_stays(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    wide = jax.random.normal(jax.random.key(0), (1_000_000,))
    message = r"the last checkpoint cannot be written \(.*; free some space, and the same command resumes"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, [wide])
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        try:
            checkpoints.save(2, [wide + 1])
            with pytest.raises(OSError, match=message):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    step, tree = restore(tmp_path, jax.eval_shape(lambda: [wide]))
    assert step == 1
    assert same(tree, [wide])


def make_wide(step):
    return {"w": np.random.default_rng(step).random(10_000_000, np.float32)}  # 40 MB


def save_and_say(directory):
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(1, make_wide(1))
        checkpoints.wait()
        tree = make_wide(2)
        print(os.getpid(), flush=True)
        checkpoints.save(2, tree)


def fork_for_each_line():
    """A process of its own for each directory on stdin, without importing everything anew."""
    for line in sys.stdin:
        if not (child := os.fork()):
            save_and_say(Path(line.strip()))
            os._exit(0)
        os.waitpid(child, 0)
        print("gone", flush=True)


@pytest.mark.parametrize("count", [4])
def test_killed_while_it_saves(tmp_path, count):
    """keep=1: the older one may go only when the newer one is whole. From the call to the end it takes about 0.4 s."""
    root = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{root.parent}{os.pathsep}{root}"}
    command = [sys.executable, "-W", "ignore", "-c", "import test_checkpoint as t; t.fork_for_each_line()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    found = []
    with subprocess.Popen(command, env=environment, text=True, bufsize=1, **pipes) as process:
        for directory in (tmp_path / str(number) for number in range(count)):
            process.stdin.write(f"{directory}\n")
            child = int(process.stdout.readline())
            time.sleep(np.random.default_rng().uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "gone\n"
            found.append(check_after_kill(directory))


def check_after_kill(directory):
    """The step that is found there; step 2 can be saved then."""
    abstract = {"w": jax.ShapeDtypeStruct((10_000_000,), np.float32)}
    with Checkpoints(directory, keep=1) as checkpoints:
        found, tree = checkpoints.restore(abstract)
        assert (np.asarray(tree["w"]) == make_wide(found)["w"]).all()
        checkpoints.save(2, make_wide(2))
        step, tree = checkpoints.restore(abstract)
    assert step == 2
    assert (np.asarray(tree["w"]) == make_wide(2)["w"]).all()
    assert entries(directory) in (["2"], ["1", "2"]), "the kill came before 1 was deleted, or nothing else is left"
    shutil.rmtree(directory)
    return found


Usage = collections.namedtuple("Usage", "total used free")


@pytest.mark.parametrize("made", [True, False])
def test_room_for_checkpoints(tmp_path, monkeypatch, made):
    home = tmp_path / "runs" / "x"
    if made:
        home.mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 3_100_000, 3_100_000))
    workdir.check_room(home, 3_100_000)
    message = (
        rf"^workdir='{home}': 3\.1 MB free, but its checkpoints need about 12 MB; free some space, set "
        r"checkpoint\.keep lower, or give another workdir$"
    )
    with pytest.raises(ConfigError, match=message):
        workdir.check_room(home, 12_000_000)
    assert home.exists() == made
    assert files_of(tmp_path) == []


def test_checkpoints_that_are_there_count_as_room(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 0))
    run = tmp_path / "run"
    (run / "lpg").mkdir(parents=True)
    home.rename(run / "lpg" / "checkpoints")
    size = sum(path.stat().st_size for path in files_of(run))
    workdir.check_room(run, size)
    with pytest.raises(ConfigError, match="free, but its checkpoints need about"):
        workdir.check_room(run, size + 1)


@pytest.mark.parametrize(("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (5e12, "5000 GB")])
def test_sizes(number, text):
    assert workdir._size(number) == text


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"workdir='/dev/null/x': cannot be written \(Not a directory\); give another"
    ):
        workdir.check_room(Path("/dev/null/x"), 1)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(
        ConfigError, match=rf"workdir='{tmp_path}': cannot be written \(Permission denied\); give another"
    ):
        workdir.check_room(tmp_path, 1)


def test_run_json_keeps_every_start(tmp_path):
    starts = [{"command": "a"}, {"command": "b"}, {"command": "c"}]
    for start in starts:
        workdir.write_run(tmp_path, start)
    content = json.loads((tmp_path / workdir.RUN).read_text())
    assert content == {**starts[0], "resumed": starts[1:]}


@pytest.mark.parametrize("damaged", ["", "[]", '{"resumed": 3}'])
def test_a_damaged_run_json_does_not_stop_a_run(tmp_path, damaged):
    (tmp_path / workdir.RUN).write_text(damaged)
    workdir.write_run(tmp_path, {"command": "b"})
    content = json.loads((tmp_path / workdir.RUN).read_text())
    assert content == {"damaged": "the entries before were lost", "resumed": [{"command": "b"}]}
