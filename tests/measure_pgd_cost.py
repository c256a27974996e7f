"""Measures what PGD with the head metric costs, paired and interleaved: `python tests/measure_pgd_cost.py`.

Prints one line of JSON. A program of its own, because the suite compiles without optimisation.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import lpg_jax
from lpg_jax.transforms import pgd
from lpg_jax.transforms.feature_space import Head

STEPS = 5
cross_entropy = lpg_jax.losses.cross_entropy


def draw(classes, batch=128, width=64, rows=None):
    """m_c [rows, C] (default: as many as the batch can hold), signs, bounds, and a head with cond(M) of some 40."""
    rng = np.random.default_rng(0)
    rows = min(batch, classes) if rows is None else rows
    logits = rng.normal(size=(rows, classes))
    mean = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(classes)[np.arange(rows)]
    kernel = rng.normal(size=(width, classes))
    scale = np.linalg.norm(kernel, 2) ** 2 / 40 * np.ones((rows, 1))
    sign = np.where(np.arange(rows) % 2, 1.0, -1.0)[:, None]
    return [jnp.asarray(a, jnp.float32) for a in (mean, sign, np.full((rows, 1), 0.3), scale, kernel)]


def dense(mean, sign, epsilon, scale, kernel):
    """The same steps with W^T W as an array [C, C]."""
    gram = kernel.T @ kernel
    return pgd.solve(mean, sign, epsilon, lambda v: scale * v + v @ gram, pgd.Ascent(STEPS, None, "l2", False, True))


def in_features(mean, sign, epsilon, scale, kernel, steps=STEPS):
    return pgd.solve(mean, sign, epsilon, Head(scale, kernel), pgd.Ascent(steps, None, "l2", False, True))


def compiled(function, arguments):
    program = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    return lambda: program(*arguments)


def seconds(function, calls):
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def paired(first, second, calls=5, rounds=30):
    """Medians of first, second and first / second over rounds in which both take their turn."""
    times = [(seconds(first, calls), seconds(second, calls)) for _ in range(rounds)]
    return [statistics.median(values) for values in (*zip(*times, strict=True), [a / b for a, b in times])]


def until(measure, enough, tries=6):
    """Values of measure, up to the first that is enough: a busy neighbour only ever makes them look worse."""
    values = []
    while len(values) < tries and not (values and enough(values[-1])):
        values.append(float(f"{measure():.3g}"))
    return values


def against_dense(classes=1000):
    """Time of the dense form over that in feature space, for 128 present classes and over all of them."""
    present, everyone = draw(classes), draw(classes, rows=classes)
    ours, theirs, over_all = compiled(in_features, present), compiled(dense, present), compiled(dense, everyone)
    return {
        "difference": float(f"{jnp.max(jnp.abs(ours() - theirs())):.2g}"),
        "dense_over_features": [round(paired(theirs, ours)[2], 1) for _ in range(3)],
        "dense_over_all_classes": [round(paired(over_all, ours, calls=1, rounds=9)[2], 1) for _ in range(3)],
        "features_us": round(paired(theirs, ours)[1] * 1e6),
    }


def steps_for_steps(classes):
    """Time of 20 steps over that of 1."""
    arguments = draw(classes)
    many, one = (compiled(lambda *a, n=n: in_features(*a, steps=n), arguments) for n in (20, 1))
    return paired(many, one)[2]


def on_a_head(classes=100, batch=128, width=64):
    """What it adds to value and gradient of cross-entropy, and to a step of the closed form, in microseconds."""
    rng = np.random.default_rng(1)
    logits, features, kernel = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((batch, classes), (batch, width), (width, classes))
    )
    labels = jnp.asarray(rng.integers(0, classes, batch), jnp.int32)
    split, bound = lpg_jax.by_accuracy(), lpg_jax.varied(0.3, 0.1)

    def step(tx):
        loss_fn = lpg_jax.perturbed(cross_entropy, tx)

        def loss(logits, state):
            losses, state = loss_fn(logits, labels, state, features=features, head_kernel=kernel)
            return losses.mean(), state

        return compiled(jax.value_and_grad(loss, has_aux=True), (logits, tx.init(jnp.zeros(classes))))

    plain = compiled(jax.value_and_grad(lambda z: cross_entropy(z, labels).mean()), (logits,))
    ours = step(lpg_jax.lpg_pgd(split, bound, steps=STEPS, metric="head"))
    closed = step(lpg_jax.lpg(split, bound))
    return {
        "over_closed_form_us": until(
            lambda: 1e6 * statistics.median(seconds(ours, 5) - seconds(closed, 5) for _ in range(30)),
            lambda added: added <= 500,
        ),
        "over_cross_entropy": round(paired(ours, plain)[2], 1),
        "over_cross_entropy_us": round(
            1e6 * statistics.median(seconds(ours, 5) - seconds(plain, 5) for _ in range(30))
        ),
    }


if __name__ == "__main__":
    found = {
        "classes_1000": against_dense(),
        "head_of_100": on_a_head(),
        "twenty_steps_over_one": {str(classes): round(steps_for_steps(classes), 2) for classes in (100, 1000, 16_384)},
    }
    print(json.dumps(found))
