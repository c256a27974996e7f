"""config.train -> optax chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
