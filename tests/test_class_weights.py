"""`class_balanced` and `class_level_reweighting` against their equations."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import operator_reference as reference
import optax
import pytest
from laws import CLASSES, COUNTS, draw, gradient_rows

import lpg_jax
from lpg_jax import transforms
from lpg_jax.transforms.class_weights import balanced_weights

pytestmark = pytest.mark.usefixtures("strict")

ROW = jnp.zeros(CLASSES)


def wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def once(tx, d, rows=None, **more):
    rows = gradient_rows(d) if rows is None else rows
    return tx.update(rows, tx.init(ROW), None, labels=d.labels, logits=d.logits, **more)[0]


# -- class-balanced weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999])
def test_class_balanced_is_its_equation(beta):
    d = draw()
    rows = gradient_rows(d)
    expected = reference.class_balanced(*wide(rows), np.asarray(d.labels), COUNTS.tolist(), beta)
    np.testing.assert_allclose(once(transforms.class_balanced(COUNTS, beta), d), expected, rtol=1e-5)
    with pytest.raises(AssertionError):  # a fault: frequent instead of rare classes
        np.testing.assert_allclose(once(transforms.class_balanced(COUNTS[::-1], beta), d), expected, rtol=1e-5)


def test_class_balanced_is_the_gradient_of_the_weighted_loss():
    d, weights = draw(1), balanced_weights(COUNTS, 0.99)
    gradient = jax.grad(lambda z: jnp.sum(lpg_jax.losses.cross_entropy(z, d.labels) * weights[d.labels]))(d.logits)
    np.testing.assert_allclose(once(transforms.class_balanced(COUNTS, 0.99), d), gradient, atol=1e-6)


def test_class_balanced_limits():
    """beta = 0, and beta near 0: identity; beta near 1, and beta = 1: inverse frequency. Weights sum to C."""
    d = draw()
    np.testing.assert_array_equal(once(transforms.class_balanced(COUNTS, 0.0), d), gradient_rows(d))
    np.testing.assert_allclose(balanced_weights(COUNTS, 1e-9), 1, atol=1e-8)
    inverse = 1 / COUNTS
    inverse = inverse * CLASSES / inverse.sum()
    np.testing.assert_allclose(balanced_weights(COUNTS, 1.0), inverse, rtol=1e-12)
    np.testing.assert_allclose(balanced_weights(COUNTS, 1 - 1e-9), inverse, rtol=1e-6)
    np.testing.assert_allclose(balanced_weights(COUNTS, 0.999).sum(), CLASSES)
    np.testing.assert_allclose(balanced_weights([500, 200, 100], 0.9), 1, atol=1e-4)  # the trap of methods.md


def test_class_without_examples_is_left_alone():
    weights = balanced_weights([100, 0, 10], 1.0)
    np.testing.assert_allclose(weights, [2 / 11, 1, 20 / 11])


def test_deferred_start():
    """Plain rows for start_step updates, weighted ones from then on; a traced start works as well."""
    d, rows = draw(), gradient_rows(draw())

    def run(start):
        tx = transforms.class_balanced(COUNTS, 0.99, start_step=start)
        state, acted = tx.init(ROW), []
        for _ in range(4):
            edited, state = tx.update(rows, state, None, labels=d.labels)
            acted.append(jnp.any(edited != rows))
        return jnp.stack(acted)

    np.testing.assert_array_equal(run(2), [False, False, True, True])
    np.testing.assert_array_equal(run(0), True)
    np.testing.assert_array_equal(jax.jit(run)(3), [False, False, False, True])
    assert transforms.class_balanced(COUNTS).init(ROW) == optax.EmptyState()


@pytest.mark.parametrize("driver", ["perturbed", "tap"])
def test_class_balanced_in_micro_batches(driver):
    """Both halves and an empty commit give the rows of the whole batch, as the docstring says."""
    d, tx = draw(), transforms.class_balanced(COUNTS, 0.99)
    state = tx.init(ROW)

    def loss(logits, labels, sink):
        if driver == "tap":
            logits = lpg_jax.tap(tx, "sum")(logits, labels, state, sink)
            return lpg_jax.losses.cross_entropy(logits, labels).sum(), sink
        losses, sums = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)(logits, labels, state, commit=False)
        return losses.sum(), sums

    halves, both = [], jax.jit(jax.grad(loss, has_aux=True))
    for part in (slice(0, 6), slice(6, None)):
        gradient, sums = both(d.logits[part], d.labels[part], lpg_jax.zero_sums(state))
        assert lpg_jax.commit(tx, state, sums) == state
        halves.append(gradient)
    np.testing.assert_allclose(jnp.concatenate(halves), once(tx, d), rtol=1e-5, atol=1e-7)


def test_class_balanced_beside_a_schedule():
    """The schedule's count goes on with commit, which no sums tell the number of classes."""
    schedule = optax.inject_hyperparams(optax.scale)(step_size=optax.linear_schedule(1.0, 0.0, 10))
    tx = optax.chain(transforms.class_balanced(COUNTS, 0.99), schedule)
    assert int(lpg_jax.commit(tx, tx.init(ROW), (), num_classes=CLASSES)[1].count) == 1


