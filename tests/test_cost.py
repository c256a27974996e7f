"""Cost of the core in one run, paired and interleaved: generous limits, so that only a real regression fails."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lpg_jax
from lpg_jax import models

BATCH, CLASSES = 128, 100
cross_entropy = lpg_jax.losses.cross_entropy


def steps():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(BATCH, CLASSES)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32)
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.varied(0.3, 0.1))
    loss_fn = lpg_jax.perturbed(cross_entropy, tx)
    plain = jax.jit(jax.value_and_grad(lambda z: cross_entropy(z, labels).mean()))

    def loss(z, state):
        losses, state = loss_fn(z, labels, state)
        return losses.mean(), state

    perturbed = jax.jit(jax.value_and_grad(loss, has_aux=True))
    state = tx.init(jnp.zeros(CLASSES))
    return {"plain": (plain, (logits,)), "lpg": (perturbed, (logits, state))}


@pytest.mark.slow
def test_value_gradient_and_statistics_within_five_times_plain_cross_entropy():
    """[128, 100]: the median over rounds of the ratio within a round; the best of a few tries, as the machine is
    shared and a busy neighbour only ever makes it look worse."""
    timed = {name: (function.lower(*arguments).compile(), arguments) for name, (function, arguments) in steps().items()}

    def seconds(name):
        function, arguments = timed[name]
        start = time.perf_counter()
        for _ in range(20):
            result = function(*arguments)
        jax.block_until_ready(result)
        return time.perf_counter() - start

    medians = []
    for _ in range(5):
        ratios = [seconds("lpg") / seconds("plain") for _ in range(30)]
        medians.append(statistics.median(ratios))
        if medians[-1] <= 5:
            break
    print(f"ratio to plain cross-entropy: {[round(m, 2) for m in medians]}")
    assert min(medians) <= 5


@pytest.mark.slow
def test_compile_time_of_a_training_step():
    """A ResNet-8 step compiles in less than 1.5 times the plain step's time (the better of a few tries, as above)."""
    network, images = models.create("resnet8", CLASSES), jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.varied(0.3, 0.1))
    optimizer = optax.sgd(0.1, momentum=0.9)
    loss_fns = {
        "plain": lpg_jax.perturbed(cross_entropy, optax.identity()),
        "lpg": lpg_jax.perturbed(cross_entropy, tx),
    }

    def seconds(name, temperature):
        loss_fn = loss_fns[name]
        state = jax.eval_shape(lambda: (tx if name == "lpg" else optax.identity()).init(jnp.zeros(CLASSES)))

        def loss(params, batch_stats, state, images, labels):
            (logits, _), updates = network.apply(
                {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
            )
            losses, state = loss_fn(logits * temperature, labels, state)
            return losses.mean(), (updates, state)

        def step(params, batch_stats, opt_state, state, images, labels):
            gradient, aux = jax.grad(loss, has_aux=True)(params, batch_stats, state, images, labels)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return optax.apply_updates(params, updates), opt_state, aux

        params, batch_stats = variables["params"], variables["batch_stats"]
        opt_state = jax.eval_shape(optimizer.init, params)
        lowered = jax.jit(step).lower(params, batch_stats, opt_state, state, images, labels)
        start = time.perf_counter()
        lowered.compile()
        return time.perf_counter() - start

    ratios = []
    for attempt in range(4):  # another temperature is another program, which no cache knows
        ratios.append(seconds("lpg", 1 + attempt / 8) / seconds("plain", 1 + attempt / 8))
        if ratios[-1] < 1.5:
            break
    print(f"compile time, ratio to the plain step: {[round(ratio, 2) for ratio in ratios]}")
    assert min(ratios) < 1.5
