"""SAM, ASAM, GSAM, LookSAM against closed forms in NumPy, optax.contrib.sam, and what defines each of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import lpg_jax
from lpg_jax.descent import SharpnessState, asam, ascend, gsam, looksam, sam

pytestmark = pytest.mark.usefixtures("strict")
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(5, 5))
CURVATURE, CENTRE, START = ROOT @ ROOT.T / 3, RNG.normal(size=5), RNG.normal(size=5)
MEMBERS = {"sam": sam(0.3), "asam": asam(0.3), "gsam": gsam(0.3), "looksam": looksam(0.3, every=3)}


@pytest.fixture
def wide(strict):
    with jax.enable_x64(True):
        yield


def tree(vector, dtype=None):
    """The parameters of the quadratic, over two leaves of different rank."""
    vector = jnp.asarray(vector, dtype)
    return {"kernel": vector[:4].reshape(2, 2), "bias": vector[4:]}


def flat(params):
    return np.concatenate([np.ravel(params["kernel"]), np.ravel(params["bias"])]).astype(np.float64)


@jax.jit
def quadratic(params):
    """Gradient function of (w - c)' A (w - c) / 2."""
    vector = jnp.concatenate([params["kernel"].reshape(-1), params["bias"]])
    wide = jnp.float64 if vector.dtype == jnp.float64 else jnp.float32
    slope = jnp.asarray(CURVATURE, wide) @ (vector.astype(wide) - jnp.asarray(CENTRE, wide))
    return tree(slope, vector.dtype), jnp.sum(vector)


def plain(point):
    return CURVATURE @ (point - CENTRE)


def sam_reference(point, rho):
    slope = plain(point)
    return plain(point + rho * slope / np.linalg.norm(slope))


def across(vector, axis):
    return vector - (vector @ axis) / (axis @ axis) * axis


def first(method, params, gradient_fn=quadratic):
    return method.gradient(gradient_fn, params, method.init(params))


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_closed_forms_on_a_quadratic():
    with jax.enable_x64(True):
        params, clean = tree(START), plain(START)
        ascended = sam_reference(START, 0.3)
        found = {name: flat(first(method, params)[0]) for name, method in MEMBERS.items()}
        np.testing.assert_allclose(found["sam"], ascended, rtol=1e-12)
        np.testing.assert_allclose(
            found["sam"], clean + 0.3 * CURVATURE @ clean / np.linalg.norm(clean), rtol=1e-12
        )  # Eq. 2, exact here: g + rho H g / ||g||
        np.testing.assert_allclose(found["gsam"], ascended - 0.4 * across(clean, ascended), rtol=1e-12)
        stretch = np.abs(START) + 0.01
        step = 0.3 * stretch**2 * clean / np.linalg.norm(stretch * clean)
        np.testing.assert_allclose(found["asam"], plain(START + step), rtol=1e-12)
        np.testing.assert_array_equal(found["looksam"], found["sam"])
        assert all(np.abs(found[name] - clean).max() > 0.01 for name in found)


@pytest.mark.usefixtures("wide")
def test_equals_optax():
    """`optax.contrib.sam`, opaque: the same steps, as long as the gradient is not 0."""
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    theirs, ours = optax.contrib.sam(optax.sgd(0.1, 0.9), climb, opaque_mode=True), optax.sgd(0.1, 0.9)
    method = sam(0.3)
    left = right = tree(START)
    state, opt_state, sharp_state = theirs.init(left), ours.init(right), method.init(right)
    for _ in range(4):
        delta, state = theirs.update(quadratic(left)[0], state, left, grad_fn=lambda params, _: quadratic(params)[0])
        left = optax.apply_updates(left, delta)
        gradient, _, sharp_state = method.gradient(quadratic, right, sharp_state)
        delta, opt_state = ours.update(gradient, opt_state, right)
        right = optax.apply_updates(right, delta)
    np.testing.assert_allclose(flat(left), flat(right), rtol=1e-11)
    assert int(sharp_state.step) == 4


