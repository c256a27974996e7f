"""The JVP gradient against second-order autodiff and finite differences; GDW, MW-Net and learned bounds on digits."""

import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_config import read, tiny

import lpg_jax
from lpg_jax import data, descent, training
from lpg_jax.descent import gdw, learned_bound, mw_net, virtual_step, weight_network
from lpg_jax.training import batches, meta_step, recipe
from lpg_jax.training.state import create, initial_variables
from lpg_jax.transforms import class_level_reweighting
from lpg_jax.transforms.given_bound import given_epsilon

BATCH, META, WIDTH, CLASSES, RATE = 8, 6, 4, 3, 0.7
RNG = np.random.default_rng(0)
INPUTS, META_INPUTS = RNG.normal(size=(BATCH, WIDTH)), RNG.normal(size=(META, WIDTH))
LABELS = np.array([0, 0, 1, 0, 1, 0, 1, 0], np.int32)  # class 2 is absent
META_LABELS = np.arange(META, dtype=np.int32) % CLASSES
MASK = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)
KERNELS = RNG.normal(size=(WIDTH, WIDTH)), RNG.normal(size=(WIDTH, CLASSES))
EPSILON = np.array([-1.0, 0.3, 0.2])
cross_entropy = lpg_jax.losses.cross_entropy


def network(inputs, params):
    """Two layers and a centring over the batch, which couples the examples."""
    hidden = jnp.tanh(jnp.asarray(inputs, params["in"].dtype) @ params["in"])
    return (hidden - hidden.mean(0)) @ params["out"], hidden.mean(0)


def slope(params):
    return jax.grad(validation)(params)


def validation(params):
    return cross_entropy(network(META_INPUTS, params)[0], jnp.asarray(META_LABELS)).mean()


def make_params(dtype=None):
    return {"in": jnp.asarray(KERNELS[0], dtype), "out": jnp.asarray(KERNELS[1], dtype)}


def make_step(params, labels=LABELS, mask=MASK):
    return virtual_step(functools.partial(network, INPUTS), params, jnp.asarray(labels), slope, RATE, mask=mask)


def weigh(step, weights):
    tx = class_level_reweighting()
    return tx.update(step.rows, optax.EmptyState(), labels=step.labels, mask=step.mask, class_weights=weights)[0]


def lengthen(step, epsilon):
    tx = given_epsilon()
    return tx.update(step.rows, optax.EmptyState(), labels=step.labels, mask=step.mask, class_epsilon=epsilon)[0]


