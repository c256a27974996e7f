"""Every method leaves its mark on the model that it trains, measured beside plain training from the same seeds.

Options are those of configs/baselines.py and configs/operators.py before any choice (the first trials of
configs/tune.py), ten epochs on digits, but where `noisy`, `long_tail` and `flat` say otherwise and why. Margins held
for the subsets of seeds 0, 100 and 200.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import baselines, tune
from lpg_jax import data, descent, losses, models, training
from lpg_jax.training import batches, meta_step, metrics, presets, recipe
from lpg_jax.training.state import predictor
from lpg_jax.training.step import train_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = 3


class Problem(NamedTuple):
    """One data set, and what every method made of it from the same seeds."""

    train: data.Split
    test: data.Split
    validation: data.Split | None
    recipes: dict[str, recipe.Recipe]
    states: dict[str, training.TrainState]  # leaves with a leading axis [S]


def solve(words, methods, home, seed, **fields):
    config = baselines.get_config(f"{words},laptop")
    for trials in tune.TRIALS[words].values():
        config.update_from_flattened_dict(trials[0])
    config.seed, config.num_seeds, config.method = seed, SEEDS, methods
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    config.evaluate.every_epochs = config.train.epochs
    dataset = data.load(config.data, config.seed)
    recipes = {name: recipe.build(config, recipe.Facts.of(dataset), name) for name in methods.split(",")}
    states = {name: predictor(recipes[name], state) for name, state in training.run(config, home).items()}
    return Problem(dataset.train, dataset.test, dataset.validation, recipes, states)


def noisy(home, seed=0):
    """40 % wrong labels, ten epochs: nothing is memorised yet (plain training is right on most of them)."""
    methods = "ce,gr,imae,ogc,phuber,mae,gce,sce,sample_lpg,forward,backward,coteach,row_clip,ogc+lpg"
    return solve("noisy", methods, home, seed, operators__sample_lpg__amplify="easy")


def long_tail(home, seed=0):
    """Two groups, since only then PCGrad opposes neither; ISDA's strength and LPL's eps are larger than for 200 epochs,
    where their defaults leave a mark that is there, but small (8 % of the spread, 0.2 of the log odds)."""
    methods = (
        "ce,lpg,equal_lpg,scaled_ce,random_lpg,eql,ghm,row_noise,row_noise+zero_sum,focal,smooth,la,posthoc,lpl,ldam,isda,gcl,"
        "mixup,cutmix,pcgrad,graddrop,crt,lws,tau_norm,la+lpg,lpl+lpg,la+lpl,sam,sam+lpg,mixup+lpg,ogc,ogc+lpg,ldam+cb"
    )
    fields = {"descent__pcgrad__num_groups": 2, "losses__isda__strength": 2.0, "losses__lpl__epsilon": 1.0}
    on = solve("longtail", methods, home / "on", seed, **fields)
    # what two methods are without their idea: a normalised head without margins, and sums that nothing follows; and
    # class-balanced weights from the start, where the preset defers them
    names = {"gcl": "gcl without", "eql": "eql without", "cb": "cb"}
    switches = {"losses__gcl__amplitude": 0.0, "operators__eql__mu": -1000.0, "operators__cb__start_epoch": 0.0}
    off = solve("longtail", ",".join(names), home / "off", seed, **switches)
    recipes, states = ({new: of[old] for old, new in names.items()} for of in (off.recipes, off.states))
    return on._replace(recipes=on.recipes | recipes, states=on.states | states)


def flat(home, seed=0):
    """The long tail to the end, 100 epochs: before, the loss of plain training is lower, and with it the slope. The
    radius is larger than CIFAR's in this small network, and LookSAM looks at every other step."""
    radii = {f"descent__{name}__rho": 0.2 for name in ("sam", "gsam", "looksam")} | {"descent__asam__rho": 1.0}
    gentle = {"descent__gsam__alpha": 0.1, "descent__looksam__alpha": 0.2, "descent__looksam__every": 2}
    return solve("longtail", "ce,sam,gsam,looksam,asam,lpg,sam+lpg", home, seed, train__epochs=100, **radii, **gentle)


