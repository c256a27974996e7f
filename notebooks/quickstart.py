# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # LPG in ten minutes
# A linear classifier on scikit-learn's digits, made long-tailed, in plain JAX and optax: first with cross-entropy, then
# with three more lines. Open as a notebook with `jupytext --to ipynb notebooks/quickstart.py`, or run it as a script.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lpg_jax

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=0)

# %% [markdown]
# Class c keeps n_max * 50 ** (-c / 9) of its training examples: zeros are frequent, nines are rare.

# %%
counts = np.array([int(120 * 50 ** (-c / 9)) for c in range(10)])
keep = np.concatenate([np.flatnonzero(y_train == c)[: counts[c]] for c in range(10)])
x_train, y_train = jnp.asarray(x_train[keep]), jnp.asarray(y_train[keep])
print("training examples per class:", counts)


# %% [markdown]
# One training function for both. `optax.identity()` edits nothing: that is plain cross-entropy.


# %%
def train(tx, steps=400):
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
    optimizer = optax.adam(1e-2)

    def loss(params, logit_state):
        logits = x_train @ params["kernel"] + params["bias"]
        losses, logit_state = loss_fn(logits, y_train, logit_state)
        return losses.mean(), logit_state

    @jax.jit
    def step(params, opt_state, logit_state):
        gradient, logit_state = jax.grad(loss, has_aux=True)(params, logit_state)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, logit_state

    params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
    opt_state, logit_state = optimizer.init(params), tx.init(jnp.zeros(10))
    for _ in range(steps):
        params, opt_state, logit_state = step(params, opt_state, logit_state)
    return params, logit_state


def accuracy(params):
    predicted = np.argmax(x_test @ np.asarray(params["kernel"]) + np.asarray(params["bias"]), axis=-1)
    return np.array([(predicted == y_test)[y_test == c].mean() for c in range(10)])


# %%
plain, _ = train(optax.identity())
tx = lpg_jax.lpg(lpg_jax.by_frequency(counts), lpg_jax.varied(0.2, slope=0.2))
perturbed, logit_state = train(tx)

# %% [markdown]
# What LPG does to each class, and what comes of it.

# %%
table = lpg_jax.class_table(logit_state)
print("class  train  perturbation  accuracy CE  accuracy LPG")
for c, (before, after) in enumerate(zip(accuracy(plain), accuracy(perturbed), strict=True)):
    print(f"{c:5d} {counts[c]:6d} {table['perturbation'][c]:+13.2f} {before:12.2f} {after:13.2f}")
print(f"mean{'':34s}{accuracy(plain).mean():.3f} {accuracy(perturbed).mean():13.3f}")
