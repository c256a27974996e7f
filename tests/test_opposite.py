"""The opposite of a split: the control for the sign of Eq. 18-20."""

import jax.numpy as jnp
import numpy as np
import pytest

import lpg_jax
from configs import default
from lpg_jax.training import lpg_preset

COUNTS = (400, 100, 20, 20, 5)


def edited(split, rows, labels):
    tx = lpg_jax.lpg(split, lpg_jax.fixed(0.1))
    rows, state = tx.update(rows, tx.init(jnp.zeros(len(COUNTS))), None, labels=labels, logits=jnp.zeros_like(rows))
    return np.asarray(rows), np.asarray(state.class_margin)


def test_what_was_amplified_is_dampened():
    rows, labels = jnp.asarray(np.random.default_rng(0).normal(size=(20, 5)), jnp.float32), jnp.arange(20) % 5
    split = lpg_jax.by_frequency(COUNTS, threshold=0.25)
    (there, margin), (back, reverse) = (edited(each, rows, labels) for each in (split, lpg_jax.opposite(split)))
    np.testing.assert_array_equal(reverse, -margin)
    assert (margin > 0).any()
    assert (margin < 0).any()
    np.testing.assert_allclose(there + back, 2 * rows, rtol=1e-5, atol=1e-6)  # the norms are above eps
    assert not np.allclose(there, rows)


def test_classes_left_alone_stay_so():
    split = lpg_jax.opposite(lpg_jax.by_frequency([7] * 5))
    stats = lpg_jax.lpg(split, lpg_jax.fixed(0.1)).init(jnp.zeros(5)).stats
    np.testing.assert_array_equal(split(stats), 0)


def test_of_the_config():
    fields = default.lpg()
    plain = lpg_preset.split_from_config(fields, COUNTS)
    fields.opposite = True
    reverse = lpg_preset.split_from_config(fields, COUNTS)
    stats = lpg_jax.lpg(plain, lpg_jax.fixed(0.1)).init(jnp.zeros(5)).stats
    np.testing.assert_array_equal(reverse(stats), -plain(stats))


def test_no_split():
    with pytest.raises(TypeError, match=r"split=0\.5: must be a split, such as lpg_jax\.by_accuracy"):
        lpg_jax.opposite(0.5)
