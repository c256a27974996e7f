"""Laws of the data room: long-tail counts, label noise, splits, and what a config may say."""

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from lpg_jax import data
from lpg_jax.data.instance_noise import _truncated_normal
from lpg_jax.data.noise import draw

DEFAULTS = {
    "name": "digits",
    "data_dir": "",
    "path": "",
    "train_size": 0,
    "imbalance": 1.0,
    "imbalance_kind": "exponential",
    "validation": 0.0,
    "validation_per_class": 0,
    "validation_labels": "noisy",
    "test_fraction": 0.3,
    "standardise": True,
    "noise": {"kind": "none", "rate": 0.0, "include_self": False, "path": "", "key": ""},
}


def config(**fields):
    """The default config with dotted fields replaced: config(imbalance=50.0, noise__kind="pair")."""
    result = ConfigDict(DEFAULTS)
    with result.unlocked():
        for name, value in fields.items():
            result.update_from_flattened_dict({name.replace("__", "."): value})
    return result


def flat_arrays(dataset):
    """Every array of a Dataset, in order."""
    for value in dataset:
        if isinstance(value, data.Split):
            yield from value
        elif isinstance(value, np.ndarray):
            yield value


def same(first, second):
    pairs = zip(flat_arrays(first), flat_arrays(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------------------------------------- long tail


@pytest.mark.parametrize(
    ("max_count", "num_classes", "imbalance", "total"),
    [(5000, 10, 100, 12406), (5000, 10, 10, 20431), (500, 100, 100, 10847), (500, 100, 10, 19573)],
)
def test_published_cifar_totals(max_count, num_classes, imbalance, total):
    counts = data.longtail_counts(max_count, num_classes, imbalance)
    assert counts.sum() == total
    assert counts[0] == max_count
    assert counts[-1] == max_count // imbalance


def test_published_cifar10_counts():
    published = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert data.longtail_counts(5000, 10, 100.0).tolist() == published


@given(st.integers(1, 3000), st.integers(2, 50), st.floats(0, 1))
def test_counts_fall_from_the_head_to_exactly_the_asked_ratio(max_count, num_classes, share):
    tail = max(1, round(max_count * share))
    counts = data.longtail_counts(max_count, num_classes, max_count / tail)
    assert counts[0] == max_count
    assert counts[-1] == tail  # int(49 * (1 / 49)) in floating point is 0
    assert (np.diff(counts) <= 0).all()


def test_counts_equal_the_formula_in_exact_arithmetic():
    # n_c is the largest integer with n_c^(C-1) IR^c <= n_max^(C-1): integers only, no floating point.
    for max_count, num_classes, imbalance in [(122, 10, 50), (500, 100, 10), (49, 3, 49), (1000, 7, 64)]:
        power = num_classes - 1
        expected = [
            max(n for n in range(1, max_count + 1) if n**power * imbalance**c <= max_count**power)
            for c in range(num_classes)
        ]
        assert data.longtail_counts(max_count, num_classes, imbalance).tolist() == expected


def test_step_counts_and_edges():
    assert data.longtail_counts(100, 4, 10.0, "step").tolist() == [100, 100, 10, 10]
    assert data.longtail_counts(100, 5, 10.0, "step").tolist() == [100, 100, 100, 10, 10]
    assert data.longtail_counts(7, 1, 5.0).tolist() == [7]
    assert data.longtail_counts(7, 3, 1.0).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 10, 0.5), r"imbalance=0\.5: must be >= 1"),
        ((100, 10, math.nan), r"imbalance=nan: must be >= 1"),
        ((100, 10, math.inf), r"imbalance=inf: must be >= 1 and finite"),
        ((100, 3, 200.0), r"imbalance=200\.0: class 2 would have no example; must be <= 100"),
        ((0, 10, 2.0), r"max_count=0, num_classes=10: both must be >= 1"),
        ((100, 10, 2.0, "linear"), r"imbalance_kind='linear': must be 'exponential' or 'step'"),
    ],
)
def test_count_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.longtail_counts(*arguments)