def held_out_noisy(home, seed=0):
    """A fifth of the examples, with clean labels, is there to learn from; 150 epochs: weight networks learn slowly."""
    fields = {"data__validation": 0.2, "data__validation_labels": "clean", "train__epochs": 150}
    return solve("noisy", "ce,gdw,mwnet", home, seed, **fields)


def held_out_long_tail(home, seed=0):
    """Likewise on a long tail of 20:1, of which every class has an example to give."""
    fields = {"data__imbalance": 20.0, "data__validation": 0.2, "data__validation_labels": "clean"}
    return solve("longtail", "ce,learned_lpg", home, seed, **fields)


PROBLEMS = {each.__name__: each for each in (noisy, long_tail, flat, held_out_noisy, held_out_long_tail)}

# -- the trained model ------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, inputs):
    """Logits [S, N, C] and features [S, N, D] of every seed."""
    return jax.vmap(lambda each: model.apply({"params": each}, inputs, train=False))(params)


def inputs_of(problem, split="train"):
    one = problem.recipes["ce"]
    return batches.standardise(one.facts, jnp.asarray(getattr(problem, split).inputs), one.dtype)


def outputs(problem, name, split="train"):
    return apply(problem.recipes[name].model, problem.states[name].params, inputs_of(problem, split))


def heads(problem, name):
    params = problem.states[name].params
    return jax.vmap(models.head_kernel)(params), jax.vmap(models.head_bias)(params)


def log_p(problem, name, split="train"):
    """[S, N, C], of what predicts."""
    logits, features = outputs(problem, name, split)
    read = problem.recipes[name].method.readout
    if read is not None:
        logits = jax.vmap(read)(logits, features, *heads(problem, name))
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


def of_label(values, labels):
    return np.take_along_axis(values, labels[None, :, None].astype(int), axis=-1)[..., 0]


def tail(problem):
    return metrics.head_and_tail(np.asarray(problem.recipes["ce"].facts.class_counts))[1]


def rows(problem, name):
    """Logit gradients [S, N, C] at the training examples: of cross-entropy, and what the method makes of them."""
    method, labels, state = problem.recipes[name].method, jnp.asarray(problem.train.labels), problem.states[name]
    logits, features = outputs(problem, name)
    learnt = {} if method.meta is None else learn(problem, name)

    def edit(logits, features, kernel, bias, loss_state, logit_state, learnt):
        there = {"features": features, "head_kernel": kernel, "head_bias": bias, "key": jax.random.key(0)}
        args = method.loss.loss_args(loss_state, logits=logits, labels=labels, **there)
        found = jax.grad(lambda z: jnp.sum(method.loss(z, labels, **args)))(logits)
        tx = optax.with_extra_args_support(method.tx)
        return tx.update(found, logit_state, None, labels=labels, logits=logits, **learnt)[0]

    states = state.loss_state, state.logit_state
    edited = jax.jit(jax.vmap(edit))(logits, features, *heads(problem, name), *states, learnt)
    plain = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])
    return np.asarray(plain, np.float64), np.asarray(edited, np.float64)


def learn(problem, name):
    """The weights [S, N, C] that a method gives the training examples at the end."""
    one, state, labels = problem.recipes[name], problem.states[name], problem.train.labels
    raw = batches.Raw(problem.train.inputs, labels, np.ones(len(labels), bool), np.arange(len(labels)))
    raw, held_out = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], raw), batches.arrays_of(problem.validation)
    state = state._replace(step=jnp.zeros_like(state.step))  # the learning rate of the last step is 0
    return jax.jit(jax.vmap(lambda state: meta_step.learn(one, state, raw, held_out, None)[0]))(state)


def norms(problem, name):
    return tuple(np.linalg.norm(each, axis=-1) for each in rows(problem, name))


