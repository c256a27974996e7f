"""Figures per class, their means, and their intervals over seeds."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lpg_jax.training import metrics


def test_summarise_by_hand():
    score = metrics.Score(jnp.array([3, 0, 1, 0]), jnp.array([4, 2, 1, 0]), jnp.array(3.5))
    figures = metrics.summarise(score, np.array([7, 9, 7, 1]))
    assert figures["overall"] == pytest.approx(4 / 7)
    assert figures["per_class"] == [0.75, 0, 1, None]
    assert figures["balanced"] == pytest.approx(1.75 / 3)
    assert figures["head"] == pytest.approx(0.375)  # classes 1 and 0: 9 and the first 7
    assert figures["tail"] == pytest.approx(1.0)  # classes 2 and 3, of which 3 has no test example
    assert figures["nll"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("counts", "head", "tail"), [([1], [0], []), ([5, 5, 5], [0, 1], [2]), ([1, 2, 3, 4], [3, 2], [1, 0])]
)
def test_head_and_tail(counts, head, tail):
    assert [part.tolist() for part in metrics.head_and_tail(np.array(counts))] == [head, tail]


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        figures = [dict.fromkeys(metrics.SCALARS, value) | {"per_class": [value]} for value in rng.normal(0.5, 0.1, 5)]
        result = metrics.over_seeds(figures)
        covered += abs(result["overall"] - 0.5) <= result["ci95"]["overall"]
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.01
