"""What is measured on trained heads beside accuracy.

measures.json in the directory of a scenario: NAME -> {values, seeds, command}, a value for each seed. Names and
what they are: under a long tail `propositions` and `class_gradients`, under noise `wrong_labels`. Of a long tail also
features.csv and maps.csv (`feature_maps`), and probe.csv of the head of seed 0.
"""

import argparse
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
import numpy as np

import probe
from evidence import class_gradients, feature_maps, propositions, studies, wrong_labels
from evidence.scenarios import Scenario
from evidence.trained import Model, read
from lpg_jax import analysis
from lpg_jax.report.evidence import MEASURES
from lpg_jax.training import workdir

MAPPED = 2000  # test examples whose features are measured
# whose features are measured: LPG also where nothing but LPG differs from cross-entropy
METHODS = {"ce": "ce", "lpl": "lpl", "lpg-varied": "lpg", "lpg-decay": "lpg"}


def measure(scenario: Scenario, home: Path, command: str) -> list[Path]:
    """Measures the final runs of a scenario and writes what the module's text says; returns the paths.

    Args:
      scenario: of T1 or T2, with a long tail or noise.
      home: its directory, with all its runs.
      command: for the file.

    Raises:
      ValueError: there is nothing to measure, or a run is not there; names it.
    """

    def model_of(label: str, method: str, seed: int) -> Model:
        return read(home / "final" / label / f"seed={seed}", method)

    if scenario.kind == "balanced" or scenario.tier == "T3":
        raise ValueError(f"{scenario.name}: nothing is measured here; give a long tail or noise of T1 or T2")
    of_kind = _of_longtail if scenario.kind == "longtail" else _of_noise
    rows = {seed: of_kind(model_of, seed, scenario) for seed in scenario.seeds}
    if scenario.kind == "longtail":
        rows = {seed: row | _gap(home, seed) for seed, row in rows.items()}
    workdir.write_json(home / MEASURES, _content(rows, command))
    written = [home / MEASURES]
    return written if scenario.kind == "noisy" else [*written, *_maps(model_of, home, scenario.seeds), _probe(home)]


def _of_longtail(model_of: Callable[[str, str, int], Model], seed: int, scenario: Scenario) -> dict[str, float]:
    del scenario
    found = propositions.of_seed(model_of("lpg", "lpg", seed), model_of("lpg-mean", "lpg", seed), seed)
    return found | class_gradients.of_seed(model_of("ce", "ce", seed), seed)


def _gap(home: Path, seed: int) -> dict[str, float]:
    """Of the study of eps, where there is one."""
    study, at = studies.EPSILON, home / "study" / studies.EPSILON.name
    runs = [(value, at / f"{study.field}={value},seed={seed}") for value in study.values]
    if not at.is_dir():
        return {}
    return {"gap_rank": propositions.gap_rank([(value, read(run, study.label)) for value, run in runs])}


def _of_noise(model_of: Callable[[str, str, int], Model], seed: int, scenario: Scenario) -> dict[str, float]:
    made = model_of("ce", "ce", seed), model_of("lpg-decay", "lpg", seed), model_of("random-decay", "random_lpg", seed)
    return wrong_labels.of_seed(*made, same_rate=same_rate(scenario.config().data.noise))


def same_rate(noise: ml_collections.ConfigDict) -> bool:
    """Whether the labels of every class, as given, are wrong at one rate, up to chance and with classes of one size.

    Args:
      noise: config.data.noise of a scenario: symmetric, a matrix, whose file must be there, or human labels.
    """
    if noise.kind == "matrix":
        given = np.load(str(noise.path))  # [true class, label]
        right = np.diagonal(given) / given.sum(axis=0)
        return bool(np.allclose(right, right[0]))
    return noise.kind == "symmetric"


def _content(rows: dict[int, dict[str, float]], command: str) -> dict[str, dict[str, object]]:
    content = {}
    for name in next(iter(rows.values())):
        known = {seed: row[name] for seed, row in rows.items() if math.isfinite(row[name])}
        content[name] = {"values": list(known.values()), "seeds": list(known), "command": command}
    return content


def _maps(model_of: Callable[[str, str, int], Model], home: Path, seeds: Sequence[int]) -> list[Path]:
    found: dict[str, dict[int, feature_maps.Features]] = {label: {} for label in METHODS}
    for label, method in METHODS.items():
        for seed in seeds:
            model = model_of(label, method, seed)
            _, features = model.trained.apply(model.trained.params, model.test[0][:MAPPED])
            try:
                found[label][seed] = feature_maps.features_of(np.asarray(features), np.asarray(model.test[1][:MAPPED]))
            except ValueError as error:
                raise ValueError(f"{home / 'final' / label / f'seed={seed}'}: {error}") from error
    return feature_maps.write(home, found, np.asarray(model_of("ce", "ce", seeds[0]).trained.facts.class_counts))


def _probe(home: Path) -> Path:
    """probe.csv of a scenario: every method at the parameters that cross-entropy ended with, seed 0."""
    at = home / "final" / "ce" / "seed=0"
    probe.run(argparse.Namespace(workdir=at, at="ce", methods=";".join(analysis.NAMES), batches=64, seed=0))
    shutil.copy(at / "ce" / "probe.csv", home / "probe.csv")
    return home / "probe.csv"
