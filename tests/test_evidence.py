"""The plan of the evidence: methods are tuned alike, on data that the test never sees, and a row can be repeated."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from configs import default, heads
from evidence import __main__ as evidence
from evidence import entries, plan, scribe, studies
from evidence.prepare import prepare
from evidence.scenarios import SCENARIOS
from lpg_jax import data, report, training
from lpg_jax.report import evidence as read
from lpg_jax.report import evidence_tables, wording
from lpg_jax.training import commandline, settings, sweep
from lpg_jax.training import presets as methods

BASE = {"train.learning_rate": 0.1, "train.weight_decay": 5e-4}


def of_kind(kind):
    return entries.of_kind(kind, BASE, {"data.validation": 0.1})


def settings_of(entry):
    return plan.settings_of(entry, BASE, plan.at_first(entry))


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_every_method_has_as_many_trials(kind):
    """Six at first; cross-entropy has the grid that all others share; some controls keep what was chosen before."""
    for label, entry in of_kind(kind).items():
        kept = "ce" in entry.inherits or label.startswith(("equal-", "scaled-")) or "+random-lpg" in label
        first = 1 if label == "ce" else 0 if kept else 6
        assert len(plan.at_first(entry)) == first, label
        assert len({json.dumps(dict(trial)) for trial in entry.trials}) == len(entry.trials)
        assert len({tuple(trial) for trial in entry.trials}) <= 1
        assert not {*entry.fixed} & {field for trial in entry.trials for field in trial} - {"lpg.epsilon"}


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_whether_tuning_began_with_what_was_chosen(kind):
    """The first six values, each with half, once and twice the weight decay of cross-entropy."""
    for label, entry in of_kind(kind).items():
        everything = plan.settings_of(entry, BASE, [slice(0, len(plan.DECAYS))] * len(entry.trials))
        found = {json.dumps(each): plan.began(entry, BASE, {**entry.fixed, **each}) for each in everything}
        if label == "ce" or not entry.trials:
            assert {*found.values(), plan.began(entry, BASE, BASE)} == {None}
            continue
        first = [{**value, entries.DECAY: decay} for value in entry.trials[:6] for decay in (2.5e-4, 5e-4, 1e-3)]
        assert {json.loads(each)[entries.DECAY] for each, began in found.items() if began} == {2.5e-4, 5e-4, 1e-3}
        assert [json.loads(each) for each, began in found.items() if began] == first, label
        assert False in found.values()


def test_what_is_kept_of_an_earlier_run_is_written_in_the_order_of_the_plan(tmp_path):
    """With whether tuning began with what was chosen; what is no longer planned is kept, too."""
    fields = {"losses.gce.q": 0.1, entries.DECAY: BASE[entries.DECAY]}
    made = {label: {"fields": fields, "trials": []} for label in ("gone", "gce", "ce")}
    made["la"] = {"fields": {"losses.la.tau": 1.0, entries.DECAY: 0.1 * BASE[entries.DECAY]}, "trials": []}
    (tmp_path / scribe.FILE).write_text(json.dumps({"base": BASE, "entries": made}))
    scribe.Scribe(SCENARIOS["digits_symmetric40"], tmp_path, "c", Console(quiet=True), keep=True).write(BASE)
    found = json.loads((tmp_path / scribe.FILE).read_text())["entries"]
    assert [(label, each.get("began")) for label, each in found.items()] == [
        ("ce", None), ("gce", True), ("la", False), ("gone", None),
    ]  # fmt: skip


@pytest.mark.parametrize("of", ["lpg", "lpg-accuracy"])
def test_controls_under_noise_change_one_thing(of):
    made = of_kind("noisy")
    scaled = f"scaled-ce{of.removeprefix('lpg')}"
    methods_of = {f"random-{of}": "random_lpg", f"equal-{of}": "equal_lpg", scaled: "scaled_ce"}
    for label, method in methods_of.items():
        assert (made[label].fixed, made[label].method, made[label].role) == (made[of].fixed, method, entries.CONTROL)
    assert made[f"{of}-opposite"].fixed == {**made[of].fixed, "lpg.opposite": True}
    assert made[f"random-{of}"].seeded == entries.SEEDED
    assert made[f"random-{of}"].trials == made[f"{of}-opposite"].trials == made[of].trials
    assert made[f"equal-{of}"].inherits == made[scaled].inherits == (of,)


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_controls_at_the_weight_decay_of_cross_entropy(kind):
    """It is chosen as everybody's is, so it is known only when the others are made."""
    made = of_kind(kind)
    for label, source in (("lpg-decay", "lpg"), ("random-decay", "random-lpg"), ("opposite-decay", "lpg-opposite")):
        assert made[label].inherits == (source, "ce")  # in this order
        assert (made[label].fixed, made[label].method) == (made[source].fixed, made[source].method)
        assert made[label].among == source


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
        fields[label] = {*inherited, *entry.fixed, *next(iter(entry.trials), ())}
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
        fields[label] = {**inherited, **entry.fixed, **next(iter(entry.trials), {})}
        ends = entry._replace(trials=entry.trials[:: max(len(entry.trials) - 1, 1)])  # of the values that are tried
        settings = plan.settings_of(ends, BASE, [plan.MIDDLE] * len(ends.trials))
        runs = plan.trial_runs(scenario, settings, BASE, entry, inherited, tmp_path / label)
        homes = {run.home for its in runs for run in its}
        assert len(homes) == 3 * len(ends.trials) * len(plan.TUNE_SEEDS[scenario.tier])
        keys = {run.config.operators.random_lpg.key for its in runs for run in its}
        assert keys <= (set(plan.TUNE_SEEDS[scenario.tier]) if entry.seeded else {0})
        sweep.check(
            (runs[-1][-1:] if runs else []) + plan.final_runs(scenario, entry, BASE | fields[label], tmp_path)[3:4]
        )
    for study in studies.of_scenario(scenario):
        runs = studies.runs_of(study, scenario, wanted[study.label], BASE | fields[study.label], tmp_path)
        assert len(runs) == len(study.values) * 10
        sweep.check(runs[-1:])


