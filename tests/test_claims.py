"""Verdicts on claims: the rule from both sides, comparisons against SciPy, and a table of claims that can be tested."""

import csv
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from given_runs import CE, LA, LPG, entry_of, write_scenario
from scipy import stats

from evidence import entries, feature_maps, scenarios, studies
from lpg_jax.report import claims, evaluation, evidence, ledger
from lpg_jax.report.claims import (
    ABOVE,
    BELOW,
    CLAIMS,
    WITHIN,
    Claim,
    Compactness,
    Contrast,
    Cost,
    Measure,
)
from lpg_jax.report.evaluation import CONTRADICTED, OPEN, SUPPORTED, UNTESTED, Finding
from lpg_jax.training import commandline, sweep

BETTER = (0.82, 0.82, 0.84, 0.83)  # than LA
VERSUS = claims.versus("lpg", "ce", "longtail")


def finding(low, high, region=ABOVE, **extra):
    return Finding(
        "T1 x", "a − b", (low + high) / 2, low, high, 10, "seeds", True, region, "python -m evidence run x", **extra
    )


# --- the rule


@pytest.mark.parametrize(
    ("low", "high", "region", "sign"),
    [
        (0.001, 0.02, ABOVE, "+"), (-0.02, -0.001, ABOVE, "-"), (-0.001, 0.02, ABOVE, "0"), (0.0, 0.0, ABOVE, "0"),
        (0.0, 0.02, ABOVE, "0"), (-0.02, -0.001, BELOW, "+"), (0.001, 0.02, BELOW, "-"), (-0.02, 0.0, BELOW, "0"),
        (-0.009, 0.009, WITHIN, "+"), (0.0, 0.0, WITHIN, "+"), (0.011, 0.02, WITHIN, "-"), (-0.02, -0.011, WITHIN, "-"),
        (-0.02, 0.02, WITHIN, "0"), (0.005, 0.02, WITHIN, "0"), (1.01, 1.02, (-math.inf, 1.03), "+"),
        (1.04, 1.1, (-math.inf, 1.03), "-"), (1.02, 1.04, (-math.inf, 1.03), "0"),
    ],
)  # fmt: skip
def test_sign_of_an_interval(low, high, region, sign):
    assert finding(low, high, region).sign == sign


@pytest.mark.parametrize(
    ("signs", "wanted"),
    [("", UNTESTED), ("+", SUPPORTED), ("+++", SUPPORTED), ("++0", OPEN), ("+-", OPEN), ("0", OPEN),
     ("-", CONTRADICTED), ("-0", CONTRADICTED), ("--", CONTRADICTED), ("+0-", OPEN)],
)  # fmt: skip
def test_verdict(signs, wanted):
    ends = {"+": (0.01, 0.02), "-": (-0.02, -0.01), "0": (-0.01, 0.01)}
    found = [finding(*ends[sign]) for sign in signs]
    assert "".join(each.sign for each in found) == signs
    assert evaluation.verdict(found) == wanted


# --- comparisons


@pytest.fixture
def runs(tmp_path):
    """Two long tails and one noisy problem."""
    given = {
        "ce": entry_of(CE, held_out=0.70),
        "la": entry_of(LA, held_out=0.79),
        "lpg": entry_of(LPG, "lpg", 0.74),
        "lpg-varied": entry_of(tuple(0.9 * x for x in LPG), "lpg", 0.75),
    }
    values = {0.1: CE, 2.0: (0.5, 0.52, 0.49, 0.5)}
    write_scenario(tmp_path / "runs", given, studies={"epsilon": ("lpg", "lpg.epsilon", values)})
    write_scenario(
        tmp_path / "runs", given | {"lpg": entry_of(BETTER, "lpg", 0.9)}, tier="T2", name="cifar10_longtail100"
    )
    write_scenario(tmp_path / "runs", given, "noisy", name="digits_symmetric40")
    return tmp_path / "runs"


def found_in(runs, *tests, out=None):
    sources = evaluation.read_sources(evidence.read(runs), out or runs)
    return evaluation.findings(Claim("1", "text", tests), sources)


