"""Real images in the shape of CIFAR, in one file that every process reads."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NUMBER = 1024
CIFAR = "CIFAR-10"
DIGITS = "scikit-learn's digits, enlarged to 32 x 32 x 3"


class Images(NamedTuple):
    """Examples as a file holds them, and as a hand-written loop feeds them."""

    raw: np.ndarray  # uint8 [N, 32, 32, 3]
    inputs: np.ndarray  # float32, standardised per channel
    labels: np.ndarray  # int32 [N]


def prepare(data_dir: str, path: str) -> str:
    """Writes `NUMBER` training images to a .npz file that `lpg_jax.data` reads, too; returns what they are.

    Args:
      data_dir: directory of TFDS sets that has cifar10; "": digits that come with scikit-learn.
      path: of the file.
    """
    images, labels = _cifar(data_dir) if data_dir else _digits()
    few, names = images[:64], labels[:64]  # a data set has a test part; nothing here looks at it
    np.savez(path, x_train=images, y_train=labels, x_test=few, y_test=names)
    return CIFAR if data_dir else DIGITS


def _cifar(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split=f"train[:{NUMBER}]", data_dir=data_dir, download=False)
    examples: list[Any] = [source[number] for number in range(NUMBER)]  # pyright: ignore
    images = np.stack([example["image"] for example in examples])
    return images, np.asarray([example["label"] for example in examples], np.int32)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    small = np.asarray(np.clip(digits["images"][:NUMBER] * 16, 0, 255), np.uint8)  # [N, 8, 8]
    large = np.kron(small, np.ones((1, 4, 4), np.uint8))[..., None]
    return np.repeat(large, 3, axis=-1), np.asarray(digits["target"][:NUMBER], np.int32)


def read(path: str | Path) -> Images:
    """Reads what `prepare` wrote (or any such file)."""
    with np.load(path) as file:
        raw, labels = file["x_train"], np.asarray(file["y_train"], np.int32)
    scaled = raw.astype(np.float32) / 255
    axes = tuple(range(scaled.ndim - 1))
    mean, std = (np.float32(moment(scaled, axes, dtype=np.float64)) for moment in (np.mean, np.std))
    return Images(raw, (scaled - mean) / std, labels)


def batch(number: int, size: int, total: int) -> np.ndarray:
    """Places [size] of the examples of step `number`; the data are gone through in order, again and again."""
    return np.arange(number * size, (number + 1) * size) % total
