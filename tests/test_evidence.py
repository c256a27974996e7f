"""The plan of the evidence: methods are tuned alike, on data that the test never sees, and a row can be repeated."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from configs import default, heads
from evidence import __main__ as evidence
from evidence import entries, plan, studies
from evidence.prepare import prepare
from evidence.scenarios import SCENARIOS
from lpg_jax import data, training
from lpg_jax.report import evidence as read
from lpg_jax.report import wording
from lpg_jax.training import commandline, settings, sweep
from lpg_jax.training import presets as methods

BASE = {"train.learning_rate": 0.1, "train.weight_decay": 5e-4}


def of_kind(kind):
    return entries.of_kind(kind, BASE, {"data.validation": 0.1})


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_every_method_has_as_many_trials(kind):
    """Controls keep what was chosen for LPG; cross-entropy has the grid that all others share."""
    for label, entry in of_kind(kind).items():
        alone = label == "ce" or entry.inherits == ("lpg",)
        assert len(entry.trials) == (1 if alone else 6), label
        assert len({json.dumps(dict(trial)) for trial in entry.trials}) == len(entry.trials)
        assert len({tuple(trial) for trial in entry.trials}) == 1
        assert not {*entry.fixed} & {field for trial in entry.trials for field in trial} - {"lpg.epsilon"}


@pytest.mark.parametrize("name", ["digits_longtail50", "cifar10_longtail100", "cifar100_human", "digits_balanced"])
def test_no_preset_decides_behind_an_entry(name):
    """Presets were chosen for other problems; what remains of them fits the size of the data set or the classes."""
    scenario, plain = SCENARIOS[name], settings.flat(default.get_config().to_dict())
    given = settings.flat(scenario.config().to_dict())
    preset = {field for field in given if given[field] != plain[field]} - {
        "operators.ogc.queue_size", "losses.lpl.num_head",
    }  # fmt: skip
    fields = {}
    for label, entry in of_kind(scenario.kind).items():
        inherited = [k for other in entry.inherits for k in fields[other]]
        fields[label] = {*inherited, *entry.fixed, *entry.trials[0]}
        parts = [] if entry.method == "ce" else entry.method.split("+")
        homes = {methods.home(part) for part in parts} | ({"lpg"} if set(parts) & set(methods.OF_LPG) else set())
        hidden = {field for field in preset if field.rpartition(".")[0] in homes} - fields[label]
        assert not hidden, label


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_an_entry_comes_after_those_it_inherits_from(kind):
    seen = set()
    for label, entry in of_kind(kind).items():
        assert set(entry.inherits) <= seen
        seen.add(label)
    controls = {label for label, entry in of_kind(kind).items() if entry.role == entries.CONTROL}
    assert {"ce-lr", "random-lpg", "equal-lpg", "scaled-ce", "lpg-opposite"} <= controls
    assert {"lpg", "lpg-varied", "sample-lpg", "learned-lpg"} <= of_kind(kind).keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_balanced", "cifar10_symmetric50", "cifar100_longtail100"])
def test_every_run_is_a_valid_config(name, tmp_path):
    scenario, fields = SCENARIOS[name], {}
    wanted = entries.of_kind(scenario.kind, BASE, scenario.held_out)
    for label, entry in wanted.items():
        inherited = {k: v for other in entry.inherits for k, v in fields[other].items()}
        fields[label] = inherited | entry.fixed | entry.trials[0]
        runs = plan.trial_runs(scenario, BASE, entry, inherited, tmp_path)
        assert len({run.home for run in runs}) == len(runs) == len(entry.trials)
        sweep.check(runs[-1:] + plan.final_runs(scenario, entry, BASE | fields[label], tmp_path)[3:4])
    for study in studies.of_scenario(scenario):
        runs = studies.runs_of(study, scenario, wanted[study.label], BASE | fields[study.label], tmp_path)
        assert len(runs) == len(study.values) * 10
        sweep.check(runs[-1:])


def test_what_is_tried_and_what_is_tested():
    scenario, entry = SCENARIOS["cifar10_human"], of_kind("noisy")["gce"]
    tried = plan.tuning_config(scenario, BASE, entry, {})
    final = plan.final_config(scenario, entry, BASE, 4)
    assert tried.data.path != final.data.path
    assert tried.data.noise.path != final.data.noise.path
    assert (tried.seed, final.seed, final.num_seeds) == (100, 4, 1)
    assert (tried.train, tried.model, tried.data.train_size) == (final.train, final.model, final.data.train_size)


def test_the_best_trial_is_chosen_and_one_that_diverged_never(tmp_path):
    runs = [sweep.Run({}, None, tmp_path / name) for name in "abc"]
    for run, score in zip(runs, (0.4, 0.9, 0.6), strict=True):
        run.home.mkdir()
        entry = {"balanced": score, "ci95": {"balanced": 0.01}, "params_sha256": {"100": "", "101": ""}}
        (run.home / "summary.json").write_text(json.dumps({"methods": {"gce": entry}}))
    values = entries.one("losses.gce.q", 0.1, 0.2, 0.3)
    outcomes = [sweep.Outcome(run, error) for run, error in zip(runs, ("", "seed 100: not finite", ""), strict=True)]
    trials = plan.trials_of(runs, outcomes, values)
    assert [trial.mean for trial in trials] == [0.4, 0.0, 0.6]
    assert [trial.n for trial in trials] == [2, 0, 2]
    assert math.isnan(trials[1].ci95)
    assert plan.chosen(trials) == {"losses.gce.q": 0.3}
    assert plan.chosen(plan.trials_of(runs, [outcome._replace(error="") for outcome in outcomes], values)) == values[1]


@pytest.fixture
def features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(["digits"], tmp_path / heads.FEATURES, "", "")
    return tmp_path / heads.FEATURES


def test_tuning_never_sees_the_test_images(features):
    whole, tune = (dict(np.load(features / name)) for name in ("digits.npz", "digits_tune.npz"))
    rows = {name: {row.tobytes() for row in arrays} for name, arrays in whole.items() if name.startswith("x")}
    inside = {row.tobytes() for row in np.concatenate([tune["x_train"], tune["x_test"]])}
    assert inside == rows["x_train"]
    assert not {row.tobytes() for row in tune["x_train"]} & {row.tobytes() for row in tune["x_test"]}
    assert len(inside & rows["x_test"]) <= 1  # one digit of the set is there twice
    config = heads.get_config("digits,longtail50")
    first, second = (data.load(config.data, seed) for seed in (0, 1))
    assert set(first.train.index) != set(second.train.index)
    np.testing.assert_array_equal(first.test.inputs, second.test.inputs)


def test_names():
    assert [each.name for each in evidence.scenarios_of(["T1"])] == [
        "digits_balanced", "digits_longtail50", "digits_symmetric40",
    ]  # fmt: skip
    assert len(evidence.scenarios_of(["T2", "cifar10_human"])) == 16
    assert len(evidence.scenarios_of(["T3"])) == 2
    with pytest.raises(SystemExit, match="2"):
        evidence.main(["run", "cifar"])
    with pytest.raises(ValueError, match=r"variant=digits,'human': is for cifar10 and cifar100"):
        heads.get_config("digits,human")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_scenario_from_its_command_to_a_row_that_can_be_repeated(features, monkeypatch, tmp_path):
    original = heads.get_config

    def short(variant=""):
        config = original(variant)
        config.train.epochs = config.evaluate.every_epochs = 2
        return config

    monkeypatch.setattr(heads, "get_config", short)
    monkeypatch.setattr(plan, "BASE", {"train.learning_rate": (0.05, 0.1), "train.weight_decay": (5e-4,)})
    short_of = SCENARIOS["digits_longtail50"]._replace(seeds=(0, 1))
    monkeypatch.setitem(SCENARIOS, "digits_longtail50", short_of)
    monkeypatch.setattr(evidence, "share_programs", lambda directory: None)
    wanted = ["run", "digits_longtail50", "--only=lpg,random-lpg", f"--workdir={tmp_path / 'runs'}"]
    assert evidence.main(wanted) == 0
    home = tmp_path / "runs/T1/digits_longtail50"
    found = json.loads((home / "scenario.json").read_text())
    assert list(found["entries"]) == ["lpg", "random-lpg"]
    assert found["entries"]["random-lpg"]["fields"] == found["entries"]["lpg"]["fields"]
    tuned = found["entries"]["lpg"]["trials"]
    assert [trial["chosen"] for trial in tuned].count(True) == 1
    assert max(trial["mean"] for trial in tuned) == next(trial["mean"] for trial in tuned if trial["chosen"])
    before = {path: path.stat().st_mtime_ns for path in home.rglob("summary.json")}
    assert len(before) == 2 + 6 + 2 * 2
    assert evidence.main(wanted) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in home.rglob("summary.json")} == before
    (scenario,) = read.read(tmp_path / "runs")
    (tmp_path / "configs").symlink_to(Path(heads.__file__).parent)  # commands are for the root of the project
    for label, method in (("lpg", "lpg"), ("random-lpg", "random_lpg")):
        command = wording.run_command(scenario, label, 1).split()
        parsed = commandline.parse(command[1:])
        assert isinstance(parsed, commandline.Train)
        parsed.config.train.epochs = parsed.config.evaluate.every_epochs = 2
        training.run(parsed.config, tmp_path / label)
        again, row = (
            json.loads((at / "summary.json").read_text())["methods"][method]
            for at in (tmp_path / label, home / "final" / label / "seed=1")
        )
        assert again["params_sha256"] == row["params_sha256"]
        assert again["balanced"] == row["balanced"] == scenario.results[label][1].scores["balanced"]


def test_programs_are_shared(features, tmp_path):
    """Two seeds of a long tail differ in no constant, so the second compiles nothing."""
    entry, events = of_kind("longtail")["ce"], []
    runs = plan.final_runs(SCENARIOS["digits_longtail50"], entry, BASE, tmp_path)[:2]
    for run in runs:
        run.config.train.epochs = run.config.evaluate.every_epochs = 1
    names = "compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    try:
        compilation_cache.reset_cache()
        evidence.share_programs(tmp_path / "compiled")
        for run in runs:
            sweep.run_local([run], Console(quiet=True))
            events.append(len(list((tmp_path / "compiled").glob("*-cache"))))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert events[0] == events[1] > 0
