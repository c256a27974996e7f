"""data.train_size and data.standardise: how many examples there are to learn from, and in what units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import config

from lpg_jax import data


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any), st.floats(0, 1))
def test_proportional_counts(counts, share):
    counts = np.array(counts)
    total = int(share * counts.sum())
    found = data.proportional_counts(counts, total)
    assert found.sum() == total
    assert np.all(found >= 0)
    assert np.all(found <= counts)
    assert np.all(np.abs(found - counts * total / counts.sum()) < 1)


def test_so_many_examples_with_classes_in_proportion():
    whole, some, more = (data.load(config(train_size=size), seed=3) for size in (0, 200, 700))
    assert [len(part.train.labels) for part in (some, more)] == [200, 700]
    np.testing.assert_allclose(some.class_counts, whole.class_counts * 200 / len(whole.train.labels), atol=1)
    assert set(some.train.index) < set(more.train.index) < set(whole.train.index)
    np.testing.assert_array_equal(some.test.index, whole.test.index)


def test_seed_and_noise():
    first, again, other = (data.load(config(train_size=200), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.train.index, again.train.index)
    assert set(first.train.index) != set(other.train.index)
    noisy = data.load(config(train_size=200, noise__kind="symmetric", noise__rate=0.4), seed=3)
    np.testing.assert_array_equal(first.train.index, noisy.train.index)


def test_the_long_tail_is_cut_out_of_the_smaller_set():
    whole, some = (data.load(config(train_size=size, imbalance=10.0), seed=0) for size in (0, 600))
    assert whole.class_counts[0] == 122
    assert some.class_counts[0] == 58
    assert some.class_counts[-1] == 5


def test_all_there_are_is_all():
    whole = data.load(config(), seed=0)
    same = data.load(config(train_size=len(whole.train.labels)), seed=0)
    np.testing.assert_array_equal(same.train.index, whole.train.index)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1259, r"data\.train_size=1259: here are 1258 training examples; lower it, or 0 for all"),
        (7, r"data\.train_size=7: leaves no example of class \d \(\d\); raise it"),
        (-1, r"data\.train_size=-1: must be an integer >= 0"),
    ],
)
def test_sizes_out_of_range(size, text):
    with pytest.raises(ValueError, match=text):
        data.load(config(train_size=size), seed=0)


def test_inputs_as_they_are():
    made, plain = (data.load(config(standardise=value), seed=0) for value in (True, False))
    np.testing.assert_array_equal(plain.mean, np.zeros_like(made.mean))
    np.testing.assert_array_equal(plain.std, np.ones_like(made.std))
    assert not np.array_equal(made.mean, plain.mean)
    with pytest.raises(ValueError, match=r"data\.standardise='no': must be True or False"):
        data.load(type("Data", (), {"name": "digits", "standardise": "no"}), seed=0)