def test_what_is_tried_and_what_is_tested():
    scenario, entry = SCENARIOS["cifar10_human"], of_kind("noisy")["gce"]
    ((tried, *_), *_) = plan.trial_runs(scenario, settings_of(entry), BASE, entry, {}, Path("here"))
    tried, final = tried.config, plan.final_config(scenario, entry, BASE, 4)
    assert tried.data.path != final.data.path
    assert (tried.seed, final.seed, final.num_seeds) == (100, 4, 1)
    assert tried.train.weight_decay == 0.5 * final.train.weight_decay
    tried.train.weight_decay = final.train.weight_decay
    assert (tried.train, tried.model, tried.data.train_size) == (final.train, final.model, final.data.train_size)


@pytest.mark.parametrize(("score", "rate"), [(0.79, 0.1), (0.796, 0.1), (0.0, 0.1), (0.81, 0.05)])
def test_the_learning_rate_is_in_the_middle_of_those_that_do_as_well(score, rate):
    """0.1 and 0.2 do; 0.05 with `score` and 0.02 do not, or 0.05 does, too, or is the only one."""
    table = {(0.02, 0.01): 0.5, (0.05, 0.05): score, (0.1, 0.01): 0.6, (0.1, 0.02): 0.797, (0.1, 0.05): 0.798}
    table[0.2, 0.01] = 0.8
    trials = tuple(
        plan.Trial({entries.RATES: rate, entries.DECAY: decay}, mean, 0.0, 2, mean == 0.8)
        for (rate, decay), mean in table.items()
    )
    assert plan.chosen(plan.base_trials(trials)) == {entries.RATES: rate, entries.DECAY: 0.05}
    assert sum(trial.chosen for trial in plan.base_trials(trials)) == 1


def scored(entry, tried, score):
    """Trials of an entry with the score of each value and multiple of the weight decay."""
    settings = plan.settings_of(entry, BASE, tried)
    found = [score(setting["losses.gce.q"], setting[entries.DECAY] / BASE[entries.DECAY]) for setting in settings]
    best = int(np.argmax(found))
    return [
        plan.Trial(setting, mean, 0.0, 2, at == best)
        for at, (setting, mean) in enumerate(zip(settings, found, strict=True))
    ]


def tried_at_last(entry, score):
    tried, more = [], plan.at_first(entry)
    while more != tried:
        tried = more
        more = plan.wider(entry, BASE, tried, scored(entry, tried, score))
    return [(part.start, part.stop) for part in tried]


