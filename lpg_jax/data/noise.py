"""Class-conditional label noise: transition matrices, and labels drawn from them. Always from the clean labels."""

from pathlib import Path

import numpy as np

from lpg_jax.data.checks import check_labels
from lpg_jax.data.label_files import read_npz

# Classes that people confuse (Patrini et al. 2017): truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
_CIFAR10_FLIPS = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}

# One superclass a line; sorted by name, the 100 classes have their CIFAR-100 numbers.
_CIFAR100_SUPERCLASSES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""


def _cifar100_flips() -> dict[int, int]:
    """The next class, in CIFAR-100's numbering, within the superclass; the last one goes to the first."""
    number = {name: i for i, name in enumerate(sorted(_CIFAR100_SUPERCLASSES.split()))}
    rows = [sorted(number[name] for name in line.split()) for line in _CIFAR100_SUPERCLASSES.strip().splitlines()]
    return {c: row[(i + 1) % len(row)] for row in rows for i, c in enumerate(row)}


_ASYMMETRIC = {"cifar10": (10, _CIFAR10_FLIPS), "cifar100": (100, _cifar100_flips())}


def transition_matrix(
    kind: str, rate: float, num_classes: int, include_self: bool = False, dataset: str = ""
) -> np.ndarray:
    """The matrix T of class-conditional label noise, T[i, j] = P(label j | clean class i).

    | kind       | T [protocols: methods, section 6]                                                           |
    |------------|---------------------------------------------------------------------------------------------|
    | symmetric  | moves a share `rate` to the other C - 1 classes evenly; with include_self, to all C classes,  |
    |            | so that only rate (C - 1) / C of the labels end up wrong (DivideMix, GDW: yes; OGC, DM: no)   |
    | pair       | class c to c + 1 (mod C)                                                                      |
    | asymmetric | "cifar10": 9->1, 2->0, 3<->5, 4->7, the other five classes stay clean (so half of `rate` is   |
    |            | realised); "cifar100": to the next class within the superclass                                |

    Args:
      kind: "symmetric", "pair" or "asymmetric".
      rate: share of a noisy class that is moved, in [0, 1].
      num_classes: C.
      include_self: symmetric only, whether the clean class is among the replacements.
      dataset: asymmetric only, "cifar10" or "cifar100" (TFDS's "name/config:version" is understood).

    Returns:
      float64 [C, C], rows sum to 1.

    Raises:
      ValueError: rate outside [0, 1], an unknown kind or dataset, fewer than 2 classes where a class must move.

    Example:
      >>> transition_matrix("pair", 0.25, 3).tolist()
      [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.25, 0.0, 0.75]]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must be in [0, 1]")
    if include_self and kind != "symmetric":
        raise ValueError(f"include_self=True: only for kind='symmetric', not kind={kind!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: label noise needs at least 2 classes")
    stay = np.eye(num_classes)
    if kind == "symmetric":
        elsewhere = np.ones_like(stay) if include_self else 1 - stay
        return (1 - rate) * stay + rate * elsewhere / elsewhere.sum(1, keepdims=True)
    if kind == "pair":
        return (1 - rate) * stay + rate * np.roll(stay, 1, axis=1)
    if kind == "asymmetric":
        target = np.arange(num_classes)
        for source, flipped in _asymmetric_flips(dataset, num_classes).items():
            target[source] = flipped
        return (1 - rate) * stay + rate * stay[target]
    raise ValueError(f"kind={kind!r}: must be symmetric, pair or asymmetric")


def _asymmetric_flips(dataset: str, num_classes: int) -> dict[int, int]:
    classes, flips = _ASYMMETRIC.get(dataset.split("/")[0].split(":")[0], (None, {}))
    if classes is None:
        known = " and ".join(_ASYMMETRIC)
        raise ValueError(
            f"data.noise.kind='asymmetric': the class map is known for {known}, not for {dataset!r}; "
            "use kind 'pair', or 'matrix' with your own map"
        )
    if classes != num_classes:
        raise ValueError(f"num_classes={num_classes}: {dataset!r} has {classes} classes")
    return flips


def check_matrix(matrix: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Returns a transition matrix as float64 [C, C] after checking its shape, entries and row sums.

    Raises:
      ValueError: another shape, an entry that is negative or not finite, a row that does not sum to 1 within 1e-6.
    """
    if matrix.shape != (num_classes, num_classes) or matrix.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: {matrix.dtype} of shape {matrix.shape}: must be real numbers [C, C], C={num_classes}"
        )
    matrix = matrix.astype(np.float64)
    bad = ~(np.isfinite(matrix) & (matrix >= 0))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{where}: value {matrix[row, column]} at index ({row}, {column}): must be a probability")
    sums = matrix.sum(1)
    if (np.abs(sums - 1) > 1e-6).any():
        row = int(np.argmax(np.abs(sums - 1) > 1e-6))
        raise ValueError(f"{where}: row {row} sums to {sums[row]:.6g}: must be 1 (row = clean class)")
    return matrix


def read_matrix(path: str, num_classes: int) -> np.ndarray:
    """Reads a transition matrix from a .npy file or from a .npz file that holds one array; see `check_matrix`."""
    where = f"data.noise.path={path!r}"
    file = Path(path).expanduser()
    if file.suffix == ".npz":
        content = read_npz(file, where)
        if len(content) != 1:
            raise ValueError(f"{where}: must hold exactly one array, not {sorted(content)}")
        return check_matrix(next(iter(content.values())), num_classes, where)
    if not file.is_file():
        raise FileNotFoundError(f"{where}: no such file")
    try:
        with file.open("rb") as stream:
            matrix = np.lib.format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{where}: not a readable .npy file ({error})") from None
    return check_matrix(matrix, num_classes, where)


def corrupt(labels: np.ndarray, matrix: np.ndarray, seed) -> np.ndarray:
    """Draws a noisy label for every example, independently, from the row of its clean class.

    Args:
      labels: clean labels, int [N], in [0, C).
      matrix: float [C, C], matrix[i, j] = P(noisy j | clean i).
      seed: anything `np.random.default_rng` takes.

    Returns:
      int32 [N]. A label of probability 0 is never drawn. One uniform number is used per position: an example's
      noisy label does not depend on the labels of the others.

    Raises:
      ValueError: a label out of range or a matrix that is not row-stochastic.

    Example:
      >>> corrupt(np.array([0, 1, 2]), transition_matrix("pair", 1.0, 3), seed=0).tolist()
      [1, 2, 0]
    """
    num_classes = len(matrix)
    matrix = check_matrix(np.asarray(matrix), num_classes, "matrix")
    labels = check_labels(labels, num_classes, "labels")
    uniform = np.random.default_rng(seed).random(len(labels))
    noisy = labels.copy()
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        noisy[members] = draw(matrix[c], uniform[members])
    return noisy


def draw(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draws a class per row: `probabilities` [C] or [N, C], cumulative sum inverted at `uniform` [N] in [0, 1)."""
    cumulative = np.cumsum(np.atleast_2d(probabilities), axis=1)
    cumulative /= cumulative[:, -1:]  # exactly 1 at the end: rounding must not reach a class of probability 0
    return (cumulative <= uniform[:, None]).sum(1)
