"""Logit-gradient transformations: `optax.GradientTransformationExtraArgs` over rows [..., C]."""

from lpg_jax.transforms.class_level import LpgState, class_table
from lpg_jax.transforms.closed_form import lpg
from lpg_jax.transforms.pgd import lpg_pgd

__all__ = ["LpgState", "class_table", "lpg", "lpg_pgd"]
