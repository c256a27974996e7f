"""What the evidence measures on a trained head: known answers, and that another method gets another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from evidence import measures
from lpg_jax import training


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    at = tmp_path_factory.mktemp("runs") / "final" / "lpg" / "seed=3"
    at.parent.mkdir(parents=True)
    training.run(tiny(method="lpg", num_seeds=1, seed=3, data__imbalance=20.0), at)
    return at


@pytest.fixture(scope="module")
def model(home):
    return measures.read(home, "lpg")


@pytest.fixture(scope="module")
def found(model):
    return measures.of_seed(model, model, 3)


def test_the_start_is_that_of_the_run(model):
    """As many steps away as there were, and not further: the bound would be wrong with another start."""
    moved = [
        jnp.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (model.start, model.trained.params)), strict=True)
    ]
    other = measures.state.initial_variables(
        measures.recipe.build(model.trained.config, model.trained.facts, "lpg"), jax.random.key(4)
    )["params"]
    further = [
        jnp.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (other, model.trained.params)), strict=True)
    ]
    assert sum(moved) < 0.5 * sum(further)


def test_duality(found):
    assert found["duality_order"] == pytest.approx(2, abs=0.1)
    assert found["duality_exact"] < 1e-5


def test_a_shift_of_each_example_reaches_more_than_one_shift_for_a_class(found):
    for at in ("start", "end"):
        assert found[f"lpl_unreached_by_class_{at}"] > 0.01
        assert found[f"lpl_unreached_{at}"] < found[f"lpl_unreached_by_class_{at}"]


def test_a_saturated_head_is_no_exception(model):
    """In float32 its probabilities underflow, and softmax minus one-hot has a common mode by rounding, which LPG would
    lengthen and no shift reaches; of learnt examples a shift of each reaches all."""
    heads = {name: 20 * leaf for name, leaf in model.trained.params["head"].items()}
    inputs, labels = (array[: measures.EXAMPLES] for array in model.train)
    logits, _ = model.trained.apply(model.trained.params | {"head": heads}, inputs)
    learnt = np.asarray(jnp.argmax(logits, axis=-1) == labels)
    assert float(jnp.min(jax.nn.softmax(logits))) == 0
    only = model._replace(train=(inputs[learnt], labels[learnt]))
    alone, _ = measures.lpl_unreached(only, model.trained.params | {"head": heads})
    assert alone < 1e-13


def test_the_bound(found, model):
    assert found["bound_slack"] > 0
    assert found["bound_total"] > found["bound_slack"]
    counts, (inputs, labels) = np.asarray(model.trained.facts.class_counts), model.test
    logits, _ = model.trained.apply(model.trained.params, inputs)
    wrong = np.argmax(logits, axis=-1) != labels
    of_class = np.array([np.mean(wrong[labels == label]) for label in range(len(counts))])
    risk = float(of_class @ counts / counts.sum())  # of classes as frequent as in training
    assert found["bound_total"] - found["bound_slack"] == pytest.approx(risk, abs=0.1)  # of parameters with noise
    assert abs(float(np.mean(wrong)) - risk) > 0.15