def step_direction(problem, name, labels, member):
    """The gradient [S, P] that a step on some training examples descends, times their number; float32."""
    factor = 1e3  # a step much longer than the rounding of what it moves
    one, state = problem.recipes[name], problem.states[name]
    one = one._replace(descent=one.descent._replace(tx=optax.sgd(factor)))
    raw = batches.Raw(problem.train.inputs, labels, member, np.arange(len(labels)))
    raw = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], raw)

    def of_seed(state, raw):
        state = state._replace(opt_state=one.descent.tx.init(state.params))
        moved = train_step(one, state, raw)[0].params
        return jax.flatten_util.ravel_pytree(jax.tree.map(jnp.subtract, state.params, moved))[0]

    return np.asarray(jax.jit(jax.vmap(of_seed, (0, None)))(state, raw), np.float64) / factor * member.sum()


def groups_and_step(problem, name, rule, labels):
    """Gradients of the class groups of `rule` [K, S, P] at the model that `name` trained, and its step there [S, P]."""
    groups = problem.recipes[rule].method.conflict.groups
    plain = problem._replace(states={"ce": problem.states[name]})
    parts = [step_direction(plain, "ce", labels, groups[labels] == k) for k in range(groups.max() + 1)]
    return np.stack(parts), step_direction(problem, name, labels, np.ones(len(labels), bool))


# -- what is measured: (problem, name) -> [S] -------------------------------------------------------------------------


def tail_recall(problem, name):
    right = log_p(problem, name, "test").argmax(-1) == problem.test.labels
    return np.mean([right[:, problem.test.labels == c].mean(-1) for c in tail(problem)], axis=0)


def clean_surprise(problem, name):
    """Median -log p of the true labels of the training examples; a class that is lost altogether does not show."""
    return np.median(-of_label(log_p(problem, name), problem.train.clean_labels), axis=-1)


def clean_nll(problem, name):
    return -of_label(log_p(problem, name), problem.train.clean_labels).mean(-1)


def gain_by_transition(problem, name):
    """By how much p T predicts the given labels better than p."""
    scores, transition = log_p(problem, name), np.asarray(problem.recipes["ce"].facts.confusion)
    noisy_scores = np.log(np.exp(scores) @ transition)
    return of_label(noisy_scores - scores, problem.train.labels).mean(-1)


def doubt(problem, name):
    return 1 - np.exp(log_p(problem, name)).max(-1).mean(-1)


def wrong_over_clean(problem, name):
    plain, edited = norms(problem, name)
    wrong, weight = problem.train.labels != problem.train.clean_labels, edited / plain
    return weight[:, wrong].mean(-1) / weight[:, ~wrong].mean(-1)


def longest_row(problem, name):
    return norms(problem, name)[1].max(-1)


def size(problem, name):
    """Total gradient norm over that of the plain rows."""
    plain, edited = norms(problem, name)
    return edited.sum(-1) / plain.sum(-1)


def unevenness(problem, name):
    """How far the rows are from the plain ones times one factor, relative to their size."""
    plain, edited = rows(problem, name)
    away = np.linalg.norm(edited - size(problem, name)[:, None, None] * plain, axis=(1, 2))
    return away / np.linalg.norm(edited, axis=(1, 2))


def noise(problem, name):
    plain, edited = rows(problem, name)
    return np.std(edited - plain, axis=(1, 2))


def common_mode(problem, name):
    """|sum of the biases|: 0 as long as rows sum to 0."""
    return np.abs(np.asarray(heads(problem, name)[1], np.float64).sum(-1))


def dense_over_sparse(problem, name):
    """Weight in the densest of ten regions of 1 - p_y, over that in the others."""
    plain, edited = rows(problem, name)
    weight = np.linalg.norm(edited, axis=-1) / np.linalg.norm(plain, axis=-1)
    regions = np.minimum(np.floor(np.abs(plain).max(-1) * 10).astype(int), 9)
    dense = np.stack([region == np.bincount(region).argmax() for region in regions])
    return np.array([each[here].mean() / each[~here].mean() for each, here in zip(weight, dense, strict=True)])


