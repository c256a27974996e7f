"""Tables of evidence runs: the intervals of SciPy, what a reader must know, commands that repeat a row."""

import csv
import re
import shlex

import numpy as np
import pytest
from given_runs import CE, LA, LPG, entry_of, write_runs, write_scenario
from scipy import stats

from evidence import __main__ as evidence_main
from lpg_jax.report import evidence, evidence_tables, wording
from lpg_jax.training import commandline


@pytest.fixture
def scenario(tmp_path):
    return evidence.read(write_runs(tmp_path / "runs"))[0]


# --- words


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(-0.04, False, "0.0"), (-0.04, True, "+0.0"), (1.26, True, "+1.3"), (-1.26, False, "−1.3"), (1.26, False, "1.3")],
)
def test_numbers_have_fixed_digits_and_no_negative_zero(value, sign, text):
    assert wording.number(value, 1, sign) == text


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("python -m evidence run T2 digits_longtail50 --only=la", "python -m evidence run digits_longtail50"),
        (
            "python -m evidence run a --only=b --chosen=/mine",
            "python -m evidence run digits_longtail50 --chosen=results",
        ),
        ("", ""),
    ],
)
def test_the_command_of_a_table_makes_all_its_rows(scenario, recorded, shown):
    """However its runs were continued last."""
    assert wording.scenario_command(scenario._replace(command=recorded)) == shown


def test_the_command_of_a_network_makes_its_heads_first(scenario):
    network = scenario._replace(tier="T3", name="cifar10_human_resnet8", command="python -m evidence run T3")
    shown = "python -m evidence run cifar10_human cifar10_human_resnet8"
    assert wording.scenario_command(network) == shown
    names = shown.split()[4:]
    assert [each.name for each in evidence_main.scenarios_of(names)] == names


def test_the_command_of_a_row_is_that_of_its_run(scenario):
    command = shlex.split(wording.run_command(scenario, "lpg", 3))
    assert command[:2] == ["python", "launch.py"]
    config = commandline.parse(command[1:]).config
    assert (config.method, config.seed, config.num_seeds) == ("lpg", 3, 1)
    assert (config.lpg.epsilon, config.lpg.split, config.train.learning_rate) == (0.1, "frequency", 0.2)
    assert config.data.imbalance == 50.0


# --- tables


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_hold_the_figures_in_the_order_of_the_roles(scenario, tmp_path):
    paths = evidence_tables.save([scenario], tmp_path / "out")
    rows = {row["label"]: row for row in read_csv(tmp_path / "out" / "tables" / "T1-digits_longtail50.csv")}
    assert list(rows) == ["ce", "la", "cb", "oracle", "lpg", "random-lpg"]
    wanted = stats.ttest_rel(LPG, LA)
    row, half = rows["lpg"], (wanted.confidence_interval(0.95).high - wanted.confidence_interval(0.95).low) / 2
    assert float(row["minus_best_baseline"]) == pytest.approx(np.mean(LPG) - np.mean(LA), abs=1e-6)
    assert float(row["minus_best_baseline ci95"]) == pytest.approx(half, abs=1e-6)
    assert (row["best_baseline"], row["n"], row["seeds"], row["machine"]) == ("la", "4", "0-3", "a machine")
    assert row["command"] == wording.run_command(scenario, "lpg", 0)
    assert {path.name for path in paths} == {f"T1-digits_longtail50.{s}" for s in ("md", "csv", "tex")} | {
        "runs.csv",
        "trials.csv",
        "evidence.json",
    }


def test_what_was_tried_is_written_with_its_score(scenario, tmp_path):
    evidence_tables.save([scenario], tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "trials.csv")
    assert {row["label"] for row in rows} == {
        label for label, entry in scenario.entries.items() if entry.trials
    }  # "random-lpg" has none
    la = [row for row in rows if row["label"] == "la"]
    assert [(float(row["held_out"]), row["chosen"], row["n"]) for row in la] == [(0.59, "0", "3"), (0.79, "1", "3")]
    assert {row["trials"] for row in la} == {"2"}


