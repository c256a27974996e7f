"""The methods that Figure 1 compares, by name and family. A new method is one more entry here."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lpg_jax import transforms
from lpg_jax.analysis.methods import Method, at_gradient, at_logits, at_point, by_loss, sam_point
from lpg_jax.bounds import fixed, varied
from lpg_jax.losses import cross_entropy
from lpg_jax.splits import by_accuracy, by_frequency, by_gradient_variance
from lpg_jax.transforms import lpg, lpg_pgd

EPSILON = 0.3  # inside the range in which the paper finds LPG stable, [0.1, 0.5]


def _lpg(counts: np.ndarray, **options: Any) -> optax.GradientTransformationExtraArgs:
    return lpg(by_frequency(counts), fixed(EPSILON), **options)


def _ogc() -> optax.GradientTransformationExtraArgs:
    """With a queue that the batches of a probe can fill."""
    return transforms.optimized_gradient_clipping(1.2, queue_size=512, refit_every=1)


def _label_smoothing(logits: jax.Array, labels: jax.Array, amount: float = 0.1) -> Any:
    num_classes = logits.shape[-1]
    targets = (1 - amount) * jax.nn.one_hot(labels, num_classes) + amount / num_classes
    return cross_entropy(logits, targets)


def _generalised(logits: jax.Array, labels: jax.Array, q: float = 0.7) -> Any:
    """(1 - p_y^q) / q (Zhang and Sabuncu 2018), from log p_y."""
    return -jnp.expm1(-q * cross_entropy(logits, labels)) / q


def _adjusted(counts: np.ndarray) -> Callable[..., Any]:
    """Logit adjustment (Menon et al. 2021): cross-entropy at z + log pi."""
    offset = jnp.asarray(np.log(counts / counts.sum()), jnp.float32)
    return lambda logits, labels: cross_entropy(logits + offset[None], labels)


# family: {name: class counts [C] -> Method}. Not here: `class_level_reweighting`, whose weights are learnt in training;
# `watch_classes` and `zero_sum`, which leave rows of cross-entropy as they are
_TABLE: dict[str, dict[str, Callable[[np.ndarray], Method]]] = {
    "paper": {  # Figure 1
        "ce": lambda counts: by_loss(cross_entropy),
        "SAM 0.05": lambda counts: at_point(sam_point(0.05)),
        "clip 1": lambda counts: at_gradient(optax.clip_by_global_norm(1.0)),
        "noise 0.003": lambda counts: at_gradient(optax.add_noise(eta=0.003**2, gamma=0.0, key=0)),
        "lpg": lambda counts: at_logits(_lpg(counts)),
        "lpg_pgd head": lambda counts: at_logits(lpg_pgd(by_frequency(counts), fixed(EPSILON), metric="head")),
    },
    "lpg": {
        "varied": lambda counts: at_logits(lpg(by_frequency(counts), varied(EPSILON / 3, EPSILON))),
        "class_mean": lambda counts: at_logits(_lpg(counts, direction="class_mean")),
        "class_scale": lambda counts: at_logits(_lpg(counts, direction="class_scale")),
        "accuracy": lambda counts: at_logits(lpg(by_accuracy(), fixed(EPSILON))),
        "variance": lambda counts: at_logits(lpg(by_gradient_variance(), fixed(EPSILON))),
        "equal norm": lambda counts: at_logits(transforms.equal_norm(_lpg(counts))),
        "random split": lambda counts: at_logits(lpg(transforms.random_split(0), fixed(EPSILON))),
    },
    "operators": {
        "rescaling 8, 0.5": lambda counts: at_logits(transforms.gradient_rescaling(8.0, 0.5)),
        "IMAE 8": lambda counts: at_logits(transforms.imae(8.0)),
        "OGC 1.2": lambda counts: at_logits(_ogc()),
        "probability clip 2": lambda counts: at_logits(transforms.probability_clip(2.0)),
        "class balanced": lambda counts: at_logits(transforms.class_balanced(counts)),
        "equalization": lambda counts: at_logits(transforms.equalization()),
        "density": lambda counts: at_logits(transforms.density_harmonizing()),
        "row clip 0.5": lambda counts: at_logits(transforms.row_clip(0.5)),
        "row noise 0.1": lambda counts: at_logits(transforms.row_noise(0.1, key=0)),
    },
    "losses": {
        "label smoothing 0.1": lambda counts: by_loss(_label_smoothing),
        "GCE 0.7": lambda counts: by_loss(_generalised),
        "logit adjustment": lambda counts: by_loss(_adjusted(counts)),
    },
}
FAMILIES = {family: tuple(methods) for family, methods in _TABLE.items()}
NAMES = tuple(name for names in FAMILIES.values() for name in names)


def standard_methods(class_counts: Sequence[int] | np.ndarray, names: Sequence[str] = NAMES) -> dict[str, Method]:
    """The methods of the table.

    Args:
      class_counts: [C] > 0, training examples per class.
      names: which; `NAMES` are all, `FAMILIES` groups them.

    Returns:
      {name: `Method`}. "lpg_pgd head" needs features= and head_kernel= from the probe's extras.

    Raises:
      ValueError: a name that is not in the table; a count of 0 where a method needs them all.

    Example:
      >>> list(standard_methods([50, 5], ["ce", "lpg"]))
      ['ce', 'lpg']
    """
    every = {name: make for methods in _TABLE.values() for name, make in methods.items()}
    for name in names:
        if name not in every:
            raise ValueError(f"name={name!r}: must be one of {', '.join(map(repr, NAMES))}")
    counts = np.asarray(class_counts)
    return {name: every[name](counts) for name in names}
