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
# # Reading a run directory
#
# `launch.py` and `lpg_jax.training.run` leave a directory behind. Everything that the tables and figures show is in
# it, in files that you can read without this library. This page makes a small run and reads it.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lpg_jax.data
import lpg_jax.report
import lpg_jax.training
from configs import digits_longtail

# %% [markdown]
# ## 1. A run
#
# Two seeds and ten epochs of the long-tailed digits, with cross-entropy ("ce") and with LPG ("lpg"): enough to see
# what is written, too little to compare the two. On the command line this is `python launch.py
# --config=configs/digits_longtail.py:tiny --workdir=runs/small`.

# %%
config = digits_longtail.get_config("tiny")
temporary = tempfile.TemporaryDirectory()
home = Path(temporary.name) / "small"
lpg_jax.training.run(config, home, command="notebooks/run_directory.py")
for path in sorted(home.rglob("*")):
    if "checkpoints" not in path.relative_to(home).parts[:-1]:
        print(path.relative_to(home))

# %% [markdown]
# - `config.json`: every field of the config; `run.json`: when, where and by which versions it was started,
# - `METHOD/metrics.jsonl`: a line per evaluation and seed, written while the run goes on,
# - `dataset.json`: what must be known of the data (classes, counts, mean), so that a model can be used without it,
# - `METHOD/checkpoints`: the newest states; the same command resumes from them; `METHOD/result.json`: a method is
#   done,
# - `summary.json`: the result, written last. No such file: the run has not ended.

# %% [markdown]
# ## 2. summary.json
#
# Accuracies are fractions between 0 and 1, means over the seeds; `ci95` holds the half-widths of their intervals.

# %%
summary = json.loads((home / "summary.json").read_text())
print("keys:", ", ".join(summary))
print("training examples per class:", summary["class_counts"])
for name, entry in summary["methods"].items():
    print(f"{name:4s} overall {entry['overall']:.3f} ± {entry['ci95']['overall']:.3f}, tail {entry['tail']:.3f}")

# %% [markdown]
# The interval comes from two seeds, so it is wide, and rightly so. `params_sha256` is a fingerprint of the trained
# parameters: two runs that agree in it are equal to the bit.

# %%
print(summary["methods"]["lpg"]["params_sha256"])

# %% [markdown]
# ## 3. metrics.jsonl
#
# One JSON object a line. Beside the scores of `summary.json` it has what happened to each class: `gradient_ratio` is
# the length of the edited logit gradients of a class over that of the plain ones since the line before.


# %%
def read_lines(method):
    return [json.loads(line) for line in (home / method / "metrics.jsonl").read_text().splitlines()]


lines = read_lines("lpg")
last = lines[-1]
print("keys:", ", ".join(last))
print(f"step {last['step']}, seed {last['seed']}, loss {last['loss']:.3f}, test accuracy {last['overall']:.3f}")
print("margins       ", np.round(last["class_margin"], 2))
print("eps           ", np.round(last["class_epsilon"], 2))
print("gradient ratio", np.round(last["gradient_ratio"], 2))

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
for method, colour in (("ce", "#000000"), ("lpg", "#0072B2")):
    for seed, style in ((0, "-"), (1, "--")):
        of_seed = [line for line in read_lines(method) if line["seed"] == seed]
        epochs, accuracy = zip(*((line["epoch"], 100 * line["balanced"]) for line in of_seed), strict=True)
        panels[0].plot(epochs, accuracy, color=colour, linestyle=style, marker="o", label=f"{method}, seed {seed}")
panels[0].set(xlabel="epoch", ylabel="accuracy in %", title="test, mean over classes")
figure.legend(loc="outside lower center", ncols=4, frameon=False)
panels[1].bar(range(10), last["gradient_ratio"], color="#0072B2")
panels[1].axhline(1, color="#9a9a9a")
panels[1].set(xlabel="class, from frequent to rare", ylabel="edited over plain", title="gradient ratio, lpg, last line")
panels[1].set_xticks(range(10))
plt.show()

# %% [markdown]
# ## 4. The model
#
# `load` reads the newest checkpoint and gives a function from inputs, as the data set has them, to probabilities. It
# stands on the config in the directory, not on the file that the config came from.

# %%
predict, params, loaded = lpg_jax.training.load(home, "lpg")
test = lpg_jax.data.load(loaded.data, loaded.seed).test
accuracies = [np.mean(predict(test.inputs, seed=seed).argmax(-1) == test.labels) for seed in summary["seeds"]]
print("test accuracy per seed, from the model:", np.round(accuracies, 4), "mean", np.mean(accuracies).round(4))
print("the same in summary.json:", round(summary["methods"]["lpg"]["overall"], 4))
print("both seeds together, as an ensemble:", np.mean(predict(test.inputs).argmax(-1) == test.labels).round(4))

# %% [markdown]
# ## 5. The report
#
# `python -m lpg_jax.report DIRECTORY` prints the tables and writes `table.csv` and `classes.png`. It reads the files
# above and nothing else.

# %%
lpg_jax.report.show(home)
written = lpg_jax.report.write(home)
print("written:", ", ".join(path.name for path in written))

# %%
picture = plt.imread(home / "classes.png")
figure = plt.figure(figsize=(10, 10 * picture.shape[0] / picture.shape[1]), layout="constrained")
axes = figure.add_subplot()
axes.imshow(picture)
axes.axis("off")
plt.show()

# %% [markdown]
# ## What to check

# %%
assert np.isclose(np.mean(accuracies), summary["methods"]["lpg"]["overall"])
assert last["step"] == summary["steps"]
temporary.cleanup()
