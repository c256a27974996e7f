"""config.train -> optax chain."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from tiny_config import tiny

from lpg_jax import descent


def walk(length=8, **fields):
    """Parameters after some steps on fixed gradients, by the chain of a config."""
    made = descent.from_config(tiny(**{f"train__{name}": value for name, value in fields.items()}).train, 2)
    return follow(made.tx, length), made


def follow(tx, length=8):
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    state = tx.init(params)
    for index in range(length):
        gradient = jax.tree.map(lambda leaf, index=index: jnp.sin(leaf * (index + 1)), params)
        delta, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, delta)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"momentum": 0.5},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"decayed": "all"},
        {"schedule": "constant"},
        {"schedule": "step"},
        {"schedule": "step", "milestones": (0.25,)},
        {"schedule": "step", "step_factor": 0.5},
        {"warmup_epochs": 1.0},
        {"clip_norm": 0.1},
        {"gradient_noise": 0.01},
        {"learning_rate": 0.2},
    ],
)
def test_no_train_option_does_nothing(change):
    base = {name: value for name, value in change.items() if name == "schedule" and len(change) > 1}
    assert np.abs(walk(**base)[0] - walk(**change)[0]).max() > 1e-5


def test_chains_are_those_of_optax():
    schedule = optax.cosine_decay_schedule(0.1, 8)
    decay = optax.add_decayed_weights(5e-4, {"kernel": True, "bias": False})
    sgd = optax.chain(optax.clip_by_global_norm(0.5), decay, optax.sgd(schedule, 0.9, nesterov=True))
    np.testing.assert_allclose(walk(nesterov=True, clip_norm=0.5)[0], follow(sgd), rtol=1e-6)
    adamw = optax.adamw(schedule, weight_decay=0.01)
    np.testing.assert_allclose(walk(optimizer="adamw", weight_decay=0.01, decayed="all")[0], follow(adamw), rtol=1e-6)


def test_schedule_and_description():
    _, made = walk(schedule="step", warmup_epochs=1.0, clip_norm=2.0)
    rates = [float(made.learning_rate(step)) for step in range(8)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-5)
    assert made.description == (
        "clip to global norm 2",
        "weight decay 0.0005 on kernels",
        "momentum 0.9",
        "learning rate 0.1, step over 8 steps (x 0.1 at 4, 6), 2 of them warm-up",
    )


def test_the_long_tail_protocol():
    """LDAM-DRW: lr 0.1, 5 epochs of linear warm-up, x 0.01 from epoch 160 and again from 180, of 200."""
    fields = {"epochs": 200, "schedule": "step", "milestones": (0.8, 0.9), "step_factor": 0.01, "warmup_epochs": 5.0}
    length = 97  # steps per epoch of CIFAR-10-LT at 100:1; an odd number, so that rounding could miss an epoch
    made = descent.from_config(tiny(**{f"train__{name}": value for name, value in fields.items()}).train, length)

    def expected(step):
        epoch = step // length
        return 0.1 * min(1, (step + 1) / (5 * length)) * (1 if epoch < 160 else 0.01 if epoch < 180 else 0.0001)

    steps = [0, 1, 5 * length - 2, 5 * length - 1, 5 * length, *(e * length + k for e in (160, 180) for k in (-1, 0))]
    steps += [100 * length, 200 * length - 1]
    assert [float(made.learning_rate(s)) for s in steps] == pytest.approx([expected(s) for s in steps], rel=1e-5)
    assert made.description[-1] == (
        "learning rate 0.1, step over 19400 steps (x 0.01 at 15520, 17460), 485 of them warm-up"
    )


NOISE = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "learning_rate": 1.0}
ZEROS = {"kernel": jnp.zeros((50, 40)), "bias": jnp.zeros(2000)}


def noises(sigma, length=3, key=None, gradient=ZEROS, **fields):
    """What the chain adds to a gradient in each of some steps: [length, parameters], and the last state."""
    fields = NOISE | fields | {"gradient_noise": sigma}
    tx = descent.from_config(tiny(**{f"train__{name}": value for name, value in fields.items()}).train, 2).tx

    def run(key):
        state = tx.init(ZEROS) if key is None else descent.with_noise_key(tx.init(ZEROS), key)
        added = []
        for _ in range(length):
            delta, state = tx.update(gradient, state, ZEROS)
            added.append(jax.flatten_util.ravel_pytree(jax.tree.map(lambda d, g: -d - g, delta, gradient))[0])
        return jnp.stack(added), state

    return jax.jit(run)(key)


def is_gaussian(sample, sigma):
    """Mean 0 and standard deviation sigma, as far as chance goes."""
    return stats.kstest(np.ravel(sample) / sigma, "norm").pvalue > 1e-3


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 1e-18])
def test_noise_has_the_scale_asked_for(sigma):
    added, _ = noises(sigma)
    added = np.asarray(added, np.float64)
    assert all(is_gaussian(step, sigma) for step in added)  # gamma 0: the scale does not fall
    assert not is_gaussian(added, 1.1 * sigma)
    assert not is_gaussian(added, sigma**2)  # a variance taken for a standard deviation


def test_noise_repeats_nothing():
    key = jax.random.key(3)
    added = np.asarray(noises(0.5, key=key)[0])
    np.testing.assert_array_equal(noises(0.5, key=key)[0], added)
    others = np.concatenate([added, noises(0.5, key=jax.random.key(4))[0], noises(0.5)[0]])
    parts = np.stack([others[:, :2000], others[:, 2000:]]).reshape(-1, 2000)  # every leaf, step and key
    correlation = np.corrcoef(parts) - np.eye(len(parts))
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    assert np.abs(np.corrcoef(np.concatenate([parts, parts[:1]]))[-1, 0]) > 0.99  # a repeat would be seen


def test_seeds_of_a_population_draw_noise_of_their_own():
    params = {"kernel": jnp.zeros((3, 2))}
    train = tiny(train__gradient_noise=0.1, train__optimizer="adamw").train
    tx = descent.from_config(train, 2).tx

    def one(key):
        state = descent.with_noise_key(tx.init(params), key)
        return tx.update(params, state, params)

    keys = jax.random.split(jax.random.key(0), 3)
    deltas, states = jax.vmap(one)(keys)
    assert len(np.unique(np.asarray(deltas["kernel"]).reshape(3, -1), axis=0)) == 3
    for index, key in enumerate(keys):  # a seed is the same alone as among others
        np.testing.assert_allclose(one(key)[0]["kernel"], deltas["kernel"][index], rtol=1e-5)
    before = jax.eval_shape(tx.init, params)
    after = jax.eval_shape(lambda key: descent.with_noise_key(tx.init(params), key), keys[0])
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert jax.tree.leaves(before) == jax.tree.leaves(after)  # typed key for typed key
    assert jax.tree.structure(before) == jax.tree.structure(states)


def test_noise_comes_after_clipping_and_before_weight_decay():
    """Eq. 4 on the clipped gradient; the decay is not noisy, the noise not clipped."""
    gradient = jax.tree.map(lambda leaf: leaf + 5.0, ZEROS)
    added, _ = noises(0.5, gradient=gradient, clip_norm=0.1)
    clipped = 0.1 / np.sqrt(4000)
    assert is_gaussian(np.asarray(added[0]) + 5.0 - clipped, 0.5)
    made = walk(gradient_noise=0.25, clip_norm=2.0)[1]
    assert made.description[:3] == (
        "clip to global norm 2",
        "Gaussian noise of standard deviation 0.25",
        "weight decay 0.0005 on kernels",
    )


def test_no_noise_no_state():
    made = walk()[1]
    state = made.tx.init(ZEROS)
    assert descent.with_noise_key(state, jax.random.key(0)) is state
    assert optax.tree_utils.tree_get(state, "rng_key") is None
    assert not any("noise" in text for text in made.description)


def test_a_parameter_called_like_the_state_is_left_alone():
    params = {"rng_key": jnp.ones(2)}
    tx = descent.from_config(tiny(train__gradient_noise=0.1).train, 2).tx
    state = descent.with_noise_key(tx.init(params), jax.random.key(1))
    jax.tree.map(lambda a, b: None, state, tx.init(params))  # same structure
    assert float(tx.update(params, state, params)[0]["rng_key"].sum()) != 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.1, r"train\.gradient_noise=-0\.1: must be >= 0 and finite"),
        (float("nan"), r"train\.gradient_noise=nan: must be >= 0 and finite"),
        (float("inf"), r"train\.gradient_noise=inf: must be >= 0 and finite"),
        (1e-30, r"train\.gradient_noise=1e-30: must be 0 or between 1e-18 and 1e18"),
    ],
)
def test_impossible_noise_is_refused(value, text):
    with pytest.raises(ValueError, match=text):
        descent.from_config(tiny(train__gradient_noise=value).train, 2)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 2)])
def test_only_one_typed_key_is_taken(key):
    state = descent.from_config(tiny(train__gradient_noise=0.1).train, 2).tx.init(ZEROS)
    with pytest.raises(ValueError, match=r"key=.*\[2\]: must be one typed key, as of jax\.random\.key"):
        descent.with_noise_key(state, key)
