"""Per-example losses: logits [..., C], labels [...] or membership [..., C] -> losses [...]."""

from lpg_jax.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
