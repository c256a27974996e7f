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
# # LPG on your own arrays
#
# Training follows the gradient of a loss. LPG edits that gradient where it enters the network, at the logits, class by
# class: a little longer for some classes, a little shorter for others. The loss and the network stay as they are.
#
# This page takes two arrays, trains a linear classifier with cross-entropy, and then again with three more lines.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lpg_jax
from lpg_jax.data import longtail_counts, longtail_subset

# %% [markdown]
# ## 1. Your arrays
#
# Put your own here: `x` [N, D] numbers of moderate size, `y` [N] integers from 0 to C - 1. Nothing below depends on
# what they are.

# %%
x, y = load_digits(return_X_y=True)
x = x / 16  # pixels from 0 to 1

x = x.astype(np.float32)
num_classes = int(y.max()) + 1
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=0)

# %% [markdown]
# Rare classes are what LPG by frequency is for, and the digits have none. So this cell throws training examples away,
# until zeros are frequent and nines are rare, 50 to 1. **Leave it out for your own arrays.**

# %%
keep = longtail_subset(y_train, longtail_counts(120, num_classes, imbalance=50), seed=0)
x_train, y_train = x_train[keep], y_train[keep]

# %%
class_counts = np.bincount(y_train, minlength=num_classes)
print("training examples per class:", class_counts)


# %% [markdown]
# ## 2. One training loop
#
# The three lines that know of LPG are numbered. Without them this is the plain loop of JAX and optax.


# %%
def logits_of(params, inputs):
    return inputs @ params["kernel"] + params["bias"]


def train(tx, epochs=60, batch_size=32):
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)  # 1: wrap the per-example loss
    optimizer = optax.adam(1e-2)

    def loss(params, logit_state, inputs, labels):
        losses, logit_state = loss_fn(logits_of(params, inputs), labels, logit_state)  # 2: hand the state through
        return losses.mean(), logit_state

    @jax.jit
    def step(params, opt_state, logit_state, inputs, labels):
        gradient, logit_state = jax.grad(loss, has_aux=True)(params, logit_state, inputs, labels)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, logit_state

    params = {"kernel": jnp.zeros((x_train.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
    opt_state = optimizer.init(params)
    logit_state = tx.init(jnp.zeros(num_classes))  # 3: the state of LPG, some numbers per class
    rng, num_batches = np.random.default_rng(0), -(-len(y_train) // batch_size)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(y_train)), num_batches):
            params, opt_state, logit_state = step(params, opt_state, logit_state, x_train[batch], y_train[batch])
    return params, logit_state


# %% [markdown]
# `optax.identity()` edits nothing: that is cross-entropy. LPG needs two choices:
#
# - a **split** says which classes are lengthened and which are shortened; `by_frequency` reads your counts,
# - a **bound** says by how much at most; `varied(0.0, slope=0.3)` grows with the distance of a class from the
#   threshold.

# %%
plain, _ = train(optax.identity())

tx = lpg_jax.lpg(lpg_jax.by_frequency(class_counts, threshold=0.25), lpg_jax.varied(0.0, slope=0.3))
edited, logit_state = train(tx)

# %% [markdown]
# ## 3. What LPG does to each class
#
# `class_table` reads it from the state. The gradient of one example at the logits has a norm below 1.42. Above 0 the
# number is added to that norm, below 0 it is taken away, down to zero at most.

# %%
table = lpg_jax.class_table(logit_state)
print("perturbation:     ", "  ".join(f"{value:+.2f}" for value in table["perturbation"]))
print("training accuracy:", "  ".join(f"{value:5.2f}" for value in table["accuracy"]))

# %% [markdown]
# ## 4. Predictions, and what comes of it
#
# LPG plays no part in prediction: the parameters are ordinary parameters.


# %%
def predict(params, inputs):
    return np.asarray(logits_of(params, inputs)).argmax(-1)


def accuracy_per_class(params):
    right = predict(params, x_test) == y_test
    return np.array([right[y_test == c].mean() for c in range(num_classes)])


before, after = accuracy_per_class(plain), accuracy_per_class(edited)
print("class  examples  perturbation  accuracy CE  with LPG")
for c in range(num_classes):
    print(f"{c:5d} {class_counts[c]:9d} {table['perturbation'][c]:+13.2f} {before[c]:12.2f} {after[c]:9.2f}")
print(f"mean over classes {before.mean():32.3f} {after.mean():9.3f}")

# %% [markdown]
# This is one subset and one order of the examples: the rare classes gain. `long_tail.py` has several subsets, and a
# plain baseline beside LPG that gains more there.

# %%
most, least = table["perturbation"][[class_counts.argmax(), class_counts.argmin()]]
assert most <= 0 <= least  # the most frequent class is not lengthened, the rarest not shortened
