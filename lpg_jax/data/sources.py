"""Where images and clean labels come from: scikit-learn's digits, an .npz file, any TFDS set."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from lpg_jax.data.checks import check_classes_present, check_inputs, check_labels
from lpg_jax.data.label_files import read_npz
from lpg_jax.data.tfds_source import read_tfds


class Source(NamedTuple):
    """Clean data as it lies in its source; arrays are read-only.

    Attributes:
      inputs: uint8 or float32 [N, ...], every training example (every example at all if there is no test part).
      labels: int32 [N].
      test_inputs, test_labels: the source's own test part, or None.
      class_names: C names.
      original_order: whether position i is what the set's authors call example i (human labels rely on it).
    """

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]
    original_order: bool


def read_source(name: str, data_dir: str = "", path: str = "") -> Source:
    """Reads a source once; further calls (other seeds, other noise) get the same arrays from memory.

    Args:
      name: "digits", "npz" or the name of a TFDS set.
      data_dir: TFDS directory; empty: TFDS's own default.
      path: the .npz file.

    Returns:
      `Source`, checked: finite inputs, labels in [0, C), every class present in the training part.

    Raises:
      FileNotFoundError: no such file, or a TFDS set that is not prepared (the message holds the command to prepare it).
      ValueError: an unknown name, or bad content, named by file, index and value.

    Example:
      >>> read_source("digits").inputs.shape
      (1797, 8, 8, 1)
    """
    file = Path(path).expanduser()
    stamp = (file.stat().st_mtime_ns, file.stat().st_size) if path and file.is_file() else None
    return _read(name, data_dir, path, stamp)


@lru_cache(maxsize=2)
def _read(name: str, data_dir: str, path: str, stamp: tuple[int, int] | None) -> Source:
    del stamp  # part of the key, so that a rewritten file is read again
    if name == "digits":
        source = _read_digits()
    elif name == "npz":
        source = _read_npz(path)
    else:
        source = Source(*read_tfds(name, data_dir))
    for array in (source.inputs, source.labels, source.test_inputs, source.test_labels):
        if array is not None:
            array.setflags(write=False)
    return source


def _read_digits() -> Source:
    pixels, labels = load_digits(return_X_y=True)
    images = (np.asarray(pixels).reshape(-1, 8, 8, 1) / 16).astype(np.float32)  # pixels count 0 to 16
    names = tuple(str(digit) for digit in range(10))
    return Source(images, np.asarray(labels, np.int32), None, None, names, original_order=True)


def _read_npz(path: str) -> Source:
    content = read_npz(path, f"data.path={path!r}")
    _check_keys(content, path)
    parts = {}
    for part in ("train", "test"):
        if f"x_{part}" in content:
            x, y = f"{path}: x_{part}", f"{path}: y_{part}"
            parts[part] = (check_inputs(content[f"x_{part}"], x), check_labels(content[f"y_{part}"], None, y))
            if len(parts[part][0]) != len(parts[part][1]):
                raise ValueError(f"{path}: x_{part} has {len(parts[part][0])} rows, y_{part} has {len(parts[part][1])}")
    inputs, labels = parts["train"]
    test_inputs, test_labels = parts.get("test", (None, None))
    if test_inputs is not None and (test_inputs.shape[1:], test_inputs.dtype) != (inputs.shape[1:], inputs.dtype):
        raise ValueError(
            f"{path}: x_test holds {test_inputs.dtype} {test_inputs.shape[1:]}, x_train {inputs.dtype} "
            f"{inputs.shape[1:]}: must be the same"
        )
    num_classes = 1 + max(int(part[1].max()) for part in parts.values())
    check_classes_present(labels, num_classes, f"{path}: y_train")
    names = tuple(str(c) for c in range(num_classes))
    return Source(inputs, labels, test_inputs, test_labels, names, original_order=True)


def _check_keys(content: dict[str, np.ndarray], path: str) -> None:
    known = {"x_train", "y_train", "x_test", "y_test"}
    needed = known if {"x_test", "y_test"} & content.keys() else {"x_train", "y_train"}
    missing, unknown = sorted(needed - content.keys()), sorted(content.keys() - known)
    if missing or unknown:
        problem = f"no array {', '.join(missing)}" if missing else f"unknown array {', '.join(unknown)}"
        raise ValueError(
            f"data.path={path!r}: {problem}; it must hold x_train, y_train and, for its own test part, x_test, y_test "
            f"(it holds {', '.join(sorted(content)) or 'nothing'})"
        )
