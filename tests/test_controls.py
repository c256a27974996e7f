"""`equal_norm`, `random_split` and `watch_classes`."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import operator_reference as reference
import operators
import optax
import pytest
from laws import BATCH, CLASSES, COUNTS, draw, gradient_rows

import lpg_jax
from lpg_jax import transforms
from lpg_jax.transforms import monitor

pytestmark = [pytest.mark.usefixtures("strict"), pytest.mark.slow]

ROW = jnp.zeros(CLASSES)


def once(tx, d, rows=None, state=None, **more):
    rows, state = gradient_rows(d) if rows is None else rows, tx.init(ROW) if state is None else state
    return tx.update(rows, state, None, labels=d.labels, logits=d.logits, **more)


# -- equal_norm -------------------------------------------------------------------------------------------------------


def test_equal_norm_keeps_the_size_of_the_batch():
    """Rows of LPG, all scaled by the same factor, with the summed norm of the plain rows."""
    d, rows = draw(), np.asarray(gradient_rows(draw()), np.float64)
    lpg_rows = np.asarray(once(operators.lpg(), d)[0], np.float64)
    edited = np.asarray(once(transforms.equal_norm(operators.lpg()), d)[0], np.float64)
    np.testing.assert_allclose(reference.size(edited), reference.size(rows), rtol=1e-5)
    np.testing.assert_allclose(edited, lpg_rows * reference.size(rows) / reference.size(lpg_rows), atol=1e-6)
    assert abs(reference.size(lpg_rows) - reference.size(rows)) > 0.05
    wrong = lpg_rows * np.linalg.norm(rows) / np.linalg.norm(lpg_rows)
    with pytest.raises(AssertionError):  # a fault: the l2 norm of the whole batch
        np.testing.assert_allclose(reference.size(wrong), reference.size(rows), rtol=1e-5)


def test_equal_norm_keeps_the_direction():
    """Plain rows, all scaled by the same factor, with the summed norm of LPG's: the control of reading 13."""
    d, rows = draw(), np.asarray(gradient_rows(draw()), np.float64)
    lpg_rows = np.asarray(once(operators.lpg(), d)[0], np.float64)
    edited = np.asarray(once(transforms.equal_norm(operators.lpg(), keep="direction"), d)[0], np.float64)
    np.testing.assert_allclose(edited, rows * reference.size(lpg_rows) / reference.size(rows), atol=1e-6)


def test_equal_norm_undoes_a_scale_and_leaves_the_identity():
    d = draw()
    np.testing.assert_allclose(once(transforms.equal_norm(optax.scale(7.0)), d)[0], gradient_rows(d), rtol=1e-6)
    np.testing.assert_array_equal(once(transforms.equal_norm(optax.identity()), d)[0], gradient_rows(d))
    np.testing.assert_array_equal(once(transforms.equal_norm(optax.scale(0.0)), d)[0], 0)
    zeros = jnp.zeros((BATCH, CLASSES))
    np.testing.assert_array_equal(once(transforms.equal_norm(optax.scale(2.0), "direction"), d, zeros)[0], 0)


def test_a_wrapped_transformation_that_knows_no_nan_is_safe():
    d = draw()
    rows = gradient_rows(d).at[0, 0].set(jnp.nan)
    for tx in (transforms.equal_norm(optax.clip_by_global_norm(1.0)), transforms.watch_classes(optax.scale(2.0))):
        edited = once(tx, d, rows)[0]
        np.testing.assert_array_equal(edited[0], rows[0])
        assert np.isfinite(edited[1:]).all()


def test_equal_norm_goes_with_micro_batches():
    """It has no state of its own: statistics of the wrapped LPG are collected and committed."""
    d, tx = draw(), transforms.equal_norm(operators.lpg())
    state = tx.init(ROW)
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
    _, sums = loss_fn(d.logits, d.labels, state, commit=False)
    _, new = loss_fn(d.logits, d.labels, state)
    for a, b in zip(jax.tree.leaves(lpg_jax.commit(tx, state, sums)), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# -- random_split -----------------------------------------------------------------------------------------------------


def stats():
    return laws.warm(lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))).stats


@pytest.mark.parametrize(("share", "amplified"), [(0.0, 0), (0.4, 2), (0.5, 2), (0.7, 4), (1.0, 5)])
def test_random_split_has_its_share(share, amplified):
    margin = np.asarray(transforms.random_split(0, share, magnitude=0.25)(stats()))
    assert (margin > 0).sum() == amplified
    np.testing.assert_array_equal(np.abs(margin), 0.25)


