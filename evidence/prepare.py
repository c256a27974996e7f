"""What the heads are trained on: features, and label noise."""

from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks import features
from configs.heads import HUMAN
from lpg_jax import data
from lpg_jax.data.sources import read_source


def prepare(names: list[str], home: Path, data_dir: str, human_labels: str) -> list[Path]:
    """Writes NAME.npz, NAME_tune.npz, noise matrices and human labels; what is there already stays.

    NAME_tune.npz is the training set alone, out of which every tuning run holds out a part of its own: whoever tunes
    never sees the test images.

    Args:
      names: of "digits", "cifar10", "cifar100".
      home: directory.
      data_dir: of TFDS sets; "": TFDS's own default.
      human_labels: file of CIFAR-10N and CIFAR-100N labels, one array each; "": none, and no human problem.

    Returns:
      What was written.
    """
    home.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        whole = home / f"{name}.npz"
        if not whole.exists():
            arrays = _digits() if name == "digits" else features.extract(read_source(name, data_dir))
            written += [_save(whole, _standardised(arrays))]
        with np.load(whole) as file:
            arrays = dict(file)
        tune = home / f"{name}_tune.npz"
        if not tune.exists():
            written += [_save(tune, {key: arrays[key] for key in ("x_train", "y_train")})]
        if name != "digits":
            written += _noise(name, home, arrays["y_train"], human_labels)
    return written


def _standardised(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Once for all seeds, by all training inputs: then runs on different subsets are the same program."""
    scaler = StandardScaler().fit(arrays["x_train"])
    return arrays | {key: np.asarray(scaler.transform(arrays[key]), np.float32) for key in ("x_train", "x_test")}


def _digits() -> dict[str, np.ndarray]:
    source = read_source("digits")
    train, test = _halves(source.labels, 0.3)
    flat = source.inputs.reshape(len(source.inputs), -1)
    return {
        "x_train": flat[train],
        "y_train": source.labels[train],
        "x_test": flat[test],
        "y_test": source.labels[test],
    }


def _halves(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rest and of what is held out, classes in proportion."""
    rest, held = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=0)
    return np.sort(rest), np.sort(held)


def _noise(name: str, home: Path, labels: np.ndarray, human_labels: str) -> list[Path]:
    matrix, written = home / f"{name}_asymmetric40.npy", []
    if not matrix.exists():
        np.save(matrix, data.transition_matrix("asymmetric", 0.4, int(labels.max()) + 1, False, name))
        written.append(matrix)
    if human_labels and not (home / f"{name}_human.npz").exists():
        key = HUMAN[name]
        given = data.load_human_labels(human_labels, key, labels)  # checks the order by the clean labels
        written.append(_save(home / f"{name}_human.npz", {f"{key}_label": given}))
    return written


def _save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path
