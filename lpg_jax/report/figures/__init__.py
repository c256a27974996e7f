"""The figures of the evidence report.

    from lpg_jax.report import evidence, figures
    figures.save_all(evidence.read("runs/evidence"), Path("results"))

One file per figure, each with `save` (draws and writes what there is data for) and `draw` (a matplotlib Figure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import (
    combinations,
    features,
    longtail,
    margins,
    matrix,
    noise,
    overhead,
    overview,
    probe,
    sensitivity,
)
from lpg_jax.report.figures.features import feature_figures, feature_values

__all__ = ["feature_figures", "feature_values", "save_all"]

_OF_SCENARIOS: tuple[Callable[[Sequence[Scenario], Path], list[Path]], ...] = (
    probe.save,
    matrix.save,
    overview.save,
    longtail.save,
    noise.save,
    combinations.save,
    features.save,
    sensitivity.save,
    margins.save,
)


def save_all(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """Draw every figure that there is data for.

    Args:
      scenarios: as `evidence.read` returns them.
      out: the pictures go to OUT/figures/, the numbers on features to OUT/tables/features.csv; OUT/cost/cost.csv
        is drawn where it exists. Existing files are replaced.

    Returns:
      The paths written. The same data give the same files, to the byte, with the same versions of the libraries.

    Raises:
      ValueError: a file is damaged; names it and the fix.
      OSError: a file cannot be written.

    Example:
      >>> save_all(evidence.read("runs/evidence"), Path("results"))  # doctest: +SKIP
    """
    out, made = Path(out), []
    with style.context():
        for save in _OF_SCENARIOS:
            made += save(scenarios, out / "figures")
        return made + overhead.save(out / "cost" / "cost.csv", out / "figures")
