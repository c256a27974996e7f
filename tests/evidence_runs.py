"""Evidence runs that nobody trained, for tests of what is drawn of them."""

import itertools
import json

import numpy as np

from evidence import feature_maps

CLASSES, SEEDS = 4, (0, 1, 2)
COUNTS = [40.0, 20.0, 10.0, 5.0]
# label: (role, method, accuracy over cross-entropy)
ENTRIES = {
    "ce": ("baseline", "ce", 0.0),
    "lpl": ("baseline", "lpl", 0.02),
    "focal": ("baseline", "focal", -0.4),
    "lpg": ("lpg", "lpg", 0.01),
    "lpg-varied": ("lpg", "lpg", 0.03),
    "lpg-mean": ("lpg", "lpg", 0.007),
    "lpg-pgd": ("lpg", "lpg", 0.006),
    "lpg-opposite": ("control", "lpg", -0.001),
    "lpl+lpg": ("combination", "lpl+lpg", 0.015),
}


def make_run(home, method, seed, accuracy, steps=(5, 20, 30)):
    """A work directory with one method and one seed."""
    rng = np.random.default_rng(seed)
    per_class = np.clip(accuracy + np.array([0.2, 0.1, -0.1, -0.3]), 0, 1)
    scores = {"overall": accuracy, "balanced": per_class.mean(), "nll": 1.0, "ece": 0.1}
    scores |= {"head": per_class[:2].mean(), "tail": per_class[2:].mean(), "many": None, "medium": None, "few": None}
    entry = scores | {"per_class": list(per_class), "ci95": None, "params_sha256": {str(seed): "0"}}
    summary = {"methods": {method: entry}, "class_counts": COUNTS, "noise_rate": 0.0, "steps": 30, "seeds": [seed]}
    (home / method).mkdir(parents=True)
    (home / "summary.json").write_text(json.dumps(summary))
    with (home / method / "metrics.jsonl").open("w") as file:
        for step in steps:
            record = {"step": step, "seed": seed, "loss": 1.0}
            if "lpg" in method:
                record |= {"class_margin": list(rng.normal(0, 1, CLASSES)), "class_epsilon": list(rng.random(CLASSES))}
            file.write(json.dumps(record) + "\n")


def clusters(spread, seed=0, each=12):
    """Features [CLASSES * each, 6] around random centres, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(CLASSES * each) % CLASSES
    return rng.normal(0, 2, (CLASSES, 6))[labels] + rng.normal(0, spread, (len(labels), 6)), labels


def make_scenario(runs, name, kind, tier="T2", base=0.5, studies=None, with_features=()):
    """A scenario with all `ENTRIES`, three seeds each."""
    home, rng = runs / tier / name, np.random.default_rng(len(name))
    shared = rng.normal(0, 0.02, len(SEEDS))
    entries = {}
    for label, (role, method, gain) in ENTRIES.items():
        knows = "the noise rate" if label == "lpl" else ""
        entries[label] = {"title": f"Method {label}", "role": role, "method": method, "knows": knows}
        entries[label] |= {"fields": {"lpg.epsilon": 0.3}, "inherits": [], "trials": []}
        for seed in SEEDS:
            accuracy = base + shared[seed] + gain + rng.normal(0, 0.002)
            make_run(home / "final" / label / f"seed={seed}", method, seed, accuracy)
    if with_features:
        found = {
            label: {seed: feature_maps.features_of(*clusters(1 + ENTRIES[label][2] * 9, seed)) for seed in SEEDS}
            for label in with_features
        }
        feature_maps.write(home, found, np.array(COUNTS))
    for study, (label, field, values) in (studies or {}).items():
        for value, seed in itertools.product(values, SEEDS):
            at = home / "study" / study / f"{field}={value},seed={seed}"
            make_run(at, ENTRIES[label][1], seed, base + shared[seed] + rng.normal(0, 0.01))
    made = {
        study: {"label": label, "field": field, "values": values, "title": f"Study {study}"}
        for study, (label, field, values) in (studies or {}).items()
    }
    plan = {"tier": tier, "scenario": name, "kind": kind, "data": name.split("_")[0], "title": f"Title of {name}"}
    plan |= {"scale": "MLP, 75 images", "config": "c", "base": {}, "seeds": list(SEEDS)}
    plan |= {"entries": entries, "studies": made}
    (home / "scenario.json").write_text(json.dumps(plan))
