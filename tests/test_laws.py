"""Every law over every entry of the table."""

import laws
import numpy as np
import pytest

import lpg_jax

pytestmark = pytest.mark.usefixtures("strict")


# seconds of compilation each; what they share with the others of their kind is seen there
HEAVY = ("pgd_head_zero_sum", "pgd_head_running", "pgd_sign_zero_sum", "class_mean_running")
ALWAYS = ("acts", "identity_at_zero_epsilon", "jit_agrees", "masked_rows_do_not_matter")


def entries():
    for law in laws.GENERAL_LAWS:
        for name in laws.TABLE:
            heavy = name in HEAVY and law.__name__ not in ALWAYS
            yield pytest.param(law, name, marks=[pytest.mark.slow] * heavy, id=f"{name}-{law.__name__}")


@pytest.mark.parametrize(("law", "name"), list(entries()))
def test_law(law, name):
    law(laws.TABLE[name])


@pytest.mark.parametrize("name", laws.BOUNDED)
def test_bounded_by_epsilon(name):
    laws.bounded_by_epsilon(laws.TABLE[name])


@pytest.mark.parametrize("name", [name for name in laws.TABLE if name not in laws.NOT_ZERO_SUM])
def test_keeps_zero_sum(name):
    laws.keeps_zero_sum(laws.TABLE[name])


@pytest.mark.parametrize("name", sorted(laws.NOT_ZERO_SUM))
def test_breaks_zero_sum(name):
    with pytest.raises(AssertionError):
        laws.keeps_zero_sum(laws.TABLE[name])


@pytest.mark.parametrize("split", ["frequency", "accuracy", "variance"])
@pytest.mark.parametrize("direction", ["sample", "class_mean", "class_scale", "pgd"])
def test_class_permutation(split, direction):
    def make(epsilon, order):
        splits = {
            "frequency": lpg_jax.by_frequency(laws.COUNTS[order]),
            "accuracy": lpg_jax.by_accuracy(),
            "variance": lpg_jax.by_gradient_variance("median"),
        }
        bound = lpg_jax.varied(epsilon, 0.2)
        if direction == "pgd":
            return lpg_jax.lpg_pgd(splits[split], bound, metric="head")
        return lpg_jax.lpg(splits[split], bound, direction=direction)

    laws.class_permutation(make)


def test_table_covers_every_option():
    """No direction, source, metric or step rule is missing from the table."""
    words = " ".join(laws.TABLE)
    for word in ("sample", "class_mean", "class_scale", "running", "identity", "head", "sign", "refreshed", "many"):
        assert word in words
    assert len(laws.TABLE) == len(np.unique(list(laws.TABLE)))
