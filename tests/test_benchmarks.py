"""The benchmarks: laws of the paired timing, files that come back, and loops that do the same work."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import bars, images, loops, output, timing
from benchmarks.process import process
from benchmarks.settings import Settings
from benchmarks.timing import Row

ROOT = pathlib.Path(__file__).parent.parent
ROWS = [
    Row("head", "C=10 B=128", "lpg / plain", 1 / 3, "x", 0.1 + 0.2, 1e300, 7),
    Row("loops", "resnet8 B=16", 'ours, "untuned"', -0.0, "ms", 0.0, 2.0**-1074, 1),
]


# --- timing


@dataclasses.dataclass
class Clock:
    """Time that passes only where somebody sleeps, and ever slower, as on a machine that fills up."""

    now: float = 0.0

    def sleep(self, seconds):
        self.now += seconds * (1 + self.now)

    def __call__(self):
        return self.now


def sleepers(clock, turns, **seconds):
    def sleeper(name):
        def work():
            turns.append(name)
            clock.sleep(seconds[name])
            return name

        return timing.timed(work, wait=lambda result: None, clock=clock)

    return {name: sleeper(name) for name in seconds}


def test_sleeping_twice_as_long_is_a_ratio_of_two():
    clock, turns = Clock(), []
    measured = timing.interleave(sleepers(clock, turns, one=0.01, two=0.02), rounds=20)
    rows = timing.compare("part", "case", measured, "one")
    ratio = {row.what: row for row in rows}["two / one"]
    assert ratio.low <= 2 <= ratio.high
    assert ratio.value == pytest.approx(2, rel=0.02)
    assert ratio.n == 20
    assert measured["two"][-1] > 1.5 * measured["two"][0], "the machine drifts by far more than the ratio may"


def test_real_sleep():
    import time

    works = {name: (lambda s=seconds: time.sleep(s)) for name, seconds in (("one", 0.01), ("two", 0.02))}
    measures = {name: timing.timed(work, wait=lambda result: None) for name, work in works.items()}
    measured = timing.interleave(measures, rounds=9)
    assert timing.row("", "", "", "x", measured["two"] / measured["one"]).value == pytest.approx(2, rel=0.25)


def test_everyone_has_one_turn_a_round_and_the_order_changes():
    turns = []
    names = "abc"
    timing.interleave({name: (lambda name=name: turns.append(name) or 1.0) for name in names}, rounds=6)
    rounds = ["".join(turns[3 * number : 3 * number + 3]) for number in range(6)]
    assert rounds == ["abc", "bca", "cab", "cba", "acb", "bac"]
    for name in names:
        assert sorted(one.index(name) for one in rounds) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_nobody_always_comes_first(names):
    rounds = [timing.order(names, number) for number in range(2 * len(names))]
    for one, other in itertools.permutations(names, 2):
        assert sum(each.index(one) < each.index(other) for each in rounds) == len(names), "half of the rounds"


def test_short_work_is_repeated():
    clock, turns = Clock(), []
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    measure = timing.timed(lambda: (turns.append(1), clock.sleep(0.01)), lambda result: None, least=0.05, clock=clock)
    turns.clear()
    assert measure() == pytest.approx(0.01)
    assert len(turns) in (5, 6), "0.05 s of calls of 0.01 s"


# --- files and bars


def test_csv_comes_back(tmp_path):
    output.write_csv(ROWS, tmp_path / "cost.csv")
    assert output.read_csv(tmp_path / "cost.csv") == ROWS


def test_verdicts():
    bar = bars.Bar("text", "head", "C=10 B=128", "lpg / plain", limit=0.3)
    (no,) = bars.verdicts(ROWS, [bar])
    (yes,) = bars.verdicts(ROWS, [bar._replace(below=False)])
    (absent,) = bars.verdicts(ROWS, [bar._replace(case="C=11 B=128")])
    assert (no.met, yes.met, absent.met) == (False, True, None)
    assert bars.verdicts(ROWS, [bar._replace(part="step")]) == [], "a part that was not measured"


# --- processes


def test_a_process_has_its_environment_and_nothing_tuned(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    before = dict(os.environ)
    with process({"MALLOC_MMAP_MAX_": "0"}) as call:
        found = [call(os.getenv, name) for name in ("MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "XLA_FLAGS", "HOME")]
        assert call(os.getpid) == call(os.getpid) != os.getpid()
    assert found == ["0", None, None, os.environ.get("HOME")]
    assert dict(os.environ) == before


# --- loops that do the same work


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A file of small images, and what every loop takes."""
    path, rng = str(tmp_path_factory.mktemp("images") / "tiny.npz"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int32) % 10
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return {"path": path, "batch": 6}


