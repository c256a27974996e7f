# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---


# %% [markdown]
# # LPG inside someone else's loop
#
# LPG is an optax transformation of the gradient at the logits, and its state is a tree of arrays. So it fits into any
# training step that has logits and labels. Three loops, the same data, the same start, the same learning rate: they
# must end at the same parameters, and the last cell checks that they do.
#
# | you have | use |
# |---|---|
# | a loss per example | `lpg_jax.perturbed(loss, tx)` in its place |
# | a function that returns only the mean loss, somebody else's | `lpg_jax.tap(tx, "mean")` on the logits |

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import lpg_jax
from lpg_jax.data import longtail_counts, longtail_subset

# %%
images, labels = load_digits(return_X_y=True)
counts = longtail_counts(120, num_classes=10, imbalance=50)
keep = np.random.default_rng(0).permutation(longtail_subset(labels, counts, seed=0))
images, labels = jnp.asarray(images[keep] / 16, jnp.float32), jnp.asarray(labels[keep], jnp.int32)
batches = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, len(labels) - 63, 64)] * 10
print(len(keep), "examples,", len(batches), "steps")

# %% [markdown]
# The transformation is built once. This one reads running statistics (the accuracy of each class), so that a loop that
# forgets to hand the state on would end elsewhere.

# %%
tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.varied(0.1, slope=0.2))
LEARNING_RATE = 0.3

# %% [markdown]
# ## 1. Plain JAX
#
# No library but JAX: gradient descent by hand. The state goes in as an argument and comes out as an auxiliary value.

# %%
loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)


def plain_loss(params, logit_state, inputs, targets):
    logits = inputs @ params["kernel"] + params["bias"]
    losses, logit_state = loss_fn(logits, targets, logit_state)
    return losses.mean(), logit_state


@jax.jit
def plain_step(params, logit_state, inputs, targets):
    gradient, logit_state = jax.grad(plain_loss, has_aux=True)(params, logit_state, inputs, targets)
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient), logit_state


params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
logit_state = tx.init(jnp.zeros(10))
for inputs, targets in batches:
    params, logit_state = plain_step(params, logit_state, inputs, targets)
print("plain JAX: ", lpg_jax.class_table(logit_state)["perturbation"].round(2))


# %% [markdown]
# ## 2. Flax NNX
#
# NNX models carry their own state, so the state of LPG can live in the model, in a `Variable` of its own kind. The
# optimizer is told to change `nnx.Param` only, and a checkpoint of the model has it all.


# %%
class LogitState(nnx.Variable):
    """The state of a logit-gradient transformation."""


class Classifier(nnx.Module):
    def __init__(self, tx, rngs):
        self.head = nnx.Linear(64, 10, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.logit_state = LogitState(tx.init(jnp.zeros(10)))

    def __call__(self, inputs):
        return self.head(inputs)


@nnx.jit
def nnx_step(model, optimizer, inputs, targets):
    def loss(model):
        losses, new_state = loss_fn(model(inputs), targets, model.logit_state.get_value())
        return losses.mean(), new_state

    gradient, new_state = nnx.grad(loss, has_aux=True)(model)
    model.logit_state.set_value(new_state)
    optimizer.update(model, gradient)


model = Classifier(tx, nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.sgd(LEARNING_RATE), wrt=nnx.Param)
for inputs, targets in batches:
    nnx_step(model, optimizer, inputs, targets)
print("Flax NNX:  ", lpg_jax.class_table(model.logit_state.get_value())["perturbation"].round(2))


# %% [markdown]
# ## 3. An optax loop around a loss that somebody else wrote
#
# This function is not ours to change: it calls the model, and returns one number.


# %%
def their_loss(apply, params, inputs, targets):
    logits = apply(params, inputs)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


# %% [markdown]
# `tap` is put on the logits inside `apply`. It hands them on unchanged and edits the gradient on its way back; "mean"
# says how the loss was reduced, so that eps keeps its unit. A backward pass cannot return a new state: the statistics
# of the batch come out as the gradient with respect to a sink of zeros, and `commit` makes the new state of them.

# %%
tapped = lpg_jax.tap(tx, "mean")
sgd = optax.sgd(LEARNING_RATE)


@jax.jit
def tapped_step(params, opt_state, logit_state, inputs, targets):
    def loss(params, sink):
        def apply(params, inputs):
            logits = inputs @ params["kernel"] + params["bias"]
            return tapped(logits, targets, logit_state, sink)

        return their_loss(apply, params, inputs, targets)

    gradient, sums = jax.grad(loss, argnums=(0, 1))(params, lpg_jax.zero_sums(logit_state))
    updates, opt_state = sgd.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, lpg_jax.commit(tx, logit_state, sums)


their_params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
opt_state, their_state = sgd.init(their_params), tx.init(jnp.zeros(10))
for inputs, targets in batches:
    their_params, opt_state, their_state = tapped_step(their_params, opt_state, their_state, inputs, targets)
print("optax, tap:", lpg_jax.class_table(their_state)["perturbation"].round(2))

# %% [markdown]
# ## The same parameters three times
#
# Their loop as it was, without LPG, must end elsewhere, or the agreement would say nothing.


# %%
@jax.jit
def untouched_step(params, inputs, targets):
    def apply(params, inputs):
        return inputs @ params["kernel"] + params["bias"]

    gradient = jax.grad(lambda params: their_loss(apply, params, inputs, targets))(params)
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient)


without = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
for inputs, targets in batches:
    without = untouched_step(without, inputs, targets)


def distance(other):
    """Largest difference of a weight from the first loop's."""
    return float(jnp.abs(other - params["kernel"]).max())


distances = {
    "Flax NNX": distance(model.head.kernel[...]),
    "optax and tap": distance(their_params["kernel"]),
    "without LPG": distance(without["kernel"]),
}
for name, value in distances.items():
    print(f"{name:14s} largest difference from plain JAX {value:.1e}")

# %%
assert max(distances["Flax NNX"], distances["optax and tap"]) < 1e-4
assert distances["without LPG"] > 1e-2