def test_a_contrast_is_tested_on_every_scenario_of_its_kind(runs):
    first, second = found_in(runs, VERSUS)
    assert (first.scenario, second.scenario) == ("T1 digits_longtail50", "T2 cifar10_longtail100")
    for found, values in ((first, LPG), (second, BETTER)):
        wanted = stats.ttest_rel(values, CE).confidence_interval(0.95)
        assert (found.low, found.high, found.n) == pytest.approx((wanted.low, wanted.high, 4))
    assert (first.what, first.region, first.of) == ("lpg − ce, balanced", ABOVE, "seeds")
    assert second.command == "python -m evidence run cifar10_longtail100"


def test_kinds_names_and_missing_entries_select(runs):
    assert [f.scenario for f in found_in(runs, claims.versus("lpg", "ce", "noisy"))] == ["T1 digits_symmetric40"]
    assert len(found_in(runs, claims.versus("lpg", "ce"))) == 3
    assert [f.scenario for f in found_in(runs, claims.versus("lpg", "ce", names=("cifar",)))] == [
        "T2 cifar10_longtail100"
    ]
    assert found_in(runs, claims.versus("lpg", "mixup")) == []
    assert found_in(runs, claims.versus("lpg", "ce", "balanced")) == []


@pytest.mark.parametrize(
    ("of_tests", "wanted"),
    [
        (("--", "++"), CONTRADICTED),
        (("-0", "++"), OPEN),
        (("-", "++"), OPEN),
        (("++", "+++"), SUPPORTED),
        ((), UNTESTED),
    ],
)
def test_a_claim_about_all_fails_by_one_that_is_better_everywhere(of_tests, wanted):
    ends = {"+": (0.01, 0.02), "-": (-0.02, -0.01), "0": (-0.01, 0.01)}
    found = [finding(*ends[sign], test=number) for number, signs in enumerate(of_tests) for sign in signs]
    assert evaluation.verdict(found, universal=True) == wanted
    assert evaluation.verdict(found) == (OPEN if wanted == CONTRADICTED else wanted)


def test_the_best_reading_is_that_by_held_out_scores_and_named(runs):
    first, second = found_in(runs, claims.versus("@lpg", "la", "longtail"))
    assert first.what == "lpg-varied − la, balanced"
    assert second.what == "lpg − la, balanced"
    assert first.mean == pytest.approx(0.9 * np.mean(LPG) - np.mean(LA))


def test_sums_of_several_terms_are_taken_seed_by_seed(runs):
    terms = (claims.Term(1, "lpg"), claims.Term(1, "ce"), claims.Term(-1, "la"), claims.Term(-1, "lpg-varied"))
    found = found_in(runs, Contrast(terms, ("noisy",), WITHIN))[0]
    values = np.array(LPG) + np.array(CE) - np.array(LA) - 0.9 * np.array(LPG)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_gains_in_the_tail_are_held_against_those_in_the_head(tmp_path):
    plain = [{"head": 0.9 + 0.01 * k, "tail": 0.4 + 0.02 * k} for k in range(3)]
    better = [{"head": 0.88, "tail": 0.6 - 0.01 * k} for k in range(3)]
    write_scenario(tmp_path, {"ce": entry_of(tuple(plain), held_out=0.5), "lpg": entry_of(tuple(better), "lpg", 0.6)})
    (found,) = found_in(tmp_path, claims._gains("lpg", "tail", "head", "longtail"))
    gains = [b["tail"] - p["tail"] - (b["head"] - p["head"]) for b, p in zip(better, plain, strict=True)]
    assert found.mean == pytest.approx(np.mean(gains))
    assert found.what == "lpg tail − ce tail − lpg head + ce head"
    assert found.sign == "+"


def test_values_of_a_study_are_compared(runs):
    (found,) = found_in(runs, claims.studied("epsilon", 2.0, 0.1, region=BELOW))
    wanted = stats.ttest_rel((0.5, 0.52, 0.49, 0.5), CE).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.what == "lpg.epsilon=2 − lpg.epsilon=0.1, balanced"
    assert found_in(runs, claims.studied("epsilon", 3.0, 0.1)) == []


def test_amplified_classes_against_the_same_classes_of_plain_training(tmp_path):
    drawn = entry_of((0.5,) * 3, "control", per_class=[[0.6 + 0.01 * k, 0.3, 0.5, 0.5] for k in range(3)],
                     margin=[0.1, -0.1, 0.0, 0.0])  # fmt: skip
    plain = entry_of((0.5,) * 3, per_class=[[0.5, 0.4, 0.1, 0.9]] * 3)
    write_scenario(tmp_path, {"ce": plain, "random-lpg": drawn})
    amplified, dampened = found_in(
        tmp_path,
        claims.versus("random-lpg", "ce", metric="amplified"),
        claims.versus("random-lpg", "ce", metric="dampened", region=BELOW),
    )
    assert amplified.what == "random-lpg − ce, amplified classes (1 set of them)"
    assert (amplified.mean, dampened.mean) == pytest.approx((0.11, -0.1))
    assert (amplified.sign, dampened.sign) == ("+", "+")


