"""The mean logit gradients m_c of the classes in a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lpg_jax import statistics
from lpg_jax.statistics import HIGHEST, ClassStats, everyone, safe_divide, total, unit_and_norm
from lpg_jax.transforms.class_level import Batch


class ClassMeans(NamedTuple):
    """Mean logit gradients of K classes: of all C up to dense_limit, above it of the at most B classes present."""

    mean: jax.Array  # [K, C]
    count: jax.Array  # [K] n in the batch
    classes: jax.Array | None  # [K] class of each entry (C: empty); None if entry c is class c
    place: jax.Array | None  # [B] entry of each row; None if entry c is class c

    def of(self, per_class: jax.Array) -> jax.Array:
        """A number per class [C] -> one per entry [K]; 0 for an empty one."""
        return per_class if self.classes is None else per_class.at[self.classes].get(mode="fill", fill_value=0)

    def average(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Mean of values [B] over the members of each class [K]."""
        if self.classes is None:  # a product would spread one example's NaN over all classes
            weighted = jnp.where(batch.membership > 0, batch.membership * values[:, None], 0)
            sums = total(jnp.sum(weighted, axis=0), batch.axis_name)
        else:
            members = jnp.where(jnp.any(batch.membership > 0, axis=-1), values, 0)
            assert batch.labels is not None
            place = place_of(everyone(batch.labels, batch.axis_name), self.classes)
            sums = jax.ops.segment_sum(everyone(members, batch.axis_name), place, num_segments=self.classes.size)
        return safe_divide(sums, self.count)

    def spread(self, displacement: jax.Array, batch: Batch) -> jax.Array:
        """sum_c t_ic d_c for every row [B, C], from d_c [K, C]; a d_c that is not finite leaves its class alone."""
        displacement = jnp.where(jnp.all(jnp.isfinite(displacement), axis=-1, keepdims=True), displacement, 0)
        if self.place is None:
            return jnp.matmul(batch.membership, displacement, precision=HIGHEST)
        return displacement.at[self.place].get(mode="fill", fill_value=0)


def place_of(labels: jax.Array, classes: jax.Array) -> jax.Array:
    """Place of each label in the sorted classes."""
    return jnp.searchsorted(classes, labels)


def class_means(batch: Batch, stats: ClassStats, source: str) -> ClassMeans:
    """m_c of the batch (source "batch") or of the running statistics ("running")."""
    if batch.sums.gradient is not None:
        mean = safe_divide(batch.sums.gradient, batch.sums.count[:, None])
        if source == "running":
            assert stats.class_grad_mean is not None
            mean = stats.class_grad_mean.astype(mean.dtype)
        return ClassMeans(mean, batch.sums.count, None, None)
    assert batch.labels is not None
    rows, labels = everyone(batch.rows, batch.axis_name), everyone(batch.labels, batch.axis_name)
    sums, classes, place = statistics.present_class_sums(rows, labels)
    count = jax.ops.segment_sum(jnp.ones_like(place, rows.dtype), place, num_segments=classes.size)
    return ClassMeans(safe_divide(sums, count[:, None]), count, classes, place_of(batch.labels, classes))


def batch_mean_norms(batch: Batch) -> jax.Array:
    """||m_c|| of every class over the batch [C], without a C x C array above dense_limit."""
    if batch.sums.gradient is not None:
        return safe_divide(unit_and_norm(batch.sums.gradient)[1][:, 0], batch.sums.count)
    rows, weights = everyone(batch.rows, batch.axis_name), everyone(batch.membership, batch.axis_name)
    labels = None if batch.labels is None else everyone(batch.labels, batch.axis_name)
    return safe_divide(jnp.sqrt(statistics.sum_norms_squared(rows, weights, labels)), batch.sums.count)