def margins(problem, name):
    return np.asarray(optax.tree_utils.tree_get(problem.states[name].logit_state, "class_margin"))[0]


def favour(problem, name, split_of="lpg"):
    """Mean log odds of the label where `split_of` amplifies, minus where it dampens."""
    score = of_label(log_p(problem, name), problem.train.labels)
    odds = score - np.log(-np.expm1(np.minimum(score, -1e-7)))
    sign = np.sign(margins(problem, split_of))[problem.train.labels]
    return odds[:, sign > 0].mean(-1) - odds[:, sign < 0].mean(-1)


def rare_margin(problem, name):
    """cos_y minus the largest other cosine, mean over training examples of the tail."""
    features, kernel = outputs(problem, name)[1], heads(problem, name)[0]
    cosines, labels = np.asarray(jax.vmap(losses.cosine_logits)(features, kernel)), problem.train.labels
    others = np.where(np.arange(cosines.shape[-1]) == labels[:, None], -np.inf, cosines).max(-1)
    return (of_label(cosines, labels) - others)[:, np.isin(labels, tail(problem))].mean(-1)


def positive_share(problem, name):
    """log of positive over negative gradients of a class, summed over the training; mean over the tail."""
    state = problem.states[name].logit_state
    if not hasattr(state, "class_positive"):
        return np.full(SEEDS, np.nan)
    return np.log(np.asarray(state.class_positive / state.class_negative))[:, tail(problem)].mean(-1)


def spread(problem, name):
    """(w_j - w_y)' Sigma_y (w_j - w_y) over the squared mean of z_y - z_j; mean over classes with ten examples."""
    kernels, labels = np.asarray(heads(problem, name)[0], np.float64), problem.train.labels
    found = []
    for z, phi, w in zip(*map(np.asarray, outputs(problem, name)), kernels, strict=True):
        for y in np.flatnonzero(np.bincount(labels) > 10):
            variance = phi[labels == y].var(0) @ (w - w[:, [y]]) ** 2
            gap = (z[labels == y][:, [y]] - z[labels == y]).mean(0)
            found.append(np.mean(np.delete(variance, y) / np.delete(gap, y) ** 2))
    return np.mean(np.reshape(found, (len(kernels), -1)), axis=-1)


def mixed_loss(problem, name, mixing):
    """Soft cross-entropy of training examples that are mixed anew."""
    one, labels = problem.recipes[name], jnp.asarray(problem.train.labels)
    targets, found = jax.nn.one_hot(labels, one.facts.num_classes), []
    for number in range(8):
        key = jax.random.key(number)
        inputs, soft = problem.recipes[mixing].method.mixing(key, inputs_of(problem), targets, None)
        logits, _ = apply(one.model, problem.states[name].params, inputs)
        found.append(np.asarray(losses.cross_entropy(logits, jnp.broadcast_to(soft, logits.shape))).mean(-1))
    return np.mean(found, axis=0)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def rises(model, params, inputs, labels, rho, eta):
    def loss(each):
        return losses.cross_entropy(model.apply({"params": each}, inputs, train=False)[0], labels).mean()

    def of_seed(each):
        low, gradient = jax.value_and_grad(loss)(each)
        return loss(descent.ascend(each, gradient, rho, eta)) - low

    return jax.vmap(of_seed)(params)


def rise(problem, name, rho=0.2, eta=None):
    """By how much the training loss rises at the point of that radius to which SAM (ASAM, with eta) climbs."""
    labels, params = jnp.asarray(problem.train.labels), problem.states[name].params
    return np.asarray(rises(problem.recipes[name].model, params, inputs_of(problem), labels, rho, eta))