ROBUST = entries.Entry("gce", "", entries.BASELINE, "gce", entries.one("losses.gce.q", *range(1, 9)))


def test_each_value_is_tried_with_weight_decays_on_both_sides_of_its_best():
    """The best weight decay is 1, 5, 1/2, 1/10 times that of cross-entropy, below the smallest, above the largest."""
    peak = dict(zip(range(1, 9), (1.0, 5.0, 0.5, 0.1, 0.001, 99.0, 1.0, 1.0), strict=True))

    def score(q, times):
        return (q == 1) - abs(np.log(times / peak[q]))

    assert [setting[entries.DECAY] for setting in settings_of(ROBUST)[:3]] == [2.5e-4, 5e-4, 1e-3]
    assert tried_at_last(ROBUST, score) == [(3, 6), (3, 8), (2, 6), (0, 6), (0, 6), (3, 8)]


def test_the_best_at_a_weight_decay():
    trials = scored(ROBUST, plan.at_first(ROBUST), lambda q, times: -abs(q - (2 if times > 1 else 4)) - abs(times - 1))
    assert plan.chosen(trials)["losses.gce.q"] == 4
    assert plan.best_at(trials, 2 * BASE[entries.DECAY]) == {"losses.gce.q": 2, entries.DECAY: 2 * BASE[entries.DECAY]}
    assert plan.best_at(trials, 7.0) == {}


@pytest.mark.parametrize(("peak", "number"), [(1, 6), (5, 6), (6, 7), (6.9, 8), (8, 8)])
def test_values_go_on_until_one_is_worse_than_that_before(peak, number):
    assert len(tried_at_last(ROBUST, lambda q, times: -abs(q - peak) - 0.1 * abs(np.log(times)))) == number


def finished(home, score):
    home.mkdir(parents=True)
    (home / "summary.json").write_text(json.dumps({"methods": {"gce": {"balanced": score}}}))
    return sweep.Run({}, None, home)


NOT_FINITE = "seed 100: the loss became NaN or infinite in steps 1 to 9"


def test_the_best_setting_is_chosen_and_one_that_diverged_hardly_ever(tmp_path):
    """By the mean over its seeds; a run that diverged counts as 0, whatever it wrote."""
    table = ((0.4, 0.5), (0.9, 0.9), (0.6, 0.4))
    runs = [[finished(tmp_path / f"{a}{b}", score) for b, score in enumerate(row)] for a, row in enumerate(table)]
    values = entries.one("losses.gce.q", 0.1, 0.2, 0.3)
    flat = [run for its in runs for run in its]
    outcomes = [sweep.Outcome(run, NOT_FINITE if run is runs[1][1] else "") for run in flat]
    trials = plan.trials_of(values, runs, outcomes)
    assert [trial.mean for trial in trials] == pytest.approx([0.45, 0.45, 0.5])
    assert trials[2].ci95 == pytest.approx(12.706 * 0.1414 / 2**0.5, rel=1e-3)
    assert plan.chosen(trials) == {"losses.gce.q": 0.3}
    assert plan.chosen(plan.trials_of(values, runs, [outcome._replace(error="") for outcome in outcomes])) == values[1]


def test_a_fault_of_the_machine_is_no_score(tmp_path):
    run = finished(tmp_path / "a", 0.5)
    with pytest.raises(RuntimeError, match="No space left on device"):
        plan.trials_of([{}], [[run]], [sweep.Outcome(run, "OSError: No space left on device")])


def test_a_run_that_could_not_begin_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no features
    made = scribe.Scribe(SCENARIOS["digits_longtail50"], tmp_path / "home", "", Console(quiet=True))
    with pytest.raises(RuntimeError, match=r"digits_longtail50 ce seed 0: .*features/digits\.npz.: no such file"):
        made.entry(of_kind("longtail")["ce"]._replace(trials=()), BASE)
    assert not made.made


def test_an_entry_by_itself_keeps_what_was_chosen_before_or_says_that_nothing_was(tmp_path):
    def scribe_of():
        return scribe.Scribe(SCENARIOS["digits_longtail50"], tmp_path, "", Console(quiet=True), keep=True)

    with pytest.raises(ValueError, match=r"la\+lpg: keeps what was chosen for la, which is not there; run that before"):
        scribe_of().entry(of_kind("longtail")["la+lpg"], BASE)
    (tmp_path / scribe.FILE).write_text(
        json.dumps({"entries": {"la": {"fields": {"losses.la.tau": 0.9}, "trials": []}}})
    )
    assert scribe_of().fields == {"la": {"losses.la.tau": 0.9}}


