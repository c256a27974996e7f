"""What holds for every example-level operator (GR, IMAE, PHuber, OGC): a factor per row, read off p_y."""

import chex
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

from lpg_jax import transforms

pytestmark = pytest.mark.usefixtures("strict")
OPERATORS = {
    "gr": transforms.gradient_rescaling(8.0, 0.5),
    "gr_batch": transforms.gradient_rescaling(12.0, 2.0, "batch"),
    "imae": transforms.imae(),
    "phuber": transforms.probability_clip(4.0),
    "ogc": transforms.optimized_gradient_clipping(1.05, queue_size=8, refit_every=2),
    "ogc_focal": transforms.optimized_gradient_clipping(1.05, "focal", queue_size=8, refit_every=1),
}
PER_EXAMPLE = [name for name in OPERATORS if name != "gr_batch"]  # a row's result does not depend on the other rows
operator = pytest.mark.parametrize("name", OPERATORS)


def warm(tx):
    return laws.warm(tx, steps=4)


@operator
def test_acts_along_the_row(name):
    """A row becomes a non-negative multiple of itself, so that sum_j h~_ij = 0, and some row changes."""
    tx, d = OPERATORS[name], laws.draw(1)
    rows = np.asarray(laws.gradient_rows(d), np.float64)
    edited = np.asarray(laws.update(tx, d, warm(tx))[0], np.float64)
    factor = np.sum(edited * rows, -1, keepdims=True) / np.sum(rows * rows, -1, keepdims=True)
    assert (factor >= 0).all()
    assert factor.max() > 0
    assert np.abs(factor - 1).max() > 0.05
    np.testing.assert_allclose(edited, factor * rows, atol=1e-6 * max(1, factor.max()))
    np.testing.assert_allclose(edited.sum(-1), 0, atol=1e-5)


@operator
def test_everything_masked(name):
    """Rows 0; of the state only the step moves, also where a refit is due."""
    tx, d = OPERATORS[name], laws.draw(7)
    state = laws.warm(tx, steps=3)
    edited, new = laws.update(tx, d, state, mask=jnp.zeros(laws.BATCH, bool))
    laws.equal(edited, jnp.zeros_like(edited))
    if isinstance(new, transforms.OgcState):
        laws.equal(new, state._replace(step=state.step + 1))


@operator
def test_strange_rows_pass(name):
    """Rows and logits with NaN or inf, huge rows and rows of no class pass and count nowhere."""
    tx, d = OPERATORS[name], laws.draw(8)
    rows = laws.gradient_rows(d).at[0, 1].set(jnp.nan).at[1, 0].set(jnp.inf).at[2].set(1e30)
    labels = d.labels.at[3].set(-1).at[4].set(laws.CLASSES)
    logits = d.logits.at[5, 2].set(jnp.nan).at[6, 0].set(jnp.inf)
    state = warm(tx)
    edited, new = laws.update(tx, d, state, rows, labels=labels, logits=logits)
    laws.equal(edited[:7], rows[:7])
    keep = np.arange(7, laws.BATCH)
    short = laws.Draw(d.logits[keep], d.labels[keep], d.features[keep], d.head_kernel)
    edited_short, new_short = laws.update(tx, short, state)
    np.testing.assert_allclose(edited[7:], edited_short, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(new, new_short, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


@operator
def test_label_ruled_out(name):
    """A logit of -inf at the label: p_y = 0, a finite row, and no loss of inf in the state."""
    tx, d = OPERATORS[name], laws.draw(9)
    logits = d.logits.at[0, d.labels[0]].set(-jnp.inf)
    edited, new = laws.update(tx, d, warm(tx), laws.gradient_rows(d._replace(logits=logits)), logits=logits)
    assert np.isfinite(edited).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
    if name.startswith(("ogc", "phuber")):
        laws.equal(edited[0], jnp.zeros(laws.CLASSES))


@operator
def test_membership(name):
    """One-hot floats and ints equal integer labels; `class_labels` speaks for smoothed targets; a mixture of two
    labels has the mixed probability, whatever the order."""
    tx, d = OPERATORS[name], laws.draw(10)
    state, hard = warm(tx), jax.nn.one_hot(d.labels, laws.CLASSES)
    expected = laws.update(tx, d, state)
    chex.assert_trees_all_close(laws.update(tx, d, state, labels=hard), expected, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(laws.update(tx, d, state, labels=hard.astype(jnp.int32)), expected, atol=1e-6)
    smoothed = laws.update(tx, d, state, labels=0.9 * hard + 0.1 / laws.CLASSES, class_labels=d.labels)
    laws.equal(smoothed, expected)
    mixed = 0.7 * hard + 0.3 * jnp.roll(hard, 1, axis=-1)
    logits = jnp.log(jnp.sum(mixed * jax.nn.softmax(d.logits), -1))
    two = jnp.stack([logits, jnp.log1p(-jnp.exp(logits))], -1)  # two classes, the first as likely as the mixture
    zeros = jnp.zeros(laws.BATCH, jnp.int32)
    pair = jnp.stack([-jnp.ones(laws.BATCH), jnp.ones(laws.BATCH)], -1)
    rows = jnp.concatenate([pair, jnp.zeros((laws.BATCH, laws.CLASSES - 2))], -1)
    soft, _ = laws.update(tx, d, state, rows, labels=mixed)
    plain, _ = tx.update(pair, state, None, labels=zeros, logits=two)
    np.testing.assert_allclose(soft[:, :2], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_a_row_does_not_depend_on_the_others(name):
    tx, d = OPERATORS[name], laws.draw(15)
    state = warm(tx)
    edited, _ = laws.update(tx, d, state)
    alone, _ = laws.update(tx, laws.Draw(*(part[:3] for part in d[:3]), d.head_kernel), state)
    np.testing.assert_allclose(alone, edited[:3], rtol=1e-6)


@operator
def test_arguments_that_do_not_fit(name):
    tx, d = OPERATORS[name], laws.draw(16)
    state, rows = tx.init(jnp.zeros(laws.CLASSES)), laws.gradient_rows(laws.draw(16))
    with pytest.raises(ValueError, match=r"labels=None: pass tx.update"):
        tx.update(rows, state, None, logits=d.logits)
    with pytest.raises(ValueError, match=r"logits=None: pass tx.update"):
        tx.update(rows, state, None, labels=d.labels)
    with pytest.raises(ValueError, match=r"logits.shape=\(13, 5\): must be \(14, 5\)"):
        tx.update(rows, state, None, labels=d.labels, logits=d.logits[1:])
    with pytest.raises(ValueError, match=r"mask.shape=\(3,\): must be \(14,\)"):
        tx.update(rows, state, None, labels=d.labels, logits=d.logits, mask=jnp.ones(3))
    with pytest.raises(ValueError, match=r"labels\[0\] sums to 2"):
        tx.update(rows, state, None, labels=2 * jax.nn.one_hot(d.labels, laws.CLASSES), logits=d.logits)
