"""Noisy labels that live in files: our own exports, and human labels such as CIFAR-10N and CIFAR-100N."""

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lpg_jax.data.checks import check_labels


def read_npz(path: str | Path, where: str) -> dict[str, np.ndarray]:
    """Reads every array of an .npz file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is not an .npz archive, is damaged, or holds pickled objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file")
    array = "the archive"
    try:
        # Opened here, because np.load leaves the file open when the archive is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            content = {}
            for array in archive.files:
                content[array] = archive[array]
            return content
    # A lone .npy array is no context manager: TypeError.
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{where}: not a readable .npz file ({array}: {error})") from None


def save_labels(
    path: str | Path, labels: np.ndarray, *, index: np.ndarray | None = None, clean_labels: np.ndarray | None = None
) -> None:
    """Writes labels to an .npz file that `load_labels` and `data.noise.kind = "file"` read back.

    Args:
      path: file to write, ending in .npz.
      labels: int [N].
      index: int [N], position of each example in its source (`Split.index`); None: 0..N-1.
      clean_labels: int [N]; if given, a reader can check that it holds the same examples.

    Raises:
      ValueError: a path with another suffix, arrays of different lengths, labels that are no integers >= 0.

    Example (a whole training set, to be used again in another run):
      ``save_labels("labels.npz", train.labels, index=train.index, clean_labels=train.clean_labels)``
    """
    if Path(path).suffix != ".npz":  # np.savez would append it silently
        raise ValueError(f"path={str(path)!r}: must end in .npz")
    arrays = {"labels": check_labels(labels, None, "labels")}
    if index is not None:
        arrays["index"] = check_labels(index, None, "index")
    if clean_labels is not None:
        arrays["clean_labels"] = check_labels(clean_labels, None, "clean_labels")
    for name, array in arrays.items():
        if len(array) != len(arrays["labels"]):
            raise ValueError(f"{name}: {len(array)} entries for {len(arrays['labels'])} labels: must be as many")
    np.savez(Path(path).expanduser(), allow_pickle=False, **arrays)


def load_labels(path: str | Path, clean_labels: np.ndarray | None = None) -> np.ndarray:
    """Reads labels written by `save_labels`.

    Args:
      path: the .npz file.
      clean_labels: int [M], the clean labels of the whole source; None returns the labels as they were saved.

    Returns:
      int32 [N] as saved; or, given `clean_labels`, int32 [M] in the order of the source, -1 for each example that the
      file does not hold.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged file, one without an array `labels`, or one made from other examples (its length, its index
        or its clean labels disagree with `clean_labels`).

    Example:
      ``load_labels("labels.npz", source_labels)``
    """
    where = f"data.noise.path={str(path)!r}"
    content = read_npz(path, where)
    if "labels" not in content:
        raise ValueError(f"{where}: no array 'labels' among {sorted(content)}; write the file with save_labels")
    labels = check_labels(content["labels"], None, f"{where}: labels")
    if clean_labels is None:
        return labels
    if "index" not in content and len(labels) != len(clean_labels):
        raise ValueError(f"{where}: {len(labels)} labels without an index for a source of {len(clean_labels)} examples")
    index = content.get("index", np.arange(len(labels)))
    index = check_labels(index, len(clean_labels), f"{where}: index")
    if len(index) != len(labels) or len(np.unique(index)) != len(index):
        raise ValueError(f"{where}: index must hold one distinct position for each of the {len(labels)} labels")
    if "clean_labels" in content:
        _check_same_examples(content["clean_labels"], clean_labels[index], f"{where}: clean_labels")
    aligned = np.full(len(clean_labels), -1, np.int32)
    aligned[index] = labels
    return aligned


def load_human_labels(path: str | Path, key: str, clean_labels: np.ndarray) -> np.ndarray:
    """Reads one array of human labels (CIFAR-10N, CIFAR-100N) for a whole source in its original order.

    If the file also holds the clean labels that belong to the array ("c10_worse_label" -> "c10_clean_label",
    "c100_noisy_coarse_label" -> "c100_clean_coarse_label"), they are compared with the source's.

    Args:
      path: the .npz file; array i of it belongs to example i of the source.
      key: name of the array; a trailing "_label" may be left out ("c10_worse").
      clean_labels: int [N], the source's own labels.

    Returns:
      int32 [N].

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged file, an unknown key, another length, or clean labels that differ from the source's.

    Example:
      ``load_human_labels("human_labels.npz", "c10_worse", source_labels)``
    """
    where = f"data.noise.path={str(path)!r}"
    content = read_npz(path, where)
    name = key if key in content else f"{key}_label"
    if name not in content:
        raise ValueError(
            f"data.noise.key={key!r}: no such array in {str(path)!r}; it holds {', '.join(sorted(content))}"
        )
    reference = re.sub(r"(noisy|aggre|worse|random)", "clean", name).rstrip("0123456789")
    if reference != name and reference in content:
        _check_same_examples(content[reference], clean_labels, f"{where}: {reference}")
    labels = check_labels(content[name], None, f"{where}: {name}")
    if len(labels) != len(clean_labels):
        raise ValueError(f"{where}: {name} has {len(labels)} labels for a source of {len(clean_labels)} examples")
    return labels


def _check_same_examples(stored: np.ndarray, expected: np.ndarray, where: str) -> None:
    stored = check_labels(stored, None, where)
    if len(stored) != len(expected):
        raise ValueError(
            f"{where}: {len(stored)} entries, but the source has {len(expected)}: made from another source"
        )
    if (stored != expected).any():
        index = int(np.argmax(stored != expected))
        raise ValueError(
            f"{where}: value {stored[index]} at index {index}, but the source says {expected[index]}: "
            "the file was made from other examples, or in another order"
        )
