"""The committed results: enough seeds, settings that can be traced, and a README that says what they say."""

import csv
import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from configs import cifar_longtail, heads, presets
from evidence import chosen, entries, plan, studies
from evidence.scenarios import SCENARIOS
from lpg_jax.report import advice, archive, evidence_tables, ledger
from lpg_jax.report.claims import CLAIMS, Measure
from lpg_jax.training import commandline, settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SEEDS = {"T1": 10, "T2": 10, "T3": 3}
MEASURES = {  # some of those of every problem of a kind; one seed may have nothing to measure
    "balanced": (),
    "noisy": ("memorised_lpg", "beyond_right_lpg"),
    "longtail": ("gradient_end", "lpl_unturned_end", "bound_total"),
}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


TABLES = {path.stem.partition("-")[2]: read_csv(path) for path in sorted(RESULTS.glob("tables/T?-*.csv"))}
RECOMMENDED = json.loads(presets.RECOMMENDED.read_text(encoding="utf-8"))


def test_every_problem_has_a_table():
    assert TABLES.keys() == SCENARIOS.keys()


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_has_its_seeds_and_a_command_that_is_its_config(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for row in TABLES[name]:
        assert int(row["n"]) >= SEEDS[row["tier"]], row["label"]
        config = commandline.parse(shlex.split(row["command"])[1:]).config
        settings.check(config)
        for field, value in json.loads(row["fields"]).items():
            assert f"--config.{field}={value}" in shlex.split(row["command"])


@pytest.mark.parametrize("name", [name for name in TABLES if SCENARIOS[name].tier != "T3"])
def test_what_was_chosen_can_be_taken_again(name):
    found = chosen.read(RESULTS, SCENARIOS[name])
    planned = entries.of_kind(SCENARIOS[name].kind, found.base, SCENARIOS[name].held_out)
    for row in TABLES[name]:
        fields, trials, tried = found.entries[row["label"]]
        assert {**found.base, **fields} == json.loads(row["fields"])
        assert entries.DECAY in fields
        assert (entries.RATES in fields) == (row["label"] == "ce-lr")
        assert (len(trials), tried) == (min(tried, 1), int(row["trials"]))
        began = plan.began(planned[row["label"]], found.base, fields)
        assert row["began"] == ("" if began is None else str(int(began)))
    assert found.entries.keys() == {row["label"] for row in TABLES[name]}


@pytest.mark.parametrize("name", TABLES)
def test_controls_stand_in_every_table(name):
    labels = {row["label"] for row in TABLES[name]}
    if SCENARIOS[name].tier == "T3":
        assert {"ce", "gce", "la"} <= labels
        assert any(f"equal-{label}" in labels for label in labels)
        return
    controls = {"equal-lpg", "scaled-ce", "random-lpg", "lpg-opposite", "ce-lr", "ce-less", "lpg-decay", "random-decay"}
    if SCENARIOS[name].kind == "longtail":  # there the varied bound is the best reading
        controls |= {"equal-lpg-varied"}
    if SCENARIOS[name].kind == "noisy":  # there splits are compared
        controls |= {f"{each}-accuracy" for each in ("lpg", "random-lpg", "equal-lpg", "scaled-ce")}
        controls |= {"lpg-accuracy-opposite"}
        rows = {row["label"]: json.loads(row["fields"]) for row in TABLES[name]}
        assert rows["lpg-accuracy"]["lpg.split"] == rows["random-lpg-accuracy"]["lpg.split"] == "accuracy"
        assert rows["equal-lpg-accuracy"] == rows["scaled-ce-accuracy"] == rows["lpg-accuracy"]
    combined = {label.replace("+lpg", "+random-lpg") for label in labels if "+lpg" in label}
    assert controls | {"learned-lpg", "sample-lpg"} | combined <= labels


@pytest.mark.parametrize("name", RECOMMENDED)
def test_what_is_recommended_was_chosen_on_held_out_data(name):
    """The best of all rows with LPG in them, by the scores in the table; not by those of the test part."""
    rows = {row["label"]: row for row in TABLES[name] if row["held_out"]}
    found = rows[RECOMMENDED[name]["label"]]
    with_lpg = [
        row
        for row in rows.values()
        if row["role"] in ("lpg", "combination") or json.loads(row["fields"]).get("lpg.opposite")
    ]
    assert float(found["held_out"]) == max(float(row["held_out"]) for row in with_lpg)
    config = RECOMMENDED[name]["config"]
    network = SCENARIOS[name].tier == "T3"  # whose learning rate was not chosen
    fields = {k: v for k, v in json.loads(found["fields"]).items() if not network or k not in SCENARIOS[name].fields}
    assert {**fields, "method": config["method"]} == config
    assert float(found["minus_ce"]) == pytest.approx(RECOMMENDED[name]["over_ce"]["mean"] / 100, abs=1e-4)
    if not network:
        scenario = SCENARIOS[name]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            settings.check(heads.get_config(f"{scenario.data},{scenario.problem},recommended"))
        assert [name in str(warning.message) for warning in caught] == [True] * (not RECOMMENDED[name]["helps"])


def test_what_is_kept_of_runs_is_whole():
    """Every entry of the plan with every seed, every study, and what claims measure on heads."""
    with archive.unpacked(RESULTS) as kept:
        assert kept
        for found in kept:
            scenario = SCENARIOS[found.name]
            if scenario.tier != "T3":
                assert found.entries.keys() == entries.of_kind(found.kind, found.base, scenario.held_out).keys()
            short = [label for label, by_seed in found.results.items() if len(by_seed) < SEEDS[found.tier]]
            assert not short, found.name
            assert found.studies.keys() == {study.name for study in studies.of_scenario(scenario)}
            for study in found.studies.values():
                assert all(len(by_seed) == SEEDS[found.tier] for by_seed in study.results.values())
            wanted = MEASURES[found.kind] if found.tier != "T3" else ()
            assert not [name for name in wanted if len(found.measures[name].values) < SEEDS[found.tier] - 1], found.name
            differ = found.name in ("cifar10_asymmetric40", "cifar10_human", "cifar100_human")  # shares of wrong labels
            assert ("variance_rank" in found.measures) == differ, found.name


def test_the_report_is_that_of_what_is_kept(tmp_path):
    """To the byte, but for the figures, and the numbers that are written with them."""
    shutil.copytree(RESULTS / "cost", tmp_path / "cost")  # which the ledger reads
    with archive.unpacked(RESULTS) as kept:
        written = [*evidence_tables.save(kept, tmp_path), *ledger.save(kept, tmp_path), *advice.save(kept, tmp_path)]
    names = {path.relative_to(tmp_path) for path in written}
    others = {RESULTS / "tables" / "features.csv"}
    committed = {*RESULTS.glob("*.*"), *RESULTS.glob("tables/*")} - others
    assert names == {path.relative_to(RESULTS) for path in committed}
    assert not [name for name in names if (tmp_path / name).read_bytes() != (RESULTS / name).read_bytes()]


def test_every_measure_of_a_claim_is_there():
    measured = {row["measure"] for row in read_csv(RESULTS / "measures.csv")}
    wanted = {test.name for claim in CLAIMS for test in claim.tests if isinstance(test, Measure)}
    assert wanted == measured


def test_the_figures_in_a_docstring_are_those_of_their_table():
    """Of `configs/cifar_longtail.py`: overall, head, tail, NLL."""
    for row in TABLES["cifar10_longtail100_resnet8"]:
        scores = [(row[name], row[f"{name} ci95"], 100, 1) for name in ("overall", "head", "tail")]
        scores += [(row["nll"], row["nll ci95"], 1, 2)]
        texts = [f"{by * float(mean):.{d}f} +- {by * float(half):.{d}f}" for mean, half, by, d in scores]
        assert f"| {' | '.join(texts)} |" in (cifar_longtail.__doc__ or "")


def evidence_section():
    return (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Evidence")[2].partition("\n## ")[0]


def test_every_interval_of_readme_is_one_of_the_results():
    """As "+0.53 ± 0.23": a comparison of the ledger, or a difference in a table, in points."""
    compared = [row for row in read_csv(RESULTS / "claims.csv") if row["n"]]
    pairs = [(row["mean"], (float(row["high"]) - float(row["low"])) / 2) for row in compared]
    for rows in TABLES.values():
        pairs += [(row[name], row[f"{name} ci95"]) for row in rows for name in ("minus_ce", "minus_best_baseline")]
    known = np.array([(100 * float(mean), 100 * float(half)) for mean, half in pairs if mean])
    text = " ".join(evidence_section().split())
    found = re.findall(r"([+−]\d+\.\d\d) ± (\d+\.\d\d)", text)
    assert len(found) == len(re.findall("±", text))
    numbers = np.array([(float(mean.replace("−", "-")), float(half)) for mean, half in found])
    off = np.abs(numbers[:, None] - known[None]).max(axis=-1).min(axis=-1)
    assert not [each for each, by in zip(found, off, strict=True) if by > 0.00501]  # half a digit


def test_readme_says_whose_choice_is_due_to_more_trials():
    rows = [row for name, table in TABLES.items() if SCENARIOS[name].tier != "T3" for row in table if row["began"]]
    others = [row for row in rows if row["began"] == "0"]
    of_lpg = [row for row in others if row["role"] == "lpg"]
    text = " ".join(evidence_section().split())
    assert f"{len(rows) - len(others)} of {len(rows)} entries would be chosen the same from the first 18" in text
    for row in of_lpg:
        assert f"`{row['label']}` on {row['scenario']}" in text
    with_lpg = sum(row["role"] == "combination" for row in others)
    controls = sum(row["role"] == "control" for row in others)
    changed = {(row["scenario"], row["label"]) for row in others}
    beside = 0
    for row in rows:
        planned = entries.of_kind(SCENARIOS[row["scenario"]].kind, dict.fromkeys(plan.BASE, 0.1), {})[row["label"]]
        beside += row["began"] == "1" and any((row["scenario"], on) in changed for on in planned.inherits)
    assert beside == 2
    assert "two of them beside another method that would not" in text
    baselines = len(others) - len(of_lpg) - with_lpg - controls
    numbers = (
        f"{baselines} baselines, {controls} controls, {with_lpg} methods with LPG beside them, {len(of_lpg)} LPG alone"
    )
    assert numbers in text


def test_readme_has_the_lines_of_the_ledger():
    section = evidence_section()
    ledger = set((RESULTS / "claims.md").read_text(encoding="utf-8").splitlines())
    rows = [line for line in section.splitlines() if line.startswith("| T")]
    assert rows
    assert not [line for line in rows if line not in ledger]
    assert {row.split()[2] for row in rows} == TABLES.keys()
    counts = next(line for line in ledger if line.startswith(f"**{len(CLAIMS)} claims: "))
    assert counts.strip("*").partition("**")[0] in " ".join(section.split())