def test_longtail_subset_is_nested_and_has_the_counts():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
    wide = data.longtail_subset(labels, np.array([50, 30, 20, 10]), seed=3)
    narrow = data.longtail_subset(labels, np.array([50, 20, 9, 4]), seed=3)
    assert np.bincount(labels[wide]).tolist() == [50, 30, 20, 10]
    assert set(narrow) < set(wide)
    assert (np.diff(wide) > 0).all()
    assert not np.array_equal(wide, data.longtail_subset(labels, np.array([50, 30, 20, 10]), seed=4))
    with pytest.raises(ValueError, match=r"counts\[1\]=51: class 1 has only 50 examples"):
        data.longtail_subset(labels, np.array([50, 51, 1, 1]), seed=0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 0.99), st.integers(0, 5))
@settings(max_examples=50)
def test_stratified_split_is_a_partition_with_counts_free_of_seed_and_order(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rest, held = data.stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
    kept = np.bincount(labels[rest], minlength=len(counts))
    assert (kept >= 1).all()
    assert (np.abs(np.array(counts) - kept - fraction * np.array(counts)) <= np.where(kept == 1, 1.0, 0.5)).all()
    shuffled = np.random.default_rng(seed).permutation(labels)
    other, _ = data.stratified_split(shuffled, fraction, seed + 1)
    assert np.array_equal(np.bincount(shuffled[other], minlength=len(counts)), kept)


# ------------------------------------------------------------------------------------------- label noise


def within_binomial_bounds(wrong, probability, number):
    """Five standard deviations: one false alarm in a million."""
    return abs(wrong - probability) <= 5 * math.sqrt(probability * (1 - probability) / number) + 1e-12


@pytest.mark.parametrize(
    ("kind", "include_self", "factor"),
    [("symmetric", False, 1.0), ("symmetric", True, 0.9), ("pair", False, 1.0), ("asymmetric", False, 0.5)],
)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_realised_rate_and_rows(kind, include_self, factor, rate):
    clean = np.tile(np.arange(10), 2000)
    matrix = data.transition_matrix(kind, rate, 10, include_self, dataset="cifar10")
    noisy = data.corrupt(clean, matrix, seed=1)
    assert noisy.dtype == np.int32
    assert within_binomial_bounds(np.mean(noisy != clean), rate * factor, len(clean))
    np.testing.assert_allclose(matrix.sum(1), 1)
    for c in range(10):
        realised = np.bincount(noisy[clean == c], minlength=10) / 2000
        assert all(within_binomial_bounds(realised[j], matrix[c, j], 2000) for j in range(10))


def test_symmetric_noise_never_flips_to_itself_unless_asked():
    clean = np.tile(np.arange(3), 500)
    assert (data.corrupt(clean, data.transition_matrix("symmetric", 1.0, 3), 0) != clean).all()
    drawn = data.corrupt(clean, data.transition_matrix("symmetric", 1.0, 3, include_self=True), 0)
    assert within_binomial_bounds(np.mean(drawn == clean), 1 / 3, len(clean))


def test_asymmetric_cifar10_is_the_published_map():
    target = data.transition_matrix("asymmetric", 1.0, 10, dataset="cifar10").argmax(1)
    assert target.tolist() == [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]


def test_asymmetric_cifar100_cycles_within_superclasses_of_five():
    matrix = data.transition_matrix("asymmetric", 1.0, 100, dataset="cifar100:3.0.2")
    target = matrix.argmax(1)
    assert np.array_equal(np.sort(target), np.arange(100))
    power = np.eye(100)
    for _ in range(5):
        assert (np.diag(power) == 1).all() or (np.diag(power) == 0).all()
        power = power @ matrix
    assert np.array_equal(power, np.eye(100))
    # Superclass "fish": aquarium_fish 1, flatfish 32, ray 67, shark 73, trout 91; "people": 2, 11, 35, 46, 98.
    assert [target[c] for c in (1, 32, 67, 73, 91)] == [32, 67, 73, 91, 1]
    assert [target[c] for c in (2, 11, 35, 46, 98)] == [11, 35, 46, 98, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("symmetric", 1.2, 10), r"rate=1\.2: must be in \[0, 1\]"),
        (("pair", math.nan, 10), r"rate=nan: must be in \[0, 1\]"),
        (("symmetric", 0.5, 1), r"num_classes=1: label noise needs at least 2 classes"),
        (("pair", 0.5, 10, True), r"include_self=True: only for kind='symmetric'"),
        (("asymmetric", 0.5, 10, False, "digits"), r"known for cifar10 and cifar100, not for 'digits'"),
        (("asymmetric", 0.5, 7, False, "cifar10"), r"num_classes=7: 'cifar10' has 10 classes"),
        (("random", 0.5, 10), r"kind='random': must be symmetric, pair or asymmetric"),
    ],
)
def test_transition_matrix_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.transition_matrix(*arguments)


