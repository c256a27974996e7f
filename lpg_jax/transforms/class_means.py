"""The mean logit gradients m_c of the classes in a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lpg_jax import statistics
from lpg_jax.statistics import HIGHEST, ClassStats, everyone, safe_divide, total, unit_and_norm
from lpg_jax.transforms.class_level import Batch


class ClassMeans(NamedTuple):
    """Mean logit gradients of K classes: of the at most B classes present, or of all C where C <= B and for soft
    targets."""

    mean: jax.Array  # [K, C]
    count: jax.Array  # [K] n in the batch
    classes: jax.Array | None  # [K] class of each entry (C: empty); None if entry c is class c
    place: jax.Array | None  # [B] entry of each row, K or an empty one for a row that stays out; None: soft targets

    def of(self, per_class: jax.Array) -> jax.Array:
        """A number or a row per class [C, ...] -> one per entry [K, ...]; 0 for an empty one."""
        return _entries(per_class, self.classes)

    def average(self, values: jax.Array, batch: Batch) -> jax.Array:
        """Mean of values [B] over the members of each class [K]."""
        if self.place is None:  # a product would spread one example's NaN over all classes
            sums = jnp.sum(jnp.where(batch.membership > 0, batch.membership * values[:, None], 0), axis=0)
        else:
            sums = jax.ops.segment_sum(values, self.place, num_segments=len(self.count))
        return safe_divide(total(sums, batch.axis_name), self.count)

    def weights(self, batch: Batch) -> jax.Array:
        """t_ik of each row in each entry [B, K]."""
        if self.place is None:
            return batch.membership
        return jax.nn.one_hot(self.place, len(self.count), dtype=batch.rows.dtype)

    def spread(self, displacement: jax.Array, batch: Batch) -> jax.Array:
        """sum_c t_ic d_c for every row [B, C], from d_c [K, C]; a d_c that is not finite leaves its class alone."""
        displacement = jnp.where(jnp.all(jnp.isfinite(displacement), axis=-1, keepdims=True), displacement, 0)
        if self.place is None:
            return jnp.matmul(batch.membership, displacement, precision=HIGHEST)
        return displacement.at[self.place].get(mode="fill", fill_value=0)


def class_means(batch: Batch, stats: ClassStats, source: str) -> ClassMeans:
    """m_c of the batch (source "batch") or of the running statistics ("running")."""
    if batch.labels is None:
        return ClassMeans(_dense_means(batch, stats, source, None), batch.sums.count, None, None)
    labels = everyone(batch.labels, batch.axis_name)
    if batch.sums.gradient is None:
        sums, classes, _ = statistics.present_class_sums(everyone(batch.rows, batch.axis_name), labels)
        count = _entries(batch.sums.count, classes)
        return ClassMeans(safe_divide(sums, count[:, None]), count, classes, jnp.searchsorted(classes, batch.labels))
    num_classes = batch.rows.shape[-1]
    if num_classes <= len(labels):
        return ClassMeans(_dense_means(batch, stats, source, None), batch.sums.count, None, batch.labels)
    classes = jnp.unique(labels, size=len(labels), fill_value=num_classes)
    mean = _dense_means(batch, stats, source, classes)
    return ClassMeans(mean, _entries(batch.sums.count, classes), classes, jnp.searchsorted(classes, batch.labels))


def _dense_means(batch: Batch, stats: ClassStats, source: str, classes: jax.Array | None) -> jax.Array:
    """m_c [K, C] from the sums or the running means of all classes."""
    assert batch.sums.gradient is not None
    if source == "running":
        assert stats.class_grad_mean is not None
        return _entries(stats.class_grad_mean, classes).astype(batch.sums.gradient.dtype)
    return safe_divide(_entries(batch.sums.gradient, classes), _entries(batch.sums.count, classes)[:, None])


def _entries(per_class: jax.Array, classes: jax.Array | None) -> jax.Array:
    return per_class if classes is None else per_class.at[classes].get(mode="fill", fill_value=0)


def batch_mean_norms(batch: Batch) -> jax.Array:
    """||m_c|| of every class over the batch [C], without a C x C array above dense_limit."""
    if batch.sums.gradient is not None:
        return safe_divide(unit_and_norm(batch.sums.gradient)[1][:, 0], batch.sums.count)
    if batch.axis_name is None:
        assert batch.norms_of_sums is not None
        return safe_divide(batch.norms_of_sums, batch.sums.count)
    rows, weights = everyone(batch.rows, batch.axis_name), everyone(batch.membership, batch.axis_name)
    labels = None if batch.labels is None else everyone(batch.labels, batch.axis_name)
    norms = everyone(batch.norm[:, 0], batch.axis_name)
    return safe_divide(statistics.sum_norms(rows, norms, weights, labels), batch.sums.count)