def test_comparisons_of_the_same_runs_count_once(tmp_path):
    """Where the same was chosen for two entries."""
    entries = {"ce": entry_of(CE), "lpg": entry_of(LPG, "lpg", 0.7), "lpg-decay": entry_of(LPG, "control")}
    write_scenario(tmp_path, entries)
    sources = evaluation.read_sources(evidence.read(tmp_path), tmp_path)
    tests = tuple(claims.versus(label, "ce", "longtail") for label in ("lpg", "@lpg", "lpg-decay"))
    found = evaluation.findings(Claim("", "", tests), sources)
    assert [(each.what, each.test) for each in found] == [("lpg − ce, balanced", 0)]
    entries["lpg-decay"] = entry_of([*LPG[:-1], LPG[-1] + 0.01], "control")
    write_scenario(tmp_path / "other", entries)
    sources = evaluation.read_sources(evidence.read(tmp_path / "other"), tmp_path)
    assert [each.test for each in evaluation.findings(Claim("", "", tests), sources)] == [0, 2]


def test_one_seed_is_no_test(tmp_path):
    write_scenario(tmp_path, {"ce": entry_of((0.5,)), "lpg": entry_of((0.7,), "lpg")})
    assert found_in(tmp_path, VERSUS) == []


def write_measures(runs, content, scenario="T1/digits_longtail50"):
    (runs / scenario / "measures.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_measures(runs):
    values = [1.9, 2.1, 2.0]
    for scenario in ("T1/digits_longtail50", "T2/cifar10_longtail100"):
        write_measures(runs, {"order": {"values": values, "seeds": [0, 1, 4], "command": "python m.py"}}, scenario)
    found, other = found_in(runs, Measure("order", (1.5, 2.5)), Measure("nothing", ABOVE))
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high, found.sign) == pytest.approx((wanted.low, wanted.high, "+"))
    assert (found.what, found.command, found.points, found.n, found.of) == ("order", "python m.py", False, 3, "seeds")
    assert (found.scenario, other.scenario) == ("T1 digits_longtail50", "T2 cifar10_longtail100")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ({"a": {"values": [1.0], "seeds": [0]}}, "a: command is missing"),
     ({"a": {"values": ["x"], "seeds": [0], "command": "c"}}, r"a: values=\['x'\]: must be a number for each of the 1"),
     ({"a": {"values": [1.0], "seeds": [0, 1], "command": "c"}}, "for each of the 2 seeds"),
     ("[]", "must be an object")],
)  # fmt: skip
def test_damaged_measures_are_named(runs, content, message):
    write_measures(runs, content)
    with pytest.raises(
        ValueError, match=rf"measures\.json: .*{message}.*; remove it and start `python -m evidence meas"
    ):
        found_in(runs, VERSUS)


def test_costs_are_rows_of_the_benchmark(runs, tmp_path):
    (tmp_path / "cost").mkdir()
    rows = ["part,case,what,value,unit,low,high,n", "step,resnet32 B=128,lpg / plain,1.004,x,1.001,1.008,25",
            "step,resnet32 B=128,lpg,51,ms,50,52,25", "step,mlp B=128,lpg / plain,1.2,x,1.1,1.3,25"]  # fmt: skip
    (tmp_path / "cost" / "cost.csv").write_text("\n".join(rows))
    (found,) = found_in(runs, Cost("lpg / plain", (-math.inf, 1.03)), out=tmp_path)
    half = stats.t.ppf(0.975, 24) * 1.2533 * (1.008 - 1.001) / (2 * stats.norm.ppf(0.75)) / 5  # of a median
    assert (found.mean, found.low, found.high, found.n) == pytest.approx(
        (1.004, 1.004 - half, 1.004 + half, 25), rel=1e-5
    )
    assert found.sign == "+"
    (tmp_path / "cost" / "cost.csv").write_text("part,case\n")
    with pytest.raises(ValueError, match=r"cost\.csv: no column 'high'; write the file anew"):
        found_in(runs, VERSUS, out=tmp_path)


