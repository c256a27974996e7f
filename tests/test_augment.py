"""Augmentation: what can come out, how often, and that nothing but key and position decides it."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from configs import default
from lpg_jax.training import augment
from lpg_jax.training.augment import Augment

pytestmark = pytest.mark.slow

OFF = Augment(0, False, 0)
ALL = Augment(crop=1, flip=True, cutout=1)
H, W, K = 4, 3, 2
IMAGE = np.arange(1, 1 + H * W * K, dtype=np.uint8).reshape(H, W, K)  # no two pixels alike, none black


def keys_of(count, step=0):
    return augment.example_keys(jax.random.fold_in(jax.random.key(5), step), jnp.arange(count))


def copies(count, image=IMAGE):
    return jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))


def windows(crop, flip, image=IMAGE):
    """All pictures that may come out, by plain slicing of the padded picture."""
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    height, width = image.shape[:2]
    cut = [padded[r : r + height, c : c + width] for r in range(2 * crop + 1) for c in range(2 * crop + 1)]
    return cut + [window[:, ::-1] for window in cut] if flip else cut


def squares(side, height, width):
    """All masks that may come out, one per centre, written with one loop per pixel."""
    masks = []
    for row, column in np.ndindex(height, width):
        mask = np.zeros((height, width), bool)
        for r, c in np.ndindex(height, width):
            mask[r, c] = 0 <= r - row + side // 2 < side and 0 <= c - column + side // 2 < side
        masks.append(mask)
    return masks


def which(outputs, possible):
    """Index of each output among the possible ones, all of which differ; an output not among them is an error."""
    place = {np.asarray(one).tobytes(): index for index, one in enumerate(possible)}
    assert len(place) == len(possible)
    return np.array([place[one.tobytes()] for one in np.asarray(outputs)])


def is_fair(cells, number):
    """Every cell occurs, all equally often as far as chance goes (one in ten thousand fair draws would fail)."""
    counts = np.bincount(cells, minlength=number)
    return len(counts) == number and bool(counts.all()) and stats.chisquare(counts).pvalue > 1e-4


def moved(options, count):
    return jax.jit(lambda keys: augment.geometric(options, keys, copies(count)))(keys_of(count))


@pytest.mark.parametrize(("crop", "flip"), [(1, False), (0, True), (1, True), (2, True)])
def test_windows_are_those_of_the_padded_image_all_equally_often(crop, flip):
    possible = windows(crop, flip)
    assert len(possible) == (2 * crop + 1) ** 2 * (1 + flip)
    count = 200 * len(possible)
    out = moved(Augment(crop, flip, 0), count)
    assert out.dtype == jnp.uint8
    assert out.shape == (count, H, W, K)
    cells = which(out, possible)
    assert is_fair(cells, len(possible))
    assert not is_fair(cells[cells > 0], len(possible))  # a window that never comes would be seen
    assert not is_fair(np.concatenate([cells, cells[cells == 0]]), len(possible))  # and one that comes twice as often


def test_wrong_scale_is_seen():
    with pytest.raises(KeyError):
        which(moved(Augment(2, True, 0), 300), windows(1, True))
    with pytest.raises(KeyError):
        which(cut_masks(2, 5, 4, 100), squares(3, 5, 4))


def cut_masks(side, height, width, count):
    ones = jnp.ones((count, height, width, K))
    out = np.asarray(jax.jit(lambda k: augment.cutout(Augment(0, False, side), k, ones))(keys_of(count)))
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    return out[..., 0] == 0


@pytest.mark.parametrize(("side", "height", "width"), [(1, 3, 4), (2, 5, 3), (3, 5, 4), (4, 7, 6)])
def test_cutout_is_a_square_around_a_uniform_centre_clipped_at_the_border(side, height, width):
    possible, count = squares(side, height, width), 40 * height * width
    masks = cut_masks(side, height, width, count)
    assert is_fair(which(masks, possible), height * width)
    areas = masks.sum((1, 2))
    assert areas.max() == side**2
    assert areas.min() == (side - side // 2) ** 2 or side == 2  # in a corner
    assert areas.min() >= (side // 2) ** 2


def test_cutout_touches_nothing_else():
    images = jax.random.normal(jax.random.key(1), (64, 6, 5, 3), jnp.bfloat16).at[0].set(jnp.nan)
    out = jax.jit(lambda keys: augment.cutout(Augment(0, False, 3), keys, images))(keys_of(64))
    assert out.dtype == images.dtype
    hidden = np.asarray(out == 0)
    assert hidden[0].any()  # NaN does not leak through
    np.testing.assert_array_equal(*(np.asarray(x, np.float32)[~hidden] for x in (out, images)))


def joint_cells(count):
    """Which of the 216 combinations of window, side and centre of the square came out."""
    cut = jax.jit(lambda keys: augment.cutout(ALL, keys, jnp.ones((count, H, W, 1))))(keys_of(count))
    return which(moved(ALL, count), windows(1, True)) * H * W + which(np.asarray(cut)[..., 0] == 0, squares(1, H, W))


def test_crop_flip_and_cutout_are_independent():
    assert is_fair(joint_cells(6000), 18 * H * W)


@pytest.mark.parametrize("purpose", ["CROP", "FLIP"])
def test_a_shared_sub_stream_would_be_seen(purpose, monkeypatch):
    monkeypatch.setattr(augment, "CUTOUT", getattr(augment, purpose))
    assert not is_fair(joint_cells(6000), 18 * H * W)


def test_steps_and_positions_repeat_nothing():
    steps, count = 40, 32
    data = np.concatenate([jax.random.key_data(keys_of(count, step)) for step in range(steps)])
    assert len(np.unique(data, axis=0)) == steps * count

    @jax.vmap
    def of_step(step):
        return augment.geometric(Augment(1, False, 0), keys_of(count, step), copies(count))

    out = jax.jit(of_step)(jnp.arange(steps)).reshape(-1, H, W, K)
    cells = which(out, windows(1, False)).reshape(steps, count)
    assert is_fair((cells[1:] + 9 * cells[:-1]).ravel(), 81)  # one step says nothing about the next
    assert is_fair((cells[:, 1:] + 9 * cells[:, :-1]).ravel(), 81)  # nor a position about its neighbour


def pipeline(keys, images):
    """As in a training step: pixels, then standardised values."""
    moved = augment.geometric(Augment(2, True, 3), keys, images)
    return augment.cutout(Augment(2, True, 3), keys, moved.astype(jnp.float32) / 255)


def pictures(count, height=8, width=6):
    return jnp.asarray(np.random.default_rng(0).integers(1, 256, (count, height, width, 3), dtype=np.uint8))


def test_pure(strict):
    images, keys = pictures(16), keys_of(16)
    run = jax.jit(pipeline)
    first = run(keys, images)
    np.testing.assert_array_equal(first, run(keys, images))
    assert np.any(np.asarray(first != run(keys_of(16, step=1), images)))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(first, run(keys, images))  # a float64 run sees the same pictures


@pytest.mark.parametrize("parts", [4, 16])
def test_any_split_of_the_batch_gives_the_same_examples(parts):
    images, key = pictures(16), jax.random.key(3)
    run = jax.jit(lambda positions, chunk: pipeline(augment.example_keys(key, positions), chunk))
    whole = np.asarray(run(jnp.arange(16), images))
    positions, chunks = np.arange(16).reshape(parts, -1), np.split(np.asarray(images), parts)
    cut = [run(*pair) for pair in zip(positions, chunks, strict=True)]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    restarted = [run(positions[0], chunk) for chunk in chunks]
    assert np.any(np.concatenate(restarted) != whole)  # positions within the part would be seen


COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter")


@pytest.mark.parametrize("seeds", [0, 2])
def test_no_device_needs_another(seeds):
    """Keys and images sharded over the batch: no communication, and the same bits as on one device."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    axes = ("data",) if not seeds else (None, "data")
    whole, split = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), axes))

    def one(key, images):
        return pipeline(augment.example_keys(key, jnp.arange(32)), images)

    body, with_mean = one, lambda key, images: jnp.mean(one(key, images), axis=0)

    key, images = jax.random.key(3), pictures(32)
    if seeds:
        key, images = jax.random.split(key, seeds), jnp.stack([images, images[::-1]])
        body, with_mean = jax.vmap(one), jax.vmap(with_mean)
    alone = jax.jit(body)(key, images)
    key, images = jax.device_put(key, whole), jax.device_put(images, split)
    program = jax.jit(body).lower(key, images).compile()
    assert not COLLECTIVE.search(program.as_text())
    spread = jax.block_until_ready(program(key, images))
    assert spread.sharding.is_equivalent_to(split, images.ndim)
    np.testing.assert_array_equal(spread, alone)
    assert COLLECTIVE.search(jax.jit(with_mean).lower(key, images).compile().as_text())  # the search can find one


