"""What is chosen on features reaches networks and configs."""

import json
import re

import pytest
from rich.console import Console

from configs import cifar_longtail, cifar_noisy, heads, presets
from evidence import __main__ as evidence
from evidence import entries, networks, plan, scribe
from evidence.scenarios import SCENARIOS
from lpg_jax.training import settings

BASE = {"train.learning_rate": 0.1, "train.weight_decay": 5e-4}


def test_a_network_takes_over_options_but_no_weight_decay_of_a_head():
    chosen = {"train.weight_decay": 0.05, "train.learning_rate": 0.4}
    fields = {
        "ce": chosen,
        "gce": {"losses.gce.q": 0.3, **chosen},
        "la": {"losses.la.tau": 1.2, **chosen},
        "lpg": {"lpg.epsilon": 0.3, **chosen},
    }
    trial = {"mean": 0.5, "chosen": True}
    rows = {
        name: {
            "role": "lpg" if name == "lpg" else "baseline",
            "title": name,
            "method": name,
            "fields": its,
            "trials": [trial],
        }
        for name, its in fields.items()
    }
    made = networks.entries_of({"entries": rows})
    assert [dict(entry.fixed) for entry in made] == [
        {},
        {"losses.gce.q": 0.3},
        {"losses.la.tau": 1.2},
        {"lpg.epsilon": 0.3},
        {},
    ]
    assert made[-1].inherits == ("lpg",)


def test_a_network_waits_for_all_that_is_chosen_on_features(tmp_path, capsys):
    command = ["run", "cifar10_human_resnet8", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit, match="2"):
        evidence.main(command)
    assert "not there; start `python -m evidence run cifar10_human` before" in " ".join(capsys.readouterr().err.split())
    home = tmp_path / "T2" / "cifar10_human"
    home.mkdir(parents=True)
    known = {label: {} for label in entries.of_kind("noisy", BASE, {"data.validation": 0.1}) if label != "gce"}
    (home / "scenario.json").write_text(json.dumps({"base": BASE, "entries": known}))
    with pytest.raises(SystemExit, match="2"):
        evidence.main(command)
    assert "nothing is chosen yet for gce; start" in " ".join(capsys.readouterr().err.split())


def test_a_network_says_by_which_trials_of_the_head_it_was_chosen(monkeypatch, tmp_path):
    """The number of trials is known also where only the chosen one is kept."""
    trial = {"fields": BASE, "mean": 0.6, "ci95": 0.1, "n": 2, "chosen": True}
    row = {"role": "baseline", "method": "gce", "fields": BASE, "trials": [trial], "tried": 18}
    known = entries.of_kind("noisy", BASE, {"data.validation": 0.1})
    rows = {label: row | {"title": label, "method": entry.method} for label, entry in known.items()}
    home = tmp_path / "T2" / "cifar10_human"
    home.mkdir(parents=True)
    (home / "scenario.json").write_text(json.dumps({"base": BASE, "entries": rows}))
    monkeypatch.setattr(scribe.Scribe, "train", lambda self, runs: [])
    scenario = SCENARIOS["cifar10_human_resnet8"]
    networks.run(scenario, tmp_path / "T3", tmp_path, "c", Console(quiet=True))
    made = json.loads((tmp_path / "T3" / "scenario.json").read_text())["entries"]
    *taken, (control, equal) = made.items()
    assert [label for label, _ in taken][:3] == ["ce", "gce", "la"]
    assert len(made) == plan.NETWORK
    assert [each["tried"] for _, each in taken] == [18] * 4
    assert [each["trials"] for _, each in taken] == [[trial]] * 4
    assert (control[:6], equal["trials"], equal["tried"]) == ("equal-", [], 0)


