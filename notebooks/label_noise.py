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
# # Label noise, and why the split matters
#
# Some training labels are wrong. The paper's split for this case dampens the classes whose logit gradients scatter
# most (`by_gradient_variance`), because it takes them for the noisy ones. This page asks what that split reads under
# two kinds of noise, what LPG then does to the result, and what simple controls do.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lpg_jax
from lpg_jax.data import corrupt, transition_matrix
from lpg_jax.transforms import equal_norm, random_split

# %% [markdown]
# ## 1. Two kinds of wrong labels
#
# - **Symmetric**: 20 % of the labels of every class move to any other class. All classes are equally noisy.
# - **Class-dependent**: classes 0 to 4 are clean; of classes 5 to 9 40 % move on to the next one (9 to 5). The overall
#   share of wrong labels is the same.
#
# Five draws of each, on 300 training digits. Test labels are right.

# %%
images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    images / 16, labels, train_size=300, test_size=600, stratify=labels, random_state=0
)
x, x_test = jnp.asarray(x, jnp.float32), jnp.asarray(x_test, jnp.float32)

following = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 5])
class_dependent = 0.6 * np.eye(10) + 0.4 * np.eye(10)[following]
matrices = {"symmetric": transition_matrix("symmetric", 0.2, 10), "class-dependent": class_dependent}
DRAWS = 5
given = np.stack([[corrupt(y, matrix, seed) for seed in range(DRAWS)] for matrix in matrices.values()])
wrong = given != y  # [2, DRAWS, N]

# %% [markdown]
# A learner sees the given label only, so what matters to it is the share of wrong ones among the examples *given* as
# class c. With 30 examples a class that share is a matter of chance, too: under symmetric noise some classes get more.

# %%
wrong_of_class = [np.where(given == c, wrong, np.nan) for c in range(10)]
share_wrong = np.stack([np.nanmean(of_class, axis=-1) for of_class in wrong_of_class], axis=-1)  # [2, DRAWS, 10]
for name, shares in zip(matrices, share_wrong.mean(1), strict=True):
    print(f"{name:16s} wrong among those given as class 0 ... 9:", shares.round(2), "overall", shares.mean().round(2))


# %% [markdown]
# ## 2. Methods, and their controls
#
# A split is any function from the statistics of the classes to a signed margin per class: above 0 longer, below 0
# shorter, 0 left alone. So here are five of them, each with the bound eps = 0.1:
#
# | split | what it is for |
# |---|---|
# | CE | margin 0 everywhere: plain cross-entropy |
# | LPG variance | the paper's: classes that scatter more than the mean are shortened, the others lengthened |
# | opposite | the same classes and sizes, the other sign: does the sign matter? |
# | random classes | the same margins dealt out to other classes, drawn once: does it matter which classes? |
# | all longer | no split at all: every class is lengthened |
#
# A sixth, **step size only**, takes the plain gradients and scales each batch by one factor, to the total length that
# it has under LPG: is the gain, if there is one, only a smaller or larger step?

# %%
variance_split, bound = lpg_jax.by_gradient_variance(), lpg_jax.fixed(0.1)
splits = {
    "CE": lambda stats: jnp.zeros(10),
    "LPG variance": variance_split,
    "opposite": lpg_jax.opposite(variance_split),
    "random classes": random_split(0, like=variance_split),
    "all longer": lambda stats: jnp.ones(10),
}


def lpg_with(number):
    """LPG with the split of that number, which may be traced: all of them are trained by one program."""
    return lpg_jax.lpg(lambda stats: jnp.stack([split(stats) for split in splits.values()])[number], bound)


# %% [markdown]
# ## 3. Training
#
# One hidden layer, gradient descent with momentum, all examples in every step. (Not Adam: it divides the size of the
# gradient out, and "step size only" would control nothing.) Methods, kinds of noise and draws are axes of one `vmap`.


# %%
def forward(params, inputs):
    return jax.nn.relu(inputs @ params["first"]) @ params["second"]


def train(tx, targets, params, steps=120):
    """Parameters and the gradient variance of each class after every fifth step."""
    loss_fn, optimizer = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx), optax.sgd(0.5, momentum=0.9)

    def mean_loss(params, logit_state):
        losses, logit_state = loss_fn(forward(params, x), targets, logit_state)
        return losses.mean(), logit_state

    def step(carry, _):
        params, opt_state, logit_state = carry
        gradient, logit_state = jax.grad(mean_loss, has_aux=True)(params, logit_state)
        updates, opt_state = optimizer.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        variance = optax.tree_utils.tree_get(logit_state, "class_grad_variance")
        return (params, opt_state, logit_state), (params, variance)

    start = (params, optimizer.init(params), tx.init(jnp.zeros(10)))
    return jax.tree.map(lambda curve: curve[4::5], jax.lax.scan(step, start, None, length=steps)[1])


def over_noise(make_tx):
    """`train` over the kinds of noise and the draws, whose initial parameters differ, too."""
    over_draws = jax.vmap(lambda number, *draw: train(make_tx(number), *draw), in_axes=(None, 0, 0))
    return jax.vmap(over_draws, in_axes=(None, 0, None))


def initial(seed):
    rng = np.random.default_rng(seed)
    shapes = {"first": (64, 32), "second": (32, 10)}
    return {name: rng.normal(scale=0.12, size=shape).astype(np.float32) for name, shape in shapes.items()}


