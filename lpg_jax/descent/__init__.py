"""Parameter level: what happens to a parameter gradient between backpropagation and the update."""

from lpg_jax.descent.chain import Descent, from_config, with_noise_key

__all__ = ["Descent", "from_config", "with_noise_key"]