def test_random_split_is_drawn_from_its_key():
    margins = [tuple(np.asarray(transforms.random_split(key)(stats())).tolist()) for key in range(20)]
    assert tuple(np.asarray(transforms.random_split(jax.random.key(3))(stats())).tolist()) == margins[3]
    assert len(set(margins)) > 5  # of the 10 choices of 2 out of 5
    assert np.all(np.abs(np.mean(np.array(margins) > 0, axis=0) - 0.4) < 0.35)  # no class is always in


def test_random_split_like_another():
    """As many classes amplified, with the same magnitudes, but other ones."""
    split = lpg_jax.by_frequency(COUNTS)
    margin = np.asarray(split(stats()))
    drawn = [np.asarray(transforms.random_split(key, like=split)(stats())) for key in range(5)]
    for other in drawn:
        np.testing.assert_array_equal(np.sort(other), np.sort(margin))
    assert any(np.any(other != margin) for other in drawn)
    tx = lpg_jax.lpg(transforms.random_split(1, like=lpg_jax.by_accuracy()), lpg_jax.fixed(0.3))
    state = laws.warm(tx)
    expected = np.sort(np.sign(lpg_jax.by_accuracy()(state.stats)))
    np.testing.assert_array_equal(np.sort(np.sign(state.class_margin)), expected)


def test_random_split_magnitude_per_class():
    magnitude = np.arange(1, CLASSES + 1) / 10
    np.testing.assert_allclose(np.abs(transforms.random_split(0, magnitude=magnitude)(stats())), magnitude, rtol=1e-6)


# -- watch_classes ----------------------------------------------------------------------------------------------------


def test_watch_sees_what_was_planted():
    """Known scale and rotation per class."""
    d, scale = draw(), jnp.asarray([2.0, 0.5, 1.0, 3.0, 0.1])
    rotated = jnp.roll(jnp.eye(CLASSES), 1, axis=0)

    def plant(rows, state, params=None, *, labels, **extra):
        return jnp.where((labels == 2)[:, None], rows @ rotated, rows * scale[labels][:, None]), state

    planted = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), plant)
    edited, state = once(transforms.watch_classes(planted, decay=0.0), d)
    rows = np.asarray(gradient_rows(d), np.float64)
    ratio, cosine = reference.ratio_and_cosine(rows, np.asarray(edited, np.float64), np.asarray(d.labels), CLASSES)
    np.testing.assert_allclose(state.class_gradient_ratio, ratio, rtol=1e-5)
    np.testing.assert_allclose(state.class_gradient_cosine, cosine, atol=1e-5)
    np.testing.assert_allclose(np.asarray(ratio)[[0, 1, 2]], [2, 0.5, 1], rtol=1e-5)
    assert cosine[2] < 0.9
    assert state.class_gradient_ratio[laws.ABSENT] == state.class_gradient_cosine[laws.ABSENT] == 1
    np.testing.assert_array_equal(edited, planted.update(gradient_rows(d), optax.EmptyState(), labels=d.labels)[0])


def test_watch_averages_products_and_keeps_absent_classes():
    """Ratios of running means; an absent class keeps its bits; decay=0 forgets."""
    scales = iter([2.0, 4.0, 1.0])
    tx = transforms.watch_classes(optax.stateless(lambda rows, params: rows * next(scales)), decay=0.5)
    rows, labels = jnp.array([[-1.0, 1.0], [0.5, -0.5]]), [jnp.array([0, 1]), jnp.array([0, 0]), jnp.array([1, 1])]
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(rows, state, None, labels=labels[0])
    np.testing.assert_allclose(state.class_gradient_ratio, [2, 2])
    _, new = tx.update(rows, state, None, labels=labels[1])
    plain = 0.5 * 2 + 0.5 * 0.125
    np.testing.assert_allclose(new.class_gradient_ratio[0], np.sqrt((0.5 * 8 + 0.5 * 16 * 0.125) / plain), rtol=1e-6)
    for before, after in zip(state[1:], new[1:], strict=True):
        np.testing.assert_array_equal(before[..., 1], after[..., 1])


