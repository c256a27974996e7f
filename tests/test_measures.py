"""What the evidence measures on a trained head: known answers, and that another method gets another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special
from tiny_config import tiny

from configs import heads
from evidence import class_gradients, measures, propositions, trained, wrong_labels
from evidence.scenarios import SCENARIOS
from lpg_jax import data, training
from lpg_jax.training import recipe, state


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    at = tmp_path_factory.mktemp("runs") / "final" / "lpg" / "seed=3"
    at.parent.mkdir(parents=True)
    training.run(tiny(method="lpg", num_seeds=1, seed=3, data__imbalance=20.0), at)
    return at


@pytest.fixture(scope="module")
def model(home):
    return trained.read(home, "lpg")


@pytest.fixture(scope="module")
def found(model):
    return propositions.of_seed(model, model, 3)


def test_the_start_is_that_of_the_run(model):
    """As many steps away as there were, and not further: the bound would be wrong with another start."""
    moved = [
        jnp.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (model.start, model.trained.params)), strict=True)
    ]
    other = state.initial_variables(recipe.build(model.trained.config, model.trained.facts, "lpg"), jax.random.key(4))[
        "params"
    ]
    further = [
        jnp.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (other, model.trained.params)), strict=True)
    ]
    assert sum(moved) < 0.5 * sum(further)


def test_duality(found):
    assert found["duality_order"] == pytest.approx(2, abs=0.1)
    assert found["duality_exact"] < 1e-5


def test_along_its_own_gradient_nothing_turns_but_classes_do_not_share_a_shift(found):
    for at in ("start", "end"):
        assert found[f"lpl_unreached_by_class_{at}"] > 0.01
        assert found[f"lpl_unturned_{at}"] < 1e-9


def test_a_saturated_head_is_no_exception(model):
    """In float32 its probabilities underflow, and softmax minus one-hot has a common mode by rounding."""
    heads = {name: 20 * leaf for name, leaf in model.trained.params["head"].items()}
    inputs, labels = (array[: propositions.EXAMPLES] for array in model.train)
    logits, _ = model.trained.apply(model.trained.params | {"head": heads}, inputs)
    learnt = np.asarray(jnp.argmax(logits, axis=-1) == labels)
    assert float(jnp.min(jax.nn.softmax(logits))) == 0
    only = model._replace(train=(inputs[learnt], labels[learnt]))
    unturned, _ = propositions.lpl_differs(only, model.trained.params | {"head": heads})
    assert unturned < 1e-9


def test_gradients_of_shifted_examples_are_reached_and_no_direction_is_nearer():
    rng = np.random.default_rng(0)
    logits, shift, labels = rng.normal(size=(20, 5)), rng.normal(0, 3, (20, 5)), rng.integers(0, 5, 20)
    onehot = np.eye(5)[labels]
    shifted = special.softmax(logits + shift, axis=-1) - onehot
    np.testing.assert_allclose(propositions.unturned(shifted, labels), 0, atol=1e-12)
    rows = special.softmax(logits, axis=-1) - onehot - 0.5 * (np.full((20, 5), 0.2) - onehot)  # dampened too far
    found = propositions.unturned(rows, labels)
    for row, label, value in zip(rows, onehot, found, strict=True):

        def cosine(z, row=row, label=label):
            made = special.softmax(z) - label
            return -row @ made / np.linalg.norm(row) / np.linalg.norm(made)

        best = min(optimize.minimize(cosine, start).fun for start in 2 * rng.normal(size=(4, 5)))
        assert value == pytest.approx(1 - max(-best, 0) ** 2, abs=5e-3)
    assert np.ptp(found) > 0.01


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


def test_the_gap_between_training_and_test(model):
    """Before training there is none; of right labels and of shifted ones it is 0 and most."""
    before = model._replace(trained=model.trained._replace(params=model.start))
    inputs, _ = model.train
    logits, _ = model.trained.apply(model.trained.params, inputs)
    found = jnp.argmax(logits, axis=-1)
    own, other = (model._replace(train=(inputs, found), test=(inputs, it)) for it in (found, found + 1))
    assert propositions.gap_rank([(0.1, own), (0.2, other)]) == pytest.approx(1)
    assert propositions.gap_rank([(0.1, other), (0.2, own)]) == pytest.approx(-1)
    assert propositions.gap_rank([(0.1, before), (0.2, model), (0.3, other)]) == pytest.approx(1)
    assert np.isnan(propositions.gap_rank([(0.1, own), (0.2, own)]))


# --- gradients of classes


def test_gradients_of_rare_classes_against_those_of_frequent_ones(model, monkeypatch):
    """Before training, by hand: the mean over the examples of a class of softmax minus one-hot, through the model."""
    monkeypatch.setattr(class_gradients, "BATCHES", 4)
    found = class_gradients.of_seed(model, 3)
    inputs, labels = (np.asarray(array) for array in model.train)
    counts = model.trained.facts.class_counts
    norms = []
    for label in range(len(counts)):
        chosen = np.flatnonzero(labels == label)[: class_gradients.EXAMPLES]

        def loss(params, chosen=chosen, label=label):
            logits, _ = model.trained.apply(params, inputs[chosen])
            return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

        leaves = jax.tree.leaves(jax.grad(loss)(model.start))
        norms.append(float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))))
    order = np.argsort(-np.asarray(counts), kind="stable")
    half = (len(order) + 1) // 2
    wanted = np.log2(np.mean(np.array(norms)[order[half:]]) / np.mean(np.array(norms)[order[:half]]))
    assert found["gradient_start"] == pytest.approx(wanted, rel=1e-3)
    assert found["noise_end"] == pytest.approx(1, abs=1e-3)  # one vector for all classes
    assert found["contribution_start"] < found["gradient_start"] - 1  # rare classes have few examples
    assert found["gradient_end"] > found["gradient_start"] + 1  # frequent classes are learnt, rare ones are not
    names = ("gradient", "contribution", *class_gradients.METHODS, "noise_change", "sam_length", "clip_length")
    for at in ("start", "end"):  # clipped to one norm, the longer gradients are changed more
        assert np.sign(found[f"clip_length_{at}"]) == np.sign(found[f"gradient_{at}"])
    assert found.keys() == {f"{name}_{at}" for name in names for at in ("start", "end")}


@pytest.mark.parametrize(("values", "wanted"), [((1, 1, 4, 4), 2), ((1, np.nan, 4, 4), 2), ((0, 0, 1, 1), np.nan)])
def test_rare_over_frequent(values, wanted):
    found = class_gradients.rare_over_frequent(np.array(values, float), (9, 7, 2, 1))
    assert found == pytest.approx(wanted, nan_ok=True)
    turned = class_gradients.rare_over_frequent(np.array(values, float)[::-1], (1, 2, 7, 9))
    assert turned == pytest.approx(wanted, nan_ok=True)


# --- wrong labels


def predicting(model, predicted, given, clean, **logged):
    """A model that predicts what it is told to."""
    logits = jax.nn.one_hot(jnp.asarray(predicted), 10)
    apply = model.trained._replace(apply=lambda params, inputs: (logits, None))
    return model._replace(
        trained=apply, train=(model.train[0], jnp.asarray(given)), clean=np.array(clean), logged=logged
    )


GIVEN, CLEAN = [0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 1, 1, 0, 2, 2]  # two of three wrong, one of three, none
MARGIN = [-0.1, 0.1] + [0.0] * 8


def test_memorised_counts_wrong_labels_of_the_chosen_classes_only(model):
    learnt = predicting(model, [0, 0, 2, 1, 1, 1, 2, 2], GIVEN, CLEAN)
    some = np.isin(np.arange(10), [0])
    assert wrong_labels.learnt(learnt, some) == (0.5, 1)
    assert wrong_labels.learnt(learnt, np.ones(10, bool)) == pytest.approx((2 / 3, 1))
    assert np.isnan(wrong_labels.learnt(learnt, np.isin(np.arange(10), [2]))[0])


def test_what_is_dampened_is_said_by_each_method_and_held_against_plain_training(model):
    plain = predicting(model, GIVEN, GIVEN, CLEAN)
    variance = [0.3, 0.2, 0.1] + [0.0] * 7
    lpg = predicting(model, [0, 1, 2, 1, 1, 1, 2, 2], GIVEN, CLEAN, class_margin=MARGIN, class_grad_variance=variance)
    other = predicting(model, [0, 0, 0, 1, 1, 0, 2, 2], GIVEN, CLEAN, class_margin=[-x for x in MARGIN])
    found = wrong_labels.of_seed(plain, lpg, other, same_rate=False)
    wanted = {"memorised_lpg": -1, "memorised_random": -1, "beyond_right_lpg": -1, "beyond_right_random": -1}
    assert found == pytest.approx(wanted | {"variance_rank": 1})
    less = predicting(model, [5] * 8, GIVEN, CLEAN, class_margin=MARGIN, class_grad_variance=variance)  # of everything
    assert wrong_labels.of_seed(plain, less, less, same_rate=True)["beyond_right_lpg"] == 0
    turned = lpg._replace(logged=lpg.logged | {"class_grad_variance": [-value for value in variance]})
    assert wrong_labels.of_seed(plain, turned, other, same_rate=False)["variance_rank"] == pytest.approx(-1)
    assert "variance_rank" not in wrong_labels.of_seed(plain, lpg, other, same_rate=True)


@pytest.mark.parametrize(("name", "same"), [("cifar10", False), ("cifar100", True)])
def test_pairs_of_classes_share_one_rate_only_if_every_class_has_a_pair(name, same, tmp_path, monkeypatch):
    """Of CIFAR-10 five classes are mistaken for another one, of CIFAR-100 all."""
    monkeypatch.setattr(heads, "FEATURES", str(tmp_path))
    noise = SCENARIOS[f"{name}_asymmetric40"].config().data.noise
    np.save(noise.path, data.transition_matrix("asymmetric", 0.4, int(name.removeprefix("cifar")), False, name))
    assert measures.same_rate(noise) is same


def test_one_rate_of_images_can_be_many_of_labels(tmp_path):
    """A class is its label as given: the first one here has no wrong labels, though each loses as many."""
    noise = SCENARIOS["cifar10_asymmetric40"].config().data.noise
    noise.path = str(tmp_path / "matrix.npy")
    np.save(noise.path, [[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.0, 0.4, 0.6]])
    assert not measures.same_rate(noise)


@pytest.mark.parametrize(("name", "same"), [("cifar10_symmetric20", True), ("cifar100_human", False)])
def test_symmetric_noise_has_one_rate_and_human_labels_have_many(name, same):
    assert measures.same_rate(SCENARIOS[name].config().data.noise) is same


# --- the files


def test_measures_of_a_scenario_are_a_file_and_seeds_without_a_value_are_left_out():
    rows = {0: {"a": 1.0, "b": np.nan}, 1: {"a": 2.0, "b": 3.0}}
    content = measures._content(rows, "python -m evidence measure x")
    assert content["a"]["values"] == [1.0, 2.0]
    assert (content["b"]["values"], content["b"]["seeds"], content["b"]["command"]) == (
        [3.0], [1], "python -m evidence measure x",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("cifar10_balanced", "cifar10_balanced: nothing is measured here"),
     ("cifar10_human_resnet8", "nothing is measured here"),
     ("cifar10_human", r"ce/seed=0: no finished run; start `python -m evidence run cifar10_human` before")],
)  # fmt: skip
def test_what_cannot_be_measured_says_why(name, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        measures.measure(SCENARIOS[name], tmp_path / "T2" / name, "")
