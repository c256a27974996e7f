"""Tables are trained again with the settings in them; what was not chosen, or differs, is named."""

import csv
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
    only = ["--only=smooth"] if "smooth" in (rows or "") else []  # which would be tuned if the table lacked it
    with pytest.raises(SystemExit):
        evidence.main(["run", "digits_balanced", *only, "--chosen=results"])
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


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_a_control_that_the_table_lacks_keeps_what_it_inherits(tmp_path, monkeypatch, kind):
    """LPG on random classes beside another method: nothing is chosen for it, so it is trained all the same."""
    held_out = {"data.validation": 0.1}
    scenario = next(each for each in SCENARIOS.values() if each.kind == kind)._replace(held_out=held_out)
    wanted = entries.of_kind(kind, BASE, held_out)
    rows = [label for label in wanted if "+random-lpg" not in label]
    (tmp_path / "tables").mkdir()
    (tmp_path / "evidence.json").write_text(json.dumps({f"{scenario.tier}/{scenario.name}": {"base": BASE}}))
    with (tmp_path / "tables" / f"{scenario.tier}-{scenario.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tier", "label", "fields", "held_out", "held_out ci95", "trials"])
        for number, label in enumerate(rows):
            own = dict(*wanted[label].trials[:1])
            fields = {**BASE, **own, **wanted[label].fixed, "train.weight_decay": float(number)}
            writer.writerow(["T1", label, json.dumps(fields), 0.9, 0.01, 6])
    found = chosen.read(tmp_path, scenario)
    assert found.entries.keys() == set(rows)
    missing = next(label for label in wanted if wanted[label].trials)
    (tmp_path / "tables" / f"{scenario.tier}-{scenario.name}.csv").write_text("label\n")
    assert chosen.read(tmp_path, scenario, [missing]) == chosen.Chosen(BASE, {})  # to be tuned at that base
    monkeypatch.setattr(scribe.Scribe, "train", lambda self, runs: [])
    scribe.run(scenario, tmp_path / "home", "c", Console(quiet=True), (), found)
    made = json.loads((tmp_path / "home" / "scenario.json").read_text())["entries"]
    assert made.keys() == wanted.keys()
    controls = [label for label in made if "+random-lpg" in label]
    assert len(controls) == 3 + (kind == "longtail")
    for label in controls:
        combined = made[label.replace("+random-lpg", "+lpg")]
        assert made[label]["fields"] == combined["fields"]
        assert made[label]["method"] == combined["method"].replace("+lpg", "+random_lpg")
        assert (made[label]["seeded"], made[label]["trials"]) == (["operators.random_lpg.key"], [])


def test_an_entry_that_the_tables_lack_is_tuned_beside_what_they_have(tmp_path, monkeypatch):
    """At their learning rate, with what they chose for the method it stands beside, and nothing else is tuned."""
    la = chosen.Choice({"losses.la.tau": 1.2, "train.weight_decay": 0.01}, (), 6)
    tuned = []

    def tune(self, settings, base, entry, inherited, name):
        tuned.append((name, base, inherited))
        return tuple(plan.Trial(fields, 0.5, 0.1, 3, number == 0) for number, fields in enumerate(settings))

    monkeypatch.setattr(scribe.Scribe, "tune", tune)
    monkeypatch.setattr(scribe.Scribe, "train", lambda self, runs: [])
    known = chosen.Chosen(BASE, {"la": la})
    scribe.run(SCENARIOS["digits_longtail50"], tmp_path, "c", Console(quiet=True), ["la+lpg-varied"], known)
    assert tuned
    assert all(each == ("la+lpg-varied", BASE, la.fields) for each in tuned)
    made = json.loads((tmp_path / "scenario.json").read_text())["entries"]
    assert made.keys() == {"la+lpg-varied"}
    assert made["la+lpg-varied"]["fields"]["losses.la.tau"] == 1.2
    assert len(made["la+lpg-varied"]["trials"]) == made["la+lpg-varied"]["tried"] > 0
