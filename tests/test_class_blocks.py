"""Walking along the class axis in blocks: every column once, and the same result as the dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_jax
from lpg_jax.class_blocks import edit_blocks, sum_over_blocks

MANY = 3072  # three blocks


@pytest.mark.parametrize("num_classes", [1, 7, 1000, MANY, 4099])
def test_every_column_once(num_classes):
    rows = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (2, num_classes)), jnp.float32)
    seen = sum_over_blocks(lambda block, columns: jnp.zeros(num_classes).at[columns.reshape(-1)].add(1), rows)
    np.testing.assert_array_equal(seen, 1)
    weighted = sum_over_blocks(lambda block, columns: jnp.sum(block * columns, axis=(1, 2)), rows)
    np.testing.assert_array_equal(weighted, rows @ jnp.arange(num_classes, dtype=jnp.float32))
    np.testing.assert_array_equal(edit_blocks(lambda block: 2 * block + 1, rows), 2 * rows + 1)


def batch(dtype):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(12, MANY)) + 4 * np.eye(12, MANY)
    labels = np.array([0, 0, 5, 5, 5, 2000, 2000, 3071, 1, MANY, -1, 0])
    rows = np.array(jax.nn.softmax(logits) - jax.nn.one_hot(labels, MANY))
    rows[8], rows[11, 3] = 0, np.nan
    logits[3] = np.where(np.arange(MANY) == 7, logits[3, 5] + 1, logits[3])
    logits[4], logits[5, 100] = logits[4, 5], logits[5].max() + 1  # all tied with the label: class 0 is predicted
    return jnp.asarray(rows, dtype), jnp.asarray(labels, jnp.int32), jnp.asarray(logits, dtype)


def update(direction, dense_limit, dtype, mask):
    counts = np.arange(1, MANY + 1)[::-1]
    tx = lpg_jax.lpg(lpg_jax.by_frequency(counts), lpg_jax.fixed(0.3), direction=direction, dense_limit=dense_limit)
    rows, labels, logits = batch(dtype)
    step = jax.jit(lambda state: tx.update(rows, state, None, labels=labels, logits=logits, mask=mask))
    return step(tx.init(jnp.zeros(MANY)))


@pytest.mark.parametrize(
    ("direction", "dtype"),
    [("sample", "float32"), ("class_mean", "float32"), ("class_mean", "bfloat16"), ("class_scale", "float32")],
)
def test_above_the_limit_as_below(direction, dtype):
    mask = jnp.ones(12).at[6].set(0)
    rows, state = update(direction, 0, dtype, mask)
    dense_rows, dense_state = update(direction, MANY, dtype, mask)
    assert rows.dtype == dense_rows.dtype == dtype
    rtol = 1e-2 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(rows.astype(jnp.float32), dense_rows.astype(jnp.float32), rtol=rtol, atol=1e-7)
    assert not np.array_equal(rows[0], batch(dtype)[0][0])
    for name in ("class_accuracy", "class_seen"):
        np.testing.assert_array_equal(getattr(state.stats, name), getattr(dense_state.stats, name))
    np.testing.assert_allclose(state.sums.square_norm, dense_state.sums.square_norm, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 3e-19, 1e-30])
@pytest.mark.parametrize("direction", ["class_mean", "class_scale"])
def test_small_rows_keep_their_bound(direction, size):
    """Squares of such rows vanish in float32; their class means are as long as those of the dense form."""
    rows = size * jnp.asarray(np.random.default_rng(0).normal(size=(4, MANY)), jnp.float32)
    labels = jnp.array([0, 0, MANY - 1, 7])
    edited = []
    for dense_limit in (0, MANY):
        counts = np.arange(1, MANY + 1)
        tx = lpg_jax.lpg(lpg_jax.by_frequency(counts), lpg_jax.fixed(0.3), direction=direction, dense_limit=dense_limit)
        step = jax.jit(lambda rows, state, tx=tx: tx.update(rows, state, None, labels=labels, logits=rows)[0])
        edited.append(step(rows, tx.init(jnp.zeros(MANY))))
    np.testing.assert_allclose(*edited, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(edited[1]))))
    moved = np.linalg.norm(np.asarray(edited[0] - rows, np.float64), axis=-1)
    if direction == "class_mean":
        np.testing.assert_allclose(moved[:2], 0.3, rtol=1e-5)


def test_accuracy_is_that_of_argmax():
    _, labels, logits = batch("float32")
    accuracy = update("sample", 0, "float32", None)[1].stats.class_accuracy
    hits = (np.argmax(logits, axis=-1) == labels)[:11]  # the last row is not finite
    for label in (0, 1, 5, 2000, 3071):
        assert accuracy[label] == pytest.approx(hits[np.asarray(labels)[:11] == label].mean())


@pytest.mark.parametrize("direction", ["sample", "class_mean", "class_scale"])
def test_memory_is_a_few_arrays_of_the_size_of_the_logits(direction):
    tokens, num_classes = 256, 16384
    tx = lpg_jax.lpg(lpg_jax.by_frequency(np.arange(1, num_classes + 1)), lpg_jax.fixed(0.3), direction=direction)
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def loss(logits, labels, state):
        losses, state = loss_fn(logits, labels, state)
        return losses.mean(), state

    shapes = jax.ShapeDtypeStruct((tokens, num_classes), jnp.float32), jax.ShapeDtypeStruct((tokens,), jnp.int32)
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((num_classes,), jnp.float32))
    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*shapes, state).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2.5 * 4 * tokens * num_classes