def test_soft_targets_get_the_mean_weight():
    d = draw()
    tx, weights = transforms.class_balanced(COUNTS, 0.99), balanced_weights(COUNTS, 0.99)
    soft = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=laws.BATCH), jnp.float32)
    rows = gradient_rows(d, soft)
    edited = tx.update(rows, tx.init(ROW), None, labels=soft)[0]
    np.testing.assert_allclose(edited, rows * np.asarray(soft @ weights)[:, None], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([3, -1],), r"class_counts\[1\]=-1: must be >= 0"),
        (([3, np.nan],), r"class_counts\[1\]=nan: must be >= 0"),
        (([0, 0],), "must have a class with examples"),
        (([[1, 2]],), r"class_counts.shape=\(1, 2\): must be \(C,\)"),
        ((["a", "b"],), "must be .C,. numbers"),
        (([1, 2], 1.5), "beta=1.5: must be >= 0 and <= 1"),
        (([1, 2], -0.1), "beta=-0.1: must be >= 0"),
        (([1, 2], 0.9, -1), "start_step=-1: must be >= 0"),
        (([1, 2], 0.9, [1, 2]), r"start_step.shape=\(2,\): must be \(\), one number"),
    ],
)
def test_class_balanced_errors(arguments, text):
    with pytest.raises(ValueError, match=text):
        transforms.class_balanced(*arguments)


def test_wrong_length_and_missing_labels():
    tx = transforms.class_balanced([1, 2, 3])
    with pytest.raises(ValueError, match=r"class_counts.shape=\(3,\): must be \(5,\)"):
        tx.init(ROW)
    with pytest.raises(ValueError, match="last axis must be 3"):
        tx.update(jnp.zeros((2, 5)), tx.init(jnp.zeros(3)), None, labels=jnp.zeros(2, jnp.int32))
    for blind in (tx, transforms.class_level_reweighting()):
        with pytest.raises(ValueError, match=r"labels=None: pass tx.update"):
            blind.update(jnp.zeros((2, 3)), blind.init(jnp.zeros(3)))
    with pytest.raises(ValueError, match="must be concrete"):
        jax.jit(lambda beta: transforms.class_balanced([1, 2], beta).init(jnp.zeros(2)))(0.9)


# -- GDW --------------------------------------------------------------------------------------------------------------


def random_weights(seed=0):
    return np.random.default_rng(seed).uniform(1e-3, 10, size=(laws.BATCH, CLASSES))


def test_reweighting_is_its_equation():
    d, weights = draw(), random_weights()
    edited = once(transforms.class_level_reweighting(), d, class_weights=jnp.asarray(weights, jnp.float32))
    expected = reference.class_level_reweighting(*wide(d.logits), np.asarray(d.labels), weights)
    np.testing.assert_allclose(edited, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(edited, axis=1), 0, atol=1e-5)
    with pytest.raises(AssertionError):  # a fault: the label's own weight is used
        np.testing.assert_allclose(gradient_rows(d) * weights, expected, rtol=1e-4, atol=1e-6)


def test_uniform_weights_scale_the_row():
    """w_ij = c off the label gives c h, whatever w_iy is [V]."""
    d = draw()
    weights = jnp.full((laws.BATCH, CLASSES), 2.5) + 7 * jax.nn.one_hot(d.labels, CLASSES)
    np.testing.assert_allclose(
        once(transforms.class_level_reweighting(), d, class_weights=weights), 2.5 * gradient_rows(d), atol=1e-6
    )