def opposition(problem, name):
    """Cosine of the method's step with the gradient of the class group that it serves least. To plant a conflict, every
    other example of the head is called one of the rarest class."""
    labels = problem.train.labels.copy()
    labels[~np.isin(labels, tail(problem)) & (np.arange(len(labels)) % 2 == 0)] = tail(problem)[-1]
    parts, step = groups_and_step(problem, name, "pcgrad", labels)
    lengths = np.linalg.norm(parts, axis=-1) * np.linalg.norm(step, axis=-1)
    return np.min((parts * step).sum(-1) / lengths, axis=0)


def impurity(problem, name):
    """How far a coordinate of the step is from both of its one-signed sums over groups, relative to their size."""
    parts, step = groups_and_step(problem, name, "graddrop", problem.train.labels)
    positive, negative = np.maximum(parts, 0).sum(0), np.minimum(parts, 0).sum(0)
    away = np.minimum(np.abs(step - positive), np.abs(step - negative)).sum(-1)
    return away / (positive - negative).sum(-1)


def norm_spread(problem, name):
    """Largest over smallest norm of the head's columns."""
    lengths = np.linalg.norm(np.asarray(heads(problem, name)[0]), axis=1)
    return lengths.max(-1) / lengths.min(-1)


def body_moved(problem, name):
    """Largest change of a parameter below the head, compared with plain training."""
    here, there = (problem.states[each].params["hidden0"]["kernel"] for each in (name, "ce"))
    return np.abs(np.asarray(here - there)).max((1, 2))


def learnt_epsilon(problem, name):
    """Mean eps of the tail's classes minus that of the others; 0 of a method without one."""
    found = optax.tree_utils.tree_get(problem.states[name].meta_state, "class_epsilon")
    if found is None:
        return np.zeros(SEEDS)
    rare = np.isin(np.arange(found.shape[-1]), tail(problem))
    return np.asarray(found[:, rare].mean(-1) - found[:, ~rare].mean(-1))


# -- what must hold ---------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A statement about a method, beside another one from the same seeds."""

    problem: str
    measure: Callable[[Problem, str], np.ndarray]
    holds: Callable[[np.ndarray, np.ndarray], Any]  # (of the method [S], of the other [S]), for every seed
    than: str = "ce"


def below(factor):
    return lambda value, other: value < factor * other


def above(margin):
    return lambda value, other: value > other + margin


def near(number, tolerance):
    return lambda value, other: abs(value - number) <= tolerance


ROBUST = Mark("noisy", wrong_over_clean, below(0.5))
TAIL = Mark("long_tail", tail_recall, above(0.0))
LPG = Mark("long_tail", favour, above(1.0))
FLAT = Mark("flat", rise, below(0.8))
MARGIN = Mark("long_tail", rare_margin, above(0.03))
BODY = Mark("long_tail", body_moved, near(0, 0))
MIXED = {each: functools.partial(mixed_loss, mixing=each) for each in presets.MIXING}

