"""Scores of held-out tokens by how frequent they are in the training text; a table and a figure of them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

RARE = 10  # a rare token occurs at most this often in the training text
BINS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10**9)  # bin edges of the training count: (1, 3], (3, 10], ...
SCORES = {"overall": "NLL", "rare": f"rare, n <= {RARE}", "macro": "mean of types"}


def score(losses: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Mean losses in nats.

    Args:
      losses: [L] -log p of each held-out token.
      labels: [L] its class.
      counts: [C] occurrences of each class in the training text.

    Returns:
      "overall": over all tokens, `<unk>` among them; "rare": over tokens that occur at most `RARE` times in the
      training text; "macro": over the classes that occur, each the mean over its tokens; "bins": by training count.
    """
    of_token = counts[labels]
    number = np.bincount(labels, minlength=len(counts))
    per_class = np.bincount(labels, losses, minlength=len(counts))[number > 0] / number[number > 0]
    place = np.digitize(of_token, BINS, right=True)
    bins = [losses[place == b].mean() if np.any(place == b) else np.nan for b in range(1, len(BINS))]
    rare = losses[of_token <= RARE]
    return {
        "overall": float(losses.mean()),
        "rare": float(rare.mean()) if rare.size else float("nan"),
        "macro": float(per_class.mean()),
        "bins": [float(value) for value in bins],
    }


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t); the half-width of a single value is NaN."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def print_tables(results: dict[str, list[dict[str, Any]]], console: Console, title: str) -> None:
    """Each score of each method and rule of prediction, then its differences to "ce", paired by seed."""
    for heading, base in ((title, None), ("Differences to ce, paired by seed", results["ce"])):
        table = Table("method", title=heading, title_justify="left")
        for header in SCORES.values():
            table.add_column(header, justify="right", no_wrap=True)
        for name, runs in results.items():
            if runs is not base:
                table.add_row(name, *(_cell(runs, base, key) for key in SCORES))
        console.print(table)


def _cell(runs: list[dict[str, Any]], base: list[dict[str, Any]] | None, key: str) -> str:
    values = np.array([run[key] for run in runs])
    mean, half = interval(values if base is None else values - [run[key] for run in base])
    shown = f"{mean:.3f}" if base is None else f"{mean:+.3f}"
    return shown if np.isnan(half) else f"{shown} ± {half:.3f}"


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Difference of the loss to cross-entropy by training count of the token, one line per method and rule."""
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        labels = [f"{low + 1}-{high}" for low, high in pairwise(BINS[:-1])] + [f"> {BINS[-2]}"]
        base = np.array([run["bins"] for run in results["ce"]])
        for marker, (name, runs) in zip("os^Dvpx*", results.items(), strict=False):
            difference = np.array([run["bins"] for run in runs]) - base
            half = np.array([interval(column)[1] for column in difference.T])
            axes.errorbar(labels, difference.mean(axis=0), yerr=np.nan_to_num(half), marker=marker, label=name)
        axes.set_xlabel("occurrences of the token in the training text")
        axes.set_ylabel("NLL - NLL of ce, nats per token")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)