def test_saturated_label_and_scaled_rows():
    """p_y -> 1 gives no 0/0, and a row scaled before stays scaled."""
    logits = jnp.array([[200.0, 0.0, 0.0], [20.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    rows = jax.nn.softmax(logits) - jax.nn.one_hot(jnp.zeros(3, jnp.int32), 3)
    tx, labels = transforms.class_level_reweighting(), jnp.zeros(3, jnp.int32)
    weights = jnp.array([[1.0, 2.0, 1e6]] * 3)
    edited = tx.update(rows, optax.EmptyState(), None, labels=labels, class_weights=weights)[0]
    np.testing.assert_array_equal(edited[0], 0)
    assert np.isfinite(edited).all()
    np.testing.assert_allclose(-edited[1:, 0], np.sum(edited[1:, 1:], axis=1), rtol=1e-5)
    scaled = tx.update(rows * 0.1, optax.EmptyState(), None, labels=labels, class_weights=weights)[0]
    np.testing.assert_allclose(scaled, 0.1 * edited, rtol=1e-5)


def test_gradient_in_the_weights_is_zero_sum_consistent():
    """d(u . h~)/dw_ij = p_ij (u_ij - u_iy) for j != y, and 0 for j = y: GDW's controller with u = -(lr/B) J v [V]."""
    d, weights = draw(), jnp.asarray(random_weights(), jnp.float32)
    u = jnp.asarray(np.random.default_rng(1).normal(size=weights.shape), jnp.float32)
    gradient = jax.grad(lambda w: jnp.sum(u * once(transforms.class_level_reweighting(), d, class_weights=w)))(weights)
    p, own = jax.nn.softmax(d.logits), jnp.take_along_axis(u, d.labels[:, None], axis=1)
    np.testing.assert_allclose(gradient, p * (u - own), atol=1e-6)
    np.testing.assert_array_equal(gradient[jnp.arange(laws.BATCH), d.labels], 0)


def test_controller_gradient_by_one_jvp():
    """The derivative of a meta loss at a virtual SGD step, in the weights, is -(lr/B) p_ij ((J v)_j - (J v)_y) [V]."""
    d, lr = draw(2), 0.3
    meta, tx, number = draw(3), transforms.class_level_reweighting(), laws.BATCH

    def meta_loss(kernel):
        return jnp.mean(lpg_jax.losses.cross_entropy(meta.features @ kernel, meta.labels))

    logits, pull = jax.vjp(lambda kernel: d.features @ kernel, d.head_kernel)
    rows = gradient_rows(d._replace(logits=logits))

    def virtual(weights):
        edited = tx.update(rows, optax.EmptyState(), None, labels=d.labels, class_weights=weights)[0]
        return d.head_kernel - lr * pull(edited / number)[0]

    weights = jnp.asarray(random_weights(2), jnp.float32)
    by_autodiff = jax.grad(lambda w: meta_loss(virtual(w)))(weights)
    direction = jax.grad(meta_loss)(virtual(weights))
    tangent = d.features @ direction  # J v: the logits are linear in the kernel
    own = jnp.take_along_axis(tangent, d.labels[:, None], axis=1)
    np.testing.assert_allclose(by_autodiff, -(lr / number) * jax.nn.softmax(logits) * (tangent - own), atol=1e-7)


def test_soft_targets_mix_the_labels():
    """h~ of a mixture is the mixture of h~ over its labels."""
    d, weights, share = draw(), jnp.asarray(random_weights(), jnp.float32), 0.3
    tx, other = transforms.class_level_reweighting(), (d.labels + 1) % CLASSES
    hot = [jax.nn.one_hot(labels, CLASSES) for labels in (d.labels, other)]
    soft = (1 - share) * hot[0] + share * hot[1]
    parts = [once(tx, d._replace(labels=labels), gradient_rows(d, h), class_weights=weights)
             for labels, h in zip((d.labels, other), hot, strict=True)]  # fmt: skip
    edited = once(tx, d._replace(labels=soft), gradient_rows(d, soft), class_weights=weights)
    np.testing.assert_allclose(edited, (1 - share) * parts[0] + share * parts[1], atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (None, "class_weights=None: pass tx.update"),
        (np.ones(CLASSES), r"class_weights.shape=\(5,\): must be \(14, 5\), to match rows"),
        (-np.ones((laws.BATCH, CLASSES)), r"class_weights\[0\]=.*: must be >= 0 and finite"),
        (np.full((laws.BATCH, CLASSES), np.nan), r"class_weights\[0\]=.*: must be >= 0 and finite"),
    ],
)
def test_reweighting_errors(weights, text):
    with pytest.raises(ValueError, match=text):
        once(transforms.class_level_reweighting(), draw(), class_weights=weights)


def test_commit_has_no_weights():
    """Alone there is nothing to commit; beside a transformation that has sums it misses its weights."""
    tx = transforms.class_level_reweighting()
    assert lpg_jax.commit(tx, tx.init(ROW), ()) == optax.EmptyState()
    chained = optax.chain(tx, lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(0.3)))
    state = chained.init(ROW)
    with pytest.raises(ValueError, match="class_weights=None"):
        lpg_jax.commit(chained, state, lpg_jax.zero_sums(state))
