"""Fixed features of CIFAR-10 or CIFAR-100, so that heads can be trained on real images in seconds.

    python -m benchmarks.features cifar10 --data_dir=DIR --out=cifar10.npz

Nothing is learnt from labels [Coates and Ng 2011, The Importance of Encoding Versus Training]: random patches of
training images, contrast-normalised and whitened (ZCA), are the filters of one convolution over patches treated alike;
what exceeds a threshold, of either sign, is averaged over the quadrants of the image; principal components of these
averages are the features. Filters and components come from training images alone.

The file holds x_train [N, D], y_train [N], x_test, y_test in the order of the source, float32, as `data.name=npz` reads
them; `data.noise.kind=human` works on it. About a minute for each on two CPU cores.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from sklearn.decomposition import PCA

from lpg_jax.data.sources import Source, read_source

SIDE = 6  # of a patch, in pixels
FILTERS = 256
THRESHOLD = 0.25  # of a response, in units of a patch of norm 1
DIMENSIONS = 384
PATCHES = 100_000
_OF_COMPONENTS, _BATCH = 20_000, 100


class Whitening(NamedTuple):
    """Patch -> white patch: (x - mean) @ matrix."""

    mean: np.ndarray  # [P]
    matrix: np.ndarray  # [P, P], symmetric


def extract(
    source: Source, seed: int = 0, filters: int = FILTERS, dimensions: int = DIMENSIONS, patches: int = PATCHES
) -> dict[str, np.ndarray]:
    """Features of the training and test images of a source.

    Args:
      source: uint8 images [N, H, W, K], with a test part.
      seed: of the patches drawn.
      filters: how many patches become filters.
      dimensions: D, at most 8 filters.
      patches: how many are drawn for the whitening.

    Returns:
      x_train float32 [N, D], y_train, x_test, y_test.

    Raises:
      ValueError: inputs that are no uint8 images, or no test part.
    """
    if source.inputs.ndim != 4 or source.inputs.dtype != np.uint8:
        raise ValueError(f"inputs are {source.inputs.dtype} {source.inputs.shape}: must be uint8 images [N, H, W, K]")
    if source.test_inputs is None or source.test_labels is None:
        raise ValueError("the source has no test part")
    random = np.random.default_rng(seed)
    drawn = normalise(_random_patches(source.inputs, patches, random))
    whitening = whitening_of(drawn)
    bank = (drawn[:filters] - whitening.mean) @ whitening.matrix
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    pooled = [np.concatenate(list(_pooled(images, whitening, bank))) for images in (source.inputs, source.test_inputs)]
    some = random.choice(len(pooled[0]), min(_OF_COMPONENTS, len(pooled[0])), replace=False)
    components = PCA(dimensions, svd_solver="covariance_eigh").fit(pooled[0][some])
    train, test = (components.transform(values).astype(np.float32) for values in pooled)
    return {"x_train": train, "y_train": source.labels, "x_test": test, "y_test": source.test_labels}


def normalise(patches: np.ndarray) -> np.ndarray:
    """Patches [n, P] of 0..255 minus their means, over their standard deviations, with 10 added to the variance."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=1, keepdims=True) + 10)


def whitening_of(patches: np.ndarray, epsilon: float = 0.1) -> Whitening:
    """ZCA: V (L + epsilon)^-1/2 V^T of the covariance V L V^T of patches [n, P]."""
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    return Whitening(patches.mean(axis=0), vectors / np.sqrt(values + epsilon) @ vectors.T)


def _random_patches(images: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """float64 [number, SIDE * SIDE * K]."""
    which = random.integers(len(images), size=number)
    rows, columns = (random.integers(size - SIDE + 1, size=number) for size in images.shape[1:3])
    window = np.arange(SIDE)
    cut = images[which[:, None, None], (rows[:, None] + window)[:, :, None], (columns[:, None] + window)[:, None, :]]
    return cut.reshape(number, -1).astype(np.float64)


def _pooled(images: np.ndarray, whitening: Whitening, bank: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of [b, 8 filters] averages."""
    kernel = jnp.asarray(whitening.matrix @ bank.T, jnp.float32)  # whitening and filtering are linear: one product
    offset = jnp.asarray(whitening.mean @ whitening.matrix @ bank.T, jnp.float32)

    @jax.jit
    def pool(batch: jax.Array) -> jax.Array:
        patches = _all_patches(batch.astype(jnp.float32))
        centred = patches - patches.mean(axis=-1, keepdims=True)
        centred = centred / jnp.sqrt(jnp.var(centred, axis=-1, keepdims=True) + 10)
        response = centred @ kernel - offset
        both = jnp.concatenate([jax.nn.relu(sign * response - THRESHOLD) for sign in (1, -1)], axis=-1)
        half = both.shape[1] // 2 + both.shape[1] % 2
        quadrants = [both[:, rows, columns].mean(axis=(1, 2))
                     for rows in (slice(half), slice(half, None))
                     for columns in (slice(half), slice(half, None))]  # fmt: skip
        return jnp.concatenate(quadrants, axis=-1)

    for start in track(range(0, len(images), _BATCH), "features", transient=True):
        yield np.asarray(pool(images[start : start + _BATCH]))


def _all_patches(images: jax.Array) -> jax.Array:
    """[b, H, W, K] -> [b, H - 5, W - 5, SIDE * SIDE * K]."""
    height, width = (size - SIDE + 1 for size in images.shape[1:3])
    return jnp.concatenate(
        [images[:, row : row + height, column : column + width] for row in range(SIDE) for column in range(SIDE)],
        axis=-1,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("cifar10", "cifar100"))
    parser.add_argument("--data_dir", default="", help="directory of TFDS sets; default: TFDS's own")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        source = read_source(options.name, options.data_dir)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    features = extract(source)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, allow_pickle=False, **features)
    Console().print(f"{options.out}: {features['x_train'].shape} training, {features['x_test'].shape} test features")


if __name__ == "__main__":
    main()
