"""From a source to the arrays a run trains on: test part, long tail, label noise, validation part."""

import operator
from typing import Any, NamedTuple

import numpy as np

from lpg_jax.data.checks import check_labels
from lpg_jax.data.instance_noise import corrupt_by_instance
from lpg_jax.data.label_files import load_human_labels, load_labels
from lpg_jax.data.longtail import longtail_counts, longtail_subset, proportional_counts, stratified_split
from lpg_jax.data.moments import moments
from lpg_jax.data.noise import corrupt, read_matrix, transition_matrix
from lpg_jax.data.options import NoiseOptions, Options, read_options
from lpg_jax.data.sources import Source, read_source

# One random stream per decision: changing the noise must not change the subset, nor the other way round.
_TEST, _SUBSET, _VALIDATION, _NOISE, _SIZE = range(5)


class Split(NamedTuple):
    """Examples with the labels to train on and the labels that are right.

    Attributes:
      inputs: uint8 (0 to 255) or float32 [N, H, W, K] or [N, D]; may be a read-only view of the source.
      labels: int32 [N], as given to the learner, noise included.
      clean_labels: int32 [N], before noise.
      index: int64 [N], increasing position of each example in the training part of its source (in the source's own
        test part for a test split that comes from there); None for splits made by hand.
    """

    inputs: np.ndarray
    labels: np.ndarray
    clean_labels: np.ndarray
    index: np.ndarray | None = None


class Dataset(NamedTuple):
    """Everything a run needs to know about its data.

    Attributes:
      train: `Split`.
      validation: `Split` carved from the training data, or None.
      test: `Split`, always clean and never subsampled.
      num_classes: C.
      class_counts: int64 [C], of train.labels as given (after subset, carving and noise; noise may empty a class).
      class_names: C names.
      noise_rate: share of train.labels that differ from train.clean_labels.
      confusion: float64 [C, C], share of label j among the training examples of clean class i; rows sum to 1.
      mean: float32 [K], per channel (last axis) of train.inputs, in units of inputs / 255 for uint8; 0 with
        standardise=False.
      std: float32 [K], likewise; 1 for a constant channel, or with standardise=False.
    """

    train: Split
    validation: Split | None
    test: Split
    num_classes: int
    class_counts: np.ndarray
    class_names: tuple[str, ...]
    noise_rate: float
    confusion: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def load(data_config: Any, seed: int) -> Dataset:
    """Loads a data set as the config asks for; the same config and seed give identical arrays.

    Order: (1) noisy labels for every example of the source, from the clean labels; (2) a test part, if the source has
    none; (3) train_size of the rest, and its long-tailed subset; (4) the validation part, a share of every clean class
    or equally many examples of each, carved from that subset, so that nothing outside the subset is ever seen. Steps
    2-4 look at clean labels only and every step has its own random stream: changing one leaves the outcome of the
    others as it was, and array shapes do not depend on the seed.

    Args:
      data_config: the fields documented in `lpg_jax.data`.
      seed: >= 0.

    Returns:
      `Dataset`.

    Raises:
      ValueError: a field out of range or without effect, or bad content of a file (file, index and value are named).
      FileNotFoundError: a missing file, or a TFDS set that is not prepared (with the command that prepares it).

    Edge cases:
      | case                                              | result                                                 |
      |---------------------------------------------------|--------------------------------------------------------|
      | train_size beyond what there is                   | ValueError                                             |
      | train_size that leaves a class without an example | ValueError naming the class                            |
      | imbalance = 1                                     | all training data, whatever its class counts           |
      | imbalance > 1, source not balanced                | n_max is the smallest class count: exact proportions   |
      | imbalance beyond n_max                            | ValueError naming the class that would be empty        |
      | a class too small for the validation fraction     | stays in train as a whole                              |
      | a validation fraction that holds out nothing      | ValueError                                             |
      | validation_per_class >= the smallest class count  | ValueError naming the class: every class must stay     |
      | noise that leaves a class without a given label   | class_counts has a 0 there; confusion rows stay valid  |
      | kind "file" that lacks an example that is needed  | ValueError naming its index                            |
      | kind "human" for a TFDS set without numbered ids  | ValueError: the order is unknown                       |

    Example:
      >>> from types import SimpleNamespace
      >>> load(SimpleNamespace(name="digits", imbalance=50.0), seed=0).class_counts.tolist()
      [122, 78, 51, 33, 21, 13, 8, 5, 3, 2]
    """
    options = read_options(data_config)
    seed = operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed={seed}: must be >= 0")
    source = read_source(options.name, options.data_dir, options.path)
    noisy = _noisy_labels(options, source, [seed, _NOISE])
    pool, test = _carve_test(source, options.test_fraction, [seed, _TEST])
    pool = _proportional(source, pool, options.train_size, [seed, _SIZE])
    pool = _long_tail(source, pool, options, [seed, _SUBSET])
    pool, held = _carve_validation(source, pool, options, [seed, _VALIDATION])
    train = _split(source, noisy, pool)
    validation = None
    if len(held) > 0:
        validation = _split(source, source.labels if options.validation_labels == "clean" else noisy, held)
    return _describe(train, validation, test, source.class_names, options.standardise)


