"""TensorBoard and W&B hold the figures of metrics.jsonl, and a resumed run does not count twice."""

import json
import os
import sys
import time

import pytest
from ml_collections import ConfigDict

from lpg_jax.training import trackers
from lpg_jax.training.settings import ConfigError


def log(**fields):
    return ConfigDict({"tensorboard": False, "wandb": "", "wandb_mode": "offline"} | fields)


def record(step, seed=0):
    """As in metrics.jsonl; every figure exact in binary."""
    return {
        "step": step,
        "epoch": step / 4,
        "seed": seed,
        "loss": None if step == 8 else 0.5 + seed,
        "learning_rate": 0.125,
        "overall": 0.75 + seed,
        "per_class": [0.5, 1.0 + seed],
        "validation": {"overall": 0.25, "per_class": [0.5, None]},
        "class_margin": [0.25, -0.25],
        "class_accuracy": [None, 0.5],
    }


SCALARS = {
    "train/epoch": 1.0,
    "train/loss": 0.5,
    "train/learning_rate": 0.125,
    "test/overall": 0.75,
    "test/per_class/0": 0.5,
    "test/per_class/1": 1.0,
    "validation/overall": 0.25,
    "validation/per_class/0": 0.5,
    "class_margin/0": 0.25,
    "class_margin/1": -0.25,
    "class_accuracy/1": 0.5,
}


def test_names_of_the_figures():
    assert trackers.scalars(record(4)) == SCALARS
    assert "train/loss" not in trackers.scalars(record(8))