@given(st.integers(2, 6), st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_label_of_probability_zero_is_never_drawn(num_classes, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_classes, num_classes)) * (rng.random((num_classes, num_classes)) < 0.5)
    matrix[np.arange(num_classes), rng.integers(0, num_classes, num_classes)] += 0.1
    matrix /= matrix.sum(1, keepdims=True)
    clean = rng.integers(0, num_classes, 300)
    assert (matrix[clean, data.corrupt(clean, matrix, seed)] > 0).all()


def test_drawing_at_the_boundaries_of_the_cumulative_sum():
    uniform = np.array([0.0, 0.25, 0.5, np.nextafter(1, 0)])
    assert draw(np.array([0.0, 0.25, 0.25, 0.5, 0.0]), uniform).tolist() == [1, 2, 3, 3]


def test_corrupt_is_seeded_and_each_example_stands_alone():
    matrix = data.transition_matrix("symmetric", 0.5, 5)
    clean = np.random.default_rng(0).integers(0, 5, 400)
    noisy = data.corrupt(clean, matrix, seed=7)
    assert np.array_equal(noisy, data.corrupt(clean, matrix, seed=7))
    assert not np.array_equal(noisy, data.corrupt(clean, matrix, seed=8))
    for changed, kept in [(slice(0, 200), slice(200, 400)), (slice(200, 400), slice(0, 200))]:
        other = clean.copy()
        other[changed] = (other[changed] + 1) % 5
        assert np.array_equal(data.corrupt(other, matrix, seed=7)[kept], noisy[kept])


@pytest.mark.parametrize(
    ("labels", "matrix", "message"),
    [
        ([0, 3, 1], np.eye(3), r"labels: value 3 at index 1: must be in \[0, 3\)"),
        ([0, -1, 1], np.eye(3), r"labels: value -1 at index 1"),
        ([0], np.ones((3, 3)), r"matrix: row 0 sums to 3: must be 1"),
        ([0], np.array([[1.5, -0.5], [0, 1]]), r"matrix: value -0\.5 at index \(0, 1\): must be a probability"),
        ([0], np.full((2, 2), np.nan), r"matrix: value nan at index \(0, 0\)"),
        ([0], np.ones((2, 3)) / 3, r"matrix: float64 of shape \(2, 3\): must be real numbers \[C, C\], C=2"),
    ],
)
def test_corrupt_errors(labels, matrix, message):
    with pytest.raises(ValueError, match=message):
        data.corrupt(np.array(labels), matrix, seed=0)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 1.0])
def test_instance_noise_has_the_rate_and_never_flips_to_itself(rate):
    rng = np.random.default_rng(0)
    images, clean = rng.integers(0, 256, (8000, 3, 3, 1), dtype=np.uint8), rng.integers(0, 4, 8000)
    noisy = data.corrupt_by_instance(images, clean, rate, 4, seed=1)
    assert noisy.dtype == np.int32
    assert within_binomial_bounds(np.mean(noisy != clean), rate, len(clean))


