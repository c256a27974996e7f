"""Means and 95 % intervals over seeds of the records of `evidence`, and differences paired over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from lpg_jax.report import records
from lpg_jax.report.evidence import Results, Scenario

CONFIDENCE = 0.95
SETS = {"amplified": 1, "dampened": -1}  # metric -> sign of the margin of the classes that it averages


class Estimate(NamedTuple):
    """A mean over seeds and the half-width of its 95 % interval by Student's t; half is NaN below two seeds."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half


def estimate(results: Results, metric: str) -> Estimate:
    """Mean and 95 % interval of one metric over seeds.

    Args:
      results: by seed.
      metric: a name of `Result.scores`, or "amplified" or "dampened": mean accuracy over the classes whose margin is
        > 0 or < 0; seeds without such a class do not count.

    Returns:
      The `Estimate`; NaN with n = 0 where there is no result. A score that is NaN in one seed makes the mean NaN: a
      run that diverged is not left out.

    Raises:
      ValueError: an unknown metric; "amplified" of results without margins.
    """
    return interval(list(of_seeds(results, metric).values()))


def difference(results_a: Results, results_b: Results, metric: str) -> Estimate:
    """Mean and 95 % interval of a - b over the seeds that both have, which share data, noise and initial parameters.

    Args:
      results_a, results_b: by seed.
      metric: as for `estimate`; "amplified" and "dampened" take the classes by the margins of a, or else of b.

    Returns:
      The `Estimate`.

    Raises:
      ValueError: as `estimate`.

    Example:
      >>> gain = difference(scenario.results["lpg"], scenario.results["ce"], "balanced")  # doctest: +SKIP
    """
    with_margins = results_a if _has_margins(results_a) else results_b
    first, second = (of_seeds(results, metric, with_margins) for results in (results_a, results_b))
    return interval([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def interval(values: Sequence[float]) -> Estimate:
    """Mean and 95 % half-width by Student's t of independent values.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 4), found.n
    (2.0, 2.4841, 3)
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    if n == 1:
        return Estimate(float(values[0]), math.nan, 1)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return Estimate(float(np.mean(values)), float(quantile * np.std(values, ddof=1) / math.sqrt(n)), n)


def metric_of(scenario: Scenario) -> str:
    """The score that a scenario is judged by: under a long tail every class counts alike."""
    return "balanced" if scenario.kind == "longtail" else "overall"


def of_seeds(results: Results, metric: str, with_margins: Results | None = None) -> dict[int, float]:
    """{seed: value of a metric}; see `estimate`. `with_margins`: the results whose margins name the classes."""
    if metric not in SETS:
        if metric not in (*records.SCORES, *records.TRAINING):
            known = (*records.SCORES, *records.TRAINING, *SETS)
            raise ValueError(f"metric={metric!r}: must be one of {', '.join(known)}")
        return {seed: results[seed].scores[metric] for seed in sorted(results)}
    guides = results if with_margins is None else with_margins
    if guides and not _has_margins(guides):
        raise ValueError(f"metric={metric!r}: needs results of an LPG method, which log class_margin")
    found = {}
    for seed in sorted(results.keys() & guides.keys()):
        margin = guides[seed].margin
        classes = np.zeros(0, bool) if margin is None else SETS[metric] * margin > 0
        if classes.any():
            found[seed] = float(results[seed].per_class[classes].mean())
    return found


def _has_margins(results: Results) -> bool:
    return any(result.margin is not None for result in results.values())