def test_markdown_says_what_a_reader_must_know(scenario):
    text = evidence_tables.markdown(scenario, evidence_tables.rows(scenario))
    half = 100 * stats.t.ppf(0.975, 3) * np.std(LPG, ddof=1) / 2
    parts = (
        f"| lpg | lpg | {100 * np.mean(LPG):.1f} ± {half:.1f} |",
        "− la",
        "best baseline: la",
        "not by test figures",
        "n = 4 seeds (0-3)",
        "python -m evidence run digits_longtail50\n",
        "revision abc; a machine; jax 0.10.2",
        "538 training examples",
        "the noise rate",
        "79.0 ± 2.0 (n = 3)",
        "lpg.epsilon=0.1, lpg.split=frequency",
    )
    for part in parts:
        assert part in text, part
    assert "/somebody" not in text


def test_a_table_says_whose_choice_is_due_to_more_trials_than_all_had(tmp_path):
    entries = {"ce": entry_of(CE, held_out=0.7), "lpg": entry_of(LPG, "lpg", 0.74, began=False)}
    entries |= {"la": entry_of(LA, held_out=0.79, began=True), "cb": entry_of(LA, held_out=0.7, began=True)}
    write_scenario(tmp_path, entries)
    found = evidence.read(tmp_path)[0]
    evidence_tables.save([found], tmp_path / "out")
    text = (tmp_path / "out" / "tables" / "T1-digits_longtail50.md").read_text(encoding="utf-8")
    assert "; 2 of 3 would be chosen the same from those alone; not so: lpg." in text
    rows = read_csv(tmp_path / "out" / "tables" / "T1-digits_longtail50.csv")
    assert {row["label"]: row["began"] for row in rows} == {"ce": "", "lpg": "0", "la": "1", "cb": "1"}


def test_failed_runs_are_named(tmp_path):
    write_scenario(tmp_path, {"ce": entry_of(CE, errors={"2": "the loss is nan"})})
    found = evidence.read(tmp_path)[0]
    assert "a run that failed, and is in no figure: ce, seed 2: the loss is nan" in evidence_tables.markdown(
        found, evidence_tables.rows(found)
    )


def test_scores_of_the_training_set_under_noise_and_of_groups_under_a_long_tail(tmp_path):
    scores = {"overall": 0.6, "train_memorised": 0.3, "train_recovered": 0.4}
    write_scenario(tmp_path, {"ce": entry_of((scores,) * 2)}, "noisy", name="digits_symmetric40")
    write_scenario(tmp_path, {"ce": entry_of(CE)})
    longtail, noisy = evidence.read(tmp_path)
    assert evidence_tables.shown_scores(longtail) == ["balanced", "overall", "head", "tail", "nll", "ece"]
    assert evidence_tables.shown_scores(noisy) == ["overall", "train_memorised", "train_recovered", "nll", "ece"]


def test_latex_is_a_plain_tabular(scenario):
    text = evidence_tables.latex(scenario, evidence_tables.rows(scenario))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", body[0])[1]
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    assert not set("±−–_") & set("".join(body).replace(r"\_", ""))
    assert body[-1] == r"\end{tabular}"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        ("−1.0 ± 2", r"$-$1.0 $\pm$ 2"),
        ("{$#}", r"\{\$\#\}"),
        ("\\", r"\textbackslash{}"),
    ],
)
def test_latex_is_escaped(text, latex):
    assert evidence_tables.escape(text) == latex


def test_published_figures_stand_beside_ours(tmp_path):
    write_scenario(tmp_path, {"ce": entry_of(CE), "la": entry_of(LA)}, tier="T2", name="cifar100_longtail100")
    found = evidence.read(tmp_path)[0]
    text = evidence_tables.markdown(found, evidence_tables.rows(found))
    assert "38.3-39.9" in text
    assert "to be read for orientation" in text
