"""ISDA against its quadratic form in loops, NumPy's covariance and the expectation that it bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_jax
from lpg_jax.losses import cross_entropy, isda, logit_adjusted
from lpg_jax.losses.isda import IsdaState

CLASSES, FEATURES, BATCH, ABSENT = 4, 3, 9, 2
KINDS = ["diagonal", "full"]


@pytest.fixture(autouse=True)
def wide(strict):
    with jax.enable_x64(True):
        yield


def draw(seed=0, batch=BATCH):
    """Features, kernel, labels without class 2, and an exact covariance per class."""
    rng = np.random.default_rng(seed)
    features, kernel = rng.normal(size=(batch, FEATURES)), rng.normal(size=(FEATURES, CLASSES))
    labels = rng.choice([0, 1, 3], size=batch)
    roots = rng.normal(size=(CLASSES, FEATURES, FEATURES))
    return features, kernel, labels, roots @ roots.transpose(0, 2, 1)


def reference(logits, labels, kernel, sigma, lam):
    """z_j + (lam / 2) (w_j - w_y)' Sigma_y (w_j - w_y), entry by entry."""
    raised = np.array(logits)
    for i, y in enumerate(labels):
        for j in range(raised.shape[1]):
            difference = kernel[:, j] - kernel[:, y]
            raised[i, j] += lam / 2 * difference @ sigma[y] @ difference
    return raised