@pytest.mark.parametrize("make", [sam, asam, gsam, looksam])
def test_small_radius(make):
    """rho = 0 is the plain gradient to the bit; otherwise the change is of first order in rho."""
    params = tree(START, jnp.float32)
    np.testing.assert_array_equal(flat(first(make(0.0, **({"alpha": 0.0} if make is gsam else {})), params)[0]),
                                  flat(quadratic(params)[0]))  # fmt: skip
    with jax.enable_x64(True):
        params = tree(START)
        change = [flat(first(make(rho), params)[0]) - plain(START) for rho in (1e-3, 1e-4)]
        np.testing.assert_allclose(change[0], 10 * change[1], rtol=1e-2, atol=1e-8)


def test_gsam_shrinks_the_gap_and_leaves_the_perturbed_loss():
    """Here SAM's gradient is exactly that of L_p = L + rho ||g||, with gap h = rho ||g||: among two steps that differ
    in the orthogonal part alone, L_p is the same to first order and h is lower by length times ||g_across||^2."""

    def losses(point):
        gap = 0.3 * np.linalg.norm(plain(point))
        return (point - CENTRE) @ plain(point) / 2 + gap, gap

    with jax.enable_x64(True):
        change = flat(first(gsam(0.3, alpha=1.0), tree(START))[0]) - flat(first(sam(0.3), tree(START))[0])
    length = 1e-4
    perturbed, gap = (after - before for after, before in zip(losses(START - length * change), losses(START),
                                                             strict=True))  # fmt: skip
    assert gap == pytest.approx(-length * (change @ change), rel=1e-2)
    assert abs(perturbed) < 0.01 * abs(gap)


def network(params, inputs):
    hidden = jnp.maximum(inputs @ params["in"] + params["bias"][None], 0)
    return hidden @ params["out"]


def test_asam_is_invariant_to_rescaling():
    """A ReLU layer scaled up and the next one down are the same function: at eta = 0 the same rise of the loss, and the
    same function at the ascended point; SAM's differ."""
    with jax.enable_x64(True):
        inputs, targets = (jnp.asarray(RNG.normal(size=(7, width))) for width in (3, 2))
        shapes = {"in": (3, 4), "bias": (4,), "out": (4, 2)}
        left = {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}
        right = {"in": 5 * left["in"], "bias": 5 * left["bias"], "out": left["out"] / 5}

        @functools.partial(jax.jit, static_argnums=1)
        def outputs(params, eta):
            slope = jax.grad(lambda p: jnp.mean((network(p, inputs) - targets) ** 2))(params)
            return network(ascend(params, slope, 0.1, eta), inputs)

        before = network(left, inputs)
        np.testing.assert_allclose(network(right, inputs), before, rtol=1e-9)
        np.testing.assert_allclose(outputs(right, 0.0), outputs(left, 0.0), rtol=1e-9)
        assert np.abs(outputs(left, 0.0) - before).max() > 0.01
        assert np.abs(outputs(right, None) - outputs(left, None)).max() > 0.01


def test_the_radius_is_that_of_the_ball():
    """||eps|| = rho (SAM), ||eps / T|| = rho (ASAM), whatever the scale of the gradient, to its last exponent."""
    params = tree(START, jnp.float32)
    for scale in (1.0, 1e-30, 1e30):
        slope = tree(scale * plain(START), jnp.float32)
        step = flat(ascend(params, slope, 0.3)) - flat(params)
        assert np.linalg.norm(step) == pytest.approx(0.3, rel=1e-5)
        step = flat(ascend(params, slope, 0.3, 0.01)) - flat(params)
        assert np.linalg.norm(step / (np.abs(START) + 0.01)) == pytest.approx(0.3, rel=1e-5)


# -- LookSAM ----------------------------------------------------------------------------------------------------------


