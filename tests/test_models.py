"""lpg_jax.models: sizes of the literature, plain-NumPy references of the blocks, and the contract of every model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lpg_jax import models
from lpg_jax.models import layers, resnet, wide_resnet

IMAGES = ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "se_resnet110", "wrn16_8", "wrn28_10")
FLAT = ("linear", "mlp")
IMAGE = (2, 9, 7, 3)  # odd sizes: a stride of 2 must round alike on both ways through a block


# Compiling is what these tests spend their time on.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@functools.cache
def abstract(name, shape, num_classes=10):
    """Shapes of variables and of (logits, features), without any computation."""
    model, inputs = models.create(name, num_classes), jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return variables, jax.eval_shape(model.apply, variables, inputs)


@functools.cache
def tiny(name="resnet8", dtype="float32"):
    """A model with batch statistics off their start, inputs [6, 8, 8, 1], and its compiled training step's parts."""
    model = models.create(name, 3, dtype=dtype)
    inputs = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return model, random_like(shapes), inputs


def random_like(shapes):
    """Values for a tree of shapes: He-scaled kernels; positive, unequal vectors (scales, biases, statistics)."""
    rng = np.random.default_rng(0)

    def values(leaf):
        drawn = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) > 1:
            drawn = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree.map(values, shapes)


@functools.partial(fast_jit, static_argnums=0)
def train_step(model, variables, inputs, mask):
    """Logits, features, new batch statistics, and the gradient of a loss over the rows that are present."""

    def loss(params):
        (logits, features), updates = model.apply(
            {**variables, "params": params}, inputs, train=True, mask=mask, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.where((mask != 0)[:, None], jnp.sin(logits), 0.0)), (logits, features, updates)

    gradient, (logits, features, updates) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, features, updates.get("batch_stats", {}), gradient


# --- sizes


@pytest.mark.parametrize(
    ("name", "published", "digits", "exact"),
    [
        ("resnet20", 0.27, 2, 269_722),
        ("resnet32", 0.46, 2, 464_154),
        ("resnet44", 0.66, 2, 658_586),
        ("resnet56", 0.85, 2, 853_018),
        ("resnet110", 1.7, 1, 1_727_962),
        ("wrn16_8", 11.0, 1, 10_961_370),
        ("wrn28_10", 36.5, 1, 36_479_194),
    ],
)
def test_parameter_counts_of_the_literature(name, published, digits, exact):
    count = models.count_parameters(abstract(name, IMAGE)[0]["params"])
    assert round(count / 1e6, digits) == published
    assert count == exact


@pytest.mark.parametrize("name", IMAGES)
def test_depth_in_the_name_is_the_number_of_weighted_layers(name):
    paths = jax.tree_util.tree_leaves_with_path(abstract(name, IMAGE)[0]["params"])
    kernels = [jax.tree_util.keystr(path) for path, _ in paths if path[-1].key == "kernel"]
    if name.startswith("wrn"):  # counts the shortcuts' convolutions, but not the head
        assert len([path for path in kernels if "head" not in path]) == int(name[3:5])
    else:
        assert len([path for path in kernels if "squeeze" not in path]) == int(name.split("resnet")[-1])


def test_squeeze_adds_two_dense_layers_per_block():
    extra = sum(18 * ((c * (c // 16) + c // 16) + ((c // 16) * c + c)) for c in (16, 32, 64))
    plain, squeezed = (models.count_parameters(abstract(n, IMAGE)[0]["params"]) for n in ("resnet110", "se_resnet110"))
    assert squeezed - plain == extra


# --- shapes and dtypes


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, IMAGE) for name in (*IMAGES, *FLAT)] + [(name, (3, 1, 1, 5)) for name in ("resnet8", "wrn16_8", "linear")],
)
def test_shapes(name, shape):
    variables, (logits, features) = abstract(name, shape)
    kernel = models.head_kernel(variables["params"])
    assert logits.shape == (shape[0], 10)
    assert features.shape == (shape[0], kernel.shape[0])
    assert kernel.shape[1] == 10
    expected = {"linear": np.prod(shape[1:]), "mlp": 128, "wrn16_8": 512, "wrn28_10": 640}
    assert features.shape[1] == expected.get(name, 64)


@pytest.mark.parametrize("name", FLAT)
def test_flat_vectors_are_flattened_images(name):
    model, inputs = models.create(name, 4), jax.random.normal(jax.random.key(0), (5, 2, 3, 2))
    variables = random_like(jax.eval_shape(model.init, jax.random.key(1), inputs))
    flat = fast_jit(model.apply)(variables, inputs.reshape(5, 12))
    jax.tree.map(np.testing.assert_array_equal, flat, fast_jit(model.apply)(variables, inputs))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")],
)
@pytest.mark.parametrize("name", ["resnet8", "wrn16_8", "mlp", "linear"])
def test_parameters_statistics_and_outputs_are_wide(name, dtype, expected):
    with jax.enable_x64(dtype == "float64"):
        model, inputs = models.create(name, 3, dtype=dtype), jax.ShapeDtypeStruct((2, 8, 8, 1), expected)
        variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
        mask = jax.ShapeDtypeStruct((2,), jnp.bool_)
        call = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        outputs, updates = jax.eval_shape(call, variables, inputs, mask=mask)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs, updates))} == {jnp.dtype(expected)}
    assert jax.tree.structure(updates.get("batch_stats")) == jax.tree.structure(variables.get("batch_stats"))


