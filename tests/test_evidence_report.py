"""Evidence runs are read with the intervals of SciPy; damaged ones are named; the best is chosen blindly."""

import json
import math
import sys

import numpy as np
import pytest
from given_runs import CE, LA, LPG, entry_of, write_runs, write_scenario
from scipy import stats

from lpg_jax import report
from lpg_jax.report import __main__ as door
from lpg_jax.report import advice, choice, evidence, intervals
from lpg_jax.report.intervals import Estimate


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path / "runs")


@pytest.fixture
def scenario(runs):
    return evidence.read(runs)[0]


# --- reading and intervals


def test_estimates_are_those_of_scipy(scenario):
    found = intervals.estimate(scenario.results["ce"], "balanced")
    wanted = stats.ttest_1samp(CE, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((np.mean(CE), wanted.low, wanted.high, 4))


def test_differences_are_paired(scenario):
    found = intervals.difference(scenario.results["lpg"], scenario.results["ce"], "overall")
    wanted = stats.ttest_rel(LPG, CE).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    unpaired = stats.ttest_ind(LPG, CE).confidence_interval(0.95)
    assert found.high != pytest.approx(unpaired.high)


def test_only_common_seeds_are_paired(scenario):
    later = {seed: scenario.results["lpg"][seed] for seed in (1, 3)}
    found = intervals.difference(later, scenario.results["ce"], "overall")
    assert found.n == 2
    assert found.mean == pytest.approx(np.mean([0.74 - 0.72, 0.77 - 0.73]))
    assert math.isnan(intervals.difference(later, {}, "overall").mean)


def test_one_run_has_no_interval_and_no_run_no_mean():
    assert math.isnan(intervals.interval([0.5]).half)
    assert intervals.interval([]).n == 0


def test_amplified_and_dampened_classes_come_from_the_margins_of_the_lpg_run(tmp_path):
    lpg = [[0.9, 0.1, 0.6, 0.2], [0.8, 0.3, 0.5, 0.4]]
    plain = [[0.7, 0.2, 0.5, 0.6], [0.9, 0.1, 0.4, 0.4]]
    entries = {
        "ce": entry_of((0.5, 0.5), per_class=plain),
        "lpg": entry_of((0.5, 0.5), "lpg", per_class=lpg, margin=[0.1, -0.1, 0.2, 0.0]),
    }
    write_scenario(tmp_path, entries)
    results = evidence.read(tmp_path)[0].results
    amplified = [(0.9 + 0.6 - 0.7 - 0.5) / 2, (0.8 + 0.5 - 0.9 - 0.4) / 2]
    found = intervals.difference(results["lpg"], results["ce"], "amplified")
    assert found.mean == pytest.approx(np.mean(amplified))
    assert intervals.difference(results["ce"], results["lpg"], "amplified").mean == pytest.approx(-np.mean(amplified))
    assert intervals.difference(results["lpg"], results["ce"], "dampened").mean == pytest.approx((-0.1 + 0.2) / 2)
    with pytest.raises(ValueError, match=r"metric='amplified': needs results of an LPG method"):
        intervals.estimate(results["ce"], "amplified")


def test_seeds_without_an_amplified_class_do_not_count(tmp_path):
    write_scenario(tmp_path, {"lpg": entry_of((0.5,) * 4, "lpg", margin=[0.0, -0.1, 0.0, 0.0])})
    results = evidence.read(tmp_path)[0].results["lpg"]
    assert intervals.estimate(results, "amplified").n == 0
    assert intervals.estimate(results, "dampened").n == 4


def test_a_score_that_is_not_a_number_is_not_left_out(tmp_path):
    write_scenario(tmp_path, {"ce": entry_of(({"nll": math.nan}, {"nll": 0.3}))})
    found = intervals.estimate(evidence.read(tmp_path)[0].results["ce"], "nll")
    assert math.isnan(found.mean)
    assert found.n == 2


def test_unknown_metric(scenario):
    with pytest.raises(ValueError, match=r"metric='acuracy': must be one of overall, balanced"):
        intervals.estimate(scenario.results["ce"], "acuracy")


def test_what_is_there_is_read_and_unfinished_runs_are_left_out(runs):
    (runs / "T1" / "digits_longtail50" / "final" / "ce" / "seed=1" / "summary.json").unlink()
    found = evidence.read(runs)[0]
    assert sorted(found.results["ce"]) == [0, 2, 3]
    assert found.results["empty"] == {}
    assert found.results["lpg"][0].margin.tolist() == [-0.3, 0.0, 0.1, 0.3]
    assert found.results["ce"][0].margin is None
    assert found.results["ce"][0].seconds == 2.0
    assert found.entries["la"].selection == 0.79
    assert math.isnan(found.entries["random-lpg"].selection)
    assert intervals.difference(found.results["la"], found.results["ce"], "overall").n == 3


def test_studies_are_read_by_value(tmp_path):
    values = {0.1: (0.7, 0.8), 2.0: (0.5, 0.6), 3: ()}
    write_scenario(tmp_path, {"lpg": entry_of((), "lpg")}, studies={"epsilon": ("lpg", "lpg.epsilon", values)})
    study = evidence.read(tmp_path)[0].studies["epsilon"]
    assert (study.label, study.field, study.values) == ("lpg", "lpg.epsilon", (0.1, 2.0, 3))
    assert [intervals.estimate(study.results[value], "overall").n for value in study.values] == [2, 2, 0]
    assert intervals.estimate(study.results[2.0], "overall").mean == pytest.approx(0.55)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("scenario.json", "{", r"scenario\.json: not JSON .*; start `python -m evidence`"),
        ("scenario.json", "[]", r"scenario\.json: \[\]: must be an object"),
        ("scenario.json", lambda c: c.pop("kind"), r"scenario\.json: kind is missing; start `python -m evidence`"),
        ("scenario.json", lambda c: c.update(kind="odd"), r"kind='odd': must be one of balanced, longtail, noisy"),
        ("scenario.json", lambda c: c["entries"]["ce"].update(role="odd"), r"entries\.ce: role='odd': must be one of"),
        ("scenario.json", lambda c: c["entries"]["ce"].pop("fields"), r"entries\.ce: fields is missing"),
        ("scenario.json", lambda c: c["entries"].update(ce=3), r"entries\.ce: role is missing"),
        ("scenario.json", lambda c: c["entries"]["la"]["trials"][0].update(chosen=True), r"exactly one must be chosen"),
        ("scenario.json", lambda c: c["entries"]["la"].update(began=1), r"entries\.la: began=1: must be true"),
        ("scenario.json", lambda c: c["entries"]["la"]["trials"][0].update(mean="high"), r"mean='high': must be of"),
        ("scenario.json", lambda c: c.update(studies={"e": {"label": "x", "field": "f", "values": []}}), r"label='x'"),
        ("final/ce/seed=1/summary.json", "{", r"seed=1.summary\.json, line 1: not JSON"),
        ("final/ce/seed=1/summary.json", lambda c: c.update(seeds=[7]), r"has method ce and seeds \[7\]: must"),
        ("final/ce/seed=1/summary.json", lambda c: c["methods"].update(la=c["methods"]["ce"]), r"has method ce, la"),
        ("final/ce/seed=1/summary.json", lambda c: c["methods"]["ce"].update(overall=1.7), r"overall=1\.7: must lie"),
        ("final/ce/seed=1/ce/metrics.jsonl", "", r"metrics\.jsonl: missing or empty; remove this directory"),
        ("final/ce/seed=1/ce/metrics.jsonl", "{", r"metrics\.jsonl, last line: damaged .*; remove this directory"),
        ("final/lpg/seed=1/lpg/metrics.jsonl", '{"class_margin": [0.1]}', r"class_margin of shape \(1,\): must be"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(runs, file, change, message):
    path = runs / "T1" / "digits_longtail50" / file
    path.write_text(change) if isinstance(change, str) else edit(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        evidence.read(runs)
    assert str(path) in str(caught.value)


def test_a_directory_without_scenarios(tmp_path):
    with pytest.raises(ValueError, match=r"no TIER/SCENARIO/scenario\.json in it; give the directory"):
        evidence.read(tmp_path)


# --- choices


def test_the_best_is_chosen_by_held_out_scores_among_those_told_no_more_and_run(scenario):
    assert choice.best_baseline(scenario) == "la"
    assert choice.best_with_lpg(scenario) == "lpg"
    assert choice.resolve(scenario, "@lpg") == "lpg"
    assert choice.resolve(scenario, "empty") is None
    assert choice.resolve(scenario, "nowhere") is None


def test_the_control_of_equal_norm_is_the_first(tmp_path):
    """Of heads LPG with the fixed bound (of long tails the varied one comes after it), of networks its best reading."""
    for name in ("equal-lpg", "equal-lpg-varied"):
        write_scenario(tmp_path / name, {"ce": entry_of(CE), name: entry_of(LPG, "control")})
        (found,) = evidence.read(tmp_path / name)
        assert choice.resolve(found, "@equal") == name
    both = {name: entry_of(LPG, "control") for name in ("equal-lpg", "equal-lpg-varied")}
    write_scenario(tmp_path / "both", {"ce": entry_of(CE), **both})
    assert choice.resolve(evidence.read(tmp_path / "both")[0], "@equal") == "equal-lpg"
    write_scenario(tmp_path / "none", {"ce": entry_of(CE)})
    assert choice.resolve(evidence.read(tmp_path / "none")[0], "@equal") is None


def test_reversed_signs_are_lpg_and_other_controls_are_not(tmp_path):
    given = {
        "lpg": entry_of(LPG, "lpg", 0.7),
        "lpg-opposite": entry_of(LPG, "control", 0.8, fields={"lpg.opposite": True}),
        "ce-lr": entry_of(CE, "control", 0.9),
    }
    write_scenario(tmp_path, given)
    found = evidence.read(tmp_path)[0]
    assert choice.best_with_lpg(found) == "lpg-opposite"
    assert choice.best_baseline(found) is None
    assert "| T1 digits_longtail50 | – | lpg – | lpg-opposite – | – | no | 0 |" in advice.section([found])


def test_the_selection_score_is_that_of_the_chosen_trial():
    trials = tuple(evidence.Trial({}, mean, 0.01, 3, chosen) for mean, chosen in ((0.9, False), (0.7, True)))
    assert evidence.Entry("a", "a", "lpg", "lpg", {}, trials, "", ()).selection == 0.7


def gap(mean, half):
    return Estimate(mean, half, 10)


@pytest.mark.parametrize(
    ("mean", "rate", "text"),
    [
        (
            0.02,
            0.02,
            "LPG helps: `lpg` (lpg.epsilon=0.1, lpg.split=frequency) differs by +3.00 ± 0.50 points (n = 10) ",
        ),
        (0.02, math.nan, "from ce and by +2.00 ± 1.00 points (n = 10) from the best baseline"),
        (0.02, 0.005, "LPG does not help here beyond a learning rate chosen again"),
        (0.02, -0.02, "but by −2.00 ± 1.00 points (n = 10) from ce with a learning rate chosen again (`ce-lr`)."),
        (-0.02, 0.02, "from the best baseline, `la`, which is better"),
        (0.005, 0.02, "LPG does not help here beyond the best baseline: its best form"),
        (0.005, -0.02, "an interval that covers zero"),
    ],
)
def test_advice_follows_the_intervals(scenario, mean, rate, text):
    gaps = {"lpg_over_baseline": gap(mean, 0.01), "lpg_over_rate": gap(rate, 0.01), "lpg_over_ce": gap(0.03, 0.005)}
    found = advice.advise(scenario)._replace(**gaps, lpg_over_strongest=gap(0.02, 0.01))
    assert text in advice.sentence(found)
    assert found.helps == ("LPG helps" in advice.sentence(found))


def test_a_baseline_that_was_not_chosen_but_is_as_good_counts(scenario):
    found = advice.advise(scenario)
    assert found.lpg_over_strongest.mean == pytest.approx(np.mean(LPG) - 0.85)  # of cb, which held-out scores missed
    gaps = {"lpg_over_baseline": gap(0.02, 0.01), "lpg_over_rate": gap(0.02, 0.01)}
    assert not found._replace(**gaps).helps
    assert "but by −10.25 ± " in advice.sentence(found._replace(**gaps))


def test_what_helps_is_better_than_the_same_on_random_classes(tmp_path):
    entries = {
        "ce": entry_of(CE, held_out=0.7),
        "la": entry_of(LA, held_out=0.8),
        "la+lpg": entry_of([v + 0.02 + 0.001 * v for v in LA], "combination", 0.9),
        "la+random-lpg": entry_of([v + 0.01 for v in LA], "control"),
        "random-lpg": entry_of([v + 0.1 for v in LA], "control"),  # is for LPG by itself
    }
    write_scenario(tmp_path / "a", entries)
    found = advice.advise(evidence.read(tmp_path / "a")[0])
    assert found.lpg_over_random.mean == pytest.approx(0.01 + 0.001 * np.mean(LA))
    assert found.helps
    entries["la+random-lpg"] = entry_of([v + 0.03 for v in LA], "control")
    write_scenario(tmp_path / "b", entries)
    found = advice.advise(evidence.read(tmp_path / "b")[0])
    assert not found.helps
    assert "LPG does not help here beyond random classes" in advice.sentence(found)


@pytest.mark.parametrize(
    ("fields", "wanted"), [({"lpg.split": "frequency"}, 10), ({"lpg.split": "accuracy"}, 0), ({}, 0)]
)
def test_random_classes_are_a_control_of_the_same_split_only(tmp_path, fields, wanted):
    """Not of LPG by example, with learnt bounds or by another split, whose margins are others."""
    control = entry_of([v + 0.1 for v in CE], "control", method="random_lpg", fields={"lpg.split": "frequency"})
    entries = {"ce": entry_of(CE, held_out=0.7), "x": entry_of(LPG, "lpg", 0.9, fields=fields), "random-lpg": control}
    write_scenario(tmp_path, entries)
    found = advice.advise(evidence.read(tmp_path)[0])
    assert (found.with_lpg, found.lpg_over_random.n) == ("x", wanted and len(LPG))


@pytest.mark.parametrize("opposite", [False, True])
def test_a_split_is_held_against_random_classes_of_its_own(tmp_path, opposite):
    """Also with signs reversed; not against random classes at the weight decay of cross-entropy."""
    given, fields = {"method": "random_lpg"}, {"lpg.split": "accuracy"}
    entries = {"ce": entry_of(CE, held_out=0.7)}
    entries["x"] = entry_of(LPG, "control" if opposite else "lpg", 0.9, fields={**fields, "lpg.opposite": opposite})
    others = {"lpg.split": "gradient_variance"}
    entries["random-decay"] = entry_of(CE, "control", fields=fields, inherits=["random-of-x", "ce"], **given)
    entries["random-lpg"] = entry_of([v + 0.1 for v in LPG], "control", fields=others, **given)
    entries["random-of-x"] = entry_of([v - 0.02 for v in LPG], "control", fields=fields, **given)
    write_scenario(tmp_path, entries)
    found = advice.advise(evidence.read(tmp_path)[0])
    assert found.lpg_over_random.mean == pytest.approx(0.02)


def test_what_is_recommended_has_lpg_in_it_and_says_what_it_gains(runs, scenario, tmp_path):
    paths = advice.save([scenario], tmp_path / "out")
    (found,) = json.loads(paths[0].read_text()).values()
    fields = {"train.learning_rate": 0.2, "lpg.epsilon": 0.1, "lpg.split": "frequency"}
    assert found["config"] == {"method": "lpg", **fields}
    wanted = stats.ttest_rel(LPG, CE)
    interval = wanted.confidence_interval(0.95)
    assert found["over_ce"]["mean"] == pytest.approx(100 * np.mean(np.subtract(LPG, CE)), abs=0.005)
    assert found["over_ce"]["ci95"] == pytest.approx(50 * (interval.high - interval.low), abs=0.005)
    assert found["over_rate"] == {"mean": None, "ci95": None, "n": 0}  # nobody ran ce-lr
    assert (found["baseline"], found["helps"]) == ("la", False)
    (network,) = advice.recommended([scenario._replace(tier="T3")]).values()
    assert network["config"] == {"method": "lpg", "lpg.epsilon": 0.1, "lpg.split": "frequency"}  # nobody chose the rate
    assert advice.recommended([scenario._replace(entries={"ce": scenario.entries["ce"]})]) == {}


def test_advice_of_few_runs(tmp_path):
    write_scenario(tmp_path, {"ce": entry_of((0.5,), held_out=0.5)})
    assert advice.sentence(advice.advise(evidence.read(tmp_path)[0])) == "Too few runs to say anything."


# --- the door


def test_the_same_runs_give_the_same_files(runs, tmp_path, monkeypatch, capsys):
    first = report.evidence_report(runs, tmp_path / "one")
    monkeypatch.setattr(sys, "argv", ["report", str(runs), "--out", str(tmp_path / "two")])
    door.main()
    assert capsys.readouterr().out.split() == [str(tmp_path / "two" / p.relative_to(tmp_path / "one")) for p in first]
    assert {"claims.md", "claims.csv", "runs.csv", "evidence.json", "recommended.json"} <= {path.name for path in first}
    for path in first:
        content = path.read_bytes()
        assert content == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path
        assert str(tmp_path).encode() not in content
        assert b"/somebody" not in content


def test_the_door_takes_one_directory_of_runs(runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        door.main([str(runs), str(runs), "--out", str(tmp_path)])
    assert "--out with 2 directories: give one" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        door.main([str(tmp_path / "nothing"), "--out", str(tmp_path)])
    assert caught.value.code == 2