def test_looksam_splits_and_uses_again():
    """g_s = part along g + g_v with g_v . g = 0; in between g + alpha ||g|| / ||g_v|| g_v of the last look."""
    with jax.enable_x64(True):
        method, points = looksam(0.3, alpha=0.7, every=3), [START + 0.1 * index for index in range(5)]
        state, kept = method.init(tree(START)), None
        for index, point in enumerate(points):
            found, _, state = method.gradient(quadratic, tree(point), state)
            clean = plain(point)
            if index % 3 == 0:
                expected = sam_reference(point, 0.3)
                kept = across(expected, clean)
                assert abs(kept @ clean) < 1e-12
                assert flat(found) @ clean / (clean @ clean) > 1  # along g it is steeper
            else:
                assert kept is not None
                expected = clean + 0.7 * np.linalg.norm(clean) / np.linalg.norm(kept) * kept
            np.testing.assert_allclose(flat(found), expected, rtol=1e-10)
            np.testing.assert_allclose(flat(state.orthogonal), kept, rtol=1e-10)


@pytest.mark.usefixtures("wide")
def test_looksam_in_every_step_is_sam():
    members = looksam(0.3, every=1), sam(0.3)
    states = [member.init(tree(START)) for member in members]
    for index in range(2):
        params = tree(START + 0.3 * index)
        results = [member.gradient(quadratic, params, state) for member, state in zip(members, states, strict=True)]
        np.testing.assert_allclose(flat(results[0][0]), flat(results[1][0]), rtol=1e-12)
        states = [state for _, _, state in results]


def test_looksam_skips_the_second_pass():
    """Compiled, too, gradients are taken 2, 1, 1, 2, 1 times; SAM takes two each time."""
    calls = []

    def counted(params):
        jax.debug.callback(lambda: calls.append(1))
        return quadratic(params)

    for method, expected in ((looksam(0.3, every=3), [2, 1, 1, 2, 1]), (sam(0.3), [2, 2])):
        params = tree(START, jnp.float32)
        state, step = method.init(params), jax.jit(lambda p, s, method=method: method.gradient(counted, p, s)[2])
        seen = []
        for _ in expected:
            calls.clear()
            state = jax.block_until_ready(step(params, state))
            jax.effects_barrier()
            seen.append(len(calls))
        assert seen == expected


# -- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
def test_zero_gradient(name):
    """No NaN, nothing moved, also in the steps between two looks."""
    method, params = MEMBERS[name], tree(CENTRE, jnp.float32)
    state = method.init(params)
    for _ in range(2):
        gradient, _, state = method.gradient(quadratic, params, state)
        np.testing.assert_array_equal(flat(gradient), 0)
    np.testing.assert_array_equal(flat(ascend(params, gradient, 0.3)), flat(params))


def test_a_gradient_that_is_not_finite_is_noticed():
    params = tree(START, jnp.float32)
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(flat(ascend(params, tree(np.append(START[:4], bad), jnp.float32), 0.3))).all()