def looked_ahead(params, surrogate):
    """The validation loss after a step down the gradient of a surrogate: what second-order autodiff goes through."""
    gradient = jax.grad(surrogate)(params)
    return validation(jax.tree.map(lambda w, g: w - RATE / MASK.sum() * g, params, gradient))


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def second_order():
    """In float64: the step, and the gradients of the validation loss by the weights, the network, eps; both ways."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(_second_order)())


def _second_order():
    params, weights = make_params(), jnp.asarray(np.random.default_rng(1).uniform(0.2, 2, (BATCH, CLASSES)))
    step, labels, mask = make_step(params), jnp.asarray(LABELS), jnp.asarray(MASK)
    net = mw_net(width=5).init(jax.random.key(2), jnp.float64).network

    def logits(params):
        return network(INPUTS, params)[0]

    def through_rows(edit, knobs):  # h~(knobs) . z(params), with h~ a constant of the parameters
        rows = edit(knobs)
        return looked_ahead(params, lambda p: jnp.sum(jnp.where(mask[:, None], rows * logits(p), 0)))

    def by_hand(weights):  # the constraint written out as in the paper
        p, target = jax.nn.softmax(step.logits), jax.nn.one_hot(labels, CLASSES)
        others = jnp.sum((1 - target) * weights * p, axis=1) / jnp.sum((1 - target) * p, axis=1)
        return jnp.where(target == 1, others[:, None], weights) * (p - target)

    def through_loss(net):  # MW-Net as its authors write it: a weighted loss, no rows anywhere
        values = weight_network(net, jax.lax.stop_gradient(cross_entropy(logits(params), labels)))
        return looked_ahead(params, lambda p: jnp.sum(jnp.where(mask, values * cross_entropy(logits(p), labels), 0)))

    def spread(net):
        return jnp.broadcast_to(weight_network(net, step.losses)[:, None], weights.shape)

    epsilon = jnp.asarray(EPSILON)
    direct, back = jax.vjp(spread, net)
    along = step.push(slope(jax.tree.map(lambda w, g: w - step.step_size * g, params, step.pull(weigh(step, weights)))))
    return {
        "params": params, "step_size": step.step_size, "rows": step.rows, "weights": weights, "along": along,
        "by_weights": step.gradient(lambda w: weigh(step, w), weights),
        "by_weights_2": jax.grad(lambda w: through_rows(by_hand, w))(weights),
        "by_network": back(step.gradient(lambda w: weigh(step, w), direct))[0],
        "by_network_2": jax.grad(through_loss)(net),
        "by_scalars": step.gradient(lambda s: s[:, None] * step.rows, direct[:, 0]),
        "by_scalars_of_gdw": step.gradient(lambda w: weigh(step, w), direct).sum(axis=1),
        "by_epsilon": step.gradient(lambda e: lengthen(step, e), epsilon),
        "by_epsilon_0": step.gradient(lambda e: lengthen(step, e), 0 * epsilon),
        "along_0": step.push(slope(jax.tree.map(lambda w, g: w - step.step_size * g, params, step.pull(step.rows)))),
        "differences": jnp.stack([
            (through_rows(lambda e: lengthen(step, e), epsilon + shift)
             - through_rows(lambda e: lengthen(step, e), epsilon - shift)) / 2e-5
            for shift in 1e-5 * jnp.eye(CLASSES)
        ]),
    }  # fmt: skip


# -- the gradient -----------------------------------------------------------------------------------------------------


def test_one_jvp_equals_the_second_order_gradient(second_order):
    """For GDW's weights, and for the weight network through MW-Net's weighted loss."""
    found = second_order
    assert np.abs(found["by_weights"]).max() > 1e-3
    np.testing.assert_allclose(found["by_weights"], found["by_weights_2"], rtol=1e-9, atol=1e-12)
    for name, values in found["by_network"].items():
        np.testing.assert_allclose(values, found["by_network_2"][name], rtol=1e-9, atol=1e-12)
    assert np.abs(found["by_network"]["kernel2"]).max() > 1e-4


def test_weights_gradient_is_the_formula(second_order):
    """dL/dw_ij = -(lr/B) p_ij ((J v)_j - (J v)_y), and 0 at the label and where masked."""
    found, target = second_order, np.eye(CLASSES)[LABELS]
    p, along = found["rows"] + target, found["along"]
    own = np.sum(along * target, axis=1, keepdims=True)
    expected = -RATE / MASK.sum() * p * (along - own) * (1 - target) * MASK[:, None]
    np.testing.assert_allclose(found["by_weights"], expected, rtol=1e-10, atol=1e-14)
    assert not found["by_weights"][~MASK].any()


def test_mw_net_is_the_scalar_case(second_order):
    np.testing.assert_allclose(second_order["by_scalars"], second_order["by_scalars_of_gdw"], rtol=1e-10, atol=1e-14)


def test_epsilon_gradient(second_order):
    """Finite differences of the virtual step, clamped rows among them; and the formula at eps = 0."""
    found = second_order
    norm = np.linalg.norm(found["rows"], axis=1)
    clamped = (norm < 1) & (LABELS == 0) & MASK
    assert 0 < clamped.sum() < ((LABELS == 0) & MASK).sum()
    np.testing.assert_allclose(found["by_epsilon"], found["differences"], rtol=1e-6, atol=1e-9)
    unit = np.where(MASK[:, None], found["rows"] / np.maximum(norm, 1e-9)[:, None], 0)
    dots = np.sum(found["along_0"] * unit, axis=1)
    expected = [-RATE / MASK.sum() * dots[c == LABELS].sum() for c in range(CLASSES)]
    np.testing.assert_allclose(found["by_epsilon_0"], expected, rtol=1e-10, atol=1e-14)
    assert found["by_epsilon"][2] == found["by_epsilon_0"][2] == 0 != found["by_epsilon_0"][0]


@pytest.mark.usefixtures("wide")
def test_real_step_is_that_of_perturbed():
    """The pull-back of the edited rows is the gradient that `perturbed` gives, also behind LPG."""
    tx = optax.chain(class_level_reweighting(), lpg_jax.lpg(lpg_jax.by_frequency([5, 3, 1]), lpg_jax.fixed(0.3)))
    params, weights = make_params(), jnp.linspace(0.1, 2, BATCH * CLASSES).reshape(BATCH, CLASSES)
    labels, mask = jnp.asarray(LABELS), jnp.asarray(MASK)

    @jax.jit
    def both(params, state):
        def loss(params):
            logits, _ = network(INPUTS, params)
            losses = lpg_jax.perturbed(cross_entropy, tx)(logits, labels, state, mask=mask, class_weights=weights)[0]
            return losses.sum()

        step = make_step(params)
        rows, _ = tx.update(step.rows, state, labels=labels, mask=mask, logits=step.logits, class_weights=weights)
        return step.pull(rows), jax.grad(loss)(params), step.losses.sum() - loss(params)

    ours, theirs, difference = both(params, tx.init(jnp.zeros(CLASSES)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)
    assert abs(difference) < 1e-12


# -- controllers ------------------------------------------------------------------------------------------------------


@functools.cache
def compiled(kind):
    """(state, one jitted step in float64: state -> (weights or eps, state, gradient by the weights, losses))."""
    controller = {
        "gdw": lambda: gdw(optimizer=optax.sgd(1.0)),
        "mw_net": lambda: mw_net(optimizer=optax.sgd(1.0), every=2),
        "bound": lambda: learned_bound(np.array([0.4, 0.02, 0.4]), optimizer=optax.sgd(5.0), initial=0.01, every=2),
    }[kind]()

    @jax.jit
    def run(state):
        step = make_step(make_params())
        start = getattr(state, "class_epsilon", None)
        if start is None:
            weights = weight_network(state.network, step.losses)[:, None] * jnp.ones((1, CLASSES))
            gradient = step.gradient(lambda w: weigh(step, w), weights)
        else:
            gradient = step.gradient(lambda e: lengthen(step, e), start)
        return *controller.update(step, state), gradient, step.losses

    start = CLASSES if kind == "bound" else jax.random.key(0)
    return controller.init(start, jnp.float64), run


@pytest.mark.usefixtures("wide")
def test_gdw_changes_each_weight_by_a_tenth_on_average():
    state, run = compiled("gdw")
    weights, new, gradient, losses = (jax.tree.map(np.asarray, part) for part in run(state))
    start = np.asarray(weight_network(state.network, losses))[:, None]
    change = 0.1 * MASK.sum() * CLASSES * gradient / np.abs(gradient).sum()
    assert np.abs(change).max() > 0.2
    assert np.abs(change[MASK]).mean() == pytest.approx(0.1, rel=1e-12)
    np.testing.assert_allclose(weights, np.maximum(start - np.clip(change, -0.2, 0.2), 1e-6), rtol=1e-10)
    slopes = jax.vjp(lambda net: weight_network(net, jnp.asarray(losses)), state.network)[1](gradient.sum(axis=1))[0]
    assert np.abs(slopes["kernel2"]).max() > 1e-3
    for name, values in slopes.items():  # SGD with step 1
        np.testing.assert_allclose(new.network[name], state.network[name] - values, rtol=1e-9, atol=1e-12)
    assert int(new.step) == 1


@pytest.mark.usefixtures("wide")
def test_mw_net_takes_the_updated_network_and_rests_in_between():
    state, run = compiled("mw_net")
    assert jax.tree.structure(run(state)[1]) == jax.tree.structure(state)
    networks = [state.network]
    for _ in range(3):
        weights, state, _, losses = run(state)
        np.testing.assert_allclose(
            weights, np.tile(weight_network(state.network, losses)[:, None], CLASSES), rtol=1e-12
        )
        networks.append(state.network)
    moved = [bool(np.any(a["kernel2"] != b["kernel2"])) for a, b in itertools.pairwise(networks)]
    assert moved == [True, False, True]


@pytest.mark.usefixtures("wide")
def test_weight_network_is_the_one_described():
    net = {name: np.asarray(values, np.float64) for name, values in compiled("gdw")[0].network.items()}
    assert sorted(values.shape for values in net.values()) == [(), (100,), (100,), (100,)]
    losses = np.array([0.0, 0.7, 9.0])
    hidden = np.maximum(losses[:, None] * net["kernel1"] + net["bias1"], 0)
    expected = 1 / (1 + np.exp(-(hidden @ net["kernel2"] + net["bias2"])))
    np.testing.assert_allclose(weight_network(compiled("gdw")[0].network, jnp.asarray(losses)), expected, rtol=1e-12)


@pytest.mark.usefixtures("wide")
def test_learned_bound_descends_and_is_projected():
    state, run = compiled("bound")
    epsilon, new, gradient, _ = run(state)
    limit = np.array([0.4, 0.02, 0.4])
    np.testing.assert_allclose(epsilon, np.clip(0.01 - 5 * np.asarray(gradient), -limit, limit), rtol=1e-12)
    assert abs(epsilon[1]) == 0.02
    assert epsilon[2] == state.class_epsilon[2]  # absent: to the bit
    np.testing.assert_array_equal(optax.tree_utils.tree_get(new, "class_epsilon"), epsilon)
    rested, last, *_ = run(new)
    np.testing.assert_array_equal(rested, epsilon)
    assert int(last.step) == 2


@pytest.mark.usefixtures("wide")
def test_shards_are_one_batch():
    """vmap with a named axis over two shards = the whole batch, for the weights and for eps (no BatchNorm here)."""
    inputs, labels = jnp.asarray(INPUTS), jnp.asarray(LABELS)
    params, mask = {"w": jnp.asarray(KERNELS[1])}, jnp.asarray(MASK)
    weigher, bound = gdw(width=3), learned_bound(0.5, optimizer=optax.sgd(5.0))
    states = weigher.init(jax.random.key(0), jnp.float64), bound.init(CLASSES, jnp.float64)

    def one(inputs, labels, mask, axis_name=None):
        def linear_slope(params):
            return jax.grad(lambda p: cross_entropy(jnp.asarray(META_INPUTS) @ p["w"],
                                                    jnp.asarray(META_LABELS)).mean())(params)  # fmt: skip

        step = virtual_step(
            lambda p: (inputs @ p["w"], None), params, labels, linear_slope, RATE, mask=mask, axis_name=axis_name
        )
        weights, state = weigher.update(step, states[0])
        return weights, state.network, bound.update(step, states[1])[0]

    @jax.jit
    def both():
        parts = (a.reshape(2, BATCH // 2, *a.shape[1:]) for a in (inputs, labels, mask))
        return one(inputs, labels, mask), jax.vmap(functools.partial(one, axis_name="i"), axis_name="i")(*parts)

    (weights, net, epsilon), (parts, nets, epsilons) = both()
    np.testing.assert_allclose(parts.reshape(weights.shape), weights, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b[0], a, rtol=1e-10, atol=1e-12), net, nets)
    np.testing.assert_allclose(epsilons, np.stack([epsilon, epsilon]), rtol=1e-10)
    assert np.abs(epsilon).max() > 1e-3


# -- the transformation that learned eps goes through -----------------------------------------------------------------


@pytest.mark.usefixtures("wide")
def test_given_epsilon_is_lpg_with_that_bound():
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(BATCH, CLASSES)) * 2)
    labels = jnp.asarray(rng.integers(0, CLASSES, BATCH))
    rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, CLASSES)
    epsilon = jnp.asarray([-0.6, 0.0, 0.3])
    tx, mine = lpg_jax.lpg(lambda stats: jnp.sign(epsilon), lambda margin: jnp.abs(epsilon)), given_epsilon()

    @jax.jit
    def all_three():
        expected, _ = tx.update(rows, tx.init(jnp.zeros(CLASSES)), labels=labels, logits=logits)
        found, _ = mine.update(rows, mine.init(rows[0]), labels=labels, class_epsilon=epsilon)
        soft, _ = mine.update(rows, mine.init(rows[0]), labels=jax.nn.one_hot(labels, CLASSES), class_epsilon=epsilon)
        return expected, found, soft

    expected, found, soft = all_three()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(soft, found)


def test_given_epsilon_edges():
    tx = given_epsilon()
    rows = jnp.array([[-0.6, 0.6, -0.0], [0.5, -0.5, 0.0], [jnp.nan, 1, 1], [1, -1, 0], [0, 0, 0], [0.3, -0.3, 0]])
    labels, mask = jnp.array([0, 1, 1, 0, 1, 7]), jnp.array([1, 1, 1, 0, 1, 1])
    edited, _ = tx.update(rows, (), labels=labels, mask=mask, class_epsilon=jnp.array([0.0, -9.0, 0.1]))
    expected = np.array(rows)
    expected[[1, 3]] = 0  # clamped; masked
    np.testing.assert_array_equal(np.asarray(edited).view(np.uint32)[:3:2], expected.view(np.uint32)[:3:2])
    np.testing.assert_array_equal(edited, expected)
    with pytest.raises(ValueError, match=r"class_epsilon=None: pass tx.update"):
        tx.update(rows, (), labels=labels)
    with pytest.raises(ValueError, match=r"class_epsilon.shape=\(2,\): must be \(3,\), to match the classes"):
        tx.update(rows, (), labels=labels, class_epsilon=jnp.zeros(2))
    with pytest.raises(ValueError, match=r"class_epsilon=.*must be finite"):
        tx.update(rows, (), labels=labels, class_epsilon=jnp.array([0, 0, jnp.inf]))


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdw(width=0), "width=0: must be >= 1"),
        (lambda: mw_net(every=0.5), "every=0.5: must be an integer >= 1"),
        (lambda: gdw(mean_change=-0.1), "mean_change=-0.1: must be >= 0"),
        (lambda: gdw(max_change=float("nan")), "max_change=nan: must be >= 0"),
        (lambda: learned_bound(-1.0), "epsilon_max=-1.0: must be >= 0"),
        (lambda: learned_bound(0.5, initial=0.6), "initial=0.6: must be within epsilon_max=0.5"),
        (lambda: learned_bound(np.ones(2)).init(3), r"epsilon_max.shape=\(2,\): must be \(\) or \(3,\)"),
        (lambda: virtual_step(lambda p: (p, None), jnp.zeros((2, 3)), jnp.zeros(2, int), slope, 0.0),
         "learning_rate=0.0: must be > 0"),
        (lambda: virtual_step(lambda p: (p, None), jnp.zeros(3), jnp.zeros(3, int), slope, 0.1),
         r"logits.shape=\(3,\): must be \[B, C\]"),
        (lambda: virtual_step(lambda p: (p, None), jnp.zeros((2, 3)), jnp.zeros(3, int), slope, 0.1),
         r"labels.shape=\(3,\): must be \(2,\)"),
        (lambda: virtual_step(lambda p: (p, None), jnp.zeros((2, 3)), jnp.zeros(2, int), slope, 0.1, mask=jnp.ones(3)),
         r"mask.shape=\(3,\): must be \(2,\)"),
        (lambda: virtual_step(lambda p: (p, None), jnp.zeros((2, 3)), jnp.zeros(2, int), slope, 0.1,
                              loss_fn=lambda z, y: z.sum()), r"loss_fn returned shape \(\): must be \(2,\)"),
    ],
)  # fmt: skip
def test_errors_name_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- on digits --------------------------------------------------------------------------------------------------------


@functools.cache
def digits():
    """(inputs [N, 64], labels [N]) to train on, 20 clean examples per class to learn from, and a test part."""
    source = data.load(_Config(), seed=0)
    inputs = [part.inputs.reshape(len(part.inputs), -1).astype(np.float32) for part in (source.train, source.test)]
    scale = inputs[0].max()
    inputs, labels = [part / scale for part in inputs], source.train.labels
    meta = np.concatenate([np.flatnonzero(labels == c)[:20] for c in range(10)])
    rest = np.setdiff1d(np.arange(len(labels)), meta)
    return inputs[0][rest], labels[rest], inputs[0][meta], labels[meta], inputs[1], source.test.labels


class _Config:
    name = "digits"


def train(inputs, labels, controller, tx, name, *, rate, steps, size=64, seed=0):
    """(final parameters, [steps] what the controller handed out, [steps, size] indices of the examples)."""
    from lpg_jax import models

    net = models.create("mlp", 10, hidden=(64,))
    _, _, meta_inputs, meta_labels, *_ = digits()
    params = net.init(jax.random.key(seed), inputs[:2])["params"]
    optimizer = optax.sgd(rate, momentum=0.9)

    def logits_fn(inputs, params):
        return net.apply({"params": params}, inputs)[0], None

    @jax.jit
    def update(params, opt_state, state, inputs, labels, meta_inputs, meta_labels):
        slope = jax.grad(lambda p: cross_entropy(logits_fn(meta_inputs, p)[0], meta_labels).mean())
        step = virtual_step(functools.partial(logits_fn, inputs), params, labels, slope, rate)
        rows, given = step.rows, 0
        if controller is not None:
            given, state = controller.update(step, state)
            rows, _ = tx.update(rows, tx.init(jnp.zeros(10)), labels=labels, **{name: given})
        change, opt_state = optimizer.update(jax.tree.map(lambda g: g / size, step.pull(rows)), opt_state)
        return optax.apply_updates(params, change), opt_state, state, given

    start = {"class_weights": jax.random.key(1), "class_epsilon": 10}.get(name)
    state, opt_state = None if controller is None else controller.init(start), optimizer.init(params)
    rng, given, seen = np.random.default_rng(seed), [], []
    for _ in range(steps):
        at, other = rng.choice(len(labels), size, replace=False), rng.choice(len(meta_labels), size // 2, replace=False)
        params, opt_state, state, out = update(
            params, opt_state, state, inputs[at], labels[at], meta_inputs[other], meta_labels[other]
        )
        given.append(out)
        seen.append(at)
    return functools.partial(logits_fn, params=params), np.stack(given), np.stack(seen)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gdw, mw_net])
def test_wrong_labels_lose_their_weight(make):
    """40 % of the labels wrong: they end with less than a third of the weight, and accuracy is back."""
    inputs, labels, *_, test_inputs, test_labels = digits()
    rng = np.random.default_rng(0)
    given = np.where(rng.random(len(labels)) < 0.4, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    given = given.astype(labels.dtype)
    plain, _, _ = train(inputs, given, None, None, "", rate=0.1, steps=1000)
    ours, weights, seen = train(inputs, given, make(), class_level_reweighting(), "class_weights", rate=0.1, steps=1000)
    weights, seen = weights[-100:].reshape(-1, 10), seen[-100:].reshape(-1)
    others = np.arange(10)[None] != given[seen][:, None]
    mean, wrong = np.sum(weights * others, axis=1) / 9, given[seen] != labels[seen]
    accuracy = [np.mean(np.argmax(model(test_inputs)[0], axis=1) == test_labels) for model in (plain, ours)]
    print(make.__name__, "wrong", mean[wrong].mean(), "right", mean[~wrong].mean(), "accuracy", accuracy)
    assert mean[wrong].mean() < mean[~wrong].mean() / 3
    assert accuracy[1] > accuracy[0] + 0.03


@pytest.mark.slow
def test_rare_classes_are_amplified():
    """Long-tailed digits, balanced validation: eps falls with the class count, and tail accuracy rises."""
    inputs, labels, *_, test_inputs, test_labels = digits()
    counts = data.longtail_counts(100, 10, 50.0)
    at = data.longtail_subset(labels, counts, 0)
    plain, _, _ = train(inputs[at], labels[at], None, None, "", rate=0.02, steps=400)
    ours, epsilon, _ = train(
        inputs[at], labels[at], learned_bound(0.5), given_epsilon(), "class_epsilon", rate=0.02, steps=400
    )
    final = epsilon[-100:].mean(axis=0)
    tail = [np.mean((np.argmax(model(test_inputs)[0], axis=1) == test_labels)[test_labels >= 5])
            for model in (plain, ours)]  # fmt: skip
    print("eps", final.round(2), "correlation", np.corrcoef(final, -np.log(counts))[0, 1], "tail accuracy", tail)
    assert np.corrcoef(final, -np.log(counts))[0, 1] > 0.7
    assert final[:3].mean() < 0 < final[-3:].mean()
    assert tail[1] > tail[0] + 0.05


@pytest.mark.slow
def test_cost():
    """A GDW step costs less than three plain ones, in operations and time, with half the batch or less to validate."""
    script = pathlib.Path(__file__).with_name("measure_meta_cost.py")
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    environment["PYTHONPATH"] = str(script.parent.parent)
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    table = json.loads(run.stdout.splitlines()[-1])
    print(table)
    for name in ("mlp/64", "mlp/32", "resnet8/64", "resnet8/32"):
        assert table[name]["operations"] < 3
    assert min(table["mlp/64"]["time"]) < 3
    assert min(table["resnet8/64"]["time"] + table["resnet8/32"]["time"]) < 3


def test_a_run_learns_from_equally_many_examples_of_each_class(tmp_path):
    fields = {"data__imbalance": 20.0, "num_seeds": 1, "train__epochs": 1, "method": "gdw"}
    training.run(tiny(**fields, data__validation_per_class=3), tmp_path)
    entry = read(tmp_path / "summary.json")["methods"]["gdw"]
    assert {value * 3 % 1 for value in entry["validation"]["per_class"]} == {0}
    assert entry["best_by_validation"]["overall"] == entry["overall"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"data\.validation=0\.0: must be > 0, or data\.validation_per_class; this method learns from"),
        (
            {"data__validation": 0.2},
            r"data\.validation=0\.2: leaves no example of class 9 \(9\), which gdw learns from",
        ),
        (
            {"data__validation_per_class": 1, "data__noise__kind": "symmetric", "data__noise__rate": 0.9},
            r"data\.validation_per_class=1: leaves no example of class .* or set validation_labels='clean'",
        ),
    ],
)
def test_the_validation_part_must_show_every_class(fields, message, tmp_path):
    with pytest.raises(training.ConfigError, match=message):
        training.run(tiny(method="gdw", **fields), tmp_path / "run")


@pytest.mark.parametrize("part", [pytest.param("la", marks=pytest.mark.slow), "lpl"])
def test_a_training_step_tries_out_its_own_loss(part, monkeypatch):
    """What is differentiated is the step that is taken, not one of plain cross-entropy."""
    config = tiny(method=f"{part}+learned_lpg", data__validation=0.2, data__imbalance=20.0)
    dataset = data.load(config.data, 0)
    of = recipe.build(config, recipe.Facts.of(dataset), config.method)
    tried = []
    monkeypatch.setattr(
        descent, "virtual_step", lambda *a, loss_fn, virtual_step=descent.virtual_step, **more: (
            tried.append(loss_fn), virtual_step(*a, loss_fn=loss_fn, **more))[1]
    )  # fmt: skip
    train, validation = batches.arrays_of(dataset.train), batches.arrays_of(dataset.validation)
    logits, labels = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32), jnp.arange(64) % 10

    @jax.jit
    def losses(train, validation):
        state, index = create(of, jax.random.key(0), initial_variables(of, jax.random.key(0))), jnp.arange(64)[None]
        meta_step.learn(of, state, batches.take(train, index, index), validation, None)
        inputs = {"logits": logits, "labels": labels, "mask": jnp.ones(64, bool)}
        expected = of.method.loss(logits, labels, **of.method.loss.loss_args(state.loss_state, **inputs))
        return tried[0](logits, labels), expected, lpg_jax.losses.cross_entropy(logits, labels)

    found, expected, plain = losses(jax.tree.map(jnp.asarray, train), jax.tree.map(jnp.asarray, validation))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(expected - plain).max() > 0.01