def _noisy_labels(options: Options, source: Source, seed: list[int]) -> np.ndarray:
    """int32 [N] for the whole source; -1 where a label file says nothing."""
    noise, labels, num_classes = options.noise, source.labels, len(source.class_names)
    if noise.kind == "none":
        return labels
    if noise.kind == "instance":
        return corrupt_by_instance(source.inputs, labels, noise.rate, num_classes, seed)
    if noise.kind in ("human", "file"):
        return _labels_from_file(noise, options.name, source)
    if noise.kind == "matrix":
        return corrupt(labels, read_matrix(noise.path, num_classes), seed)
    matrix = transition_matrix(noise.kind, noise.rate, num_classes, noise.include_self, options.name)
    return corrupt(labels, matrix, seed)


def _labels_from_file(noise: NoiseOptions, name: str, source: Source) -> np.ndarray:
    if noise.kind == "human":
        if not source.original_order:
            raise ValueError(
                f"data.noise.kind='human': the examples of {name!r} carry no ids 0..N-1, so their original order, by "
                "which human labels are stored, is unknown"
            )
        labels = load_human_labels(noise.path, noise.key, source.labels)
    else:
        labels = load_labels(noise.path, source.labels)
    check_labels(np.maximum(labels, 0), len(source.class_names), f"data.noise.path={noise.path!r}")
    return labels


def _carve_test(source: Source, fraction: float, seed: list[int]) -> tuple[np.ndarray, Split]:
    if source.test_inputs is not None and source.test_labels is not None:
        index = np.arange(len(source.test_labels))
        return np.arange(len(source.labels)), Split(source.test_inputs, source.test_labels, source.test_labels, index)
    pool, held = stratified_split(source.labels, fraction, seed)
    if len(held) == 0:
        raise ValueError(f"data.test_fraction={fraction}: no class has enough examples to hold one out; raise it")
    return pool, _split(source, source.labels, held)


def _proportional(source: Source, pool: np.ndarray, size: int, seed: list[int]) -> np.ndarray:
    """`size` of the examples of a pool, with classes in proportion; all of them for 0."""
    if size == 0:
        return pool
    labels = source.labels[pool]
    if size > len(pool):
        raise ValueError(f"data.train_size={size}: here are {len(pool)} training examples; lower it, or 0 for all")
    counts = proportional_counts(np.bincount(labels, minlength=len(source.class_names)), size)
    if counts.min() == 0:
        empty = int(np.argmin(counts))
        raise ValueError(
            f"data.train_size={size}: leaves no example of class {empty} ({source.class_names[empty]}); raise it"
        )
    return pool[longtail_subset(labels, counts, seed)]


def _long_tail(source: Source, pool: np.ndarray, options: Options, seed: list[int]) -> np.ndarray:
    if options.imbalance == 1:
        return pool
    labels, num_classes = source.labels[pool], len(source.class_names)
    max_count = int(np.bincount(labels, minlength=num_classes).min())
    counts = longtail_counts(max_count, num_classes, options.imbalance, options.imbalance_kind)
    return pool[longtail_subset(labels, counts, seed)]


def _carve_validation(
    source: Source, pool: np.ndarray, options: Options, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    if options.validation_per_class > 0:
        return _carve_per_class(source, pool, options, seed)
    fraction = options.validation
    rest, held = stratified_split(source.labels[pool], fraction, seed)
    if fraction > 0 and len(held) == 0:
        raise ValueError(
            f"data.validation={fraction}: no class has enough examples to hold one out; raise it or set 0.0"
        )
    return pool[rest], pool[held]


def _carve_per_class(
    source: Source, pool: np.ndarray, options: Options, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Equally many examples of each class; for one seed more of them contain fewer."""
    labels, names, number = source.labels[pool], source.class_names, options.validation_per_class
    counts = np.bincount(labels, minlength=len(names))
    rarest = int(np.argmin(counts))
    if number >= counts[rarest]:
        raise ValueError(
            f"data.validation_per_class={number}: class {rarest} ({names[rarest]}) has {counts[rarest]} training "
            f"examples, of which one must stay; must be <= {max(counts[rarest] - 1, 0)}"
            + (", or lower data.imbalance" if options.imbalance > 1 else "")
        )
    held = longtail_subset(labels, np.full(len(names), number), seed)
    return np.delete(pool, held), pool[held]


def _split(source: Source, labels: np.ndarray, index: np.ndarray) -> Split:
    missing = index[labels[index] < 0]
    if len(missing) > 0:
        raise ValueError(
            f"data.noise.kind='file': the file holds no label for example {missing[0]} of the source "
            f"({len(missing)} of {len(index)} are missing); it was saved with another seed or subset"
        )
    whole = len(index) == len(source.labels)  # then index is 0..N-1, and a copy would only cost memory
    inputs = source.inputs if whole else source.inputs[index]
    return Split(inputs, labels[index], source.labels[index], index)


def _no_change(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(inputs.shape[-1], np.float32), np.ones(inputs.shape[-1], np.float32)


def _describe(
    train: Split, validation: Split | None, test: Split, class_names: tuple[str, ...], standardise: bool
) -> Dataset:
    num_classes = len(class_names)
    pairs = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(pairs, (train.clean_labels, train.labels), 1)
    mean, std = moments(train.inputs) if standardise else _no_change(train.inputs)
    return Dataset(
        train=train,
        validation=validation,
        test=test,
        num_classes=num_classes,
        class_counts=pairs.sum(0),
        class_names=class_names,
        noise_rate=float(np.mean(train.labels != train.clean_labels)),
        confusion=pairs / pairs.sum(1, keepdims=True),
        mean=mean,
        std=std,
    )
