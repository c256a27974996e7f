"""`row_clip`, `row_noise`, `zero_sum`: operators that need no labels."""

import jax
import jax.numpy as jnp
import numpy as np
import operator_reference as reference
import optax
import pytest
from laws import BATCH, CLASSES, draw, gradient_rows

from lpg_jax import transforms
from lpg_jax.transforms.row_level import RowNoiseState

pytestmark = [pytest.mark.usefixtures("strict"), pytest.mark.slow]

ROW = jnp.zeros(CLASSES)


def once(tx, rows, **more):
    return tx.update(rows, tx.init(ROW), None, **more)[0]


# -- clip and projection ----------------------------------------------------------------------------------------------


def test_row_clip_is_its_equation():
    rows = gradient_rows(draw())
    expected = reference.row_clip(np.asarray(rows, np.float64), 0.7)
    edited = np.asarray(once(transforms.row_clip(0.7), rows))
    np.testing.assert_allclose(edited, expected, atol=1e-6)
    below = np.linalg.norm(rows, axis=1) <= 0.7
    assert 0 < below.sum() < BATCH
    np.testing.assert_array_equal(edited[below], rows[below])
    with pytest.raises(AssertionError):  # a fault: the batch is clipped as one vector
        np.testing.assert_allclose(once(optax.clip_by_global_norm(0.7), rows), expected, atol=1e-6)


def test_row_clip_of_a_row_whose_square_overflows():
    rows = jnp.array([[3e30, -4e30], [3e-30, -4e-30], [0.0, 0.0], [3e36, 3e36]])
    edited = transforms.row_clip(1.0).update(rows, optax.EmptyState())[0]
    np.testing.assert_allclose(edited[0], [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(edited[1:3], rows[1:3])
    np.testing.assert_allclose(edited[3], np.sqrt([0.5, 0.5]), rtol=1e-6)


def test_row_clip_by_a_schedule():
    tx = optax.inject_hyperparams(transforms.row_clip)(max_norm=optax.linear_schedule(1.0, 0.0, 2))
    rows, state = jnp.array([[3.0, 4.0]]), tx.init(jnp.zeros(2))
    sizes = []
    for _ in range(3):
        edited, state = tx.update(rows, state)
        sizes.append(float(jnp.linalg.norm(edited)))
    np.testing.assert_allclose(sizes, [1, 0.5, 0], atol=1e-6)


def test_zero_sum_is_the_projector():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, CLASSES)), jnp.float32)
    edited = once(transforms.zero_sum(), rows)
    np.testing.assert_allclose(edited, reference.zero_sum(np.asarray(rows, np.float64)), atol=1e-6)
    np.testing.assert_allclose(once(transforms.zero_sum(), edited), edited, atol=1e-6)
    np.testing.assert_allclose(once(transforms.zero_sum(), gradient_rows(draw())), gradient_rows(draw()), atol=1e-6)
    assert np.isfinite(once(transforms.zero_sum(), jnp.full((1, CLASSES), 3e36))).all()


def test_labels_are_needless_but_heeded():
    """Without labels every finite row is edited; with them, an ignored label lets its row pass."""
    rows, mask = jnp.ones((3, CLASSES)), jnp.array([True, False, True])
    for tx in (transforms.row_clip(0.1), transforms.zero_sum(), transforms.row_noise(0.1, key=0)):
        plain = once(tx, rows)
        assert np.all(np.abs(plain - rows) > 1e-6)
        edited = once(tx, rows, labels=jnp.array([-1, 0, 1]), mask=mask)
        np.testing.assert_array_equal(edited, jnp.stack([rows[0], jnp.zeros(CLASSES), plain[2]]))


# -- noise ------------------------------------------------------------------------------------------------------------


def noise(tx, steps=1, size=2000):
    rows, state, drawn = jnp.zeros((size, CLASSES)), tx.init(ROW), []
    for _ in range(steps):
        edited, state = tx.update(rows, state)
        drawn.append(np.asarray(edited))
    return drawn


def assert_standard(sample, stddev):
    """Mean and standard deviation within 4 standard errors; every row and entry its own."""
    error = stddev / np.sqrt(sample.size)
    assert abs(sample.mean()) < 4 * error
    assert abs(sample.std() - stddev) < 4 * error
    assert len(np.unique(sample)) > 0.99 * sample.size


