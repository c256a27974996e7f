"""What a run says of itself: lines of metrics.jsonl, and a method's entry of summary.json."""

import hashlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import lpg_jax
from lpg_jax.training import metrics

if TYPE_CHECKING:
    from lpg_jax.training.recipe import Recipe
    from lpg_jax.training.state import TrainState
    from lpg_jax.training.step import Window

# Parts of a noisy training set, of which a record holds the overall accuracy only.
TRAINING = {"clean": "train_clean", "mislabelled": "train_memorised", "mislabelled_true": "train_recovered"}
LAST = 5  # epochs of "mean_last_five"


def lines(
    recipe: "Recipe", seeds: tuple[int, ...], state: "TrainState", window: "Window", scores: dict[str, metrics.Score]
) -> list[dict[str, Any]]:
    """One record per seed.

    Args:
      recipe: of the method.
      seeds: with more than one, every array has a leading axis [S].
      state: after the step that is recorded.
      window: training figures since the record before.
      scores: "test", perhaps "validation", and for a training set with wrong labels perhaps "clean" (the examples whose
        given label is right), "mislabelled" (the others, by their given label) and "mislabelled_true" (by their true
        one).

    Returns:
      Records with step, epoch, seed, loss and accuracy (training, since the last record; labels as given; None if there
      was no step since), gradient_ratio [C] (of the examples given as class c since the last record, the sum of the
      norms of their logit gradients as edited over that as they were; None where that is 0), learning_rate (of the next
      step), the figures of `metrics.summarise` on the test part, the same of the validation part under "validation",
      train_clean, train_memorised and train_recovered (accuracies of the three parts above), and for LPG what it knows
      of each class and does to it next.
    """
    counts, step = np.asarray(recipe.facts.class_counts), int(np.max(state.step))
    several = len(seeds) > 1
    arrays = jax.tree.map(
        lambda leaf: np.asarray(leaf) if several else np.asarray(leaf)[None],
        (window, scores, _class_table(state.logit_state)),
    )
    shared = {"step": step, "epoch": step / recipe.steps_per_epoch}
    rate = float(recipe.descent.learning_rate(step))
    records = []
    for index, seed in enumerate(seeds):
        sums, parts, classes = jax.tree.map(lambda leaf, index=index: leaf[index], arrays)
        figures = {name: metrics.summarise(score, counts) for name, score in parts.items()}
        record = {**shared, "seed": seed, **_training(sums), "learning_rate": rate, **figures.pop("test")}
        record |= {TRAINING[name]: figures.pop(name)["overall"] for name in TRAINING if name in figures}
        records.append(record | figures | _class_fields(classes))
    return records


def _training(window: "Window") -> dict[str, Any]:
    """loss, accuracy and gradient_ratio of the steps since the last record."""
    totals = (("loss", window.loss), ("accuracy", window.hits))
    ratios = zip(window.edited_norm.tolist(), window.plain_norm.tolist(), strict=True)
    return {
        **{name: float(total / window.count) if window.count else None for name, total in totals},
        "gradient_ratio": [None if plain == 0 else edited / plain for edited, plain in ratios],
    }


def _class_table(logit_state: Any) -> dict[str, np.ndarray]:
    """`lpg_jax.class_table` where exactly one LPG transformation is in the state, else empty: others have no table."""
    leaves = jax.tree.leaves(logit_state, is_leaf=lambda node: isinstance(node, lpg_jax.LpgState))
    only_one = sum(isinstance(leaf, lpg_jax.LpgState) for leaf in leaves) == 1
    return lpg_jax.class_table(logit_state) if only_one else {}


def _class_fields(table: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The rows of `lpg_jax.class_table`; None where a class was never seen."""
    fields = {f"class_{name}": table[name].tolist() for name in ("margin", "epsilon") if table}
    for name in ("accuracy", "grad_variance") if table else ():
        pairs = zip(table[name].tolist(), table["seen"], strict=True)
        fields[f"class_{name}"] = [value if seen else None for value, seen in pairs]
    return fields


def result(
    all_records: list[dict[str, Any]],
    state: "TrainState",
    seeds: tuple[int, ...],
    restored_steps: list[int],
    total_steps: int,
    last_five: bool = True,
) -> dict[str, Any]:
    """A method's entry of summary.json; no figure of it was chosen on the test part.

    Args:
      all_records: every record of the method, of all seeds and steps, in any order; of two for the same seed and step
        the later counts, and steps that not every seed has recorded count for nothing.
      state: after the last step.
      seeds: of the run.
      restored_steps: the steps from which it was resumed.
      total_steps: the last step.
      last_five: whether the last five epochs were evaluated.

    Returns:
      The test figures of the last step (`metrics.over_seeds`); with last_five "mean_last_five": per seed the mean over
      the last five recorded steps, then over seeds; with a validation part "validation" (its figures at the last step)
      and "best_by_validation" (the test figures of the step with the highest overall validation accuracy of each seed,
      the earliest of equals, and "step": {seed: step}); train_clean, train_memorised and train_recovered where
      recorded; params_sha256 and restored_steps.

    Raises:
      ValueError: a seed has no record of the last step.
    """
    by_seed = _by_seed(all_records, seeds, total_steps)
    last = [records[-1] for records in by_seed]
    names = (*metrics.SCALARS, *(name for name in TRAINING.values() if name in last[0]))
    entry = metrics.over_seeds(last, names)
    if last_five:
        mean_last = [metrics.over_steps(records[-LAST:], names) for records in by_seed]
        entry["mean_last_five"] = metrics.over_seeds(mean_last, names)
    if "validation" in last[0]:
        entry["validation"] = metrics.over_seeds([record["validation"] for record in last])
        best = [max(records, key=lambda record: record["validation"]["overall"]) for records in by_seed]
        steps = {str(seed): record["step"] for seed, record in zip(seeds, best, strict=True)}
        entry["best_by_validation"] = metrics.over_seeds(best) | {"step": steps}
    return entry | {"params_sha256": params_sha256(state.params, seeds), "restored_steps": restored_steps}


def _by_seed(all_records: list[dict[str, Any]], seeds: tuple[int, ...], total_steps: int) -> list[list[dict[str, Any]]]:
    """The records of each seed in the order of their steps, at the steps that every seed has."""
    found = [{record["step"]: record for record in all_records if record["seed"] == seed} for seed in seeds]
    for seed, of_seed in zip(seeds, found, strict=True):
        if total_steps not in of_seed:
            raise ValueError(f"seed={seed}: no record of the last step, {total_steps}; evaluate and record it first")
    steps = sorted(set.intersection(*map(set, found)))
    return [[of_seed[step] for step in steps if step <= total_steps] for of_seed in found]


def params_sha256(params: Any, seeds: tuple[int, ...]) -> dict[str, str]:
    """{seed: SHA-256 of the raw bytes of its parameter leaves, in tree order}."""
    leaves = [np.asarray(leaf) if len(seeds) > 1 else np.asarray(leaf)[None] for leaf in jax.tree.leaves(params)]
    return {
        str(seed): hashlib.sha256(b"".join(leaf[index].tobytes() for leaf in leaves)).hexdigest()
        for index, seed in enumerate(seeds)
    }
