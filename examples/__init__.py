"""lpg_jax inside plain training loops of one's own."""
