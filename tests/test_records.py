"""Lines of metrics.jsonl and a method's entry of summary.json, from states and sums made by hand."""

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lpg_jax
from lpg_jax.training import metrics, records, summary

CLASSES = 3
COUNTS = (150, 50, 5)


class Window(NamedTuple):
    """The sums that `records.lines` reads."""

    loss: np.ndarray
    hits: np.ndarray
    count: np.ndarray
    class_count: np.ndarray
    plain_norm: np.ndarray
    edited_norm: np.ndarray


def window(plain=(4.0, 2.0, 0.0), edited=(1.0, 3.0, 0.0), count=10):
    plain, edited = np.float32(plain), np.float32(edited)
    return Window(np.float32(5.0), np.float32(7), np.float32(count), np.float32([6, 4, 0]), plain, edited)


def score(hits, count=(4, 4, 2)):
    bins = np.zeros(15, np.int32)
    return metrics.Score(np.int32(hits), np.int32(count), np.float32(2.0), bins, bins, np.zeros(15, np.float32))


def recipe():
    return SimpleNamespace(
        facts=SimpleNamespace(class_counts=COUNTS),
        steps_per_epoch=4,
        descent=SimpleNamespace(learning_rate=lambda step: 0.5 / step),
    )


def state_of(tx, seeds=1, step=6):
    logit_state = tx.init(jnp.zeros(CLASSES))
    state = SimpleNamespace(step=np.int32(step), params={"w": np.arange(6.0)}, logit_state=logit_state)
    if seeds > 1:
        state.step = np.full(seeds, step)
        state.logit_state = jax.tree.map(lambda leaf: np.stack([leaf] * seeds), logit_state)
        state.params = {"w": np.arange(6.0).reshape(seeds, -1)}
    return state


def lpg():
    return lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(0.3))


# --- lines


def test_a_line_by_hand():
    (line,) = records.lines(recipe(), (7,), state_of(optax.identity()), window(), {"test": score([4, 2, 1])})
    assert line["seed"] == 7
    assert (line["step"], line["epoch"]) == (6, 1.5)
    assert line["learning_rate"] == pytest.approx(0.5 / 6)
    assert (line["loss"], line["accuracy"]) == (0.5, pytest.approx(0.7))
    assert line["overall"] == pytest.approx(0.7)
    assert [line[name] for name in ("many", "medium", "few")] == [1, 0.5, 0.5]
    assert line["gradient_ratio"] == [0.25, 1.5, None]
    assert not {"class_margin", "validation", "train_clean"} & set(line)
    assert json.loads(json.dumps(line)) == line


def test_each_seed_gets_its_own_figures():
    both = jax.tree.map(lambda a, b: np.stack([a, b]), window(), window(edited=(8.0, 2.0, 0.0)))
    scores = {"test": jax.tree.map(lambda a, b: np.stack([a, b]), score([4, 2, 1]), score([0, 0, 0]))}
    lines = records.lines(recipe(), (3, 4), state_of(lpg(), seeds=2), both, scores)
    assert [line["seed"] for line in lines] == [3, 4]
    assert [line["overall"] for line in lines] == [pytest.approx(0.7), 0]
    assert [line["gradient_ratio"] for line in lines] == [[0.25, 1.5, None], [2, 1, None]]
    assert lines[1]["class_margin"] == pytest.approx(np.asarray(lpg().init(jnp.zeros(CLASSES)).class_margin))


def test_no_step_since_the_last_record():
    (line,) = records.lines(
        recipe(), (0,), state_of(lpg()), window([0] * 3, [0] * 3, count=0), {"test": score([1, 1, 1])}
    )
    assert (line["loss"], line["accuracy"], line["gradient_ratio"]) == (None, None, [None] * 3)


def test_parts_of_a_noisy_training_set_are_numbers_and_validation_is_whole():
    scores = {
        "test": score([4, 4, 2]),
        "validation": score([2, 2, 0]),
        "clean": score([3, 3, 2]),
        "mislabelled": score([2, 0, 0]),
        "mislabelled_true": score([1, 0, 0]),
    }
    (line,) = records.lines(recipe(), (0,), state_of(optax.identity()), window(), scores)
    assert [line[name] for name in records.TRAINING.values()] == [pytest.approx(v) for v in (0.8, 0.2, 0.1)]
    assert line["overall"] == 1
    assert line["validation"] == metrics.summarise(scores["validation"], COUNTS)
    assert not {"clean", "mislabelled", "mislabelled_true", "test"} & set(line)


class Counted(NamedTuple):
    """The state of some transformation that is not LPG."""

    class_margin: jax.Array


def counting():
    return optax.GradientTransformation(
        lambda params: Counted(jnp.zeros(CLASSES)), lambda rows, state, _: (rows, state)
    )


@pytest.mark.parametrize(
    ("tx", "has_table"),
    [
        (optax.identity(), False),
        (counting(), False),
        (optax.trace(0.9), False),
        (lpg(), True),
        (optax.chain(counting(), lpg()), True),
        (optax.named_chain(("a", optax.trace(0.9)), ("b", lpg())), True),
        (optax.chain(lpg(), lpg()), False),
    ],
)
def test_only_one_lpg_transformation_has_a_table(tx, has_table):
    (line,) = records.lines(recipe(), (0,), state_of(tx), window(), {"test": score([1, 1, 1])})
    assert ("class_margin" in line) == has_table
    if has_table:
        assert line["class_epsilon"] == [pytest.approx(0.3)] * CLASSES
        assert line["class_accuracy"] == [None] * CLASSES


# --- result


