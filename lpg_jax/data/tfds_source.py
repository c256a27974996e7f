"""Any TFDS image-classification set, read through `tfds.data_source` files: no TensorFlow needed."""

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lpg_jax.data.checks import check_classes_present, check_inputs, check_labels

_CHUNK = 256  # records read at a time: one by one, array_record is half as fast


def read_tfds(name: str, data_dir: str = ""):
    """Reads a prepared TFDS set into memory.

    Test part: the split "test", else "validation", else none. If the examples carry ids that end in the numbers
    0..N-1 (CIFAR: "train_00017"), they are put into that order, which does not depend on how TFDS shuffled them.

    Args:
      name: TFDS name, "set[/config][:version]"; a set that only exists on disk, without a builder class, works too.
      data_dir: TFDS directory; empty: TFDS's default (TFDS_DATA_DIR or ~/tensorflow_datasets).

    Returns:
      (inputs, labels, test_inputs or None, test_labels or None, class_names, original_order), see `sources.Source`.

    Raises:
      ValueError: unknown name, no clear image or label feature, no split "train", images of several shapes, a label
        out of range (unlabelled test parts have -1), a class without a training example.
      FileNotFoundError: the set is not prepared as array_record; the message is the command that prepares it.
    """
    with _quiet():
        builder = _prepared_builder(name, data_dir)
        image, label = _find_features(builder, name)
        splits = list(builder.info.splits)
        if "train" not in splits:
            raise ValueError(f"data.name={name!r}: no split 'train' among {splits}")
        test = next((split for split in ("test", "validation") if split in splits), None)
        names = tuple(str(builder.info.features[label].int2str(c)) for c in range(_num_classes(builder, label)))
        inputs, labels, in_order = _read_split(builder, "train", image, label, len(names))
        check_classes_present(labels, len(names), f"{name} train")
        if test is None:
            return inputs, labels, None, None, names, in_order
        test_inputs, test_labels, _ = _read_split(builder, test, image, label, len(names))
    if test_inputs.shape[1:] != inputs.shape[1:]:
        raise ValueError(f"{name}: images are {inputs.shape[1:]} in train but {test_inputs.shape[1:]} in {test}")
    return inputs, labels, test_inputs, test_labels, names, in_order


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS reports through absl which image decoder it found and where it looked."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _prepared_builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds  # here, because it takes half a second that digits need not wait for

    arguments: dict[str, Any] = {"data_dir": os.path.expanduser(data_dir)} if data_dir else {}
    try:
        builder = tfds.builder(name, **arguments)
    except tfds.core.DatasetNotFoundError:
        known = ["digits", "npz", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; the closest names are {', '.join(close)}" if close else ""
        raise ValueError(
            f"data.name={name!r}: neither 'digits' nor 'npz' nor a TFDS set, registered or in "
            f"{data_dir or 'the default data_dir'}{hint}"
        ) from None
    except ValueError as error:  # an unknown config or version of a known set
        raise ValueError(f"data.name={name!r}: {error}") from None
    where = f", data_dir={data_dir!r}" if data_dir else ""
    command = (
        'python -m pip install -e ".[tfds-prepare]" && python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()\""
    )
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"data.name={name!r}: not prepared in {builder.data_path}. Prepare it with:\n  {command}"
        )
    file_format = builder.info.file_format
    if file_format is None or file_format not in tfds.core.FileFormat.with_random_access():
        raise FileNotFoundError(
            f"data.name={name!r}: prepared in {builder.data_path} as {file_format and file_format.value}, which only "
            f"TensorFlow reads. Remove it (or use another data.data_dir) and prepare it as array_record:\n  {command}"
        )
    return builder


def _num_classes(builder: Any, label: str) -> int:
    return int(builder.info.features[label].num_classes)


def _find_features(builder: Any, name: str) -> tuple[str, str]:
    """The supervised (image, label) pair, or the only Image and the only ClassLabel."""
    import tensorflow_datasets as tfds

    features = dict(sorted(builder.info.features.items()))
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    pair = builder.info.supervised_keys
    if pair and len(pair) == 2 and pair[0] in images and pair[1] in labels:
        return pair[0], pair[1]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    kinds = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise ValueError(
        f"data.name={name!r}: cannot tell image and label among its features ({kinds}); a set with one Image and one "
        "ClassLabel, or with such a pair as supervised_keys, is needed"
    )


def _read_split(builder: Any, split: str, image: str, label: str, num_classes: int):
    source = builder.as_data_source(split=split)
    where = f"{builder.info.name} {split}"
    if len(source) == 0:
        raise ValueError(f"{where}: the split is empty")
    chunks = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    labels = np.empty(len(source), np.int64)
    ids: list[bytes] = []
    inputs = None
    with ThreadPoolExecutor() as pool:
        for chunk, examples in zip(chunks, pool.map(lambda c: source.__getitems__(list(c)), chunks), strict=True):
            for i, example in zip(chunk, examples, strict=True):
                pixels = np.asarray(example[image])
                if inputs is None:
                    inputs = np.empty((len(source), *pixels.shape), pixels.dtype)
                if pixels.shape != inputs.shape[1:]:
                    raise ValueError(
                        f"{where}: image {i} has shape {pixels.shape}, image 0 has {inputs.shape[1:]}; "
                        "all must be of one shape: resize them, or use a resized set"
                    )
                inputs[i] = pixels
                labels[i] = example[label]
                ids.append(example.get("id", b""))
    assert inputs is not None
    order = _original_order(ids)
    inputs = check_inputs(inputs, f"{where} images")
    labels = check_labels(labels, num_classes, f"{where} labels")
    if order is None:
        return inputs, labels, False
    return inputs[order], labels[order], True


def _original_order(ids: list) -> np.ndarray | None:
    """Positions sorted by the number that ends each id; None unless those numbers are 0..N-1."""
    matches = [re.search(rb"(\d+)$", value) if isinstance(value, bytes) else None for value in ids]
    numbers = np.array([int(match[1]) if match else -1 for match in matches])
    order = np.argsort(numbers, kind="stable")
    return order if np.array_equal(numbers[order], np.arange(len(numbers))) else None
