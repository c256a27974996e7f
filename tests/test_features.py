"""The features of images that heads are trained on: nothing is learnt from labels or test images."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from benchmarks import features
from lpg_jax.data.sources import Source

SIDE = 16


def photographs():
    """Tiles of the two photographs that come with scikit-learn; the class is the photograph."""
    tiles, labels = [], []
    for label, image in enumerate(load_sample_images().images):
        rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
        cut = image[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        tiles.append(cut.reshape(-1, SIDE, SIDE, 3)[:400])
        labels.append(np.full(400, label, np.int32))
    return np.concatenate(tiles), np.concatenate(labels)


@pytest.fixture(scope="module")
def source():
    images, labels = photographs()
    test = np.arange(len(labels)) % 4 == 0
    return Source(images[~test], labels[~test], images[test], labels[test], ("china", "flower"), True)


def extract(source):
    return features.extract(source, filters=16, dimensions=8, patches=2000)


@pytest.fixture(scope="module")
def made(source):
    return extract(source)


def test_shapes_and_order(source, made):
    assert {name: array.shape for name, array in made.items()} == {
        "x_train": (600, 8), "y_train": (600,), "x_test": (200, 8), "y_test": (200,),
    }  # fmt: skip
    assert made["x_train"].dtype == np.float32
    np.testing.assert_array_equal(made["y_test"], source.test_labels)


def test_they_tell_the_photographs_apart(made):
    centres = np.stack([made["x_train"][made["y_train"] == label].mean(axis=0) for label in (0, 1)])
    nearest = np.argmin(np.linalg.norm(made["x_test"][:, None] - centres, axis=-1), axis=1)
    assert np.mean(nearest == made["y_test"]) > 0.7


def test_neither_labels_nor_test_images_change_the_training_features(source, made):
    order = np.random.default_rng(0).permutation(200)
    other = extract(source._replace(labels=1 - source.labels, test_inputs=source.test_inputs[order]))
    np.testing.assert_array_equal(other["x_train"], made["x_train"])
    np.testing.assert_allclose(other["x_test"], made["x_test"][order], rtol=1e-4, atol=1e-5)


def test_whitening():
    random = np.random.default_rng(0)
    patches = random.normal(size=(5000, 6)) @ random.normal(size=(6, 6)) + 3
    mean, matrix = features.whitening_of(patches, epsilon=0)
    np.testing.assert_allclose(np.cov((patches - mean) @ matrix, rowvar=False), np.eye(6), atol=1e-8)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)  # ZCA: no rotation


def test_contrast():
    flat, patch = np.full((1, 12), 77.0), np.random.default_rng(0).uniform(0, 255, (1, 12))
    np.testing.assert_array_equal(features.normalise(flat), 0)
    brighter = features.normalise(2 * patch + 5)
    np.testing.assert_allclose(brighter, features.normalise(patch), rtol=0.01)
    assert brighter.var() == pytest.approx(1, rel=0.01)


def test_one_convolution_equals_patch_by_patch(source):
    """The same as cutting every patch, treating it alone, and averaging over quadrants."""
    image = source.inputs[:1].astype(float)
    random = np.random.default_rng(1)
    white = features.whitening_of(random.normal(size=(500, 108)))
    bank = random.normal(size=(4, 108))
    (pooled,) = features._pooled(source.inputs[:1], white, bank)
    size, sums, counts = SIDE - 5, np.zeros((2, 2, 8)), np.zeros((2, 2, 1))
    for row in range(size):
        for column in range(size):
            patch = features.normalise(image[:, row : row + 6, column : column + 6].reshape(1, -1))
            response = ((patch - white.mean) @ white.matrix @ bank.T)[0]
            both = np.maximum(np.concatenate([response, -response]) - features.THRESHOLD, 0)
            place = (row >= (size + 1) // 2, column >= (size + 1) // 2)
            sums[int(place[0]), int(place[1])] += both
            counts[int(place[0]), int(place[1])] += 1
    np.testing.assert_allclose(pooled[0], (sums / counts).reshape(-1), rtol=2e-3, atol=2e-4)


def test_what_are_no_images(source):
    with pytest.raises(ValueError, match=r"inputs are float32 .*: must be uint8 images"):
        features.extract(source._replace(inputs=source.inputs.astype(np.float32)))
    with pytest.raises(ValueError, match="the source has no test part"):
        features.extract(source._replace(test_inputs=None, test_labels=None))
