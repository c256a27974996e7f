"""Running statistics are ratios of running sums (method.md, readings 8, 9)."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import lpg_jax

pytestmark = pytest.mark.usefixtures("strict")


def variances(make, counts=(500, 5), steps=300, batch=64, seed=0):
    """Var_c after training-like batches in which class c has share counts[c] and every class the same true variance."""
    rng = np.random.default_rng(seed)
    tx = make(0.1)
    state = tx.init(jnp.zeros(len(counts)))
    step = laws.compiled(tx)
    share = np.array(counts) / np.sum(counts)
    for _ in range(steps):
        labels = rng.choice(len(counts), size=batch, p=share)
        rows = 0.3 + rng.normal(size=(batch, len(counts)))
        rows, labels = jnp.asarray(rows, jnp.float32), jnp.asarray(labels, jnp.int32)
        _, state = step(rows, state, {"labels": labels, "logits": rows})
    return np.asarray(state.stats.class_grad_variance)


def equal_variance_whatever_the_count(make):
    """Equal true variance at class counts 500 and 5 gives equal Var within 10 %."""
    frequent, rare = np.mean([variances(make, seed=seed) for seed in range(4)], axis=0)
    np.testing.assert_allclose(rare, frequent, rtol=0.1)
    np.testing.assert_allclose(frequent, 2, rtol=0.1)


@pytest.mark.parametrize("limit", [4096, 0], ids=["dense", "pairs"])
def test_equal_variance_whatever_the_count(limit):
    equal_variance_whatever_the_count(laws.closed(lpg_jax.by_gradient_variance, dense_limit=limit, decay=0.995))


@pytest.mark.parametrize("split", [lpg_jax.by_accuracy, lpg_jax.by_gradient_variance])
def test_equal_statistics_change_nothing(split):
    """Ten classes with the same rows in another order each: whatever the last bit of a sum says, all margins are 0."""
    rng = np.random.default_rng(0)
    classes, each = 10, 7
    rows = rng.normal(size=(each, classes)).astype(np.float32) * 0.3
    everyone = np.concatenate([np.roll(rows[rng.permutation(each)], c, axis=1) for c in range(classes)])
    labels = np.repeat(np.arange(classes), each)
    hits = np.tile(np.arange(each) % 3 == 0, classes)
    logits = np.eye(classes)[np.where(hits, labels, (labels + 1) % classes)]
    tx = lpg_jax.lpg(split(), lpg_jax.fixed(0.3))
    state = tx.init(jnp.zeros(classes))
    for _ in range(5):
        order = rng.permutation(classes * each)
        arguments = {"labels": jnp.asarray(labels[order]), "logits": jnp.asarray(logits[order], jnp.float32)}
        edited, state = laws.compiled(tx)(jnp.asarray(everyone[order]), state, arguments)
        np.testing.assert_array_equal(edited, everyone[order])
        np.testing.assert_array_equal(state.class_margin, 0)
    assert np.ptp(np.asarray(state.stats.class_accuracy)) < 1e-5
    assert float(state.stats.class_accuracy[0]) == pytest.approx(3 / 7, abs=1e-5)


def test_rounding_of_a_small_variance_is_no_margin():
    """A zero-initialised head: every row of a class is the same, Var is 0 but for rounding, and nothing moves."""
    classes, logits = 10, jnp.zeros((128, 10))
    labels = jnp.asarray(np.random.default_rng(0).integers(0, classes, 128), jnp.int32)
    rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, classes)
    tx = lpg_jax.lpg(lpg_jax.by_gradient_variance(), lpg_jax.fixed(0.3))
    state = tx.init(jnp.zeros(classes))
    for _ in range(3):
        edited, state = laws.compiled(tx)(rows, state, {"labels": labels, "logits": logits})
        laws.equal(edited, rows)
        np.testing.assert_array_equal(state.class_margin, 0)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.03, 0.01])
def test_small_equal_variances_change_nothing(spread):
    """The same rows around a common mean, in another order for each class."""
    rng = np.random.default_rng(1)
    rows = (0.3 + spread * 0.3 * rng.normal(size=(7, 10))).astype(np.float32)
    everyone = np.concatenate([rows[rng.permutation(7)] for _ in range(10)])
    labels = jnp.asarray(np.repeat(np.arange(10), 7), jnp.int32)
    tx = lpg_jax.lpg(lpg_jax.by_gradient_variance(), lpg_jax.fixed(0.3))
    _, state = laws.compiled(tx)(jnp.asarray(everyone), tx.init(jnp.zeros(10)), {"labels": labels,
                                 "logits": jnp.asarray(everyone)})  # fmt: skip
    np.testing.assert_array_equal(state.class_margin, 0)


def test_sums_over_many_rows_keep_their_precision():
    """Pixels: 300,000 rows in one batch, where adding one by one in float32 would lose bits."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300_000, 2)).astype(np.float32)
    labels = jnp.asarray(rng.integers(0, 2, len(rows)), jnp.int32)
    tx = lpg_jax.lpg(lpg_jax.by_gradient_variance(), lpg_jax.fixed(0.3))
    _, state = laws.compiled(tx)(jnp.asarray(rows), tx.init(jnp.zeros(2)), {"labels": labels, "logits": rows})
    exact = [rows[labels == c].astype(np.float64).var(axis=0).sum() for c in (0, 1)]
    np.testing.assert_allclose(state.stats.class_grad_variance, exact, rtol=2e-6)


