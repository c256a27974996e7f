"""Random changes of training images inside the jitted step: pad-crop, flip, Cutout.

Every example has a key of its own, made from the step's key and the example's position in the batch. A draw thus
depends neither on how the batch is spread over devices or micro-batches nor on the dtype that is computed in, and with
keys and images sharded over the batch no device needs anything of another.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CROP, FLIP, CUTOUT = range(3)  # sub-streams of an example's key


class Augment(NamedTuple):
    """What is done to a training image; static, closed over by the step."""

    crop: int  # pixels of black border on each side, from which a window of the old size is cut; 0: no crop
    flip: bool  # left-right, with probability 1/2
    cutout: int  # side in pixels of a square that is set to 0; 0: none


def from_config(fields: Any, input_shape: tuple[int, ...]) -> Augment:
    """Reads and checks config.augment.

    Args:
      fields: ConfigDict, or any object with the attributes crop, flip and cutout of `Augment`.
      input_shape: of one example: (H, W, K) for images.

    Returns:
      An `Augment`.

    Raises:
      ValueError: a crop or cutout that is negative or not below both sides of the image (so that an image always
        keeps a pixel), or any augmentation of inputs that are no images [H, W, K]; names augment.field=value.

    Example:
      >>> from types import SimpleNamespace
      >>> from_config(SimpleNamespace(crop=4, flip=True, cutout=16), (32, 32, 3))
      Augment(crop=4, flip=True, cutout=16)
    """
    options = Augment(fields.crop, fields.flip, fields.cutout)
    for name, value in options._asdict().items():
        kind, text = (bool, "True or False") if name == "flip" else (int, "an integer >= 0, in pixels")
        if type(value) is not kind or value < 0:
            raise ValueError(f"augment.{name}={value!r}: must be {text}")
        if value and len(input_shape) != 3:
            raise ValueError(
                f"augment.{name}={value!r}: must be {kind()} for inputs of shape {tuple(input_shape)}, "
                "which are no images [H, W, K]"
            )
        if name != "flip" and value and value >= min(input_shape[:2]):
            raise ValueError(
                f"augment.{name}={value}: must be below {min(input_shape[:2])}, the shorter side of images of shape "
                f"{tuple(input_shape)}"
            )
    return options


def example_keys(key: jax.Array, positions: jax.Array) -> jax.Array:
    """One key per example.

    Args:
      key: [] typed key of the step.
      positions: int [B], the place of each example in the whole (global) batch; a shard or micro-batch holds its part.

    Returns:
      [B] typed keys: `fold_in(key, position)`.

    Example:
      >>> example_keys(jax.random.key(0), jnp.arange(4)).shape
      (4,)
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def geometric(options: Augment, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Pad-crop, then flip: all the (2 crop + 1)^2 windows of the padded image, and both sides, are equally likely.

    Meant for raw pixels, where the border of zeros is black.

    | case | result |
    |---|---|
    | crop 0 and no flip | `images` itself; nothing is added to the program |
    | integer images (uint8) | same dtype; pixels are moved, never computed with |

    Args:
      options: what to do.
      keys: [B] typed keys, of `example_keys`.
      images: [B, H, W, K], any dtype.

    Returns:
      [B, H, W, K], same dtype.

    Raises:
      ValueError: images of another rank, or keys that are not one typed key per image.

    Example:
      >>> images = jnp.arange(24, dtype=jnp.uint8).reshape(2, 3, 4, 1)
      >>> keys = example_keys(jax.random.key(0), jnp.arange(2))
      >>> geometric(Augment(crop=1, flip=True, cutout=0), keys, images).dtype
      dtype('uint8')
    """
    if not options.crop and not options.flip:
        return images
    _check(keys, images)

    def of_example(key: jax.Array, image: jax.Array) -> jax.Array:
        rows, columns = _origin(options, key, *image.shape[:2])
        # An index outside the image is the border, so that no padded copy is made; -1 must not mean the last row.
        window = image.at[rows[:, None], columns[None, :]]
        return window.get(mode="fill", fill_value=0, wrap_negative_indices=False)

    return jax.vmap(of_example)(keys, images)


def cutout(options: Augment, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Cutout (DeVries & Taylor 2017, arXiv 1708.04552): a square of zeros, its centre uniform over the image.

    Meant for standardised images, where 0 is the mean colour. The square is clipped at the border. With the centre in
    row r it covers the rows r - side // 2 to r - side // 2 + side - 1, for an odd side too [ours: the authors' code
    takes an odd side as the next smaller even one].

    | case | result |
    |---|---|
    | cutout 0 | `images` itself; nothing is added to the program |
    | NaN or inf under the square | 0 |

    Args:
      options: what to do.
      keys: [B] typed keys, the same as for `geometric`; the two draw from different sub-streams.
      images: floating [B, H, W, K].

    Returns:
      [B, H, W, K], same dtype.

    Raises:
      ValueError: images of another rank or not floating, or keys that are not one typed key per image.

    Example:
      >>> keys = example_keys(jax.random.key(0), jnp.arange(2))
      >>> cut = cutout(Augment(crop=0, flip=False, cutout=1), keys, jnp.ones((2, 3, 4, 1)))
      >>> cut.sum(axis=(1, 2, 3)).tolist()
      [11.0, 11.0]
    """
    if not options.cutout:
        return images
    _check(keys, images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images.dtype={images.dtype}: must be floating (standardised, so that 0 is the mean colour)")
    sides = images.shape[1:3]

    def hidden(key: jax.Array) -> jax.Array:
        centre = _draw(key, CUTOUT, (2,), 0, jnp.asarray(sides, jnp.int32))
        rows, columns = (
            (pixels >= first) & (pixels < first + options.cutout)
            for pixels, first in zip(map(_pixels, sides), centre - options.cutout // 2, strict=True)
        )
        return rows[:, None] & columns[None, :]

    return jnp.where(jax.vmap(hidden)(keys)[..., None], jnp.zeros((), images.dtype), images)


def _origin(options: Augment, key: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Row [H] and column [W] of the image that each pixel of the result is taken from; outside: border."""
    rows, columns = _pixels(height), _pixels(width)
    if options.flip:
        columns = jnp.where(_draw(key, FLIP, (), 0, 2) == 1, columns[::-1], columns)
    if options.crop:
        down, right = _draw(key, CROP, (2,), -options.crop, options.crop + 1)
        rows, columns = rows + down, columns + right
    return rows, columns


def _draw(key: jax.Array, purpose: int, shape: tuple[int, ...], low: int, high: Any) -> jax.Array:
    # int32 everywhere, because the default integer of a float64 run would draw other numbers
    return jax.random.randint(jax.random.fold_in(key, purpose), shape, low, high, jnp.int32)


def _pixels(side: int) -> jax.Array:
    return jnp.arange(side, dtype=jnp.int32)


def _check(keys: jax.Array, images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images.shape={images.shape}: must be [B, H, W, K]")
    if keys.shape != images.shape[:1] or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys={keys.dtype}{list(keys.shape)}: must be typed PRNG keys of shape {list(images.shape[:1])}, one per "
            "image; see example_keys"
        )