def test_nothing_is_switched_on_by_default(tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # an import would raise
    with trackers.open_trackers(log(), tmp_path / "lpg", "run/lpg", {}, (0,)) as opened:
        opened.log([record(4)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "package", "message"),
    [
        (
            {"tensorboard": True},
            "tensorboardX",
            r'^log\.tensorboard=True: needs the extra "tensorboard": python -m pip install "lpg_jax\[tensorboard\]"',
        ),
        (
            {"wandb": "p"},
            "wandb",
            r"^log\.wandb='p': needs the extra \"wandb\": python -m pip install \"lpg_jax\[wandb\]",
        ),
    ],
)
def test_a_missing_package(tmp_path, monkeypatch, fields, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=message):
        trackers.check(log(**fields))
    with pytest.raises(ConfigError, match=message):
        trackers.open_trackers(log(**fields), tmp_path, "run/lpg", {}, (0,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wandb_mode": "disabled"}, r"log\.wandb_mode='disabled': must be one of 'offline', 'online'"),
        ({"wandb": "me/project"}, r"log\.wandb='me/project': a project name has at most 128 characters and none of /"),
        ({"wandb": "p" * 129}, r"at most 128 characters"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        trackers.check(log(**fields))


def test_a_mode_without_a_project_is_fine():
    trackers.check(log(wandb_mode="online"))


def test_all_are_closed_even_if_one_fails():
    closed = []

    class Sink:
        def close(self, failed):
            closed.append(failed)
            raise OSError("full")

    with pytest.raises(OSError, match="full"), trackers.Trackers(Sink(), Sink()):
        pass
    assert closed == [False, False]


def events(directory):
    """(events of every file in the order of their names, as protocol buffers)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(directory.glob("events.*")):
        content, position, found = path.read_bytes(), 0, []
        while position + 12 <= len(content):  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[position : position + 8], "little")
            if position + size + 16 > len(content):  # still being written
                break
            found.append(Event.FromString(content[position + 12 : position + 12 + size]))
            position += 12 + size + 4
        yield found


def values(directory):
    """{(name, step): value} as TensorBoard shows it: a START of step n makes it forget n and later."""
    shown = {}
    for event in (event for file in events(directory) for event in file):
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        for value in event.summary.value:
            key = (value.tag, event.step)
            assert key not in shown, "written twice"
            shown[key] = value.simple_value
    return shown


def test_tensorboard_shows_what_was_logged(tmp_path):
    pytest.importorskip("tensorboardX")
    with trackers.open_trackers(log(tensorboard=True), tmp_path, "run/lpg", {}, (0, 1)) as opened:
        for step in (4, 8):
            opened.log([record(step, seed) for seed in (0, 1)])
    for seed in (0, 1):
        expected = {
            (name, step): value for step in (4, 8) for name, value in trackers.scalars(record(step, seed)).items()
        }
        assert values(tmp_path / "tensorboard" / f"seed_{seed}") == expected


def test_tensorboard_is_soon_on_disk(tmp_path):
    """A kill loses no more than the last second or so."""
    pytest.importorskip("tensorboardX")
    with trackers.open_trackers(log(tensorboard=True), tmp_path, "run/lpg", {}, (0,)) as opened:
        opened.log([record(4)])
        latest = time.monotonic() + 10
        while (shown := values(tmp_path / "tensorboard" / "seed_0")).keys() != {(name, 4) for name in SCALARS}:
            assert time.monotonic() < latest, shown
            time.sleep(0.1)


def test_tensorboard_after_a_resume_has_every_step_once(tmp_path):
    """Killed after step 12, resumed from a checkpoint of step 6."""
    pytest.importorskip("tensorboardX")
    for steps in ((4, 8, 12), (8, 12, 16)):
        with trackers.open_trackers(log(tensorboard=True), tmp_path, "run/lpg", {}, (0,)) as opened:
            for step in steps:
                opened.log([record(step)])
    home = tmp_path / "tensorboard" / "seed_0"
    assert len(list(home.iterdir())) == 2
    assert {step for _, step in values(home)} == {4, 8, 12, 16}


def test_means_leave_out_what_is_missing():
    assert trackers._means([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """W&B without network, and without its service process afterwards."""
    for name, value in {"WANDB_ERROR_REPORTING": "false", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "elsewhere"))
    package = pytest.importorskip("wandb")
    yield package
    package.teardown()


def histories(home):
    """(run, history) of every .wandb file, a LevelDB log: 32 KiB blocks of (checksum, length, kind, data)."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(home.glob("wandb/offline-run-*/*.wandb")):
        content, position, data, run, rows = path.read_bytes(), 7, b"", None, []
        while position < len(content):
            if (left := 32768 - position % 32768) < 7:
                position += left
                continue
            size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
            data += content[position + 7 : position + 7 + size]
            position += 7 + size
            if kind in (1, 4):  # whole, or the last part
                entry, data = Record.FromString(data), b""
                if entry.HasField("run"):
                    run = entry.run
                if entry.HasField("history"):
                    items = entry.history.item
                    rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        assert run is not None
        yield run, rows


def test_wandb_holds_means_over_seeds_and_resumes_under_its_id(tmp_path, wandb):
    fields = {"train": {"epochs": 3}}
    for steps in ((4, 8), (8, 12)):  # killed after step 8, resumed from a checkpoint of step 6
        with trackers.open_trackers(log(wandb="digits"), tmp_path, "run/lpg", fields, (0, 1)) as opened:
            for step in steps:
                opened.log([record(step, seed) for seed in (0, 1)])
        time.sleep(1.1)  # W&B names its directories by id and second
    (first, rows), (second, later) = histories(tmp_path)
    assert first.run_id == second.run_id
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": first.run_id, "step": 12}
    assert (first.project, first.display_name) == ("digits", "run/lpg")
    config = {update.key: json.loads(update.value_json) for update in first.config.update}
    assert config["train"] == {"epochs": 3}
    assert config["seeds"] == [0, 1]
    assert [row["_step"] for row in rows + later] == [4, 8, 12]
    shifted = {"train/loss": 1.0, "test/overall": 1.25, "test/per_class/1": 1.5}  # seed 1 has 1 more
    assert {name: rows[0][name] for name in SCALARS} == SCALARS | shifted
    assert "train/loss" not in rows[1]


def test_wandb_that_cannot_start(tmp_path, wandb, monkeypatch):
    def refuse(**kwargs):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        ConfigError, match=r"log\.wandb='p': cannot start \(no API key configured\); set log\.wandb_mode="
    ):
        trackers.open_trackers(log(wandb="p", wandb_mode="online"), tmp_path, "run/lpg", {}, (0,))


def test_wandb_leaves_no_process_behind(tmp_path, wandb):
    if not os.path.isdir("/proc"):
        pytest.skip("needs /proc")
    before = children()
    with trackers.open_trackers(log(wandb="digits"), tmp_path, "run/lpg", {}, (0,)) as opened:
        opened.log([record(4)])
        assert children() > before, "its service"
    wandb.teardown()
    assert children() <= before


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())