def test_instance_noise_errors():
    with pytest.raises(ValueError, match=r"rate=-0\.1: must be in \[0, 1\]"):
        data.corrupt_by_instance(np.ones((2, 3)), np.zeros(2, int), -0.1, 2, seed=0)
    with pytest.raises(ValueError, match=r"num_classes=1: label noise needs at least 2 classes"):
        data.corrupt_by_instance(np.ones((2, 3)), np.zeros(2, int), 0.1, 1, seed=0)
    with pytest.raises(ValueError, match=r"labels: value 2 at index 1: must be in \[0, 2\)"):
        data.corrupt_by_instance(np.ones((2, 3)), np.array([0, 2]), 0.1, 2, seed=0)


def test_instance_noise_depends_on_the_instance():
    rng = np.random.default_rng(0)
    two_images = rng.random((2, 30)).astype(np.float32)
    which = np.tile([0, 1], 2000)
    noisy = data.corrupt_by_instance(two_images[which], np.zeros(4000, int), 0.5, 10, seed=2)
    profile = [np.bincount(noisy[which == i], minlength=10) / 2000 for i in (0, 1)]
    assert within_binomial_bounds(profile[0][0], 0.5, 2000)
    assert within_binomial_bounds(profile[1][0], 0.5, 2000)
    # Class-conditional noise would give one profile; the difference would then be about 0.02.
    assert np.abs(profile[0][1:] - profile[1][1:]).sum() > 0.2


def test_instance_noise_targets_follow_the_softmax_of_the_projection():
    rng = np.random.default_rng(0)
    features = np.concatenate([np.full((3000, 2), 1.0), np.full((3000, 2), -1.0)]).astype(np.float32)
    noisy = data.corrupt_by_instance(features, np.zeros(6000, int), 1.0, 3, seed=5)
    rng = np.random.default_rng(5)
    rng.random(6000), rng.random(6000)
    projection = rng.standard_normal((2, 3), dtype=np.float32)
    for rows, x in ((slice(0, 3000), [1.0, 1.0]), (slice(3000, 6000), [-1.0, -1.0])):
        weights = np.exp(np.array(x) @ projection)[1:]
        share = np.mean(noisy[rows] == 1)
        assert within_binomial_bounds(share, weights[0] / weights.sum(), 3000)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9])
def test_flip_rates_are_a_normal_truncated_symmetrically(rate):
    drawn = _truncated_normal((np.arange(20000) + 0.5) / 20000, rate)
    width = min(rate, 1 - rate)
    assert drawn.min() >= rate - width
    assert drawn.max() <= rate + width
    assert drawn.mean() == pytest.approx(rate, abs=1e-6)
    assert drawn.std() <= 0.1
    if rate == 0.5:
        assert drawn.std() == pytest.approx(0.1, rel=1e-3)


# ------------------------------------------------------------------------------------------------- load


def test_digits_long_tail_by_the_formula():
    dataset = data.load(config(imbalance=50.0), seed=0)
    smallest = data.load(config(), seed=0).class_counts.min()
    assert dataset.class_counts.tolist() == data.longtail_counts(int(smallest), 10, 50.0).tolist()
    assert dataset.train.inputs.shape == (dataset.class_counts.sum(), 8, 8, 1)
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.labels.dtype == dataset.train.clean_labels.dtype == np.int32
    assert 0 <= dataset.train.inputs.min() < dataset.train.inputs.max() == 1
    assert dataset.num_classes == 10
    assert dataset.class_names == tuple("0123456789")
    assert dataset.noise_rate == 0
    assert np.array_equal(dataset.confusion, np.eye(10))


def test_parts_are_disjoint_cover_everything_and_match_the_source():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    dataset = data.load(config(validation=0.2), seed=4)
    parts = (dataset.train, dataset.validation, dataset.test)
    assert np.array_equal(np.sort(np.concatenate([part.index for part in parts])), np.arange(len(labels)))
    for part in parts:
        assert np.array_equal(part.inputs.reshape(-1, 64) * 16, pixels[part.index])
        assert np.array_equal(part.clean_labels, labels[part.index])
    for c in range(10):
        total = np.sum(labels == c)
        assert abs(np.sum(dataset.test.labels == c) - 0.3 * total) <= 0.5
        rest = total - np.sum(dataset.test.labels == c)
        assert abs(np.sum(dataset.validation.labels == c) - 0.2 * rest) <= 0.5