def test_what_is_recommended_is_a_config(monkeypatch, tmp_path):
    config = {"method": "la+lpg", "train.learning_rate": 0.07, "lpg.epsilon": 0.03, "losses.la.tau": 1.25}
    monkeypatch.setattr(presets, "RECOMMENDED", tmp_path / "recommended.json")
    with pytest.raises(ValueError, match=r"recommended\.json: not there; `python -m lpg_jax\.report"):
        heads.get_config("recommended,digits,balanced")
    presets.RECOMMENDED.write_text(json.dumps({"digits_longtail50": {"config": config}}))
    found = heads.get_config("recommended,digits,longtail50")
    settings.check(found)
    assert {name: _field(found, name) for name in config} == config
    assert heads.get_config("digits,longtail50").method != "la+lpg"
    with pytest.raises(ValueError, match=r"scenario='digits_balanced': recommended\.json has none; must be one of"):
        heads.get_config("recommended,digits,balanced")


def test_what_is_recommended_says_where_it_gains_nothing(monkeypatch, tmp_path):
    given = {
        "over_ce": (0.5, 0.15),
        "over_baseline": (0.2, 0.1),
        "over_strongest": (-0.02, 0.1),
        "over_rate": (0.1, None),
        "over_random": (0.03, 0.02),
    }
    gains = {name: {"mean": mean, "ci95": half, "n": 10} for name, (mean, half) in given.items()}
    row = {"config": {"method": "mixup+lpg"}, "label": "mixup+lpg", "baseline": "mixup", "strongest": "sam", **gains}
    monkeypatch.setattr(presets, "RECOMMENDED", tmp_path / "recommended.json")
    presets.RECOMMENDED.write_text(json.dumps({"digits_balanced": {**row, "helps": False}}))
    text = (
        "digits_balanced: LPG is not what helps here; in points mixup+lpg differs by +0.50 +- 0.15 (n = 10) from ce, "
        "by +0.20 +- 0.10 (n = 10) from mixup, by -0.02 +- 0.10 (n = 10) from sam, by +0.03 +- 0.02 (n = 10) from LPG "
        "on random classes; not compared with ce with a learning rate chosen again"
    )
    with pytest.warns(UserWarning, match=re.escape(text)):
        heads.get_config("recommended,digits,balanced")
    same = {**row, "strongest": "mixup", "over_strongest": gains["over_baseline"]}
    presets.RECOMMENDED.write_text(json.dumps({"digits_balanced": {**same, "helps": False}}))
    with pytest.warns(UserWarning, match=r"from ce, by \+0\.20 \+- 0\.10 \(n = 10\) from mixup, by \+0\.03"):
        heads.get_config("recommended,digits,balanced")
    presets.RECOMMENDED.write_text(json.dumps({"digits_balanced": {**row, "helps": True}}))
    heads.get_config("recommended,digits,balanced")  # a warning would be an error


@pytest.mark.parametrize(
    ("module", "words", "scenario"),
    [(cifar_longtail, "laptop", "cifar10_longtail100_resnet8"), (cifar_noisy, "human", "cifar10_human_resnet8")],
)
def test_a_network_has_its_own_recommended_options(module, words, scenario, monkeypatch, tmp_path):
    config = {"method": "lpg", "lpg.direction": "class_scale", "lpg.epsilon": 0.33}
    monkeypatch.setattr(presets, "RECOMMENDED", tmp_path / "recommended.json")
    presets.RECOMMENDED.write_text(json.dumps({scenario: {"config": config}}))
    plain, found = module.get_config(words), module.get_config(f"recommended,{words}")
    settings.check(found)
    assert {name: _field(found, name) for name in config} == config
    assert found.train == plain.train
    with pytest.raises(ValueError, match=r"recommended\.json has none; must be one of cifar10_"):
        module.get_config(f"recommended,cifar100,{words}")
    with pytest.raises(ValueError, match="'lpg': method is 'recommended' already"):
        module.get_config(f"recommended,lpg,{words}")


def _field(config, name):
    section, *rest = name.split(".")
    return _field(config[section], ".".join(rest)) if rest else config[section]
