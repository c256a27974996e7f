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
# # What each method does to each class
#
# Clipping, logit adjustment, SAM, LPG: many methods change the gradient that a network is trained with. This page
# takes a trained model, holds it still, and measures for every class how the mean gradient of its examples changes:
#
# - **norm ratio**: length with the method over length without. Above 1 the class pulls harder, below 1 less.
# - **cosine**: of the angle between the two. 1 is the same direction.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import lpg_jax
from lpg_jax import analysis
from lpg_jax.data import longtail_counts, longtail_subset

# %% [markdown]
# ## 1. A trained model
#
# Long-tailed digits, 50 to 1, a network with one hidden layer, and cross-entropy. It is trained only so far that it is
# still wrong about some of the rare classes; a model without errors has no gradient to look at.

# %%
images, labels = load_digits(return_X_y=True)
counts = longtail_counts(174, num_classes=10, imbalance=50)
keep = np.random.default_rng(0).permutation(longtail_subset(labels, counts, seed=0))
images, labels = (images[keep] / 16).astype(np.float32), labels[keep].astype(np.int32)
print("examples per class:", counts)


def apply(params, inputs):
    return jax.nn.relu(inputs @ params["first"]) @ params["second"] + params["bias"]


def mean_loss(params):
    return lpg_jax.losses.cross_entropy(apply(params, images), labels).mean()


@jax.jit
def train(params):
    def step(carry, _):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(mean_loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=40)[0][0]


optimizer = optax.adam(1e-2)
shapes, rng = {"first": (64, 32), "second": (32, 10), "bias": (10,)}, np.random.default_rng(0)
params = train({name: jnp.asarray(rng.normal(scale=0.1, size=shape), jnp.float32) for name, shape in shapes.items()})
right = np.asarray(apply(params, images)).argmax(-1) == labels
print("training accuracy:", np.array([right[labels == c].mean() for c in range(10)]).round(2))

# %% [markdown]
# ## 2. Methods
#
# `standard_methods` knows some dozens of them by name; `at_logits`, `by_loss`, `at_gradient` and `at_point` make one
# of yours: a transformation of the logit gradient, another loss, an edit of the parameter gradient (clipping, noise),
# or another point at which the gradient is taken (SAM).
#
# Of those below, `lpg` shortens frequent and lengthens rare classes by up to 0.3, each example along its own gradient;
# `class_mean` shifts all examples of a class by one vector, along their mean gradient. Logit adjustment is made for
# long tails, gradient rescaling and OGC for wrong labels, clipping and SAM for neither.

# %%
names = ["lpg", "class_mean", "rescaling 8, 0.5", "OGC 1.2", "logit adjustment", "clip 1", "SAM 0.05"]
methods = analysis.standard_methods(counts, names)
split, bound = lpg_jax.by_frequency(counts), lpg_jax.varied(0.0, slope=0.6)
methods["mine: varied"] = analysis.at_logits(lpg_jax.lpg(split, bound))
print(len(analysis.NAMES), "methods by name, such as", ", ".join(analysis.NAMES[:6]))

# %% [markdown]
# ## 3. The probe
#
# Four batches of the training set. Some methods keep statistics and must see examples before they act as they do in
# training: that is what `warm_up` is for.

# %%
order = np.concatenate([np.random.default_rng(seed).permutation(len(labels)) for seed in range(3)])
batches = [analysis.Batch(images[part], labels[part]) for part in order[: 8 * 128].reshape(8, 128)]
results = analysis.probe(apply, params, batches[:4], methods, warm_up=batches[4:])

# %% [markdown]
# Two levels: the gradient at the logits, where LPG acts, and the gradient of the parameters, which moves the weights.
# Clipping acts on the second only.


# %%
def show(level, measure):
    print(f"{measure} of the class mean, {level}")
    for name, result in results.items():
        mean = analysis.over_batches(getattr(getattr(result, level), measure)).mean
        print(f"  {name:18s}", " ".join(f"{value:6.2f}" for value in mean))


print(f"{'class':21s}", " ".join(f"{c:6d}" for c in range(10)))
print(f"{'examples':21s}", " ".join(f"{n:6d}" for n in counts))
for level in ("logits", "parameters"):
    show(level, "norm_ratio")
    show(level, "cosine")

# %%
colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
figure, panels = plt.subplots(2, 1, figsize=(9, 7), layout="constrained", sharex=True)
for axes, measure, title in zip(panels, ("norm_ratio", "cosine"), ("norm ratio", "cosine"), strict=True):
    axes.axhline(1, color="#9a9a9a", linewidth=0.8)
    for (name, result), colour, marker in zip(results.items(), colours, "os^Dv<>P", strict=True):
        mean = analysis.over_batches(getattr(result.parameters, measure)).mean
        axes.plot(mean, color=colour, marker=marker, markersize=5, linewidth=1, label=name)
    axes.set_ylabel(title)
panels[0].set_title("Parameter gradient of each class: with the method over without, mean over 4 batches")
panels[0].set_yscale("log")
panels[0].set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
panels[0].legend(frameon=False, ncols=3, fontsize=8)
panels[1].set_xticks(range(10), [f"{c}\n{n}" for c, n in enumerate(counts)])
panels[1].set_xlabel("class, and its training examples")
plt.show()

# %% [markdown]
# ## 4. How to read it
#
# - **LPG** along each example's own gradient: the frequent classes keep a fraction of their pull, the rare ones get
#   more, and the direction hardly changes.
# - **class_mean** does the same to the lengths at the logits. But where it shortens a mean to nothing (cosine `nan`:
#   nothing is left to compare), the examples still differ from their mean, and what is left at the parameters points
#   elsewhere.
# - **Logit adjustment** does much the same as LPG to the lengths, and turns the gradients a little more.
# - **Gradient rescaling and OGC** do the reverse: they take examples that are far from learnt for wrong ones, and on a
#   long tail those are the rare classes. For the method it makes no difference why an example is hard.
# - **Clipping**, class by class, shortens whatever is long, here the rare classes. It acts on the parameter gradient
#   only, and never turns it.
# - **SAM** at this radius hardly changes a thing.
#
# This is one model at one moment. `analysis.draw(results, counts, "figure.png")` makes the large figure with every
# measure, `analysis.write_csv` the numbers, and `python probe.py RUN_DIRECTORY` does both for a finished run.

# %%
ratio = {name: analysis.over_batches(result.parameters.norm_ratio).mean for name, result in results.items()}
assert ratio["lpg"][:3].max() < 1 < ratio["lpg"][-3:].min()
assert ratio["OGC 1.2"][-1] < ratio["OGC 1.2"][0]
assert ratio["clip 1"].max() < 1 + 1e-6
assert results["clip 1"].parameters.cosine[:, 0].min() > 0.9999
assert np.nanmax(results["clip 1"].logits.change) == 0  # clipping does not touch the logits