def test_no_example_is_in_two_parts_of_a_long_tailed_set():
    dataset = data.load(config(imbalance=5.0, validation=0.2), seed=4)
    joined = np.concatenate([part.index for part in (dataset.train, dataset.validation, dataset.test)])
    assert len(np.unique(joined)) == len(joined)


def test_same_seed_same_arrays_other_seed_other_arrays():
    fields = {"imbalance": 10.0, "validation": 0.1, "noise__kind": "symmetric", "noise__rate": 0.3}
    first, other = data.load(config(**fields), 0), data.load(config(**fields), 1)
    assert same(first, data.load(config(**fields), 0))
    assert not np.array_equal(first.train.index, other.train.index)
    assert not np.array_equal(first.test.index, other.test.index)
    assert first.train.inputs.shape == other.train.inputs.shape  # so that seeds can be stacked
    assert first.test.inputs.shape == other.test.inputs.shape


def test_each_decision_has_its_own_randomness():
    noise = {"noise__kind": "symmetric", "noise__rate": 0.4}
    plain, noisy = data.load(config(imbalance=5.0), 0), data.load(config(imbalance=5.0, **noise), 0)
    assert np.array_equal(plain.train.index, noisy.train.index)
    label_of = dict(zip(noisy.train.index, noisy.train.labels, strict=True))
    carved = data.load(config(imbalance=2.0, validation=0.3, **noise), 0)
    shared = [i for i in carved.train.index if i in label_of]
    assert len(shared) > 50
    given_label = dict(zip(carved.train.index, carved.train.labels, strict=True))
    assert all(given_label[i] == label_of[i] for i in shared)


@pytest.mark.parametrize("kind", ["symmetric", "pair", "instance"])
def test_noise_is_reported_and_spares_the_test_part(kind):
    dataset = data.load(config(noise__kind=kind, noise__rate=0.4), seed=2)
    train = dataset.train
    assert dataset.noise_rate == np.mean(train.labels != train.clean_labels)
    assert within_binomial_bounds(dataset.noise_rate, 0.4, len(train.labels))
    assert np.array_equal(dataset.test.labels, dataset.test.clean_labels)
    assert np.array_equal(dataset.class_counts, np.bincount(train.labels, minlength=10))
    np.testing.assert_allclose(dataset.confusion.sum(1), 1)
    for i, j in [(0, 0), (3, 4), (9, 0)]:
        rows = train.clean_labels == i
        assert dataset.confusion[i, j] == pytest.approx(np.mean(train.labels[rows] == j))
    if kind == "pair":
        expected = (train.clean_labels + 1) % 10
        assert ((train.labels == train.clean_labels) | (train.labels == expected)).all()


def test_long_tail_is_cut_by_clean_class():
    dataset = data.load(config(imbalance=50.0, noise__kind="pair", noise__rate=1.0), seed=0)
    counts = data.longtail_counts(122, 10, 50.0)
    assert np.bincount(dataset.train.clean_labels).tolist() == counts.tolist()
    assert dataset.class_counts.tolist() == np.roll(counts, 1).tolist()


def test_noise_may_empty_a_class_but_reports_it():
    dataset = data.load(config(imbalance=100.0, noise__kind="symmetric", noise__rate=0.95), seed=0)
    assert dataset.class_counts.sum() == len(dataset.train.labels)
    assert np.isfinite(dataset.confusion).all()


@pytest.mark.parametrize(("labels", "wrong"), [("noisy", True), ("clean", False)])
def test_validation_labels_are_noisy_or_clean_as_asked(labels, wrong):
    fields = {"validation": 0.3, "validation_labels": labels, "noise__kind": "pair", "noise__rate": 0.5}
    validation = data.load(config(**fields), seed=0).validation
    assert np.any(validation.labels != validation.clean_labels) == wrong


