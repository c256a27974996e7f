"""Part "head": loss, gradient at the logits and statistics alone, from ten classes to a vocabulary."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lpg_jax
from benchmarks import ours
from benchmarks.settings import Settings
from benchmarks.timing import Row, compare, interleave, row, timed
from lpg_jax.transforms import pgd
from lpg_jax.transforms.feature_space import Head

FEATURES, STEPS = 64, 5  # of the last layer, and of PGD
SHARE_CLASSES = 100  # where the added time is compared with a whole step
DENSE_CLASSES = 1000  # where PGD is compared with its dense form
BASE = "plain"  # what a user would write: optax


class Case(NamedTuple):
    """A size of the head."""

    num_classes: int
    batch: int

    @property
    def name(self) -> str:
        """As in the rows."""
        return f"C={self.num_classes} B={self.batch}"


SMALL = (Case(10, 128), Case(100, 128), Case(1000, 128))
LARGE = (Case(10_000, 1024), Case(32_768, 1024), Case(131_072, 1024))
QUICK = (Case(10, 32), Case(5000, 32), Case(10_000, 32))


class Operands(NamedTuple):
    """Random operands of one case. Classes are equally likely, so that as many as possible are present, and half of the
    examples are predicted rightly, so that classes have margins of either sign."""

    logits: jax.Array  # [B, C]
    labels: jax.Array  # [B]
    features: jax.Array  # [B, D]
    head_kernel: jax.Array  # [D, C]

    @classmethod
    def of(cls, case: Case) -> "Operands":
        """From a fixed seed."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, case.num_classes, case.batch, dtype=np.int32)
        features = rng.standard_normal((case.batch, FEATURES), np.float32)
        kernel = rng.standard_normal((FEATURES, case.num_classes), np.float32) * np.float32(FEATURES**-0.5)
        logits = features @ kernel
        labels[::2] = np.argmax(logits[::2], axis=-1)
        return cls(*(jnp.asarray(values) for values in (logits, labels, features, kernel)))


def transformations() -> dict[str, optax.GradientTransformation]:
    """What is compared, by the names in the rows."""
    split, bound = lpg_jax.by_accuracy(), lpg_jax.varied(0.3, 0.1)
    closed = {name: lpg_jax.lpg(split, bound, direction=name) for name in ("sample", "class_mean", "class_scale")}
    return {
        "identity": optax.identity(),
        **closed,
        "pgd identity": lpg_jax.lpg_pgd(split, bound, steps=STEPS),
        "pgd head": lpg_jax.lpg_pgd(split, bound, steps=STEPS, metric="head"),
    }


def plain(operands: Operands) -> tuple[jax.Array, jax.Array]:
    """Mean softmax cross-entropy and its gradient at the logits, as a user would write them."""

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, operands.labels).mean()

    return jax.value_and_grad(loss)(operands.logits)


def edited(tx: optax.GradientTransformation, state: Any, operands: Operands) -> Any:
    """The same with the gradient edited by tx, and the next statistics."""
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def loss(logits: jax.Array) -> tuple[jax.Array, Any]:
        extra = {"features": operands.features, "head_kernel": operands.head_kernel}
        losses, new_state = loss_fn(logits, operands.labels, state, **extra)
        return losses.mean(), new_state

    return jax.value_and_grad(loss, has_aux=True)(operands.logits)


def programs(case: Case) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Jitted functions by name, each with its operands."""
    operands = Operands.of(case)
    made: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {BASE: (jax.jit(plain), (operands,))}
    for name, tx in transformations().items():
        made[name] = (jax.jit(functools.partial(edited, tx)), (tx.init(jnp.zeros(case.num_classes)), operands))
    return made


def settled(program: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The program with the statistics that it leaves behind, so that classes have margins."""
    function, (*state, operands) = program
    return (function, (function(*state, operands)[0][1], operands)) if state else program


def measure(settings: Settings) -> list[Row]:
    """Runs in a process of its own."""
    small = [case for case in (QUICK if settings.quick else SMALL) if case.num_classes <= 1000]
    large = [case for case in (QUICK if settings.quick else LARGE) if case.num_classes > 1000]
    rows = [row for case in small for row in of_case(case, settings.rounds(60))]
    rows += of_large(large, settings.rounds(7))
    return rows + share(settings) + dense(settings)