def test_the_interval_of_a_median_covers_the_truth():
    """About 19 of 20, of ratios with a long tail."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        sample = rng.lognormal(sigma=0.2, size=25)
        low, value, high = (float(x) for x in np.percentile(sample, (25, 50, 75)))
        row = {"part": "step", "case": "resnet32 B=128", "what": "m", "unit": "x", "n": "25"}
        row |= {"value": str(value), "low": str(low), "high": str(high)}
        (found,) = evaluation._cost(Cost("m", ABOVE), evaluation.Sources((), [row], {}))
        held += found.low < 1 < found.high
    assert 360 <= held <= 398


def test_compactness_is_paired_over_seeds(runs):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 20)

    def features(spread):
        return feature_maps.features_of(3 * np.eye(4)[labels] + spread * rng.normal(size=(80, 4)), labels)

    found = {label: {seed: features(spread) for seed in range(3)} for label, spread in (("ce", 1.0), ("lpg", 0.3))}
    feature_maps.write(runs / "T1" / "digits_longtail50", found, np.array([9, 9, 9, 9]))
    (found,) = found_in(runs, Compactness("lpg", "ce", "ratio"), Compactness("lpg", "lpl", "ratio"))
    assert (found.n, found.sign, found.what) == (3, "+", "lpg − ce, ratio")
    assert [each.sign for each in found_in(runs, Compactness("ce", "lpg", "ratio"))] == ["-"]


# --- the claims


def contrasts():
    return [(claim, test) for claim in CLAIMS for test in claim.tests if isinstance(test, Contrast)]


def test_there_are_enough_claims_and_few_without_a_test():
    assert len(CLAIMS) >= 24
    assert sum(not claim.tests for claim in CLAIMS) <= 6
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_every_label_of_a_claim_is_an_entry_of_its_kind(kind):
    made = entries.of_kind(kind, {entries.RATES: 0.1, entries.DECAY: 0.1}, {})
    assert next(label for label in made if label.startswith("equal-")) == "equal-lpg"  # "@equal"
    planned = made.keys() | {"@lpg", "@equal"}
    for claim, test in contrasts():
        if kind in test.kinds:
            wrong = {term.label for term in test.terms if term.value is None} - planned
            assert not wrong, (claim.text, wrong)


def test_all_baselines_are_all_baselines():
    for kind, labels in (("longtail", claims.LONGTAIL), ("noisy", claims.NOISY)):
        planned = entries.of_kind(kind, {entries.RATES: 0.1, entries.DECAY: 0.1}, {}).values()
        baselines = {each.label for each in planned if each.role == entries.BASELINE and not each.knows}
        general = {each.label for each in entries._plain()} | {"la", "lpl"} if kind == "noisy" else set()
        assert set(labels) == baselines - general


def test_every_study_of_a_claim_is_planned():
    planned = {study.name: study for of in studies.STUDIES.values() for study in of}
    for claim, test in contrasts():
        for term in test.terms:
            assert term.value is None or term.value in planned[term.label].values, claim.text


def test_symmetric_noise_is_not_asymmetric():
    chosen = {name for name in scenarios.SCENARIOS if any(part in name for part in claims._SYMMETRIC)}
    assert chosen == {name for name, each in scenarios.SCENARIOS.items() if each.problem.startswith("symmetric")}


def test_every_name_of_a_claim_selects_a_scenario():
    for claim, test in contrasts():
        for name in test.names:
            assert any(name in scenario for scenario in scenarios.SCENARIOS), claim.text


def test_every_claim_without_runs_has_the_command_of_the_papers_setting_and_it_is_a_config(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert all(claim.tests or claim.protocol for claim in CLAIMS)
    for command in filter(None, (claim.protocol for claim in CLAIMS)):
        python, *argv = shlex.split(command)
        parsed = commandline.parse(argv)
        assert (python, argv[0], type(parsed)) == ("python", "launch.py", commandline.Train)
        sweep.check([sweep.Run({}, parsed.config, parsed.workdir)])


# --- the ledger


def small(runs, out):
    made = (
        Claim("4.3", "LPG beats LA.", (claims.versus("lpg", "la", "longtail"),), "32.0", "LA 44"),
        Claim("4.4", "LA beats LPG under noise.", (claims.versus("la", "lpg", "noisy"),)),
        Claim("4.5", "LPG + LPL.", (claims.versus("lpl+lpg", "lpl"),), note="A note."),
        Claim("4.6", "LPG beats LA under noise.", (claims.versus("lpg", "la", "noisy"),)),
    )
    ledger.save(evidence.read(runs), out, made)
    with (out / "claims.csv").open(newline="", encoding="utf-8") as file:
        return (out / "claims.md").read_text(encoding="utf-8"), list(csv.DictReader(file))


def test_the_ledger_says_what_failed(runs, tmp_path):
    text, rows = small(runs, tmp_path / "out")
    assert "**4 claims: 1 supported, 1 contradicted, 1 not supported, 1 untested at this scale.**" in text
    failed = text.partition("## Claims that failed")[2].partition("## What to use")[0]
    contradicted, _, rest = failed.partition("Not supported")
    assert (
        '- 4. "LPG beats LA under noise." (4.6): 0 for it, 1 against, 0 open; furthest from it: T1 digits_symm'
        in contradicted
    )
    assert '- 1. "LPG beats LA."' in rest
    assert "- 3. LPG + LPL. A note." in rest.partition("Untested")[2]
    assert "LA beats LPG under noise" not in failed
    assert "not adjusted for the number of comparisons" in " ".join(text.replace("*", "").split())
    assert [row["verdict"] for row in rows] == [OPEN, OPEN, SUPPORTED, UNTESTED, CONTRADICTED]


def test_every_comparison_has_its_interval_n_and_command(runs, tmp_path):
    text, rows = small(runs, tmp_path / "out")
    wanted = stats.ttest_rel(LPG, LA).confidence_interval(0.95)
    row = rows[0]
    assert (float(row["low"]), float(row["high"])) == pytest.approx((wanted.low, wanted.high), rel=1e-5)
    assert (row["n"], row["allowed_above"], row["allowed_below"], row["paper"]) == ("4", "0", "", "32.0")
    mean, low, high = (
        f"{100 * v:+.2f}".replace("-", "−") for v in (np.mean(LPG) - np.mean(LA), wanted.low, wanted.high)
    )
    assert f"| 4 seeds | {mean} [{low}, {high}] points | > 0 | `-` |" in text
    assert "`python -m evidence run digits_longtail50 cifar10_longtail100 && python -m lpg_jax.report" in text
    assert "Paper: 32.0. Published: LA 44." in text
    assert all(row["command"] for row in rows if row["n"])


def test_every_interval_over_seeds_follows_from_the_values_beside_it(runs, tmp_path):
    write_measures(runs, {"order": {"values": [1.9, 2.1, 2.0], "seeds": [0, 1, 4], "command": "python m.py"}})
    made = (
        Claim("1", "a", (claims.versus("lpg", "la"), Measure("order", ABOVE))),
        Claim("2", "b", (claims.studied("epsilon", 2.0, 0.1),)),
    )
    ledger.save(evidence.read(runs), tmp_path, made)
    tables = []
    for name in ("claims", "claims_by_seed"):
        with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == 5
    for row in tables[0]:
        its = ("claim", "scenario", "comparison")
        values = [float(each["value"]) for each in tables[1] if all(each[name] == row[name] for name in its)]
        wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (float(row["low"]), float(row["high"])) == pytest.approx((wanted.low, wanted.high), rel=1e-3)
        assert len(values) == int(row["n"])


def test_what_to_use_says_when_lpg_does_not_help(runs, tmp_path):
    text, _ = small(runs, tmp_path / "out")
    use = text.partition("## What to use")[2].partition("## Scale")[0]
    wanted = stats.ttest_rel(LA, CE).confidence_interval(0.95)
    gain = f"+{50 * (wanted.low + wanted.high):.2f} ± {50 * (wanted.high - wanted.low):.2f}"
    assert f"| T1 digits_longtail50 | la {gain} | " in use
    assert "| no | 4 |" in use
    assert "| yes | 4 |" in use
    assert "LPG does not help here beyond the best baseline: its best form, `lpg-varied` differs by" in use
    gains = []
    for other in (CE, LA):
        wanted = stats.ttest_rel(BETTER, other).confidence_interval(0.95)
        gains.append(f"+{50 * (wanted.low + wanted.high):.2f} ± {50 * (wanted.high - wanted.low):.2f} points (n = 4)")
    text = f"LPG helps: `lpg` differs by {gains[0]} from ce and by {gains[1]} from the best baseline, `la`"
    assert f"{text}; the same on random classes was not run." in use
