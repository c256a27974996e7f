"""What LPG does to wrong labels, class by class, and whether the gradient variance finds them (Sections 3.3, 3.5).

A class is that of the label as given. All at the end of training, of the training set.

| name | what |
|---|---|
| memorised_lpg | share of the wrong labels of dampened classes that are predicted: "lpg-decay" minus "ce" |
| memorised_random | likewise "random-decay" minus "ce" |
| beyond_right_lpg | memorised_lpg minus the same of right labels; 0 if the class is but predicted less often |
| beyond_right_random | likewise |
| variance_rank | Spearman's rank correlation over classes of gradient variance and share of wrong labels, "lpg-decay" |

Where every class keeps its labels at the same rate (symmetric noise, and the asymmetric noise of CIFAR-100) shares of
wrong labels differ by chance only, and variance_rank is not measured.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from evidence.trained import Model


def learnt(model: Model, classes: np.ndarray) -> tuple[float, float]:
    """(of the wrong labels of some classes, of the right ones): the share that a model predicts; NaN: there are none.

    Args:
      model: whose predictions count.
      classes: [C] bool.
    """
    inputs, given = model.train
    labels = np.asarray(given)
    logits, _ = model.trained.apply(model.trained.params, inputs)
    hit = np.asarray(jnp.argmax(logits, axis=-1)) == labels

    def share(of: np.ndarray) -> float:
        chosen = of & classes[labels]
        return float(np.mean(hit[chosen])) if chosen.any() else float("nan")

    return share(labels != model.clean), share(labels == model.clean)


def variance_rank(model: Model) -> float:
    """See the module's table."""
    labels = np.asarray(model.train[1])
    number = len(model.trained.facts.class_counts)
    counts = np.bincount(labels, minlength=number)
    share = np.bincount(labels[labels != model.clean], minlength=number) / np.maximum(counts, 1)
    variance = np.array(model.logged["class_grad_variance"], float)
    found: Any = stats.spearmanr(variance[counts > 0], share[counts > 0])
    return float(found.statistic)


def of_seed(plain: Model, lpg: Model, random: Model, same_rate: bool) -> dict[str, float]:
    """Every measure of one seed, of heads trained with "ce", "lpg-decay" and "random-decay"; same_rate: see above."""
    found = {}
    for name, model in (("lpg", lpg), ("random", random)):
        dampened = np.array(model.logged["class_margin"], float) < 0
        wrong, right = (a - b for a, b in zip(learnt(model, dampened), learnt(plain, dampened), strict=True))
        found |= {f"memorised_{name}": wrong, f"beyond_right_{name}": wrong - right}
    return found if same_rate else {**found, "variance_rank": variance_rank(lpg)}