def test_validation_leaves_every_class_in_train_and_stays_in_the_subset():
    full = data.load(config(imbalance=100.0), seed=0)
    carved = data.load(config(imbalance=100.0, validation=0.5), seed=0)
    assert (carved.class_counts >= 1).all()
    joined = np.sort(np.concatenate([carved.train.index, carved.validation.index]))
    assert np.array_equal(joined, full.train.index)
    assert np.array_equal(carved.test.index, full.test.index)


def test_equally_many_examples_of_each_class_are_held_out():
    """From the long-tailed subset, with clean labels under noise; what is counted as noise is what is left."""
    fields = {"imbalance": 10.0, "noise__kind": "symmetric", "noise__rate": 0.4, "validation_labels": "clean"}
    full = data.load(config(**fields), seed=3)
    few, many = (data.load(config(**fields, validation_per_class=number), seed=3) for number in (4, 11))
    for carved, number in ((few, 4), (many, 11)):
        assert np.bincount(carved.validation.labels, minlength=10).tolist() == [number] * 10
        assert np.array_equal(carved.validation.labels, carved.validation.clean_labels)
        joined = np.concatenate([carved.train.index, carved.validation.index])
        assert len(joined) == len(full.train.index)
        assert np.array_equal(np.sort(joined), full.train.index)
        assert np.array_equal(carved.test.index, full.test.index)
        where = np.searchsorted(full.train.index, carved.train.index)
        assert np.array_equal(carved.train.labels, full.train.labels[where])
        assert np.array_equal(carved.class_counts, np.bincount(carved.train.labels, minlength=10))
        assert carved.noise_rate == np.mean(carved.train.labels != carved.train.clean_labels) > 0.2
    assert np.bincount(many.train.clean_labels)[-1] == 1  # of 12
    assert set(few.validation.index) < set(many.validation.index)
    again, other = (data.load(config(**fields, validation_per_class=4), seed=seed) for seed in (3, 4))
    assert same(few, again)
    assert not np.array_equal(few.validation.index, other.validation.index)
    given = data.load(config(**fields | {"validation_labels": "noisy"}, validation_per_class=11), seed=3).validation
    assert np.array_equal(given.index, many.validation.index)
    assert np.any(given.labels != given.clean_labels)


def test_moments_are_those_of_the_training_part():
    dataset = data.load(config(imbalance=50.0), seed=0)
    assert dataset.mean == pytest.approx(dataset.train.inputs.mean(), rel=1e-5)
    assert dataset.std == pytest.approx(dataset.train.inputs.std(), rel=1e-5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 300, 300, 3), dtype=np.uint8)  # larger than one block
    images[..., 2] = 9
    mean, std = data.moments(images)
    np.testing.assert_allclose(mean, (images / 255.0).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std[:2], (images / 255.0).std((0, 1, 2))[:2], rtol=1e-6)
    assert std[2] == 1
    offset = rng.normal(1e4, 1e-1, (1000, 2)).astype(np.float32)
    np.testing.assert_allclose(data.moments(offset)[1], offset.astype(np.float64).std(0), rtol=1e-5)


