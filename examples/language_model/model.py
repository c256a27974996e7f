"""A causal transformer of the plainest kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Attention to the past, then a perceptron, each around a residual."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, causal: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attention")(nn.LayerNorm()(x), mask=causal)
        hidden = nn.gelu(nn.Dense(4 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(hidden)


class Transformer(nn.Module):
    """Logits [B, T, C] of the next token from tokens [B, T] int in [0, C)."""

    vocabulary: int
    width: int = 64
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        place = self.param("place", nn.initializers.normal(0.02), (tokens.shape[-1], self.width))
        x = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02), name="words")(tokens)
        x, causal = x + place[None], nn.make_causal_mask(jnp.ones_like(tokens))
        for _ in range(self.layers):
            x = Block(self.heads)(x, causal)
        return nn.Dense(self.vocabulary, name="head")(nn.LayerNorm()(x))