initials = jax.tree.map(lambda *leaves: np.stack(leaves), *map(initial, range(DRAWS)))
numbers = jnp.arange(len(splits))
by_split = jax.jit(jax.vmap(over_noise(lpg_with), in_axes=(0, None, None)))(numbers, given, initials)
scaled = jax.jit(over_noise(lambda number: equal_norm(lpg_with(number), keep="direction")))(1, given, initials)


# %% [markdown]
# Two figures on the way: the accuracy on the clean test part, and the share of the wrong labels that the network gives
# back, which is what it has memorised.


# %%
@jax.jit
def evaluate(params):
    def one(params, targets, is_wrong):
        memorised = jnp.sum((forward(params, x).argmax(-1) == targets) & is_wrong) / jnp.sum(is_wrong)
        return 100 * jnp.mean(forward(params, x_test).argmax(-1) == y_test), 100 * memorised

    over_steps = jax.vmap(one, in_axes=(0, None, None))
    return jax.vmap(jax.vmap(over_steps))(params, given, wrong)


names = [*splits, "step size only"]
runs = [jax.tree.map(lambda leaf, i=i: leaf[i], by_split) for i in range(len(splits))] + [scaled]
test, memorised = (np.stack(of_methods) for of_methods in zip(*(evaluate(params) for params, _ in runs), strict=True))
variance = np.asarray(runs[0][1])  # of plain training: [2 kinds, DRAWS, points, 10]
steps = 5 * np.arange(1, test.shape[-1] + 1)

# %% [markdown]
# ## 4. What the split reads
#
# The gradient variance of every class under plain training, early and late, and its correlation over the classes with
# the share of wrong labels.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
for kind, name in enumerate(matrices):
    for at, colour, marker in zip((3, 9, -1), ("#000000", "#0072B2", "#D55E00"), "os^", strict=True):
        pairs = zip(variance[kind, :, at], share_wrong[kind], strict=True)
        r = np.mean([np.corrcoef(v, share)[0, 1] for v, share in pairs])
        mean = variance[kind, :, at].mean(0)
        print(f"{name:16s} step {steps[at]:3d}: variance", mean.round(2), f"correlation {r:+.2f}")
        panels[kind].plot(mean, color=colour, marker=marker, label=f"step {steps[at]}")
    panels[kind].set(title=name, xlabel="class", xticks=range(10))
panels[0].set_ylabel("gradient variance")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# Under class-dependent noise the split finds the noisy classes, but not at once: after 20 steps the correlation is
# negative. It becomes clear when the right labels are learnt and the wrong ones are not. Under symmetric noise the
# classes differ little, and what is left to read is the chance of the draw.

# %% [markdown]
# ## 5. Memorisation
#
# The network first learns what is right. Then it learns the wrong labels by heart, and the test accuracy falls.

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
for kind, name in enumerate(matrices):
    for method, style in ((0, "-"), (1, "--")):
        label = f"{names[method]}: "
        panels[kind].plot(steps, test[method, kind].mean(0), style, color="#0072B2", label=label + "test accuracy")
        panels[kind].plot(steps, memorised[method, kind].mean(0), style, color="#D55E00", label=label + "memorised")
    panels[kind].set(title=name, xlabel="step", ylim=(0, 102))
panels[0].set_ylabel("%")
panels[1].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## 6. What comes of it
#
# In %, means over the draws; "minus CE" is the difference on the same draw, with a 95 % interval (Student's t) over the
# five. "highest" is the best point of the mean curve, which one could only know with clean labels at hand.

# %%
print(f"{'':18s} test, last step   minus CE     highest (at step)   memorised")
for kind, name in enumerate(matrices):
    print(name)
    for method, curve, known in zip(names, test[:, kind], memorised[:, kind], strict=True):
        difference, mean = (curve - test[0, kind])[:, -1], curve.mean(0)
        error = stats.t.ppf(0.975, DRAWS - 1) * difference.std(ddof=1) / np.sqrt(DRAWS)
        print(f"  {method:16s}{mean[-1]:13.1f}{difference.mean():+13.1f} ± {error:.1f}", end="")
        print(f"{mean.max():13.1f} ({steps[mean.argmax()]:3d}){known[:, -1].mean():13.1f}")

# %% [markdown]
# What we saw, with five draws of one small data set and eps = 0.1:
#
# - **The split finds the noisy classes, and LPG by it still gains nothing.** Under class-dependent noise it ends below
#   cross-entropy. It cannot tell the wrong examples of a class from the right ones: it shortens them all.
# - **Under symmetric noise the sign does not matter**: LPG, the opposite and random classes are within each other's
#   errors. What LPG memorises less, its controls memorise less, too.
# - **Lengthening every class**, without any split, does at least as well as the split. A gain over cross-entropy alone
#   would not have told the two apart: that is what the controls are for.
# - **When to stop matters far more.** Under symmetric noise the best step of plain cross-entropy is more than ten
#   points above the end of every method.

# %%
late = [np.corrcoef(v, share)[0, 1] for v, share in zip(variance[1, :, -1], share_wrong[1], strict=True)]
assert min(late) > 0.5  # class-dependent: late in training the variance knows the noisy classes
assert memorised[0, :, :, -1].mean() > 80  # cross-entropy learns the wrong labels by heart
assert test[0, 0].mean(0).max() > test[:, 0, :, -1].mean(1).max() + 5  # symmetric: stopping early beats every method