# ---------------------------------------------------------------------------------------- config errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, r"data\.name='': must be 'digits', 'npz' or the name of a TFDS set"),
        ({"name": "npz"}, r"data\.path='': data\.name='npz' needs the \.npz file"),
        ({"path": "a.npz"}, r"data\.path='a\.npz': only read when data\.name='npz', but data\.name='digits'"),
        ({"imbalance": 0.5}, r"data\.imbalance=0\.5: must be >= 1"),
        ({"imbalance": math.nan}, r"data\.imbalance=nan: must be >= 1"),
        ({"imbalance": 500.0}, r"imbalance=500\.0: class 7 would have no example; must be <= 122"),
        ({"imbalance_kind": "steps"}, r"data\.imbalance_kind='steps': must be one of .*did you mean 'step'"),
        ({"validation": 1.0}, r"data\.validation=1\.0: must be in \[0, 1\)"),
        ({"validation": -0.1}, r"data\.validation=-0\.1: must be in \[0, 1\)"),
        ({"validation": 0.001}, r"data\.validation=0\.001: no class has enough examples"),
        ({"validation_per_class": -1}, r"data\.validation_per_class=-1: must be an integer >= 0"),
        (
            {"validation_per_class": 5, "validation": 0.2},
            r"data\.validation_per_class=5: excludes data\.validation=0\.2; set one of them to 0",
        ),
        (
            {"validation_per_class": 10, "imbalance": 50.0},
            r"data\.validation_per_class=10: class 9 \(9\) has 2 training examples, of which one must stay; "
            r"must be <= 1, or lower data\.imbalance$",
        ),
        ({"validation_per_class": 122}, r"class 8 \(8\) has 122 training examples.* must be <= 121$"),
        ({"validation_labels": "given"}, r"data\.validation_labels='given': must be one of noisy, clean"),
        ({"test_fraction": 0.0}, r"data\.test_fraction=0\.0: must be in \(0, 1\)"),
        ({"test_fraction": 0.001}, r"data\.test_fraction=0\.001: no class has enough examples"),
        ({"noise__kind": "symetric"}, r"data\.noise\.kind='symetric': .*did you mean 'symmetric'"),
        ({"noise__kind": "pair", "noise__rate": 1.2}, r"data\.noise\.rate=1\.2: must be in \[0, 1\]"),
        ({"noise__rate": 0.2}, r"data\.noise\.rate=0\.2: data\.noise\.kind='none' draws no noise"),
        (
            {"noise__kind": "matrix", "noise__path": "t.npy", "noise__rate": 0.2},
            r"data\.noise\.rate=0\.2: data\.noise\.kind='matrix' takes its noise from a file",
        ),
        ({"noise__include_self": True}, r"data\.noise\.include_self=True: only for kind 'symmetric'"),
        ({"noise__path": "t.npy"}, r"data\.noise\.path='t\.npy': data\.noise\.kind='none' reads no file"),
        (
            {"noise__kind": "file"},
            r"data\.noise\.path='': data\.noise\.kind='file' needs labels written by save_labels",
        ),
        ({"noise__kind": "human", "noise__path": "h.npz"}, r"data\.noise\.key='': .* needs the name of an array"),
        ({"noise__key": "worse"}, r"data\.noise\.key='worse': only for kind 'human'"),
        ({"noise__kind": "asymmetric", "noise__rate": 0.2}, r"known for cifar10 and cifar100, not for 'digits'"),
    ],
)
def test_config_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(**fields), seed=0)


def test_other_field_types_and_seeds():
    class Bare:
        name = "digits"
        imbalance = "many"

    with pytest.raises(ValueError, match=r"data\.imbalance='many': must be a number"):
        data.load(Bare(), seed=0)
    for value in (2.5, True, "many"):
        Bare.imbalance, Bare.validation_per_class = 1.0, value
        with pytest.raises(ValueError, match=rf"data\.validation_per_class={value!r}: must be an integer >= 0"):
            data.load(Bare(), seed=0)
    with pytest.raises(ValueError, match=r"seed=-1: must be >= 0"):
        data.load(config(), seed=-1)
    placeholder = config()
    with placeholder.unlocked():
        placeholder.path, placeholder.noise = None, None
    assert same(data.load(placeholder, 0), data.load(config(), np.int64(0)))


# ------------------------------------------------------------------------------------------ architecture


def test_the_room_imports_neither_jax_nor_another_room():
    allowed = {"numpy", "sklearn", "tensorflow_datasets", *sys.stdlib_module_names}
    files = list(Path(data.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                assert node.level == 0
            for name in names:
                assert name.startswith("lpg_jax.data") or name.split(".")[0] in allowed, f"{file.name}: {name}"
