"""The table of transformations and the laws of method.md, section 5, that every entry must pass.

A law is a function of a factory `make(epsilon) -> tx`; it raises AssertionError where it does not hold. `test_laws.py`
runs the laws over the table, `test_faults.py` shows that each of them can fail.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lpg_jax

CLASSES, BATCH, FEATURES = 5, 14, 3
ABSENT = 3  # a class that the batches of `batch` leave out
COUNTS = np.array([400, 200, 60, 20, 8])  # head classes 0, 1 dampened, 2 near the threshold, 3, 4 amplified

# -- the table --------------------------------------------------------------------------------------------------------

frequency = functools.partial(lpg_jax.by_frequency, COUNTS)


def closed(split=frequency, **options):
    return functools.cache(lambda epsilon: lpg_jax.lpg(split(), lpg_jax.varied(epsilon, epsilon / 2), **options))


def pgd(**options):
    return functools.cache(
        lambda epsilon: lpg_jax.lpg_pgd(frequency(), lpg_jax.varied(epsilon, epsilon / 2), **options)
    )


TABLE = {
    "sample": closed(),
    "sample_accuracy": closed(lpg_jax.by_accuracy),
    "sample_variance": closed(lpg_jax.by_gradient_variance),
    "sample_unclamped": closed(clamp=False),
    "sample_many_classes": closed(dense_limit=0),
    "class_mean": closed(direction="class_mean"),
    "class_mean_running": closed(direction="class_mean", source="running"),
    "class_mean_many_classes": closed(direction="class_mean", dense_limit=0),
    "class_scale": closed(direction="class_scale"),
    "class_scale_running": closed(direction="class_scale", source="running"),
    "class_scale_many_classes": closed(direction="class_scale", dense_limit=0),
    "refreshed": closed(lpg_jax.by_accuracy, refresh_every=2),
    "pgd_identity": pgd(),
    "pgd_head": pgd(metric="head", steps=2),
    "pgd_head_zero_sum": pgd(metric="head", steps=4, zero_sum=True),
    "pgd_head_running": pgd(metric="head", source="running", step_size=0.1),
    "pgd_sign_zero_sum": pgd(metric="head", step_rule="sign", zero_sum=True),
    "pgd_sign": pgd(metric="head", step_rule="sign", clamp=False),
}
UNCLAMPED = {"sample_unclamped", "pgd_sign"}
NOT_ZERO_SUM = {"pgd_head", "pgd_head_running", "pgd_sign"}
BOUNDED = [name for name in TABLE if "class_scale" not in name and name != "sample_unclamped"]


class Draw(NamedTuple):
    """A batch of a linear classifier, for which every metric has what it needs."""

    logits: jax.Array
    labels: jax.Array
    features: jax.Array
    head_kernel: jax.Array


def draw(seed=0, batch=BATCH, classes=CLASSES, absent=ABSENT, dtype=np.float32):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(batch, FEATURES))
    kernel = rng.normal(size=(FEATURES, classes))
    labels = rng.choice([c for c in range(classes) if c != absent], size=batch)
    logits = features @ kernel + rng.normal(size=(batch, classes))
    return Draw(*(jnp.asarray(a, dtype) for a in (logits,)), jnp.asarray(labels, jnp.int32),
                jnp.asarray(features, dtype), jnp.asarray(kernel, dtype))  # fmt: skip


def gradient_rows(d, labels=None):
    labels = d.labels if labels is None else labels
    return jax.nn.softmax(d.logits) - (
        labels if labels.ndim == d.logits.ndim else jax.nn.one_hot(labels, d.logits.shape[-1])
    )


def keywords(d, **more):
    return {"labels": d.labels, "logits": d.logits, "features": d.features, "head_kernel": d.head_kernel, **more}


@functools.cache
def compiled(tx):
    return jax.jit(lambda rows, state, arguments: tx.update(rows, state, None, **arguments))


def update(tx, d, state, rows=None, **more):
    """One program for batches with a mask and without; `mask=None` compiles another one, that leaves it out."""
    rows = gradient_rows(d) if rows is None else rows
    return compiled(tx)(rows, state, keywords(d, **{"mask": jnp.ones(rows.shape[:-1], bool), **more}))


def warm(tx, steps=3, classes=CLASSES, absent=ABSENT):
    """A state that has seen a few batches, so that every split has margins."""
    state = tx.init(jnp.zeros(classes))
    for seed in range(100, 100 + steps):
        _, state = update(tx, draw(seed, classes=classes, absent=absent), state)
    return state


def norms(rows):
    return np.linalg.norm(np.asarray(rows, np.float64), axis=-1)


def sign_of(state, labels):
    return np.sign(np.asarray(state.class_margin))[np.asarray(labels)]


def class_mean(rows, labels, c):
    return np.asarray(rows, np.float64)[np.asarray(labels) == c].mean(axis=0)


def equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# -- the laws ---------------------------------------------------------------------------------------------------------


def identity_at_zero_epsilon(make):
    """eps = 0: bit-identical to the plain gradient."""
    d, state = draw(), warm(make(0.3))
    assert np.any(np.asarray(state.class_margin))
    equal(update(make(0.0), d, state, mask=None)[0], gradient_rows(d))


def acts(make):
    """With eps > 0 some rows grow and some shrink, by the sign of their margin: no law is passed by doing nothing."""
    tx, d = make(0.3), draw(1)
    state = warm(tx)
    edited, _ = update(tx, d, state)
    assert {-1.0, 1.0} <= set(sign_of(state, d.labels))
    for c in np.unique(d.labels):
        change = norms(class_mean(edited, d.labels, c)) - norms(class_mean(gradient_rows(d), d.labels, c))
        assert np.sign(np.round(change, 6)) == np.sign(state.class_margin[c])


def bounded_by_epsilon(make):
    """||h~_i - h_i|| <= eps_c per row."""
    tx, d = make(0.3), draw(2)
    state = warm(tx)
    edited, _ = update(tx, d, state)
    epsilon = np.asarray(state.class_epsilon)[np.asarray(d.labels)]
    assert (norms(edited - gradient_rows(d)) <= epsilon * (1 + 1e-5) + 1e-6).all()


def margins_before_the_batch(make):
    """The perturbation is that of the margins and bounds in the state handed over, which the batch then changes:
    other logits beside the same rows change the new statistics, but not the rows."""
    tx, d = make(0.3), draw(3)
    state, rows = warm(tx), gradient_rows(d)
    edited, new = update(tx, d, state, rows)
    other, other_new = update(tx, d, state, rows, logits=-d.logits)
    equal(edited, other)
    assert np.any(np.asarray(new.stats.class_accuracy) != np.asarray(other_new.stats.class_accuracy))


def batch_permutation(make):
    """Permuting the batch permutes the rows and leaves the statistics equal, to float rounding."""
    tx, d = make(0.3), draw(4)
    order = np.random.default_rng(0).permutation(BATCH)
    state = warm(tx)
    edited, new = update(tx, d, state)
    shuffled = Draw(d.logits[order], d.labels[order], d.features[order], d.head_kernel)
    edited_shuffled, new_shuffled = update(tx, shuffled, state)
    np.testing.assert_allclose(edited_shuffled, edited[order], atol=2e-6)
    chex.assert_trees_all_close(new_shuffled, new, atol=1e-6)


def jit_agrees(make):
    """jit = no jit."""
    tx, d = make(0.3), draw(5)
    state = warm(tx)
    plain = tx.update(gradient_rows(d), state, None, **keywords(d))
    chex.assert_trees_all_close(update(tx, d, state), plain, atol=1e-6)


def absent_class_untouched(make):
    """A class absent from the batch keeps its statistics to the bit."""
    tx = make(0.3)
    state = new = warm(tx, steps=4, absent=None)
    for seed in (6, 7):  # a window of two steps for the entry that refreshes every second step
        _, new = update(tx, draw(seed), new)
    equal(*(jax.tree.map(lambda leaf: leaf[ABSENT], (s.sums, s.stats)) for s in (state, new)))
    assert np.any(np.asarray(new.stats.class_grad_variance) != np.asarray(state.stats.class_grad_variance))


def dtype_kept(make):
    """float16 and bfloat16 rows come back in their dtype, computed in float32: only input and output are rounded;
    statistics stay float32."""
    tx, d = make(0.3), draw(7)
    state = warm(tx)
    for dtype in (jnp.float16, jnp.bfloat16):
        rows = gradient_rows(d).astype(dtype)
        edited, new = update(tx, d, state, rows)
        exact, new_exact = update(tx, d, state, rows.astype(jnp.float32))
        assert edited.dtype == dtype
        equal((edited, new), (exact.astype(dtype), new_exact))
        assert {leaf.dtype for leaf in jax.tree.leaves(new)} <= {jnp.dtype(t) for t in ("float32", "int32", "bool")}


def state_is_stable(make):
    """Same tree, shapes and dtypes before and after update."""
    tx = make(0.3)
    state = tx.init(jnp.zeros(CLASSES))
    _, new = update(tx, draw(8), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    assert jax.tree.structure(state) == jax.tree.structure(new)
    assert int(new.step) == int(state.step) + 1


def masked_rows_do_not_matter(make):
    """A masked row comes back 0 and changes nothing else, whatever it holds."""
    tx, d = make(0.3), draw(9)
    state, mask = warm(tx), jnp.arange(BATCH) % 3 > 0
    rows = gradient_rows(d)
    edited, new = update(tx, d, state, rows, mask=mask)
    wild = d._replace(
        logits=jnp.where(mask[:, None], d.logits, jnp.nan),
        features=jnp.where(mask[:, None], d.features, jnp.inf),
        labels=jnp.where(mask, d.labels, 77),
    )
    edited_wild, new_wild = update(tx, wild, state, jnp.where(mask[:, None], rows, jnp.nan), mask=mask)
    equal((edited, new), (edited_wild, new_wild))
    assert np.all(np.asarray(edited)[~np.asarray(mask)] == 0)
    keep = np.asarray(mask)
    short = Draw(d.logits[keep], d.labels[keep], d.features[keep], d.head_kernel)
    edited_short, new_short = update(tx, short, state, mask=None)
    np.testing.assert_allclose(edited[keep], edited_short, atol=2e-6)
    chex.assert_trees_all_close(new, new_short, atol=1e-6)


def strange_rows_pass(make):
    """Rows with NaN or inf and rows of no class pass unchanged and stay out of the statistics."""
    tx, d = make(0.3), draw(10)
    rows = gradient_rows(d).at[0, 1].set(jnp.nan).at[1, 0].set(jnp.inf).at[2].set(1e30)
    labels = d.labels.at[3].set(-1).at[4].set(CLASSES)
    state = warm(tx)
    edited, new = update(tx, d, state, rows, labels=labels)
    equal(edited[:5], rows[:5])
    keep = np.arange(5, BATCH)
    short = Draw(d.logits[keep], d.labels[keep], d.features[keep], d.head_kernel)
    _, new_short = update(tx, short, state, mask=None)
    chex.assert_trees_all_close(new, new_short, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def one_hot_is_integer(make):
    """Float one-hot membership equals integer labels, to rounding."""
    tx, d = make(0.3), draw(11)
    state = warm(tx)
    soft = update(tx, d, state, labels=jax.nn.one_hot(d.labels, CLASSES))
    chex.assert_trees_all_close(soft, update(tx, d, state), atol=2e-6)


def leading_axes_are_batch(make):
    """[B, T, C] with labels and mask [B, T] is [B T, C]."""
    tx, d = make(0.3), draw(12)
    state, mask = warm(tx), jnp.arange(BATCH) != 5
    flat = update(tx, d, state, mask=mask)

    def fold(array):
        return array.reshape(2, BATCH // 2, *array.shape[1:])

    folded = Draw(fold(d.logits), fold(d.labels), fold(d.features), d.head_kernel)
    edited, new = update(tx, folded, state, mask=fold(mask))
    np.testing.assert_allclose(edited, fold(flat[0]), atol=1e-6)
    chex.assert_trees_all_close(new, flat[1], atol=1e-6)


def forward(params, d):
    """Logits of a network of two layers; `shift` [B, C] gets the rows as they are for its gradient."""
    return jnp.tanh(d.features @ params["hidden"]) @ params["head"] + params["shift"]


def make_params():
    rng = np.random.default_rng(2)
    shapes = {"hidden": (FEATURES, 4), "head": (4, CLASSES), "shift": (BATCH, CLASSES)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@functools.cache
def rule(tx):
    """((weighted sum of losses, new state), gradient by the parameters) through `perturbed`."""
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def total(params, d, state, weights, mask):
        extra = {"features": d.features, "head_kernel": d.head_kernel, "mask": mask}
        losses, new = loss_fn(forward(params, d), d.labels, state, **extra)
        return weights @ losses, new

    return jax.jit(jax.value_and_grad(total, has_aux=True))


EVERYONE = np.ones(BATCH, bool)


def reduction_does_not_matter(make):
    """The parameter gradient of sum / B is that of the sum, over B; the state is the same (reading 1)."""
    tx, d, ones = make(0.3), draw(13), jnp.ones(BATCH)
    state = warm(tx)
    (_, new), gradient = rule(tx)(make_params(), d, state, ones, EVERYONE)
    (_, new_scaled), scaled = rule(tx)(make_params(), d, state, ones / 64, EVERYONE)
    equal(gradient, jax.tree.map(lambda leaf: leaf * 64, scaled))
    equal(new, new_scaled)


def surrogate_gradient(make):
    """The parameter gradient is that of l_i + stop_gradient(h~_i - h_i) . z_i, and of an explicit two-stage vjp, for
    random cotangents; the value is the plain loss."""
    tx, d, params = make(0.3), draw(14), make_params()
    state, weights = warm(tx), jnp.asarray(np.random.default_rng(1).normal(size=BATCH), jnp.float32)
    logits, pull = jax.vjp(lambda p: forward(p, d), params)
    seen = d._replace(logits=logits)
    rows = gradient_rows(seen)
    edited, expected = update(tx, seen, state, rows)

    def by_surrogate(params):
        logits = forward(params, d)
        twist = jnp.sum((edited - rows) * logits, axis=-1)
        losses = lpg_jax.losses.cross_entropy(logits, d.labels) + twist - jax.lax.stop_gradient(twist)
        return weights @ losses

    (value, new), gradient = rule(tx)(params, d, state, weights, EVERYONE)
    surrogate_value, surrogate = jax.value_and_grad(by_surrogate)(params)
    np.testing.assert_allclose(value, surrogate_value, rtol=1e-6)
    chex.assert_trees_all_close(gradient, surrogate, atol=1e-5)
    chex.assert_trees_all_close(gradient, pull(weights[:, None] * edited)[0], atol=1e-5)
    chex.assert_trees_all_close(new, expected, atol=1e-6)
    plain = weights @ lpg_jax.losses.cross_entropy(logits, d.labels)
    np.testing.assert_allclose(value, plain, rtol=1e-6)


def keeps_zero_sum(make):
    """sum_j h~_ij = 0."""
    tx, d = make(0.3), draw(15)
    edited, _ = update(tx, d, warm(tx))
    np.testing.assert_allclose(np.sum(np.asarray(edited, np.float64), axis=-1), 0, atol=2e-6)


def tap_agrees(make):
    """`tap` equals `perturbed` to rounding for cross-entropy: value, gradient and committed state."""
    tx, d, params = make(0.3), draw(16), make_params()
    state, extra = warm(tx), {"features": d.features, "head_kernel": d.head_kernel}
    mask = np.arange(BATCH) % 5 > 0
    number, tapped = float(mask.sum()), lpg_jax.tap(tx, "mean")

    def by_tap(params, sink):
        logits = tapped(forward(params, d), d.labels, state, sink, mask=mask, **extra)
        return jnp.sum(jnp.where(mask, lpg_jax.losses.cross_entropy(logits, d.labels), 0)) / number

    (value, new), gradient = rule(tx)(params, d, state, jnp.ones(BATCH) / number, mask)
    sink = lpg_jax.zero_sums(state)
    tap_value, (tap_gradient, sums) = jax.jit(jax.value_and_grad(by_tap, argnums=(0, 1)))(params, sink)
    np.testing.assert_allclose(value, tap_value, rtol=1e-6)
    chex.assert_trees_all_close(gradient, tap_gradient, atol=1e-6)
    chex.assert_trees_all_close(lpg_jax.commit(tx, state, sums), new, atol=1e-6)


def class_permutation(make_permuted):
    """Renaming the classes permutes the result. `make_permuted(epsilon, order)` permutes what the split knows."""
    d, order = draw(17), np.random.default_rng(3).permutation(CLASSES)
    rank = np.argsort(order)
    tx, renamed_tx = make_permuted(0.3, np.arange(CLASSES)), make_permuted(0.3, order)
    state, renamed_state = tx.init(jnp.zeros(CLASSES)), renamed_tx.init(jnp.zeros(CLASSES))
    for seed in (17, 18):
        d = draw(seed)
        renamed = Draw(d.logits[:, order], jnp.asarray(rank)[d.labels], d.features, d.head_kernel[:, order])
        edited, state = update(tx, d, state)
        edited_renamed, renamed_state = update(renamed_tx, renamed, renamed_state)
        np.testing.assert_allclose(edited_renamed, edited[:, order], atol=2e-5)
        np.testing.assert_allclose(renamed_state.class_margin, state.class_margin[order], atol=1e-6)


def composes(make):
    """chain under scan, remat and donation, and named_chain under vmap over seeds, give the same as a plain loop."""
    tx, half = make(0.3), optax.scale(0.5)
    chained, named = optax.chain(tx, half), optax.named_chain(("lpg", tx), ("half", half))
    draws = [draw(seed) for seed in range(20, 23)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
    rows, states = [], [tx.init(jnp.zeros(CLASSES))]
    for d in draws:
        edited, state = update(tx, d, states[-1])
        rows.append(edited / 2)
        states.append(state)

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, stacked):
        def body(state, d):
            edit = jax.checkpoint(lambda s, d: chained.update(gradient_rows(d), s, None, **keywords(d)))
            edited, state = edit(state, d)
            return state, edited

        return jax.lax.scan(body, state, stacked)

    state, scanned = scan(chained.init(jnp.zeros(CLASSES)), stacked)
    chex.assert_trees_all_close(state[0], states[-1], atol=1e-6)
    np.testing.assert_allclose(scanned, jnp.stack(rows), atol=1e-6)

    fresh = named.init(jnp.zeros(CLASSES))
    seeds = jax.tree.map(lambda *leaves: jnp.stack(leaves), fresh, type(fresh)(fresh, lpg=states[1]))
    pair = jax.tree.map(lambda leaf: leaf[:2], stacked)
    mapped, new = jax.jit(jax.vmap(lambda s, d: named.update(gradient_rows(d), s, None, **keywords(d))))(seeds, pair)
    np.testing.assert_allclose(mapped, jnp.stack(rows[:2]), atol=1e-6)
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states[1:3])
    chex.assert_trees_all_close(new["lpg"], expected, atol=1e-6)

    for field in ("class_margin", "class_epsilon", "class_accuracy", "class_grad_variance"):
        for composed, plain in ((state, states[-1]), (new, expected)):
            found = optax.tree_utils.tree_get(composed, field)
            np.testing.assert_allclose(found, getattr(plain, field, None) if hasattr(plain, field)
                                       else getattr(plain.stats, field), atol=1e-6)  # fmt: skip


GENERAL_LAWS = (
    identity_at_zero_epsilon, acts, margins_before_the_batch, batch_permutation, jit_agrees, absent_class_untouched,
    dtype_kept, state_is_stable, masked_rows_do_not_matter, strange_rows_pass, one_hot_is_integer,
    leading_axes_are_batch, reduction_does_not_matter, surrogate_gradient, tap_agrees, composes,
)  # fmt: skip
