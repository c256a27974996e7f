"""launch.py, as a newcomer meets it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny_config import digests

import launch
from lpg_jax import data, training
from lpg_jax.training.signals import Interrupted

ROOT = Path(launch.__file__).parent
CONFIG = f"--config={ROOT}/configs/digits_longtail.py:tiny"
SMALL = [CONFIG, "--config.train.epochs=3", "--config.model.hidden=(16,)", "--config.train.batch_size=64"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Runs go where the test is, and the precision of the process stays."""
    monkeypatch.chdir(tmp_path)
    yield
    jax.config.update("jax_enable_x64", False)


def call(*arguments):
    return launch.main(["launch.py", *arguments])


def test_a_run_ends_with_table_files_and_directory(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert call(*SMALL) == 0
    (home,) = (tmp_path / "runs").iterdir()
    assert home.name.startswith("digits_longtail-tiny-")
    printed = capsys.readouterr().out
    for text in ("weight decay 0.0005 on kernels -> momentum 0.9 -> learning rate 0.1, cosine", "Test accuracy"):
        assert text in printed
    for name in ("table.csv", "classes.png", "summary.json"):
        assert (home / name).stat().st_size > 0
        assert f"runs/{home.name}/{name}" in printed
    for name in ("ce", "lpg"):
        assert (home / name / "metrics.jsonl").exists()
        assert (home / name / "checkpoints" / "18").is_dir()
    command = json.loads((home / "summary.json").read_text())["command"]
    assert command.startswith("launch.py --config=")
    assert command.endswith("'--config.model.hidden=(16,)' --config.train.batch_size=64")

    stamp = (home / "summary.json").stat().st_mtime_ns
    assert call(*SMALL) == 0
    printed = capsys.readouterr().out
    assert "this run is finished, nothing is trained" in printed
    assert "Test accuracy" in printed
    assert (home / "summary.json").stat().st_mtime_ns == stamp

    assert call(*SMALL, "--config.seed=1", f"--workdir={home}") == 2
    assert "holds a run with another config (seed: 0 -> 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CONFIG, "--config.lpg.epsilom=1"], "config.lpg.epsilom: no such field; did you mean lpg.epsilon?"),
        ([CONFIG, "--config.epsilon=1"], "config.epsilon: no such field; did you mean lpg.epsilon?"),
        ([CONFIG, "--config.lgp.slope", "1"], "config.lgp.slope: no such field; did you mean lpg.slope?"),
        ([CONFIG, "--config.zzz=1"], "config.zzz: no such field"),
        ([CONFIG, "--config.seed=one"], "config.seed=one: invalid literal for int()"),
        ([CONFIG, "--config.lpg.epsilon=big"], "config.lpg.epsilon=big: could not convert string to float"),
        ([CONFIG, "--config.lpg=3"], "config.lpg=3: Failed to parse '3' as a ConfigDict"),
        ([CONFIG, "--config.lpg.epsilon=-0.1"], "lpg.epsilon=-0.1: must be >= 0"),
        ([CONFIG, "--config.model.name=resnet33"], "model.name='resnet33': no such model; closest: resnet"),
        ([CONFIG, "--config.parallel=map"], "parallel='map': must be one of 'jit', 'pmap'"),
        ([CONFIG, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ([CONFIG, "--workdir=/dev/null/x"], "workdir='/dev/null/x': cannot be written"),
        ([CONFIG, "train"], "'train': not a flag"),
        ([CONFIG[:-5] + ":huge"], "digits_longtail.py:huge: variant='huge': must be one of '', 'tiny', 'varied'"),
        (["--config=nowhere.py"], "--config=nowhere.py: no such file"),
        (["--workdir=x"], "--config: missing; try --config=configs/digits_longtail.py"),
        (["--predict=x.npz"], "--workdir: missing; --predict needs that of a run"),
        (["--predict=x.npz", "--workdir=y"], "y/config.json: not found; is this the work directory of a run?"),
        (["--predict=x.npz", "--workdir=y", CONFIG], "--config: not read with --predict"),
        (["--predict=x.npz", "--workdir=y", "--config.seed=1"], "'--config.seed=1': not a flag"),
        ([CONFIG, "--method=ce"], "--method: only read with --predict"),
    ],
)
def test_a_wrong_command_gets_one_line_and_code_2(arguments, message, capsys, tmp_path):
    assert call(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_float64_is_switched_on(tmp_path):
    assert call(*SMALL, "--workdir=double", "--config.train.dtype=float64", "--config.method=lpg") == 0
    _, params, _ = training.load(tmp_path / "double", "lpg")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float64"}


def test_help(capsys):
    assert call("--help") == 0
    printed = capsys.readouterr().out
    for flag in ("--config=FILE[:variant]", "--sweep=local", "--slurm.KEY=VALUE", "--predict=FILE.npz[:PART]", "--out"):
        assert flag in printed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run of two methods and two seeds."""
    home = tmp_path_factory.mktemp("run") / "home"
    assert call(*SMALL, f"--workdir={home}") == 0
    return home


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predict_writes_what_load_says(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    images, labels = data.load(SimpleNamespace(name="digits"), 0).test[:2]
    labels[7] = (labels[7] + 1) % 10
    np.savez(tmp_path / "mine.npz", x_test=images, y_test=labels, x_train=images[:1], y_train=labels[:1])
    assert call("--predict=mine.npz", f"--workdir={home}") == 0
    printed, path = capsys.readouterr().out, home / "lpg" / "predictions-mine.csv"
    assert f"mine.npz: x_test, y_test; method lpg of {home}, mean of 2 models" in printed
    assert f"Most suspect of {len(labels)} labels" in printed
    assert printed.splitlines()[-1] == str(path)
    expected = training.load(home, "lpg")[0](images)
    rows = rows_of(path)
    assert len(rows) == len(labels)
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    for row in rows:
        i = int(row["index"])
        assert int(row["label"]) == labels[i]
        assert float(row["loss"]) == pytest.approx(-np.log(expected[i, labels[i]]), rel=1e-5)
        written = [float(row[f"probability_{digit}"]) for digit in range(10)]
        np.testing.assert_allclose(written, expected[i], rtol=1e-6)
        assert float(row["gradient_norm"]) == pytest.approx(np.linalg.norm(written - np.eye(10)[labels[i]]), rel=1e-4)
    assert printed.count("│") == 7 * 10, "ten rows are shown"


def test_predict_takes_part_method_and_out(home, tmp_path, capsys):
    images, labels = data.load(SimpleNamespace(name="digits"), 0).test[:2]
    np.savez(tmp_path / "mine.npz", x=images[:9], y=labels[:9], x_more=images[:5])
    assert call("--predict=mine.npz:more", f"--workdir={home}", "--method=ce", "--out=out.csv") == 0
    assert "mine.npz: x_more (no labels); method ce of" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out.csv")
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert "loss" not in rows[0]
    np.testing.assert_allclose(
        [float(row["probability_3"]) for row in rows], training.load(home, "ce")[0](images[:5])[:, 3], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"x": np.zeros((2, 5))}, [], "f.npz: x: inputs.shape=(2, 5): must be (N, 8, 8, 1)"),
        ({"x": np.zeros((2, 8, 8, 1), np.uint8)}, [], "f.npz: x: inputs.dtype=uint8: must be float"),
        ({"x": np.zeros((2, 8, 8)), "y": [3, 10]}, [], "f.npz: y: value 10 at index 1: must be in [0, 10)"),
        ({"x": np.zeros((2, 8, 8))}, ["--method=sam"], "method='sam': not in this run; it has ce, lpg"),
        ({"x": np.zeros((2, 8, 8))}, ["--out=f.npz"], "out='f.npz': is the file that is read"),
        (
            {"x": np.zeros((2, 8, 8))},
            ["--out=no/where.csv"],
            "out='no/where.csv': 'no' is no directory; make it or give another file",
        ),
        (None, [], "f.npz: no such file"),
    ],
)
def test_a_wrong_prediction_is_one_line(arrays, arguments, message, home, tmp_path, capsys):
    if arrays is not None:
        np.savez(tmp_path / "f.npz", **arrays)
    assert call("--predict=f.npz", f"--workdir={home}", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_interrupt_and_divergence_have_codes_of_their_own(monkeypatch, capsys):
    errors = (KeyboardInterrupt(), 130), (Interrupted(15, 8), 143), (FloatingPointError("the loss became NaN"), 1)
    for error, code in errors:

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(launch.training, "run", fail)
        assert call(*SMALL) == code
    assert capsys.readouterr().err.splitlines() == [
        "interrupted; the same command resumes from the last checkpoint",
        "SIGTERM: a checkpoint was saved at step 8; the same command resumes from there",
        "error: the loss became NaN",
    ]


@pytest.mark.slow
def test_killed_for_real_and_resumed_to_the_bit(tmp_path):
    arguments = [*SMALL, "--config.train.epochs=40", "--config.method=lpg", "--config.checkpoint.every_steps=6"]
    arguments.append("--config.evaluate.every_epochs=40")
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    checkpoints = tmp_path / "killed" / "lpg" / "checkpoints"
    process = subprocess.Popen([*command, "--workdir=killed"], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (checkpoints / "12").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still training"
    rest = "--config.checkpoint.every_steps=0"  # may change, and saves time
    assert call(*arguments, rest, "--workdir=killed") == 0
    assert call(*arguments, rest, "--workdir=alone") == 0
    assert digests(tmp_path / "killed", "lpg") == digests(tmp_path / "alone", "lpg")
    restored = json.loads((tmp_path / "killed" / "summary.json").read_text())["methods"]["lpg"]["restored_steps"]
    assert len(restored) == 1
    assert restored[0] >= 6