@pytest.fixture(scope="module", params=["mlp", pytest.param("resnet8", marks=pytest.mark.slow)])
def model(request):
    return request.param


@pytest.fixture(scope="module")
def trained(tiny, model):
    """Ours, three batches on: (weights before, losses, weights after)."""
    from benchmarks import ours

    loop = ours.Loop(model=model, **tiny)
    before = loop.weights()
    return before, [loop.loss() for _ in range(3)], loop.weights()


def test_hand_written_flax_loop_does_the_same(tiny, model, trained):
    from benchmarks import flax_loop

    before, losses, after = trained
    loop = flax_loop.Loop(model=model, **tiny)
    loop.load(before)
    found = [loop.loss() for _ in losses]
    loops.check_agreement({"flax": found, "ours": losses}, {"flax": "float32", "ours": "float32"})
    weights = loop.weights()
    assert weights.keys() == after.keys()
    for name, leaf in after.items():
        np.testing.assert_allclose(weights[name], leaf, atol=1e-3, err_msg=name)
        assert np.abs(leaf - before[name]).max() > 1e-2 or name.endswith("bias"), "ten times as much has changed"


def test_torch_loop_does_the_same(tiny, model, trained):
    pytest.importorskip("torch")
    from benchmarks import torch_loop

    before, losses, after = trained
    loop = torch_loop.Loop(model=model, **tiny)
    loop.load(before)
    found = [loop.loss() for _ in losses]
    loops.check_agreement({"flax": found, "ours": losses}, {"flax": "float32", "ours": "float32"})
    weights = loop.weights()
    for name, leaf in after.items():
        given = weights[torch_loop.torch_name(name)]
        np.testing.assert_allclose(given, torch_loop.torch_axes(leaf), atol=1e-3, err_msg=name)


def test_loops_that_disagree_are_refused():
    losses = {"flax": [2.0, 1.5], "ours": [2.0, 1.502]}
    with pytest.raises(
        ValueError, match=r"ours: loss 1\.502 in step 1, but 1\.5 in flax: must agree to a share of 0\.001"
    ):
        loops.check_agreement(losses, dict.fromkeys(losses, "float32"))
    loops.check_agreement(losses, {"flax": "float32", "ours": "bfloat16"})


def test_a_loss_that_is_not_a_number_is_refused():
    losses = {"flax": [2.0], "ours": [float("nan")]}
    with pytest.raises(ValueError, match="ours: loss nan in step 0"):
        loops.check_agreement(losses, dict.fromkeys(losses, "float32"))


def test_weights_of_another_network_are_refused(tiny):
    from benchmarks import flax_loop

    loop = flax_loop.Loop(model="mlp", **tiny)
    with pytest.raises(ValueError, match=r"weights=\['head/bias'\]: must be those of"):
        loop.load({"head/bias": np.zeros(10)})


def test_without_torch_it_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(loops, "find_spec", lambda name: None)
    found = loops.contestants(Settings(True, "images.npz"), "resnet8", {})
    assert not any(name.startswith("torch") for name in found)
    assert "PyTorch is not installed (extra 'benchmarks')" in capsys.readouterr().out


def test_images_of_scikit_learn(tmp_path):
    path = str(tmp_path / "images.npz")
    assert "digits" in images.prepare("", path)
    read = images.read(path)
    assert read.raw.shape == (images.NUMBER, 32, 32, 3)
    assert read.raw.dtype == np.uint8
    assert (read.raw.min(), read.raw.max()) == (0, 255)
    np.testing.assert_allclose(read.inputs.std((0, 1, 2), dtype=np.float64), 1, rtol=1e-4)
    np.testing.assert_array_equal(np.unique(read.labels), np.arange(10))
    np.testing.assert_array_equal(images.batch(3, 4, 10), [2, 3, 4, 5])


# --- the command


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", f"--out={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1100)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = output.read_csv(tmp_path / "cost.csv")
    assert {row.part for row in rows} == {"head", "step", "loops", "population", "devices", "memory"}
    assert all(np.isfinite(row.value) and row.low <= row.value <= row.high for row in rows)
    assert "hand-written Flax loop" in run.stdout
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["cpu"]["name"]
    assert machine["versions"]["jax"]
    assert machine["quick"] is True
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