@pytest.mark.parametrize("name", MEMBERS)
def test_bfloat16(name):
    """The gradient keeps its dtype, the norms do not: entries of 1e-3 sum to what they should."""
    params = tree(START, jnp.bfloat16)
    gradient, _, state = first(MEMBERS[name], params)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(gradient))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.orthogonal))
    reference = first(MEMBERS[name], tree(START, jnp.float32))[0]
    np.testing.assert_allclose(flat(gradient), flat(reference), rtol=0.05, atol=0.03)
    many = jnp.full(100_000, 1e-3, jnp.bfloat16)
    step = ascend(jnp.zeros(100_000), many, 1.0)
    assert float(jnp.linalg.norm(step)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sam(-0.1), r"rho=-0\.1: must be >= 0"),
        (lambda: gsam(float("nan")), r"rho=nan: must be >= 0"),
        (lambda: sam([0.1, 0.2]), r"rho\.shape=\(2,\): must be \(\), one number"),
        (lambda: looksam(optax.constant_schedule(-1.0)), r"rho=-1\.0: must be >= 0"),
        (lambda: asam(0.5, eta=-1.0), r"eta=-1\.0: must be >= 0"),
        (lambda: gsam(alpha=-0.4), r"alpha=-0\.4: must be >= 0"),
        (lambda: looksam(alpha=float("inf")), r"alpha=inf: must be >= 0"),
        (lambda: looksam(every=0), r"every=0: must be >= 1"),
        (lambda: looksam(every=2.5), r"every=2\.5: must be an integer >= 1"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# -- transformations of JAX -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wide")
def test_jit_scan_vmap_and_traced_radius():
    """Seeds at once, each with its own radius, in a compiled loop: the same as one by one, eagerly; the state keeps its
    type (scan asks for that)."""

    def descend(start, rho):
        methods = [sam(rho), asam(rho), gsam(rho), looksam(rho, every=3)]

        def body(carry, _):
            found = [m.gradient(quadratic, p, s) for m, (p, s) in zip(methods, carry, strict=True)]
            return [(jax.tree.map(lambda w, g: w - 0.1 * g, p, g), s)
                    for (p, _), (g, _, s) in zip(carry, found, strict=True)], None  # fmt: skip

        carry = [(tree(start), m.init(tree(start))) for m in methods]
        return jax.lax.scan(body, carry, length=4)[0], body, carry

    starts, radii = jnp.asarray([START, -START]), jnp.array([0.3, 0.1])
    together = jax.jit(jax.vmap(lambda start, rho: descend(start, rho)[0]))(starts, radii)
    _, body, carry = descend(starts[1], 0.1)
    for _ in range(4):
        carry, _ = body(carry, None)
    for one, other in zip(jax.tree.leaves(carry), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other[1], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("wide")
def test_schedule_of_the_radius():
    """To the digits of optax's schedule, which is float32."""
    method, params = sam(optax.linear_schedule(0.0, 0.4, 4)), tree(START)
    state = method.init(params)
    for index in range(3):
        gradient, _, state = method.gradient(quadratic, params, state)
        np.testing.assert_allclose(flat(gradient), sam_reference(START, 0.1 * index), rtol=1e-7)
    late = looksam(optax.linear_schedule(0.0, 0.4, 4), every=2)
    gradient, _, _ = late.gradient(quadratic, params, SharpnessState(jnp.int32(4), tree(START)))
    np.testing.assert_allclose(flat(gradient), sam_reference(START, 0.4), rtol=1e-7)


# -- only the first pass leaves a trace -------------------------------------------------------------------------------


class Net(nn.Module):
    """BatchNorm between two dense layers."""

    @nn.compact
    def __call__(self, inputs):
        x = nn.BatchNorm(use_running_average=False, momentum=0.9)(nn.Dense(4)(inputs))
        return nn.Dense(3)(nn.relu(x))


def batch_gradient():
    """(gradient function of a batch with BatchNorm moments and LPG's statistics as aux, params)."""
    with jax.numpy_rank_promotion("allow"):
        inputs = jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32)
        shapes = jax.eval_shape(Net().init, jax.random.key(0), inputs)
    variables = jax.tree.map(lambda leaf: jnp.asarray(RNG.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes)
    labels = jnp.array([0, 1, 2, 0, 1, 0, 0, 2])
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
    logit_state = tx.init(jnp.zeros(3))

    def objective(params):
        with jax.numpy_rank_promotion("allow"):
            logits, updates = Net().apply(
                {"params": params, "batch_stats": variables["batch_stats"]}, inputs, mutable=["batch_stats"]
            )
        losses, new_state = loss_fn(logits, labels, logit_state)
        return jnp.mean(losses), (updates["batch_stats"], new_state)

    return jax.jit(jax.grad(objective, has_aux=True)), variables["params"]


@pytest.fixture(scope="module")
def passes():
    """What a batch leaves behind at params, and at SAM's ascended point."""
    gradient_fn, params = batch_gradient()
    clean, aux = gradient_fn(params)
    return gradient_fn, params, aux, gradient_fn(ascend(params, clean, 0.3))[1]


@pytest.mark.parametrize("name", MEMBERS)
def test_statistics_are_those_of_the_first_pass(name, passes):
    """BatchNorm moments and class statistics bit-identical to the first pass's; the second pass has others."""
    gradient_fn, params, expected, of_second = passes
    gradient, aux, _ = first(MEMBERS[name], params, gradient_fn)
    jax.tree.map(np.testing.assert_array_equal, aux, expected)
    for part in (0, 1):  # moments, class statistics
        pairs = zip(jax.tree.leaves(expected[part]), jax.tree.leaves(of_second[part]), strict=True)
        assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
    clean = gradient_fn(params)[0]
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(clean), strict=True))
