"""What a run says of itself: lines of metrics.jsonl, and a method's entry of summary.json."""

import hashlib
from typing import Any

import jax
import numpy as np

import lpg_jax
from lpg_jax.training import metrics
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.state import TrainState
from lpg_jax.training.step import Window


def lines(
    recipe: Recipe, seeds: tuple[int, ...], state: TrainState, window: Window, scores: dict[str, metrics.Score]
) -> list[dict[str, Any]]:
    """One record per seed.

    Args:
      recipe: of the method.
      seeds: with more than one, every array has a leading axis [S].
      state: after the step that is recorded.
      window: training figures since the record before.
      scores: "test", and "validation" if there is such a part.

    Returns:
      Records with step, epoch, seed, loss and accuracy (training, since the last record; labels as given; None if there
      was no step since),
      learning_rate (of the next step), the figures of `metrics.summarise` on the test part, the same of the
      validation part under "validation", and for LPG what it knows of each class and does to it next.
    """
    counts, step = np.asarray(recipe.facts.class_counts), int(np.max(state.step))
    table = lpg_jax.class_table(state.logit_state) if jax.tree.leaves(state.logit_state) else {}
    several = len(seeds) > 1
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf) if several else np.asarray(leaf)[None], (window, scores, table))
    shared = {"step": step, "epoch": step / recipe.steps_per_epoch}
    rate = float(recipe.descent.learning_rate(step))
    records = []
    for index, seed in enumerate(seeds):
        sums, parts, classes = jax.tree.map(lambda leaf, index=index: leaf[index], arrays)
        figures = {name: metrics.summarise(score, counts) for name, score in parts.items()}
        training = {
            name: float(total / sums.count) if sums.count else None
            for name, total in (("loss", sums.loss), ("accuracy", sums.hits))
        }
        record = {**shared, "seed": seed, **training, "learning_rate": rate, **figures.pop("test"), **figures}
        records.append(record | _class_fields(classes))
    return records


def _class_fields(table: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The rows of `lpg_jax.class_table`; None where a class was never seen."""
    fields = {f"class_{name}": table[name].tolist() for name in ("margin", "epsilon") if table}
    for name in ("accuracy", "grad_variance") if table else ():
        pairs = zip(table[name].tolist(), table["seen"], strict=True)
        fields[f"class_{name}"] = [value if seen else None for value, seen in pairs]
    return fields


def result(
    last: list[dict[str, Any]], state: TrainState, seeds: tuple[int, ...], restored_steps: list[int]
) -> dict[str, Any]:
    """A method's entry of summary.json, from the records of the last step and the final state."""
    entry = metrics.over_seeds(last)
    if "validation" in last[0]:
        entry["validation"] = metrics.over_seeds([record["validation"] for record in last])
    return entry | {"params_sha256": params_sha256(state.params, seeds), "restored_steps": restored_steps}


def params_sha256(params: Any, seeds: tuple[int, ...]) -> dict[str, str]:
    """{seed: SHA-256 of the raw bytes of its parameter leaves, in tree order}."""
    leaves = [np.asarray(leaf) if len(seeds) > 1 else np.asarray(leaf)[None] for leaf in jax.tree.leaves(params)]
    return {
        str(seed): hashlib.sha256(b"".join(leaf[index].tobytes() for leaf in leaves)).hexdigest()
        for index, seed in enumerate(seeds)
    }