@pytest.fixture
def features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(["digits"], tmp_path / heads.FEATURES, "", "")
    return tmp_path / heads.FEATURES


def test_tuning_never_sees_the_test_images(features):
    whole, tune = (dict(np.load(features / name)) for name in ("digits.npz", "digits_tune.npz"))
    assert tune.keys() == {"x_train", "y_train"}
    np.testing.assert_array_equal(tune["x_train"], whole["x_train"])
    rows = {name: {row.tobytes() for row in arrays} for name, arrays in whole.items() if name.startswith("x")}
    assert len(rows["x_train"] & rows["x_test"]) <= 1  # one digit of the set is there twice
    scenario, entry = SCENARIOS["digits_longtail50"], of_kind("longtail")["ce"]
    config = plan.tuning_config(scenario, BASE, entry, {})
    first, second = (data.load(config.data, seed) for seed in (100, 101))
    assert not set(first.test.index) & set(first.train.index)
    assert set(first.test.index) != set(second.test.index)
    assert first.class_counts.min() == 2  # one of which learnt bounds may take away
    final = heads.get_config("digits,longtail50")
    third, fourth = (data.load(final.data, seed) for seed in (0, 1))
    assert set(third.train.index) != set(fourth.train.index)
    np.testing.assert_array_equal(third.test.inputs, fourth.test.inputs)


def test_tables_say_how_much_is_held_out():
    assert f"digits {100 * plan.HELD_OUT['digits']:.0f} %" in evidence_tables.HELD_OUT
    for name in ("cifar10", "cifar100"):
        assert f"CIFAR {50_000 * plan.HELD_OUT[name]:,.0f} images" in evidence_tables.HELD_OUT


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
    monkeypatch.setattr(plan, "TUNE_SEEDS", {"T1": (100, 101)})
    monkeypatch.setattr(plan, "DECAYS", (0.5, 1.0))
    monkeypatch.setattr(plan, "MIDDLE", slice(0, 2))
    monkeypatch.setattr(evidence, "share_programs", lambda directory: None)
    wanted = ["run", "digits_longtail50", "--only=lpg,random-lpg", f"--workdir={tmp_path / 'runs'}"]
    assert evidence.main(wanted) == 0
    home = tmp_path / "runs/T1/digits_longtail50"
    found = json.loads((home / "scenario.json").read_text())
    assert list(found["entries"]) == ["lpg", "random-lpg"]
    tuned = found["entries"]["lpg"]["trials"]
    assert [trial["chosen"] for trial in tuned].count(True) == 1
    assert max(trial["mean"] for trial in tuned) == next(trial["mean"] for trial in tuned if trial["chosen"])
    before = {path: path.stat().st_mtime_ns for path in home.rglob("summary.json")}
    assert len(before) == 2 * 2 + 2 * (6 * 2 * 2 + 2)
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
    report.evidence_report(tmp_path / "runs", tmp_path / "results")
    again = [*wanted[:3], f"--workdir={tmp_path / 'chosen'}", f"--chosen={tmp_path / 'results'}"]
    assert evidence.main(again) == 0
    assert not (tmp_path / "chosen/T1/digits_longtail50/tune").exists()
    report.evidence_report(tmp_path / "chosen", tmp_path / "again")
    tables = [(at / "tables/T1-digits_longtail50.md").read_text() for at in (tmp_path / "results", tmp_path / "again")]
    assert tables[0] == tables[1].replace(" --chosen=results", "")
    digests = [
        {
            path.relative_to(home): json.loads(path.read_text())["methods"]
            for path in home.glob("final/*/*/summary.json")
        }
        for home in (tmp_path / at / "T1/digits_longtail50" for at in ("runs", "chosen"))
    ]
    assert digests[0] == digests[1]


def test_hours_without_tuning_are_fewer():
    heads_of, networks_of = [SCENARIOS["cifar10_human"]], [SCENARIOS["cifar10_human_resnet8"]]
    assert plan.hours(heads_of, tuned=False) == pytest.approx(plan.FINAL * plan.hours(heads_of))
    assert plan.hours(networks_of, tuned=False) == plan.hours(networks_of)


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