def ce(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def of_kind(sigma, kind):
    return np.diagonal(sigma, axis1=1, axis2=2) if kind == "diagonal" else sigma


def args(kernel, sigma, lam):
    return {"head_kernel": jnp.asarray(kernel), "class_covariance": jnp.asarray(sigma), "strength": lam}


def init(loss):
    return loss.init(CLASSES, FEATURES, jnp.float64)


@jax.jit
def feature_sums(state, features, labels, mask):
    """Both kinds: the state tells which."""
    return isda(10).sums(state, features=features, labels=labels, mask=mask)


@pytest.mark.parametrize("kind", KINDS)
def test_quadratic_form(kind):
    """The loss is cross-entropy at the raised logits; "diagonal" is "full" with the off-diagonal entries at 0."""
    features, kernel, labels, sigma = draw()
    loss, logits = isda(10, covariance=kind), features @ kernel + 0.3
    exact = np.stack([np.diag(np.diag(s)) for s in sigma]) if kind == "diagonal" else sigma
    expected = ce(reference(logits, labels, kernel, exact, 0.4), labels)
    y = jnp.asarray(labels)
    got = loss(jnp.asarray(logits), y, **args(kernel, of_kind(sigma, kind), 0.4))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(loss(jnp.asarray(logits), y, **args(kernel, exact, 0.4)), expected, atol=1e-12)
    assert np.abs(got - ce(logits, labels)).min() > 1e-3
    np.testing.assert_array_equal(loss(jnp.asarray(logits), y, **args(kernel, of_kind(sigma, kind), 0.0)),
                                  cross_entropy(jnp.asarray(logits), y))  # fmt: skip
    invalid = loss(jnp.asarray(logits), y.at[0].set(-1), **args(kernel, of_kind(sigma, kind), 0.4))
    assert invalid[0] == 0
    np.testing.assert_array_equal(invalid[1:], got[1:])


def test_upper_bound():
    """With phi + sqrt(lam) Sigma^(1/2) xi in the place of phi, the loss is log E exp(CE), hence no less than E CE
    (Jensen), which is no less than CE. Expectations by Gauss-Hermite quadrature in three dimensions."""
    features, kernel, labels, sigma = draw(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    xi = np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, FEATURES)
    weights = np.prod(np.stack(np.meshgrid(weights, weights, weights), -1), -1).reshape(-1) / np.sqrt(2 * np.pi) ** 3
    roots = np.linalg.cholesky(sigma)[labels]
    plain, loss = ce(features @ kernel, labels), isda(10, covariance="full")
    for lam in (0.5, 0.05):
        moved = features + np.sqrt(lam) * np.einsum("bde,ne->nbd", roots, xi)
        samples = ce(moved @ kernel, np.broadcast_to(labels, moved.shape[:2]))
        bound = loss(jnp.asarray(features @ kernel), jnp.asarray(labels), **args(kernel, sigma, lam))
        np.testing.assert_allclose(bound, np.log(weights @ np.exp(samples)), rtol=1e-6)
        assert (bound > weights @ samples + 1e-4).all()
        assert (weights @ samples > plain + 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_running_covariance(kind):
    """After batches of 9, 1 and 30 examples far from the origin: NumPy's mean and covariance of all of them."""
    loss = isda(100, covariance=kind)
    state, seen = init(loss), []
    for seed, batch in enumerate((9, 1, 30)):
        features, _, labels, _ = draw(seed, batch)
        features += 100 + 5 * labels[:, None]
        seen.append((features, labels))
        half = np.arange(batch) % 2 > 0
        sums = jax.tree.map(jnp.add, *(feature_sums(state, features, labels, part) for part in (half, ~half)))
        state = loss.commit(state, sums)
    features, labels = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    found = loss.loss_args(state, head_kernel=jnp.zeros((FEATURES, CLASSES)))
    for c in (0, 1, 3):
        own = features[labels == c]
        np.testing.assert_allclose(state.count[c], len(own))
        np.testing.assert_allclose(state.mean[c], own.mean(0), rtol=1e-12)
        expected = np.cov(own.T, bias=True)
        expected = np.diag(expected) if kind == "diagonal" else expected
        np.testing.assert_allclose(found["class_covariance"][c], expected, atol=1e-9)
    for leaf in (state.count, state.mean, found["class_covariance"]):
        np.testing.assert_array_equal(leaf[ABSENT], 0)
    np.testing.assert_allclose(found["strength"], 0.5 * 3 / 100, rtol=1e-12)


def test_no_digits_cancel():
    """In float32, at a distance of 1000 standard deviations, from the second batch on."""
    rng, loss = np.random.default_rng(3), isda(10)
    state = IsdaState(jnp.int32(0), jnp.zeros(1, jnp.float32), jnp.zeros((1, 2), jnp.float32),
                      jnp.zeros((1, 2), jnp.float32))  # fmt: skip
    batches = rng.normal(size=(20, 50, 2)).astype(np.float32) + 1000
    labels, mask = np.zeros(50, np.int32), np.ones(50, bool)
    state = state._replace(mean=jnp.asarray(batches[0, :1]))
    for batch in batches:
        state = loss.commit(state, feature_sums(state, batch, labels, mask))
    covariance = loss.loss_args(state, head_kernel=jnp.zeros((2, 1)))["class_covariance"]
    np.testing.assert_allclose(covariance[0], batches.reshape(-1, 2).astype(np.float64).var(0), rtol=1e-4)


def test_decay():
    """S <- decay S + (1 - decay) S_batch of raw sums, for the classes present; the others to the bit."""
    loss, decay = isda(10, decay=0.7), 0.7
    state, raw = init(loss), [np.zeros(CLASSES), np.zeros((CLASSES, FEATURES)), np.zeros((CLASSES, FEATURES))]
    for seed in range(3):
        features, _, labels, _ = draw(seed + 10)
        labels = np.where(labels == 3, 0, labels) if seed == 2 else labels
        before, state = state, loss.commit(state, feature_sums(state, features, labels, np.ones(BATCH, bool)))
        member = np.eye(CLASSES)[labels]
        present = member.sum(0) > 0
        for total, sums in zip(raw, (member.sum(0), member.T @ features, member.T @ features**2), strict=True):
            total[present] = decay * total[present] + (1 - decay) * sums[present]
    n = np.where(raw[0] > 0, raw[0], 1)[:, None]
    np.testing.assert_allclose(state.count, raw[0], atol=1e-14)
    np.testing.assert_allclose(state.mean, raw[1] / n, atol=1e-12)
    np.testing.assert_allclose(state.scatter / n, raw[2] / n - (raw[1] / n) ** 2, atol=1e-12)
    for new, old in zip(state[1:], before[1:], strict=True):
        np.testing.assert_array_equal(new[np.array([ABSENT, 3])], old[np.array([ABSENT, 3])])


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_out(kind):
    """Masked examples, labels outside [0, C), features with NaN or too large; a class of one example has Sigma = 0."""
    loss = isda(10, covariance=kind)
    features, _, labels, _ = draw(4)
    labels[:4] = [0, 1, 1, 3]
    clean = feature_sums(init(loss), features, labels, np.arange(BATCH) < 4)
    features[4:7], labels[7], labels[8] = [[np.nan] * 3, [0, np.inf, 0], [1e300] * 3], -1, CLASSES
    mask = np.ones(BATCH, bool)
    for got, expected in zip(feature_sums(init(loss), features, labels, mask), clean, strict=True):
        np.testing.assert_array_equal(got, expected)
    features[0], mask[0] = np.nan, False
    masked = feature_sums(init(loss), features, labels, mask)
    np.testing.assert_array_equal(masked.count, [0, 2, 0, 1])

    state = loss.commit(init(loss), clean)
    covariance = loss.loss_args(state, head_kernel=jnp.zeros((FEATURES, CLASSES)))["class_covariance"]
    np.testing.assert_allclose(covariance[np.array([0, 2, 3])], 0, atol=1e-15)
    assert np.abs(covariance[1]).max() > 0.01
    nothing = loss.commit(state, feature_sums(state, features, labels, np.zeros(BATCH, bool)))
    for new, old in zip(nothing[1:], state[1:], strict=True):
        np.testing.assert_array_equal(new, old)
        assert new.dtype == old.dtype
    assert nothing.step == 2


def test_strength_rises_and_stops():
    loss = isda(4, 0.8)
    state, found = init(loss), []
    for _ in range(6):
        found.append(float(loss.loss_args(state, head_kernel=jnp.zeros((FEATURES, CLASSES)))["strength"]))
        state = loss.commit(state, jax.tree.map(jnp.zeros_like, feature_sums(
            state, np.zeros((1, FEATURES)), np.zeros(1, int), np.ones(1, bool))))  # fmt: skip
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.6, 0.8, 0.8])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    """Through `perturbed`, from phi and W to the loss, as finite differences have it: W is reached through z and
    through the quadratic form. The covariance is a constant."""
    features, kernel, labels, sigma = draw(5)
    loss, tx = isda(10, covariance=kind), lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))
    apply, logit_state, sigma = lpg_jax.perturbed(loss, tx), tx.init(jnp.zeros(CLASSES)), of_kind(sigma, kind)
    y = jnp.asarray(labels)

    @jax.jit
    def value(phi, w, s):
        losses, _ = apply(phi @ w, y, logit_state, loss_args=args(w, s, 0.4))
        return losses.sum()

    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(features, kernel, sigma)
    np.testing.assert_array_equal(gradients[2], 0)
    rng, step, point = np.random.default_rng(5), 1e-6, [features, kernel, sigma]
    for k in (0, 1):
        direction = [np.zeros_like(x) for x in point]
        direction[k] = rng.normal(size=point[k].shape)
        ends = [value(*(x + sign * step * d for x, d in zip(point, direction, strict=True))) for sign in (1, -1)]
        np.testing.assert_allclose(np.vdot(gradients[k], direction[k]), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
    through_z = jax.grad(lambda w: loss(features @ w, y, **args(kernel, sigma, 0.4)).sum())(jnp.asarray(kernel))
    assert np.abs(gradients[1] - through_z).max() > 0.01
    rows = np.asarray(jax.nn.softmax(reference(features @ kernel, labels, kernel, sigma if kind == "full" else
                      np.stack([np.diag(s) for s in sigma]), 0.4)) - np.eye(CLASSES)[labels])  # fmt: skip
    np.testing.assert_allclose(gradients[0], rows @ kernel.T, atol=1e-12)


def test_one_batch_from_logits_of_features():
    """A step as a training loop has it: gradient of features and state, nothing of which flows into the sums."""
    features, kernel, labels, _ = draw(6)
    loss = isda(10, base=logit_adjusted([40, 30, 20, 10]))

    def objective(phi, state):
        state = loss.commit(state, loss.sums(state, features=phi, labels=labels, logits=None, key=None))
        found = loss.loss_args(state, head_kernel=jnp.asarray(kernel))
        return loss(phi @ kernel, jnp.asarray(labels), **found).sum() + state.mean.sum(), found

    gradient, found = jax.grad(objective, has_aux=True)(jnp.asarray(features), init(loss))
    sigma = np.stack([np.diag(s) for s in np.asarray(found["class_covariance"])])
    raised = reference(features @ kernel, labels, kernel, sigma, 0.05) + np.log([0.4, 0.3, 0.2, 0.1])
    p = np.exp(raised - raised.max(-1, keepdims=True))
    rows = p / p.sum(-1, keepdims=True) - np.eye(CLASSES)[labels]
    np.testing.assert_allclose(gradient, rows @ kernel.T, atol=1e-12)


ONE = jnp.zeros(1, jnp.int32)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: isda(0), r"total_steps=0: must be >= 1"),
        (lambda: isda(10, -0.5), r"strength=-0.5: must be >= 0"),
        (lambda: isda(10, covariance="low rank"), r"covariance='low rank': must be one of 'diagonal', 'full'"),
        (lambda: isda(10, decay=1.0), r"decay=1.0: must be >= 0 and < 1"),
        (lambda: isda(10).init(3), r"num_features=None: .* pass init\(num_classes, num_features\)"),
        (
            lambda: isda(10, covariance="full").init(1000, 2048),
            r"C=1000, D=2048 forms 4194304000 numbers: must be <= full_limit=67108864; use covariance='diagonal'",
        ),
        (lambda: isda(10).loss_args(init(isda(10))), r"head_kernel=None: .* pass head_kernel="),
        (lambda: isda(10).sums(init(isda(10)), labels=ONE), r"features=None: .* pass features="),
        (lambda: isda(10).sums(init(isda(10)), labels=ONE, features=jnp.ones((1, 2))), r"features.shape=\(1, 2\)"),
        (
            lambda: isda(10)(jnp.zeros((1, 4)), jnp.ones((1, 4)) / 4, **args(np.zeros((3, 4)), np.zeros((4, 3)), 0.1)),
            r"labels.shape=\(1, 4\): isda takes integer labels",
        ),
        (
            lambda: isda(10)(jnp.zeros((1, 4)), ONE, **args(np.zeros((4, 3)), np.zeros((4, 3)), 0.1)),
            r"head_kernel.shape=\(4, 3\): must be \(3, 4\)",
        ),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
