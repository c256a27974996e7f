"""With how many trials an entry was chosen, and whether a larger number changed anything."""

import csv

import pytest
from given_runs import write_runs

from evidence import entries, plan
from lpg_jax.report import choice, evidence, evidence_tables

BASE = {entries.RATES: 0.1, entries.DECAY: 0.003}


@pytest.fixture
def scenario(tmp_path):
    return evidence.read(write_runs(tmp_path / "runs"))[0]._replace(base=BASE)


def planned(kind):
    return {label: entry for label, entry in entries.of_kind(kind, BASE, {}).items() if entry.trials and label != "ce"}


def with_trials(scenario, entry, tried, best, label="lpg"):
    """`scenario` with an entry whose tuning grew to `tried`; the setting `best` did best."""
    settings = plan.settings_of(entry, BASE, tried)
    trials = tuple(evidence.Trial(each, 0.7 + 0.1 * (each == best), 0.01, 2, each == best) for each in settings)
    assert sum(trial.chosen for trial in trials) == 1
    given = scenario.entries["lpg"]._replace(label=label, trials=trials, tried=len(trials))
    return scenario._replace(entries={label: given})


@pytest.mark.parametrize("kind", entries.ENTRIES)
def test_what_every_entry_begins_with_is_found_again_among_all_its_trials(scenario, kind):
    for label, entry in planned(kind).items():
        began = plan.settings_of(entry, BASE, plan.at_first(entry))
        everything = [slice(0, len(plan.DECAYS))] * len(entry.trials)
        for tried in (plan.at_first(entry), everything):
            found = choice.at_first(with_trials(scenario, entry, tried, began[-1], label), label)
            assert [trial.fields for trial in found] == began, label
        assert len(began) == 18, label


@pytest.mark.parametrize(("place", "changed"), [("first value", False), ("more decay", True), ("seventh value", True)])
def test_more_trials_change_a_choice_if_the_best_is_none_of_the_first(scenario, place, changed):
    entry = planned("longtail")["ldam"]
    began = plan.settings_of(entry, BASE, plan.at_first(entry))
    tried = [slice(0, len(plan.DECAYS))] * 7
    beyond = [each for each in plan.settings_of(entry, BASE, tried) if each not in began]
    more = next(each for each in beyond if each["losses.ldam.scale"] == 10.0)
    best = {"first value": began[0], "more decay": more, "seventh value": beyond[-1]}[place]
    assert choice.by_more_trials(with_trials(scenario, entry, tried, best)) == {"lpg": changed}


def test_of_trials_that_are_not_known_nothing_is_said(scenario, tmp_path):
    entry = planned("longtail")["ldam"]
    began = plan.settings_of(entry, BASE, plan.at_first(entry))
    whole = with_trials(scenario, entry, plan.at_first(entry), began[0])
    given = whole.entries["lpg"]
    part = given._replace(trials=tuple(trial for trial in given.trials if trial.chosen))
    assert choice.by_more_trials(whole._replace(entries={"lpg": part})) == {}
    assert choice.by_more_trials(whole._replace(entries={"ce": given})) == {}  # whose grid is that of the learning rate
    for known, firsts in ((given, {"1"}), (part, {""})):
        evidence_tables.save([whole._replace(entries={"lpg": known})], tmp_path)
        with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
            assert {row["first"] for row in csv.DictReader(file)} == firsts


def test_a_table_says_what_more_trials_changed(scenario):
    entry = planned("longtail")["ldam"]
    tried = [slice(0, len(plan.DECAYS))] * 8
    settings = plan.settings_of(entry, BASE, tried)
    same, other = (with_trials(scenario, entry, tried, settings[at]).entries["lpg"] for at in (4, -1))
    whole = scenario._replace(entries=scenario.entries | {"lpg": other, "cb": same._replace(label="cb")})
    text = evidence_tables.markdown(whole, evidence_tables.rows(whole))
    assert "of the 2 all of whose trials are kept 1 would be chosen the same from those alone; not so: lpg." in text
    none = evidence_tables.markdown(scenario, evidence_tables.rows(scenario))
    assert "whose trials are kept" not in none