def test_watch_edges():
    """m~ = 0: ratio and cosine 0; m = 0: both 1; a row that the watched tx breaks comes out, but is not watched."""
    rows, apart = jnp.array([[-1.0, 1.0], [1.0, -1.0]]), jnp.array([0, 1])
    for factor, labels, expected in ((0.0, apart, (0, 0)), (2.0, jnp.array([0, 0]), (1, 1)), (3.0, apart, (3, 1))):
        tx = transforms.watch_classes(optax.scale(factor))
        _, state = tx.update(rows, tx.init(jnp.zeros(2)), None, labels=labels)
        np.testing.assert_allclose((state.class_gradient_ratio[0], state.class_gradient_cosine[0]), expected, rtol=1e-6)
    breaking = optax.stateless(lambda rows, params: rows.at[1].set(jnp.nan))
    watched = transforms.watch_classes(breaking)
    edited, state = watched.update(rows, watched.init(jnp.zeros(2)), None, labels=jnp.array([0, 0]))
    assert np.isnan(edited[1]).all()
    np.testing.assert_allclose(state.class_gradient_ratio, 1)


def test_watch_inside_a_chain_and_by_name():
    """Rows are those of the watched transformation, and tree_get finds what it does inside a chain."""
    d, watched = draw(), transforms.watch_classes(operators.lpg())
    tx = optax.chain(transforms.row_clip(5.0), optax.named_chain(("watch", watched), ("half", optax.scale(0.5))))
    edited, state = once(tx, d)
    np.testing.assert_allclose(edited, once(operators.lpg(), d)[0] * 0.5, atol=1e-6)
    margin = np.asarray(optax.tree_utils.tree_get(state, "class_margin"))
    ratio = np.asarray(optax.tree_utils.tree_get(state, "class_gradient_ratio"))
    cosine = np.asarray(optax.tree_utils.tree_get(state, "class_gradient_cosine"))
    present = np.isin(np.arange(CLASSES), d.labels)
    np.testing.assert_array_equal(np.sign(ratio - 1)[present], np.sign(margin)[present])
    assert np.all(cosine[present] > 0.9)


def test_watch_many_classes_gives_the_same(monkeypatch):
    """Above the limit products come from a B x B matrix; soft targets too, and under axis_name."""
    d = draw()
    soft = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=BATCH), jnp.float32)
    tx = transforms.watch_classes(operators.lpg())

    def run(labels):
        return once(tx, d._replace(labels=labels), gradient_rows(d, labels))[1]

    def shard(labels):
        def one(rows, logits, labels):
            return tx.update(rows, tx.init(ROW), None, labels=labels, logits=logits, axis_name="batch")[1]

        parts = [array.reshape(2, -1, *array.shape[1:]) for array in (gradient_rows(d, labels), d.logits, labels)]
        return jax.tree.map(lambda leaf: leaf[1], jax.vmap(one, axis_name="batch")(*parts))

    dense = [run(d.labels), run(soft), run(d.labels), run(soft)]
    monkeypatch.setattr(monitor, "DENSE_LIMIT", 0)
    pairwise = [run(d.labels), run(soft), shard(d.labels), shard(soft)]
    for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(pairwise), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


IDENTITY = optax.identity()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: transforms.equal_norm(None), TypeError, "tx=None: must be an optax transformation"),
        (
            lambda: transforms.equal_norm(IDENTITY, "size"),
            ValueError,
            "keep='size': must be one of 'norm', 'direction'",
        ),
        (lambda: transforms.random_split(None), ValueError, "key=None: must be an int seed or a key"),
        (lambda: transforms.random_split(0, 1.5), ValueError, "share=1.5: must be >= 0 and <= 1"),
        (lambda: transforms.random_split(0, [0.5]), ValueError, r"share.shape=\(1,\): must be \(\), one number"),
        (lambda: transforms.random_split(0, magnitude=-1.0), ValueError, "magnitude=-1.0: must be >= 0"),
        (lambda: transforms.random_split(0, magnitude=[1, 2])(stats()), ValueError, r"magnitude.shape=\(2,\): must be"),
        (lambda: transforms.random_split(0, like=3), TypeError, "like=3: must be a split"),
        (lambda: transforms.watch_classes("lpg"), TypeError, "tx='lpg': must be an optax transformation"),
        (lambda: transforms.watch_classes(IDENTITY, 1.0), ValueError, "decay=1.0: must be >= 0 and < 1"),
        (lambda: transforms.watch_classes(IDENTITY, [0.1]), ValueError, r"decay.shape=\(1,\): must be \(\), one"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_watch_needs_labels_that_fit():
    tx = transforms.watch_classes(IDENTITY)
    with pytest.raises(ValueError, match=r"labels=None: pass tx.update"):
        tx.update(jnp.zeros((1, 2)), tx.init(jnp.zeros(2)))
    with pytest.raises(ValueError, match="last axis must be 3"):
        tx.update(jnp.zeros((1, 2)), tx.init(jnp.zeros(3)), None, labels=jnp.array([0]))
