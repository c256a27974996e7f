"""Planted faults: each general law of `test_operator_laws.py` fails for an operator that breaks it."""

import inspect

import jax.numpy as jnp
import operators
import optax
import pytest
import test_operator_laws as laws_of_operators

from lpg_jax import transforms

pytestmark = pytest.mark.usefixtures("strict")


def editing(edit):
    """A stateless transformation that does just what `edit(rows, arguments)` says, without any care."""

    def update(rows, state, params=None, **arguments):
        return edit(rows, arguments), state

    return lambda order: optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def around(tx, change):
    """tx with its keyword arguments changed by `change`."""

    def update(rows, state, params=None, **arguments):
        return tx.update(rows, state, params, **change(arguments))

    return lambda order: optax.GradientTransformationExtraArgs(tx.init, update)


def stepping(dtype):
    """A clip whose step count comes back in another dtype."""

    def update(rows, state, params=None, **arguments):
        return transforms.row_clip(0.7).update(rows, optax.EmptyState(), None, **arguments)[0], state.astype(dtype) + 1

    return lambda order: optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([], jnp.int32), update)


def kept(rows, arguments, edited):
    """What is right about masked rows and rows of no class."""
    labels, mask = arguments["labels"], arguments["mask"]
    known = (labels >= 0) & (labels < rows.shape[-1]) & jnp.all(jnp.isfinite(rows), axis=-1)
    return jnp.where(mask[..., None], jnp.where(known[..., None], edited, rows), 0).astype(rows.dtype)


def by_place(rows, arguments):
    factor = 1 + jnp.arange(rows.shape[-1], dtype=rows.dtype)
    return kept(rows, arguments, rows * factor.reshape((1,) * (rows.ndim - 1) + (-1,)))


FAULTS = {
    "does nothing": ("test_acts", editing(lambda rows, _: rows)),
    "refuses arguments": ("test_state_is_stable_and_extra_arguments_pass", lambda order: optax.scale(2.0)),
    "changes the dtype of its state": ("test_state_is_stable_and_extra_arguments_pass", stepping(jnp.float32)),
    "knows the places of classes": ("test_class_permutation", editing(by_place)),
    "forgets the mask": ("test_masked_rows_do_not_matter", around(
        transforms.row_clip(0.7), lambda arguments: {**arguments, "mask": None})),
    "counts masked rows": ("test_masked_rows_do_not_matter", editing(
        lambda rows, arguments: jnp.where(arguments["mask"][:, None], rows / jnp.linalg.norm(rows), 0))),
    "spreads NaN": ("test_strange_rows_pass", editing(
        lambda rows, arguments: jnp.where(arguments["mask"][:, None], rows / jnp.linalg.norm(rows), 0))),
    "edits rows of no class": ("test_strange_rows_pass", around(
        transforms.row_clip(0.1), lambda arguments: {**arguments, "labels": None})),
    "rounds inside": ("test_dtype_kept", editing(
        lambda rows, arguments: kept(rows, arguments, (rows * 0.3 + rows * 0.7) * 0.1))),
    "widens": ("test_dtype_kept", editing(lambda rows, _: 2 * rows.astype(jnp.float32))),
    "orders the batch": ("test_batch_permutation", editing(
        lambda rows, arguments: kept(rows, arguments, rows * jnp.linspace(1, 2, len(rows))[:, None]))),
    "takes the second axis for classes": ("test_leading_axes_are_batch_and_perturbed_hands_rows_down", editing(
        lambda rows, arguments: kept(rows, arguments, rows / jnp.linalg.norm(rows, axis=0, keepdims=True)))),
    "sums over its own shard": ("test_seeds_and_shards", around(
        transforms.density_harmonizing(bins=4), lambda arguments: {**arguments, "axis_name": None})),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_law_catches(fault, monkeypatch):
    law, factory = FAULTS[fault]
    monkeypatch.setitem(operators.OPERATORS, fault, factory)
    test, options = getattr(laws_of_operators, law), {"position": "alone", "dtype": jnp.bfloat16}
    more = {name: options[name] for name in inspect.signature(test).parameters if name in options}
    with pytest.raises(TypeError if fault == "refuses arguments" else AssertionError):
        test(fault, **more)


def test_chain_law_catches_another_order(monkeypatch):
    """A chain that runs backwards is not its parts one after the other."""
    monkeypatch.setattr(
        laws_of_operators, "build",
        lambda name, position="alone": operators.build(name) if position == "alone" else optax.chain(
            operators.build(name), operators.lpg(), operators.lpg()),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        laws_of_operators.test_chain_is_its_parts("row_clip")