def test_keys_sharded_by_the_caller():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    keys, images = keys_of(32), pictures(32)
    program = jax.jit(pipeline).lower(jax.device_put(keys, split), jax.device_put(images, split)).compile()
    assert not COLLECTIVE.search(program.as_text())


def test_off_adds_nothing():
    images, keys = pictures(4), keys_of(4)
    assert augment.geometric(Augment(0, False, 5), keys, images) is images
    assert augment.cutout(Augment(1, True, 0), keys, images) is images
    traced = jax.make_jaxpr(lambda k, x: augment.cutout(OFF, k, augment.geometric(OFF, k, x)))(keys, images)
    assert traced.eqns == []


def test_from_config():
    assert augment.from_config(default.get_config().augment, (64,)) == OFF
    assert augment.from_config(SimpleNamespace(crop=4, flip=True, cutout=16), (32, 32, 3)) == Augment(4, True, 16)
    assert augment.from_config(SimpleNamespace(crop=3, flip=False, cutout=3), (4, 9, 1)) == Augment(3, False, 3)


@pytest.mark.parametrize(
    ("change", "shape", "text"),
    [
        ({"crop": -1}, (8, 8, 1), r"augment\.crop=-1: must be an integer >= 0"),
        ({"crop": 1.5}, (8, 8, 1), r"augment\.crop=1\.5: must be an integer >= 0"),
        ({"crop": True}, (8, 8, 1), r"augment\.crop=True: must be an integer"),
        ({"cutout": -2}, (8, 8, 1), r"augment\.cutout=-2: must be an integer >= 0"),
        ({"flip": 1}, (8, 8, 1), r"augment\.flip=1: must be True or False"),
        ({"crop": 8}, (8, 9, 1), r"augment\.crop=8: must be below 8, the shorter side of images of shape \(8, 9, 1\)"),
        ({"cutout": 16}, (9, 8, 1), r"augment\.cutout=16: must be below 8, the shorter side"),
        (
            {"crop": 4},
            (64,),
            r"augment\.crop=4: must be 0 for inputs of shape \(64,\), which are no images \[H, W, K\]",
        ),
        ({"flip": True}, (64,), r"augment\.flip=True: must be False for inputs of shape"),
        ({"cutout": 1}, (8, 8), r"augment\.cutout=1: must be 0 for inputs of shape \(8, 8\)"),
    ],
)
def test_nonsense_is_refused(change, shape, text):
    with pytest.raises(ValueError, match=text):
        augment.from_config(SimpleNamespace(**(OFF._asdict() | change)), shape)


def test_misuse_is_refused():
    images = jnp.ones((4, 3, 3, 1))
    for function in (augment.geometric, augment.cutout):
        with pytest.raises(ValueError, match=r"images\.shape=\(4, 9\): must be \[B, H, W, K\]"):
            function(ALL, keys_of(4), images.reshape(4, 9))
        with pytest.raises(ValueError, match=r"keys=key<fry>\[3\]: must be typed PRNG keys of shape \[4\]"):
            function(ALL, keys_of(3), images)
        with pytest.raises(ValueError, match=r"keys=uint32\[4, 2\]: must be typed PRNG keys"):
            function(ALL, jax.random.key_data(keys_of(4)), images)
    with pytest.raises(ValueError, match=r"images\.dtype=uint8: must be floating"):
        augment.cutout(ALL, keys_of(4), images.astype(jnp.uint8))
