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
# # A long tail, step by step
#
# Some classes have many examples, others a handful. A network trained on them is good at the frequent ones. This page
# walks through LPG by frequency on such a set, from the counts to the table, with plain logit adjustment beside it.

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
from lpg_jax.data import longtail_counts, longtail_subset

# %% [markdown]
# ## 1. Counts
#
# scikit-learn's handwritten digits, 8 x 8 pixels. Class c keeps 120 * 50^(-c / 9) of its training examples; the test
# part stays balanced. We draw five such subsets, because with two nines in the training set much depends on which two.

# %%
images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(images / 16, labels, test_size=0.3, stratify=labels, random_state=0)
counts = longtail_counts(120, num_classes=10, imbalance=50)
subsets = [longtail_subset(y, counts, seed) for seed in range(5)]
x_train = jnp.asarray(np.stack([x[keep] for keep in subsets]), jnp.float32)  # [5, N, 64]
y_train = jnp.asarray(np.stack([y[keep] for keep in subsets]), jnp.int32)  # [5, N]
x_test = jnp.asarray(x_test, jnp.float32)
print("examples per class:", counts, "test:", np.bincount(y_test))

# %% [markdown]
# ## 2. Split: who is pushed, and which way
#
# A split gives every class a signed margin. `by_frequency` puts the counts on a log scale, s = 0 for the rarest class
# and 1 for the most frequent one; the margin is threshold - s. Above zero the gradients of the class get longer, below
# zero shorter. The threshold decides how many classes are on each side.

# %%
for threshold in (0.5, 0.25):
    tx = lpg_jax.lpg(lpg_jax.by_frequency(counts, threshold), lpg_jax.fixed(0.1))
    table = lpg_jax.class_table(tx.init(jnp.zeros(10)))
    print(f"threshold {threshold}: margins", table["margin"].round(2), "longer:", int((table["margin"] > 0).sum()))

# %% [markdown]
# ## 3. Bound: by how much
#
# `fixed(eps)` is the same for all. `varied(eps, slope)` is eps + slope * |margin|: classes far from the threshold are
# pushed harder, those near it hardly at all.

# %%
split = lpg_jax.by_frequency(counts, threshold=0.25)
for name, bound in {"fixed": lpg_jax.fixed(0.05), "varied": lpg_jax.varied(0.0, slope=0.3)}.items():
    tx = lpg_jax.lpg(split, bound)
    perturbation = lpg_jax.class_table(tx.init(jnp.zeros(10)))["perturbation"]
    print(f"{name:7s}", perturbation.round(2))

# %% [markdown]
# ## 4. One example
#
# The gradient of cross-entropy at the logits is softmax(z) - onehot(y). Here is that row for a four and for a nine,
# before and after the varied bound. Only its length changes, not its direction.

# %%
z, classes = jnp.zeros((2, 10)), np.array([4, 9])
rows = jax.nn.softmax(z) - jax.nn.one_hot(classes, 10)
new_rows, _ = tx.update(rows, tx.init(jnp.zeros(10)), None, labels=classes, logits=z)
before, after = np.linalg.norm(rows, axis=1), np.linalg.norm(new_rows, axis=1)
for c, b, a in zip(classes, before, after, strict=True):
    print(f"class {c}: norm {b:.3f} -> {a:.3f}, change {a - b:+.3f}")

# %% [markdown]
# ## 5. Training, and logit adjustment beside it
#
# The baseline to beat is plain logit adjustment: add tau * log(N_c / N) to the logits inside the loss, and predict
# without it. It is another loss, so it takes the place of cross-entropy, and LPG can be put around it as well. tau = 0
# is cross-entropy.
#
# Threshold, eps, slope and tau may be traced values, so that all methods are one program and four numbers each. A
# linear classifier, all examples in every step, the subsets as a further axis of `vmap`: the state of LPG is an
# ordinary tree of arrays.

# %%
methods = {  # threshold, eps, slope, tau
    "CE": (0.25, 0.0, 0.0, 0.0),
    "LPG fixed": (0.15, 0.05, 0.0, 0.0),
    "LPG varied": (0.25, 0.0, 0.3, 0.0),
    "LA": (0.25, 0.0, 0.0, 1.5),
    "LA + LPG fixed": (0.15, 0.05, 0.0, 1.5),
}


def train(setting, inputs, targets, steps=200):
    """The parameters of a linear classifier after `steps` of Adam on one subset."""
    threshold, epsilon, slope, tau = setting
    tx = lpg_jax.lpg(lpg_jax.by_frequency(counts, threshold), lpg_jax.varied(epsilon, slope))
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.logit_adjusted(counts, tau), tx)
    optimizer = optax.adam(3e-2)

    def mean_loss(params, logit_state):
        losses, logit_state = loss_fn(inputs @ params["kernel"] + params["bias"], targets, logit_state)
        return losses.mean(), logit_state

    def step(carry, _):
        params, opt_state, logit_state = carry
        gradient, logit_state = jax.grad(mean_loss, has_aux=True)(params, logit_state)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state, logit_state), None

    params = {"kernel": jnp.zeros((inputs.shape[1], 10)), "bias": jnp.zeros(10)}
    start = (params, optimizer.init(params), tx.init(jnp.zeros(10)))
    return jax.lax.scan(step, start, None, length=steps)[0][0]