def record(seed, step, test, validation=None, **extra):
    figures = dict.fromkeys(metrics.SCALARS, test) | {"few": None, "per_class": [test, None]}
    found = {"seed": seed, "step": step, **figures, **extra}
    if validation is not None:
        found["validation"] = figures | {"overall": validation}
    return found


def result(all_records, seeds=(0, 1), total=70):
    return records.result(all_records, state_of(optax.identity(), seeds=len(seeds)), seeds, [30], total)


TEST = {0: [0.10, 0.20, 0.90, 0.40, 0.50, 0.60, 0.70], 1: [0.80, 0.30, 0.30, 0.35, 0.45, 0.55, 0.50]}
VALIDATION = {0: [0.1, 0.6, 0.2, 0.6, 0.5, 0.6, 0.3], 1: [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}


def history():
    steps = range(10, 71, 10)
    pairs = ((s, i, step) for s in (0, 1) for i, step in enumerate(steps))
    return [record(s, step, TEST[s][i], VALIDATION[s][i], train_clean=0.9, train_memorised=s) for s, i, step in pairs]


@pytest.mark.parametrize("shuffle", [None, 0, 1])
def test_last_and_mean_of_the_last_five(shuffle):
    lines = history()
    if shuffle is not None:
        random.Random(shuffle).shuffle(lines)
    entry = result(lines)
    assert entry["overall"] == pytest.approx((0.7 + 0.5) / 2)
    assert entry["ci95"]["overall"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(0.975, 1 degree of freedom)
    assert entry["validation"]["overall"] == pytest.approx((0.3 + 0.8) / 2)
    per_seed = [np.mean(TEST[0][2:]), np.mean(TEST[1][2:])]
    five = entry["mean_last_five"]
    assert five["ece"] == pytest.approx(np.mean(per_seed))
    assert five["ci95"]["ece"] == pytest.approx(12.7062 * abs(per_seed[0] - per_seed[1]) / 2, rel=1e-4)
    assert five["per_class"] == [pytest.approx(np.mean(per_seed)), None]
    assert (five["few"], entry["few"]) == (None, None)
    assert json.loads(json.dumps(entry)) == entry


def test_best_by_validation_never_looks_at_the_test_part():
    """The best test figures are at steps 30 and 10; validation chooses 20 (the earliest of three equals) and 70."""
    entry = result(history())
    best = entry["best_by_validation"]
    assert best["step"] == {"0": 20, "1": 70}
    assert best["overall"] == pytest.approx((0.2 + 0.5) / 2)
    assert best["per_class"] == [pytest.approx((0.2 + 0.5) / 2), None]
    changed = [line | ({"overall": 1.0} if line["step"] in (30, 40) else {}) for line in history()]
    assert result(changed)["best_by_validation"] == best


def test_fewer_than_five_records_and_no_validation():
    entry = result([record(0, 10, 0.2), record(0, 20, 0.6)], seeds=(0,), total=20)
    assert entry["mean_last_five"]["overall"] == pytest.approx(0.4)
    assert entry["ci95"]["overall"] is None
    assert not {"validation", "best_by_validation", "train_clean"} & set(entry)
    assert entry["restored_steps"] == [30]


def test_training_accuracies_come_with_intervals():
    entry = result(history())
    assert (entry["train_clean"], entry["ci95"]["train_clean"]) == (0.9, 0)
    assert entry["train_memorised"] == 0.5
    assert entry["ci95"]["train_memorised"] == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert "train_recovered" not in entry


def test_steps_that_one_seed_lacks_and_doubled_lines():
    again = record(0, 70, 0.9, 0.9, train_clean=0.9, train_memorised=0)
    entry = result([line for line in history() if (line["seed"], line["step"]) != (1, 60)] + [again])
    assert entry["overall"] == pytest.approx((0.9 + 0.5) / 2)
    expected = [np.mean([0.2, 0.9, 0.4, 0.5, 0.9]), np.mean([0.3, 0.3, 0.35, 0.45, 0.5])]
    assert entry["mean_last_five"]["overall"] == pytest.approx(np.mean(expected))


def test_a_seed_without_the_last_record():
    lines = [line for line in history() if (line["seed"], line["step"]) != (1, 70)]
    with pytest.raises(ValueError, match="seed=1: no record of the last step, 70; evaluate and record it first"):
        result(lines)


def test_digests_are_those_of_the_raw_bytes():
    entry = result(history())
    rows = np.arange(6.0).reshape(2, 3)
    assert entry["params_sha256"] == {str(s): hashlib.sha256(rows[s].tobytes()).hexdigest() for s in (0, 1)}


# --- summary


def test_summary_and_provenance_agree_on_where_a_run_comes_from():
    config = SimpleNamespace(seed=3, num_seeds=2, data=SimpleNamespace(name="digits"))
    facts = SimpleNamespace(class_counts=COUNTS, class_names=("a", "b", "c"), noise_rate=0.0)
    content = summary.compose(config, facts, 70, {"ce": {"overall": 0.5, "seconds": 2.0}}, "as typed", 3.0)
    origin = summary.provenance("as typed")
    started = datetime.fromisoformat(origin.pop("started"))
    assert timedelta(0) <= datetime.now(UTC) - started < timedelta(minutes=1)
    assert origin == {name: content[name] for name in ("device", "versions", "git_revision", "command")}
    assert origin["versions"]["jax"] == jax.__version__
    assert {"optax", "chex", "ml-collections", "tensorflow-datasets"} <= set(origin["versions"])
    assert content["methods"] == {"ce": {"overall": 0.5}}
    assert content["wall_time"] == {"total": 3.0, "ce": 2.0}
    assert content["shots"] == {"many": 1, "medium": 1, "few": 1}
    assert content["seeds"] == [3, 4]
    json.dumps(content)