def test_refresh_recomputes_at_the_end_of_a_window():
    """With refresh_every=3 statistics, margin and eps change at steps 3 and 6 only, from plain sums of that window."""
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(0.5), lpg_jax.varied(0.1, 0.5), refresh_every=3)
    state = tx.init(jnp.zeros(laws.CLASSES))
    seen, hits, counts = [state], np.zeros(laws.CLASSES), np.zeros(laws.CLASSES)
    for step in range(6):
        d = laws.draw(step, absent=step % 2)
        if step >= 3:
            right = np.asarray(jnp.argmax(d.logits, axis=-1)) == np.asarray(d.labels)
            hits += np.bincount(np.asarray(d.labels)[right], minlength=laws.CLASSES)
            counts += np.bincount(d.labels, minlength=laws.CLASSES)
        _, state = laws.update(tx, d, state)
        seen.append(state)
    for k in (1, 2, 4, 5):
        laws.equal(seen[k].stats, seen[k - 1].stats)
        laws.equal(seen[k].class_margin, seen[k - 1].class_margin)
        assert np.any(np.asarray(seen[k].sums.count) > 0)
    for k in (3, 6):
        assert np.any(np.asarray(seen[k].class_margin) != np.asarray(seen[k - 1].class_margin))
        np.testing.assert_array_equal(seen[k].sums.count, 0)
    np.testing.assert_allclose(seen[6].stats.class_accuracy, hits / counts, atol=1e-6)
    np.testing.assert_allclose(seen[6].class_margin, 0.5 - hits / counts, atol=1e-6)
    np.testing.assert_allclose(seen[6].class_epsilon, 0.1 + 0.5 * np.abs(0.5 - hits / counts), atol=1e-6)


def test_class_absent_from_a_window_keeps_its_values():
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(0.5), lpg_jax.fixed(0.1), refresh_every=2, direction="class_mean",
                     source="running")  # fmt: skip
    state = laws.warm(tx, steps=2, absent=None)
    later = state
    for seed in (50, 51):
        _, later = laws.update(tx, laws.draw(seed), later)
    for old, new in zip(jax.tree.leaves(state.stats), jax.tree.leaves(later.stats), strict=True):
        laws.equal(old[laws.ABSENT], new[laws.ABSENT])
    assert np.any(np.asarray(state.stats.class_accuracy) != np.asarray(later.stats.class_accuracy))


def test_warmup_delays_everything_but_the_statistics():
    tx = lpg_jax.lpg(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3), warmup=2)
    state, d = tx.init(jnp.zeros(laws.CLASSES)), laws.draw()
    for step in range(4):
        edited, new = laws.update(tx, d, state)
        changed = bool(np.any(np.asarray(edited) != np.asarray(laws.gradient_rows(d))))
        assert changed == (step >= 2)
        assert np.any(np.asarray(state.class_margin) != 0) == (step >= 2)
        assert np.any(np.asarray(new.sums.count) > 0)
        state = new


def test_micro_batches_equal_one_batch():
    """Summed statistics of micro-batches, committed once, are those of the batch; so are "sample" and running rows."""
    for name in ("sample_accuracy", "class_mean_running", "pgd_identity"):
        options = {"source": "running"} if name == "pgd_identity" else {}
        make = laws.pgd(**options) if options else laws.TABLE[name]
        tx = make(0.3)
        state, d = laws.warm(tx), laws.draw(60)
        loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

        def losses(logits, labels, state=state, loss_fn=loss_fn, **more):
            value, out = loss_fn(logits, labels, state, **more)
            return value.sum(), out

        gradient, whole = jax.jit(jax.grad(losses, has_aux=True))(d.logits, d.labels)
        of_part = jax.jit(jax.grad(functools.partial(losses, commit=False), has_aux=True))
        half, sums, pieces = laws.BATCH // 2, None, []
        for part in (slice(half), slice(half, None)):
            piece, more = of_part(d.logits[part], d.labels[part])
            pieces.append(piece)
            sums = more if sums is None else jax.tree.map(jnp.add, sums, more)
        np.testing.assert_allclose(jnp.concatenate(pieces), gradient, atol=2e-6)
        committed = lpg_jax.commit(tx, state, sums)
        for left, right in zip(jax.tree.leaves(committed), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(left, right, atol=2e-6)
