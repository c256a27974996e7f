"""The data room: sources, long-tailed subsets, label noise, splits. NumPy, scikit-learn and TFDS only; no jax.

`load(config.data, seed)` is the door. Fields of `config.data` (an absent field or None takes the default):

| field                | default       | meaning                                                                     |
|----------------------|---------------|-----------------------------------------------------------------------------|
| name                 | required      | "digits" (scikit-learn, 8x8), "npz", or any TFDS image-classification set   |
| data_dir             | ""            | where TFDS sets lie (only they read it); empty: TFDS's own default          |
| path                 | ""            | "npz": file with x_train, y_train[, x_test, y_test]; x: images [N, H, W, C] |
|                      |               | or [N, H, W], or feature vectors [N, D], uint8 or float; y: integers [N]    |
| train_size           | 0             | so many training examples, classes in proportion; 0: all that there are     |
| imbalance            | 1.0           | largest over smallest class count; 1.0: all data, > 1: a long-tailed subset |
| imbalance_kind       | "exponential" | or "step"                                                                   |
| validation           | 0.0           | fraction of the training subset held out, per class, in [0, 1)              |
| validation_per_class | 0             | or so many examples of every class held out, whatever its size              |
| validation_labels    | "noisy"       | or "clean"                                                                  |
| test_fraction        | 0.3           | per class, in (0, 1), for a source without a test part of its own           |
| standardise          | True          | inputs get mean 0, variance 1 per channel or dimension; False: as they are, |
|                      |               | pixels over 255                                                             |
| noise.kind           | "none"        | symmetric, asymmetric, pair, matrix, instance, human, file                  |
| noise.rate           | 0.0           | in [0, 1]; for symmetric, asymmetric, pair and instance                     |
| noise.include_self   | False         | symmetric: the true class may be drawn too, so less than rate is wrong      |
| noise.path           | ""            | matrix: .npy/.npz [C, C], row = clean class; human, file: .npz              |
| noise.key            | ""            | human: name of the array in the file, e.g. "c10_worse"                      |

A field that the others leave without effect (a rate without a kind that uses it, a path that is not read) is an error.
"""

from lpg_jax.data.dataset import Dataset, Split, load
from lpg_jax.data.instance_noise import corrupt_by_instance
from lpg_jax.data.label_files import load_human_labels, load_labels, save_labels
from lpg_jax.data.longtail import longtail_counts, longtail_subset, proportional_counts, stratified_split
from lpg_jax.data.moments import moments
from lpg_jax.data.noise import corrupt, read_matrix, transition_matrix

__all__ = [
    "Dataset",
    "Split",
    "corrupt",
    "corrupt_by_instance",
    "load",
    "load_human_labels",
    "load_labels",
    "longtail_counts",
    "longtail_subset",
    "moments",
    "proportional_counts",
    "read_matrix",
    "save_labels",
    "stratified_split",
    "transition_matrix",
]