@jax.jit
def test_logits(settings):
    """Logits of the test part [settings, subsets, examples, 10] after training."""

    def one(setting, inputs, targets):
        params = train(setting, inputs, targets)
        return x_test @ params["kernel"] + params["bias"]

    return jax.vmap(lambda setting: jax.vmap(one, in_axes=(None, 0, 0))(setting, x_train, y_train))(settings)


# %% [markdown]
# ## 6. One call
#
# The five methods above, and with the same program a grid of thresholds and eps for later.

# %%
thresholds, epsilons = (0.25, 0.5, 0.75), (0.0, 0.1, 0.2, 0.4)
grid = [(threshold, epsilon, 0.0, 0.0) for threshold in thresholds for epsilon in epsilons]
logits = np.asarray(test_logits(jnp.array([*methods.values(), *grid])))

right = logits.argmax(-1) == y_test
per_class = 100 * np.stack([right[..., y_test == c].mean(-1) for c in range(10)], axis=-1)  # [settings, subsets, 10]
nll = np.asarray(lpg_jax.losses.cross_entropy(logits, np.broadcast_to(y_test, right.shape))).mean((-1, -2))

# %% [markdown]
# ## 7. The methods
#
# Accuracy in %, mean over the subsets. Head are classes 0 to 4, tail 5 to 9. The last column is the difference to
# cross-entropy on the same subset, with a 95 % interval (Student's t) over the five.

# %%
print(f"{'':16s}{'all':>6s}{'head':>6s}{'tail':>6s}{'NLL':>7s}   gain over CE")
for name, accuracy, loss in zip(methods, per_class, nll, strict=False):
    head, tail = accuracy[:, :5].mean(), accuracy[:, 5:].mean()
    gain = accuracy.mean(-1) - per_class[0].mean(-1)
    error = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
    print(f"{name:16s}{accuracy.mean():6.1f}{head:6.1f}{tail:6.1f}{loss:7.2f}   {gain.mean():+.1f} ± {error:.1f}")

# %%
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
for name, accuracy, colour, marker in zip(methods, per_class, colours, "os^Dv", strict=False):
    axes.plot(accuracy.mean(0), color=colour, marker=marker, markersize=5, label=name)
axes.set_xticks(range(10), [f"{c}\n{n}" for c, n in enumerate(counts)])
axes.set(xlabel="class, and its training examples", ylabel="test accuracy in %", title="Mean over five subsets")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# LPG gains in the tail and loses little in the head. On these subsets plain logit adjustment gains more, and has the
# lower NLL; putting LPG around it adds nothing here. The numbers of the single methods are those of `configs/`, chosen
# for a network with a hidden layer on other subsets, not for this page.

# %% [markdown]
# ## 8. What threshold and eps do
#
# Accuracy and NLL of the grid, on the test part, to show the shape of the dependence. To choose a setting, hold out
# validation examples instead.

# %%
shape = len(thresholds), len(epsilons)
accuracy_grid = per_class[len(methods) :].mean((-1, -2)).reshape(shape)
nll_grid = nll[len(methods) :].reshape(shape)
figure, panels = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
for axes, values, title, form in (
    (panels[0], accuracy_grid, "accuracy in %", ".1f"),
    (panels[1], nll_grid, "NLL", ".2f"),
):
    axes.imshow(values, cmap="cividis", aspect="auto")
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle else "black"
        axes.text(column, row, format(value, form), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(epsilons)), epsilons)
    axes.set_yticks(range(len(thresholds)), thresholds)
    axes.set(xlabel="eps", ylabel="threshold", title=title)
plt.show()
print("accuracy in %, a row per threshold", thresholds, "and a column per eps", epsilons)
print(accuracy_grid.round(1))
print("NLL")
print(nll_grid.round(2))

# %% [markdown]
# A low threshold pushes few classes up and many down; there eps may be large. With a threshold of 0.75 most classes
# are lengthened, also those without an error left, which are then pushed on for ever: accuracy falls and the NLL
# rises. In between accuracy alone can mislead: at threshold 0.5 and eps 0.4 it is above cross-entropy, and the NLL is
# worse.

# %% [markdown]
# ## What to check

# %%
np.testing.assert_allclose(after - before, perturbation[classes], atol=1e-6)  # the length changes by eps, as said
np.testing.assert_array_equal(accuracy_grid[:, 0], accuracy_grid[0, 0])  # eps = 0 is cross-entropy, whoever is pushed
assert per_class[2, :, 5:].mean() > per_class[0, :, 5:].mean()  # LPG varied, the tail
