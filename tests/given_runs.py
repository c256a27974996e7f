"""Evidence runs with given figures, for tests of what is read and computed of them."""

import json

from lpg_jax.report.records import SCORES

SEEDS = (0, 1, 2, 3)
COUNTS = (400, 100, 30, 8)


def write_run(home, method, seed, value, margin=None, counts=COUNTS, per_class=None, **extra):
    """A work directory of one seed; `value` is its accuracy, or {score: value}."""
    scores = dict.fromkeys(SCORES, 0.5) | (value if isinstance(value, dict) else dict.fromkeys(SCORES, value))
    entry = {
        **scores,
        "per_class": list(per_class or [0.5] * len(counts)),
        "ci95": {},
        "params_sha256": {str(seed): "0"},
    }
    summary = {"methods": {method: entry}, "class_counts": list(counts), "noise_rate": 0.0, "steps": 10}
    summary |= {"seeds": [seed], "wall_time": {"total": 3.0, method: 2.0}, **extra}
    (home / method).mkdir(parents=True)
    (home / "summary.json").write_text(json.dumps(summary))
    line = {"step": 10, "seed": seed} | ({} if margin is None else {"class_margin": margin})
    if margin is not None:
        line["class_epsilon"] = [0.1] * len(margin)
    (home / method / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def entry_of(values=(), role="baseline", held_out=None, **extra):
    """An entry: figures of each seed, and its score on held-out data (None: no trials)."""
    return {"values": values, "role": role, "held_out": held_out, **extra}


def write_scenario(runs, entries, kind="longtail", tier="T1", name="digits_longtail50", studies=None, **extra):
    """RUNS/TIER/NAME with scenario.json and runs; the margin of an entry goes to all its runs."""
    home, planned = runs / tier / name, {}
    for label, given in entries.items():
        trials = [] if given["held_out"] is None else [
            {"fields": {}, "mean": given["held_out"] - 0.2, "ci95": 0.01, "n": 3, "chosen": False},
            {"fields": {}, "mean": given["held_out"], "ci95": 0.02, "n": 3, "chosen": True},
        ]  # fmt: skip
        method = given.get("method", label)
        planned[label] = {
            "title": f"title of {label}", "role": given["role"], "method": method, "fields": given.get("fields", {}),
            "inherits": given.get("inherits", []), "knows": given.get("knows", ""),
            "trials": trials, "errors": given.get("errors", {}),
            "began": given.get("began"),
        }  # fmt: skip
        for seed, value in zip(SEEDS, given["values"], strict=False):
            per_class = given["per_class"][seed] if "per_class" in given else None
            at = home / "final" / label / f"seed={seed}"
            write_run(at, method, seed, value, given.get("margin"), per_class=per_class)
    for study, (label, field, results) in (studies or {}).items():
        for value, by_seed in results.items():
            for seed, accuracy in enumerate(by_seed):
                write_run(
                    home / "study" / study / f"{field}={value},seed={seed}", planned[label]["method"], seed, accuracy
                )
    plan = {
        "tier": tier, "scenario": name, "kind": kind, "title": "a title", "scale": "a scale", "data": "digits",
        "config": "configs/heads.py:digits,longtail50", "base": {"train.learning_rate": 0.2}, "seeds": list(SEEDS),
        "entries": planned,
        "studies": {key: {"label": label, "field": field, "values": list(results), "title": key}
                    for key, (label, field, results) in (studies or {}).items()},
        "command": "python -m evidence run T1 --workdir=/somebody/runs --only=ce", "versions": {"jax": "0.10.2"},
        "git_revision": "abc", "machine": "a machine", **extra,
    }  # fmt: skip
    home.mkdir(parents=True, exist_ok=True)
    (home / "scenario.json").write_text(json.dumps(plan))
    return home


CE, LA, LPG = (0.70, 0.72, 0.69, 0.73), (0.80, 0.79, 0.82, 0.80), (0.75, 0.74, 0.73, 0.77)


def write_runs(runs):
    """la is the best baseline by held-out scores; cb is better on the test part, oracle is told more."""
    entries = {
        "random-lpg": entry_of((0.71,) * 4, "control", margin=[0.2, -0.2, 0.2, -0.2]),
        "lpg": entry_of(
            LPG, "lpg", 0.74, margin=[-0.3, 0.0, 0.1, 0.3], fields={"lpg.epsilon": 0.1, "lpg.split": "frequency"}
        ),
        "ce": entry_of(CE, held_out=0.70),
        "la": entry_of(LA, held_out=0.79),
        "cb": entry_of((0.85, 0.86, 0.84, 0.85), held_out=0.78),
        "oracle": entry_of((0.9,) * 4, held_out=0.9, knows="the noise rate"),
        "empty": entry_of((), held_out=0.99),
    }
    write_scenario(runs, entries)
    return runs
