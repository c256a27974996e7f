"""Tables are trained again with the settings in them; what was not chosen, or differs, is named."""

import json
import re

import pytest
from rich.console import Console

from evidence import __main__ as evidence
from evidence import chosen, entries, plan, scribe
from evidence.scenarios import SCENARIOS

BASE = {"train.learning_rate": 0.1, "train.weight_decay": 5e-4}


SMOOTH = "T1,smooth,{},{},0.01,{}\n"
GOOD = '"{""losses.smooth.alpha"": 0.1, ""train.weight_decay"": 0.002}"'


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (None, "results/evidence.json: No such file or directory; --chosen takes a directory that the report wrote"),
        ("T1,ce,{},0.9,0.01,0\n", r"no choice for digits_balanced \(has no smooth\); leave --chosen out to tune it"),
        ("T1,smooth\n", "no choice for digits_balanced .*; leave --chosen out"),
        (SMOOTH.format("[]", 0.9, 12), "fields of smooth lack losses.smooth.alpha"),
        (SMOOTH.format("3", 0.9, 12), "no choice for digits_balanced .*; leave --chosen out"),
        (SMOOTH.format(GOOD, "nan", 12), "held_out of smooth is nan ± 0.01"),
        (SMOOTH.format(GOOD, 0.9, "many"), "invalid literal .*'many'.*; leave --chosen out"),
    ],
)
def test_what_was_never_chosen_is_named(monkeypatch, tmp_path, capsys, rows, text):
    monkeypatch.chdir(tmp_path)
    if rows:
        (tmp_path / "results" / "tables").mkdir(parents=True)
        base = {"train.learning_rate": 0.05, "train.weight_decay": 0.002}
        (tmp_path / "results" / "evidence.json").write_text(json.dumps({"T1/digits_balanced": {"base": base}}))
        table = tmp_path / "results" / "tables" / "T1-digits_balanced.csv"
        table.write_text("tier,label,fields,held_out,held_out ci95,trials\n" + rows)
    monkeypatch.setattr(evidence, "share_programs", lambda directory: None)
    with pytest.raises(SystemExit):
        evidence.main(["run", "digits_balanced", "--only=smooth", "--chosen=results"])
    assert re.search(text, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "runs").exists()


def test_networks_have_nothing_to_choose(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evidence, "share_programs", lambda directory: None)
    with pytest.raises(SystemExit):
        evidence.main(["run", "T3", f"--chosen={tmp_path}", f"--workdir={tmp_path}"])
    assert "leave --chosen out" in " ".join(capsys.readouterr().err.split())


def test_entries_of_another_base_are_not_kept(tmp_path, monkeypatch):
    """Their commands would have its learning rate."""
    scenario, console = SCENARIOS["digits_balanced"], Console(quiet=True)
    before = {"base": {"train.learning_rate": 0.1}, "entries": {}}
    (tmp_path / "scenario.json").write_text(json.dumps(before))
    now = chosen.Chosen({"train.learning_rate": 0.2}, {})
    with pytest.raises(
        ValueError, match=r"have .*0\.1.*, now it is .*0\.2.*; leave --only out, or give another --workdir"
    ):
        scribe.run(scenario, tmp_path, "c", console, ["ce"], now)
    assert json.loads((tmp_path / "scenario.json").read_text()) == before


def test_the_best_of_trials_that_are_not_known_is_not_guessed(tmp_path):
    trial = plan.Trial({"lpg.epsilon": 0.5, **BASE}, 0.9, 0.1, 2, True)._asdict()
    made = {"fields": {}, "trials": [trial], "tried": 12}
    (tmp_path / "scenario.json").write_text(json.dumps({"base": BASE, "entries": {"lpg": made, "ce": made}}))
    scenario = SCENARIOS["digits_balanced"]
    book = scribe.Scribe(scenario, tmp_path, "c", Console(quiet=True), keep=True)
    with pytest.raises(ValueError, match=r"lpg-decay: is the best of the trials of lpg, .* give --chosen again"):
        book.choose(entries.of_kind("balanced", BASE, {"data.validation": 0.1})["lpg-decay"], BASE)
