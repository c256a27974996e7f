"""LPG: per class, amplify or dampen the gradient of the loss at the logits.

tx = lpg_jax.lpg(lpg_jax.by_frequency(class_counts), lpg_jax.fixed(0.3))
loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
losses, logit_state = loss_fn(logits, labels, logit_state)      # logit_state = tx.init(jnp.zeros(num_classes))
"""

from lpg_jax import losses, transforms
from lpg_jax.bounds import fixed, varied
from lpg_jax.logit_layer import commit, perturbed, tap, zero_sums
from lpg_jax.splits import by_accuracy, by_frequency, by_gradient_variance, opposite
from lpg_jax.statistics import ClassStats, ClassSums
from lpg_jax.transforms import LpgState, class_table, lpg, lpg_pgd

__version__ = "0.1.0"

__all__ = [
    "ClassStats",
    "ClassSums",
    "LpgState",
    "by_accuracy",
    "by_frequency",
    "by_gradient_variance",
    "class_table",
    "commit",
    "fixed",
    "losses",
    "lpg",
    "lpg_pgd",
    "opposite",
    "perturbed",
    "tap",
    "transforms",
    "varied",
    "zero_sums",
]