def assert_independent(*samples):
    for i, a in enumerate(samples):
        for b in samples[:i]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


def test_noise_has_the_right_scale_and_no_other():
    sample = noise(transforms.row_noise(0.3, key=0))[0]
    assert_standard(sample, 0.3)
    for wrong in (0.28, 0.32):
        with pytest.raises(AssertionError):
            assert_standard(sample, wrong)
    np.testing.assert_array_equal(once(transforms.row_noise(0.0, key=0), gradient_rows(draw())), gradient_rows(draw()))


def test_same_seed_same_noise_and_no_repeats():
    """Keys in three forms give the same noise; steps and keys give independent noise."""
    first = noise(transforms.row_noise(1.0, key=7), steps=2)
    for key in (7, jax.random.key(7), jax.random.PRNGKey(7), np.int32(7)):
        np.testing.assert_array_equal(noise(transforms.row_noise(1.0, key=key), steps=2), first)
    other = noise(transforms.row_noise(1.0, key=8), steps=1)
    assert_independent(*first, *other)
    with pytest.raises(AssertionError):
        assert_independent(first[0], first[0])


def shards(tx, size=500):
    """The noise of two shards of an axis."""
    state = tx.init(ROW)
    rows = jnp.zeros((2, size, CLASSES))
    return jax.vmap(lambda rows: tx.update(rows, state, None, axis_name="batch")[0], axis_name="batch")(rows)


def test_devices_draw_different_noise():
    edited = shards(transforms.row_noise(1.0, key=0))
    assert_independent(*np.asarray(edited))
    trap = optax.with_extra_args_support(optax.add_noise(1.0, 0.0, key=0))
    with pytest.raises(AssertionError), jax.numpy_dtype_promotion("standard"):  # the trap this operator avoids
        assert_independent(*np.asarray(shards(trap)))


def test_every_seed_of_a_population_has_its_own_noise():
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(lambda key: transforms.row_noise(1.0, key).init(ROW))(keys)
    tx = transforms.row_noise(1.0, key=0)
    edited, new = jax.vmap(lambda state: tx.update(jnp.zeros((500, CLASSES)), state))(states)
    assert_independent(*np.asarray(edited))
    np.testing.assert_array_equal(new.key, states.key)
    np.testing.assert_array_equal(new.count, 1)


def test_donated_state_leaves_the_key_alone():
    tx = transforms.row_noise(1.0, key=jax.random.key(4))
    step = jax.jit(lambda state, rows: tx.update(rows, state), donate_argnums=0)
    rows = jnp.zeros((2, CLASSES))
    first, state = step(tx.init(ROW), rows)
    step(state, rows)
    again, state = step(tx.init(ROW), rows)
    np.testing.assert_array_equal(first, again)
    assert isinstance(state, RowNoiseState)


def test_zero_sum_noise_keeps_its_share():
    """Projection leaves (C - 1)/C of the variance."""
    tx = optax.chain(transforms.row_noise(1.0, key=0), transforms.zero_sum())
    sample = tx.update(jnp.zeros((2000, CLASSES)), tx.init(ROW))[0]
    np.testing.assert_allclose(np.sum(sample, axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(sample), (CLASSES - 1) / CLASSES, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: transforms.row_clip(-1.0), "max_norm=-1.0: must be >= 0"),
        (lambda: transforms.row_clip([1.0]), r"max_norm.shape=\(1,\): must be \(\), one number"),
        (lambda: transforms.row_noise(-0.1, key=0), "stddev=-0.1: must be >= 0"),
        (lambda: transforms.row_noise(np.nan, key=0), "stddev=nan: must be >= 0"),
        (lambda: transforms.row_noise(0.1, key=None), "key=None: must be an int seed or a key"),
        (lambda: transforms.row_noise(0.1, key=1.5), "key=1.5: must be an int seed or a key"),
        (lambda: once(transforms.row_clip(1.0), jnp.zeros([])), r"rows.shape=\(\): must be"),
        (
            lambda: once(transforms.row_clip(1.0), jnp.zeros((2, 3)), mask=jnp.ones(3)),
            r"mask.shape=\(3,\): must be \(2,\)",
        ),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