MARKS: dict[str, tuple[Mark, ...]] = {
    **dict.fromkeys(("gr", "imae", "ogc", "phuber", "mae", "gce", "sce", "sample_lpg"), (ROBUST,)),
    "forward": (Mark("noisy", gain_by_transition, above(0.1)), Mark("noisy", clean_surprise, below(0.7))),
    "backward": (Mark("noisy", clean_nll, below(0.6)),),
    "coteach": (Mark("noisy", clean_nll, below(0.6)),),
    "row_clip": (Mark("noisy", longest_row, near(0.5, 1e-6)),),
    "lpg": (LPG, TAIL),
    "equal_lpg": (LPG, Mark("long_tail", size, near(1, 1e-5))),
    "scaled_ce": (Mark("long_tail", unevenness, near(0, 1e-4)), Mark("long_tail", size, below(0.9))),
    "random_lpg": (Mark("long_tail", functools.partial(favour, split_of="random_lpg"), above(2.0)),),
    "cb": (TAIL,),
    "eql": (Mark("long_tail", positive_share, above(0.15), "eql without"), Mark("long_tail", common_mode, above(0.1))),
    "ghm": (Mark("long_tail", dense_over_sparse, below(0.2)),),
    "row_noise": (Mark("long_tail", noise, near(0.1, 0.005)), Mark("long_tail", common_mode, above(0.01))),
    "row_noise+zero_sum": (
        Mark("long_tail", noise, near(0.1 * np.sqrt(0.9), 0.005)),
        Mark("long_tail", common_mode, below(0.01), "row_noise"),
    ),
    "focal": (Mark("long_tail", doubt, above(0.01)),),
    "smooth": (Mark("long_tail", doubt, above(0.05)),),
    **dict.fromkeys(("la", "posthoc"), (TAIL._replace(holds=above(0.03)),)),
    "lpl": (Mark("long_tail", favour, above(0.1)),),
    "ldam": (MARGIN,),
    "gcl": (MARGIN._replace(than="gcl without"), TAIL),
    "isda": (Mark("long_tail", spread, below(0.9)),),
    "mixup": (Mark("long_tail", MIXED["mixup"], below(0.7)),),
    "cutmix": (Mark("long_tail", MIXED["cutmix"], below(0.7)),),
    "sam": (FLAT,),
    "gsam": (FLAT,),
    "looksam": (FLAT,),
    "asam": (FLAT._replace(measure=functools.partial(rise, rho=1.0, eta=0.01)),),
    "pcgrad": (Mark("long_tail", opposition, lambda value, other: value > -1e-3),),
    "graddrop": (Mark("long_tail", impurity, lambda value, other: value < 0.01),),
    "crt": (BODY, TAIL),
    "lws": (BODY, TAIL),
    "tau_norm": (BODY, Mark("long_tail", norm_spread, near(1, 1e-4)), TAIL),
    "gdw": (ROBUST._replace(problem="held_out_noisy"),),
    "mwnet": (ROBUST._replace(problem="held_out_noisy"),),
    "learned_lpg": (Mark("held_out_long_tail", learnt_epsilon, above(0.05)),),
    # both halves
    "la+lpg": (LPG._replace(than="la"), LPG, TAIL),
    "lpl+lpg": (LPG._replace(than="lpl"), LPG, TAIL),
    "la+lpl": (Mark("long_tail", favour, above(0.1), "la"), TAIL),
    "mixup+lpg": (Mark("long_tail", MIXED["mixup"], below(0.7)), LPG._replace(holds=above(0.2), than="mixup")),
    "sam+lpg": (FLAT._replace(than="lpg"), LPG._replace(than="sam")),
    "ogc+lpg": (ROBUST, LPG._replace(than="ogc")),
    "ldam+cb": (MARGIN, TAIL._replace(than="ldam")),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(problem, measure, name) -> [S]; a problem is trained when it is first asked for."""
    solved = functools.cache(lambda problem: PROBLEMS[problem](tmp_path_factory.mktemp(problem)))
    return functools.cache(lambda problem, measure, name: measure(solved(problem), name))


def report(measured, method, name):
    """What the marks of `method` say of the model of `name` in its place: [(values, the other's, whether it holds)]."""
    found = []
    for mark in MARKS[method]:
        value, other = (measured(mark.problem, mark.measure, each) for each in (name, mark.than))
        found.append((value, other, bool(np.all(mark.holds(value, other)))))
    return found


def test_every_name_has_a_mark():
    assert {part for name in MARKS for part in name.split("+")} == set(presets.KNOWN)


@pytest.mark.parametrize("method", MARKS)
def test_a_method_leaves_its_mark(measured, method):
    for mark, (value, other, holds) in zip(MARKS[method], report(measured, method, method), strict=True):
        assert holds, f"{mark.measure}: {value}, {mark.than} has {other}"


@pytest.mark.parametrize("method", MARKS)
def test_plain_training_does_not(measured, method):
    assert not all(holds for _, _, holds in report(measured, method, "ce"))