def test_bfloat16_computes_in_bfloat16():
    """All convolutions run in bf16, the head and the normalisation in f32, and the logits stay near those of f32."""
    model, variables, inputs = tiny()
    half = models.create("resnet8", 3, dtype=jnp.bfloat16)
    text = str(jax.make_jaxpr(half.apply)(variables, inputs))
    convolutions = [line.split("=")[0] for line in text.splitlines() if "conv_general_dilated[" in line]
    assert len(convolutions) == 7
    assert all("bf16" in line for line in convolutions)
    exact, near = (fast_jit(m.apply)(variables, inputs)[0] for m in (model, half))
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["resnet8", "mlp", "linear"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_features_times_head_kernel(name, dtype):
    model, variables, inputs = tiny(name, dtype)
    logits, features = fast_jit(model.apply)(variables, inputs)
    kernel, bias = models.head_kernel(variables["params"]), variables["params"]["head"]["bias"]
    expected = np.asarray(features, np.float64) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(logits) > 0.1


# --- masks


MASK = jnp.array([1.0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("name", ["resnet8", "mlp"])
def test_what_a_masked_row_holds_does_not_matter(name):
    """NaN or numbers: the same statistics, gradient and logits to the bit, and nothing of the row in them."""
    model, variables, inputs = tiny(name)
    hidden = (MASK == 0)[:, None, None, None]
    one = train_step(model, variables, jnp.where(hidden, jnp.nan, inputs), MASK)
    two = train_step(model, variables, jnp.where(hidden, 1e3 * inputs, inputs), MASK)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[-1])) > 1e-3
    other = train_step(model, variables, inputs.at[0].mul(2.0), MASK)  # a row that is there does matter
    assert np.abs(other[0][0] - one[0][0]).max() > 1e-3


def test_padded_batch_is_the_batch_without_the_padding():
    model, variables, inputs = tiny()
    keep = np.flatnonzero(MASK)
    padded = train_step(model, variables, inputs, MASK)
    call = fast_jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    (logits, features), updates = call(variables, inputs[keep])
    close_trees((padded[0][keep], padded[1][keep], padded[2]), (logits, features, updates["batch_stats"]))
    assert (
        np.abs(updates["batch_stats"]["stem_norm"]["mean"] - variables["batch_stats"]["stem_norm"]["mean"]).max() > 0.01
    )


def test_rows_are_independent_in_evaluation():
    model, variables, inputs = tiny()
    call = fast_jit(model.apply)
    together = call(variables, inputs)[0]
    other = call(variables, inputs.at[1:].set(jnp.nan))[0]
    np.testing.assert_array_equal(other[0], together[0])
    assert np.isnan(other[1:]).all()


# --- batch normalisation


def normalised(x, mask=None, axis_name=None, train=True, norm=None):
    """Result and new statistics of a BatchNorm with parameters and statistics off their defaults."""
    norm = norm or layers.BatchNorm(axis_name=axis_name)
    d = jnp.arange(1.0, x.shape[-1] + 1)
    variables = {"params": {"scale": d, "bias": -d}, "batch_stats": {"mean": 0.1 * d, "var": 2 * d}}
    if isinstance(norm, nn.BatchNorm):
        call = functools.partial(norm.apply, use_running_average=not train, mutable=["batch_stats"])
    else:
        call = functools.partial(norm.apply, train=train, mask=mask, mutable=["batch_stats"])
    return fast_jit(call)(variables, x)


X = np.random.default_rng(0).normal(3, 2, (6, 2, 3, 4)).astype(np.float32)


def close_trees(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_flax_batch_norm_on_full_batches(train):
    close_trees(normalised(X, train=train), normalised(X, train=train, norm=nn.BatchNorm(momentum=0.9, epsilon=1e-5)))


def test_batch_norm_of_unevenly_padded_devices_is_that_of_the_global_batch():
    """Three "devices" of two rows, with 2, 1 and 0 rows present."""
    mask = jnp.array([1, 1, 1, 0, 0, 0])
    whole, statistics = normalised(X[:3])
    devices = jax.vmap(lambda x, m: normalised(x, m, "device"), axis_name="device")
    parts, reduced = devices(X.reshape(3, 2, 2, 3, 4), mask.reshape(3, 2))
    close_trees(parts.reshape(6, 2, 3, 4)[:3], whole)
    jax.tree.map(lambda one, all_: close_trees(all_, jnp.stack([one] * 3)), statistics, reduced)


def test_batch_norm_without_any_row_uses_and_keeps_the_running_statistics():
    masked = normalised(X, jnp.zeros(6))
    np.testing.assert_array_equal(masked[0], normalised(X, train=False)[0])
    close_trees(masked, normalised(X, train=False))


def test_model_spread_over_devices():
    """Two "devices" with 3 and 1 rows present: logits and statistics are those of one device with all four."""
    model, variables, inputs = tiny()
    spread = models.create("resnet8", 3, axis_name="device")
    call = functools.partial(spread.apply, train=True, mutable=["batch_stats"])
    devices = fast_jit(jax.vmap(lambda x, m: call(variables, x, mask=m), axis_name="device"))
    (logits, _), updates = devices(inputs.reshape(2, 3, 8, 8, 1), MASK.reshape(2, 3))
    whole = train_step(model, variables, inputs, MASK)
    close_trees(logits.reshape(6, 3), whole[0])
    close_trees(jax.tree.map(lambda leaf: leaf[1], updates["batch_stats"]), whole[2])


# --- blocks against NumPy


def conv(x, kernel, stride, padding):
    """Cross-correlation by loops: x [B, H, W, D], kernel [k, k, D, E]."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("bhwd,hwde->be", patch, kernel)
    return out


def norm(x, params, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params["scale"] + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def randomised(block, x):
    """Random variables of a block as NumPy, and its output on x in evaluation."""
    variables = random_like(jax.eval_shape(lambda: block.init(jax.random.key(0), x, False, None)))
    output = fast_jit(lambda variables, x: block.apply(variables, x, False, None))(variables, x)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    return variables["params"], variables["batch_stats"], output


@pytest.mark.parametrize(("stride", "squeeze", "size"), [(1, False, 4), (2, False, 5), (2, True, 4)])
def test_basic_block(stride, squeeze, size):
    x = jax.random.normal(jax.random.key(2), (2, size, size, 8))
    params, stats, actual = randomised(resnet.BasicBlock(16, stride, jnp.float32, squeeze, None), x)
    x = np.asarray(x, np.float64)
    y = relu(norm(conv(x, params["conv1"]["conv"]["kernel"], stride, 1), params["norm1"], stats["norm1"]))
    y = norm(conv(y, params["conv2"]["conv"]["kernel"], 1, 1), params["norm2"], stats["norm2"])
    if squeeze:
        down, up = params["squeeze"]["down"], params["squeeze"]["up"]
        gate = relu(y.mean((1, 2)) @ down["kernel"] + down["bias"]) @ up["kernel"] + up["bias"]
        y = y / (1 + np.exp(-gate))[:, None, None, :]
    identity = np.zeros_like(y)  # option A: every stride-th pixel, new channels zero, half of them on each side
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            identity[:, i, j, 4:12] = x[:, i * stride, j * stride]
    np.testing.assert_allclose(actual, relu(y + identity), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "width"), [(1, 4), (1, 6), (2, 6)])
def test_wide_block(stride, width):
    x = jax.random.normal(jax.random.key(2), (2, 5, 4, 4))
    params, stats, actual = randomised(wide_resnet.WideBlock(width, stride, jnp.float32, 0.3, None), x)
    x = np.asarray(x, np.float64)
    active = relu(norm(x, params["norm1"], stats["norm1"]))
    y = conv(active, params["conv1"]["conv"]["kernel"], stride, 1)
    y = conv(relu(norm(y, params["norm2"], stats["norm2"])), params["conv2"]["conv"]["kernel"], 1, 1)
    identity = x if width == 4 else conv(active, params["shortcut"]["conv"]["kernel"], stride, 0)
    np.testing.assert_allclose(actual, y + identity, rtol=1e-4, atol=1e-4)


def test_option_a_has_no_parameters():
    block = resnet.BasicBlock(8, 2, jnp.float32, False, None)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), False, None))["params"]
    assert sorted(params) == ["conv1", "conv2", "norm1", "norm2"]


# --- initialisation, dropout


@pytest.mark.parametrize(
    ("block", "variance"),
    [
        (resnet.BasicBlock(64, 2, jnp.float32, False, None), 2 / (9 * 32)),  # fan in
        (wide_resnet.WideBlock(64, 1, jnp.float32, 0.0, None), 2 / (9 * 64)),  # fan out
    ],
)
def test_he_initialisation(block, variance):
    variables = fast_jit(lambda key: block.init(key, jnp.zeros((1, 4, 4, 32)), False, None))(jax.random.key(0))
    kernel = np.asarray(variables["params"]["conv1"]["conv"]["kernel"])
    np.testing.assert_allclose(kernel.var(), variance, rtol=0.05)
    assert np.abs(kernel).max() > 3 * kernel.std()  # a normal, not cut off at two deviations


def test_dropout_acts_in_training_only():
    block = wide_resnet.WideBlock(4, 1, jnp.float32, 0.5, None)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    variables = random_like(jax.eval_shape(lambda: block.init(jax.random.key(1), x, False, None)))
    jax.eval_shape(lambda: block.apply(variables, x, False, None))  # needs no key

    @fast_jit
    def train(rngs):
        return block.apply(variables, x, True, None, mutable=["batch_stats"], rngs=rngs)[0]

    one, two = (train({"dropout": jax.random.key(seed)}) for seed in (0, 1))
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, train({"dropout": jax.random.key(0)}))
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(train, {})
    without = wide_resnet.WideBlock(4, 1, jnp.float32, 0.0, None)
    jax.eval_shape(lambda: without.apply(variables, x, True, None, mutable=["batch_stats"]))  # nor does this


def test_dropout_rate_reaches_every_block():
    model = models.create("wrn16_8", 2, dropout_rate=0.3)
    assert model.dropout_rate == 0.3
    rates = []

    def record(method, args, kwargs, context):
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            rates.append(context.module.rate)
        return method(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert rates == [0.3] * 6


# --- errors


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet-23", {}, r"name='resnet-23': no such model; closest: .*resnet32"),
        ("WRN-28-10", {}, r"name='WRN-28-10': no such model; closest: wrn28_10"),
        ("transformer??", {}, r"name='transformer\?\?': no such model; closest: "),
        ("resnet8", {"widht": 2}, r"widht=2: no option of model 'resnet8'; it has axis_name"),
        ("resnet8", {"depth": 20}, r"depth=20: no option of model 'resnet8'"),
        ("linear", {"hidden": (3,)}, r"hidden=\(3,\): no option of model 'linear'"),
        ("mlp", {"hidden": [8, 0]}, r"hidden=\(8, 0\): must be whole numbers > 0"),
        ("wrn16_8", {"dropout_rate": 1.0}, r"dropout_rate=1\.0: must lie in \[0, 1\)"),
        ("wrn16_8", {"dropout_rate": float("nan")}, r"dropout_rate=nan: must lie in \[0, 1\)"),
        ("mlp", {"dtype": "int32"}, "dtype=int32: must be a floating dtype"),
        ("mlp", {"dtype": "float64"}, "dtype=float64: needs jax.config.update"),
    ],
)
def test_create_refuses(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, 10, **options)


def test_more_errors():
    with pytest.raises(ValueError, match="num_classes=0: must be >= 1"):
        models.create("mlp", 0)
    with pytest.raises(ValueError, match=r"inputs has shape \(2, 64\): must be \[B, H, W, channels\]; .* 'mlp'"):
        abstract("resnet8", (2, 64))
    model, variables, inputs = tiny("mlp")
    with pytest.raises(ValueError, match=r"mask has shape \(5,\): must be \(6,\), one entry per row"):
        model.apply(variables, inputs, mask=jnp.ones(5))
    with pytest.raises(ValueError, match=r'params has params: must hold "head"; pass variables\["params"\]'):
        models.head_kernel(variables)
    with pytest.raises(ValueError, match=r"params has NoneType"):
        models.head_kernel(None)


def test_hidden_may_be_a_list():
    model = models.create("mlp", 3, hidden=[7, 6])
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 5)))
    assert [variables["params"][key]["kernel"].shape for key in ("hidden0", "hidden1")] == [(5, 7), (7, 6)]