def of_case(case: Case, rounds: int) -> list[Row]:
    """All transformations at one size."""
    return compare("head", case.name, interleave(_measures(case), rounds), BASE)


def of_large(cases: list[Case], rounds: int) -> list[Row]:
    """Several sizes in the same rounds, so that growth is a ratio within a round, too."""
    measures = {f"{case.name}: {name}": one for case in cases for name, one in _measures(case).items()}
    seconds = interleave(measures, rounds)
    rows = []
    for case in cases:
        own = {name: seconds[f"{case.name}: {name}"] for name in (BASE, *transformations())}
        rows += compare("head", case.name, own, BASE)
    first, last = (case.name for case in cases[-2:])
    for name in (BASE, *transformations()):
        growth = seconds[f"{last}: {name}"] / seconds[f"{first}: {name}"]
        rows.append(row("head", f"{first} -> {last}", f"growth of {name}", "x", growth))
    return rows


def share(settings: Settings) -> list[Row]:
    """The time that the head adds to plain cross-entropy, as a share of a ResNet-32 step (at batch 128)."""
    case = Case(SHARE_CLASSES, 128)
    network = "mlp" if settings.quick else "resnet32"
    step = ours.Loop(settings.images, network)
    measures = _measures(case)
    measures["step"] = timed(step.step, jax.block_until_ready)
    seconds = interleave(measures, settings.rounds(30))
    what = f"added to a {network} step by"
    return [
        row("head", case.name, f"{what} {name}", "%", 100 * (seconds[name] - seconds[BASE]) / seconds["step"])
        for name in transformations()
    ]


def dense(settings: Settings) -> list[Row]:
    """PGD with the head metric in feature space against its dense form, with W^T W formed [C, C]: 128 classes present,
    each with one example, half of them amplified.
    """
    case = Case(200 if settings.quick else DENSE_CLASSES, 128)
    operands = Operands.of(case)
    mean = jax.nn.softmax(operands.logits) - jax.nn.one_hot(operands.labels, case.num_classes)
    sign = jnp.where(jnp.arange(case.batch) % 2, 1.0, -1.0)[:, None]
    scale = jnp.sum(operands.features**2, axis=-1, keepdims=True) + 1
    arguments = (mean, sign, jnp.full_like(sign, 0.3), scale, operands.head_kernel)
    ways = {"pgd head": in_feature_space, "dense pgd": by_gram_matrix}
    ours_of, expected = (jax.jit(way)(*arguments) for way in ways.values())
    measures = {name: _measure(jax.jit(way), arguments) for name, way in ways.items()}
    apart = float(jnp.max(jnp.abs(ours_of - expected)))
    return [
        *compare("head", f"{case.name} rows", interleave(measures, settings.rounds(21)), "pgd head"),
        row("head", f"{case.name} rows", "largest distance of the two", "1", apart),
        row("head", f"{case.name} rows", "longest d_c", "1", float(jnp.max(jnp.linalg.norm(expected, axis=-1)))),
    ]


_ASCENT = pgd.Ascent(steps=STEPS, step_size=None, step_rule="l2", zero_sum=False, clamp=True)


def in_feature_space(
    mean: jax.Array, sign: jax.Array, epsilon: jax.Array, scale: jax.Array, kernel: jax.Array
) -> jax.Array:
    """d_c [K, C] from m_c [K, C], signs, bounds and scales [K, 1] and the head kernel [D, C]."""
    return pgd.solve(mean, sign, epsilon, Head(scale, kernel), _ASCENT)


def by_gram_matrix(
    mean: jax.Array, sign: jax.Array, epsilon: jax.Array, scale: jax.Array, kernel: jax.Array
) -> jax.Array:
    """The same with M_c = scale I + W^T W written out."""
    gram = jnp.matmul(kernel.T, kernel, precision="highest")
    return pgd.solve(mean, sign, epsilon, lambda v: scale * v + jnp.matmul(v, gram, precision="highest"), _ASCENT)


def _measure(function: Callable[..., Any], operands: tuple[Any, ...]) -> Callable[[], float]:
    return timed(lambda: function(*operands), jax.block_until_ready, least=0.02)


def _measures(case: Case) -> dict[str, Callable[[], float]]:
    return {name: _measure(*settled(program)) for name, program in programs(case).items()}
