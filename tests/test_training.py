"""The training room: what a run writes, that it resumes to the bit, and what its parts promise."""

import functools
import hashlib
import json
import math
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import digests, read, read_lines, tiny

import lpg_jax
from configs import digits_balanced, digits_noisy
from lpg_jax import data, training
from lpg_jax.training import batches, loop, parallel, recipe, settings, step, workdir

STATES = training.TrainState._fields


def same_bits(left, right):
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), left, right))


LAYOUT = parallel.Layout.of(tiny())


def start(of, seeds=(0,)):
    return parallel.start(of, LAYOUT, seeds, parallel.make_shared(of, LAYOUT))


def raw(arrays, index):
    """One micro-batch of these examples."""
    index = jnp.asarray(index)[None]
    return batches.take(arrays, index, index)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: (config, work directory, states)."""
    config, home = tiny(), tmp_path_factory.mktemp("runs") / "finished"
    return config, home, training.run(config, home, command="as typed")


@pytest.fixture(scope="module")
def prepared():
    """(recipe of lpg, training arrays) of the tiny config."""
    config = tiny()
    dataset = data.load(config.data, config.seed)
    return recipe.build(config, recipe.Facts.of(dataset), "lpg"), parallel.on_devices(
        LAYOUT, batches.arrays_of(dataset.train)
    )


# --- what a run writes


def test_summary_holds_the_contract(finished):
    config, home, states = finished
    summary = read(home / "summary.json")
    assert list(summary["methods"]) == list(states) == ["ce", "lpg"]
    for entry in summary["methods"].values():
        accuracies = [entry[name] for name in ("overall", "balanced", "head", "tail")] + entry["per_class"]
        assert len(entry["per_class"]) == len(entry["ci95"]["per_class"]) == 10
        assert all(0 <= value <= 1 for value in accuracies)
        assert entry["overall"] > 0.4, "it learns"
        assert entry["nll"] > 0
        assert sorted(entry["params_sha256"]) == ["0", "1"]
        assert entry["restored_steps"] == []
    assert summary["class_counts"] == [122, 78, 51, 33, 21, 13, 8, 5, 3, 2]
    assert summary["noise_rate"] == 0
    assert summary["steps"] == 4 * math.ceil(336 / 64)
    assert summary["device"]["platform"] == "cpu"
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["wall_time"]["total"] >= summary["wall_time"]["ce"] > 0
    assert summary["command"] == "as typed"
    assert settings.differences(read(home / "config.json"), settings.to_json(config)) == []


def test_means_and_intervals_follow_from_the_last_lines(finished):
    _, home, _ = finished
    for name, entry in read(home / "summary.json")["methods"].items():
        last = [line for line in read_lines(home / name / "metrics.jsonl") if line["step"] == 24]
        first, second = (line["tail"] for line in last)
        assert entry["tail"] == pytest.approx((first + second) / 2)
        # for two values the deviation is |a - b| / sqrt 2, and t(0.975, 1 degree of freedom) = 12.706
        assert entry["ci95"]["tail"] == pytest.approx(12.7062 * abs(first - second) / 2, rel=1e-4)


def test_figures_are_those_of_the_model_that_load_returns(finished):
    config, home, _ = finished
    test = data.load(config.data, config.seed).test
    predict, _, _ = training.load(home, "lpg")
    lines = [line for line in read_lines(home / "lpg" / "metrics.jsonl") if line["step"] == 24]
    for line in lines:
        probabilities = predict(test.inputs, seed=line["seed"])
        hits = probabilities.argmax(-1) == test.labels
        per_class = [hits[test.labels == label].mean() for label in range(10)]
        assert line["overall"] == pytest.approx(hits.mean())
        assert line["per_class"] == pytest.approx(per_class)
        assert line["balanced"] == pytest.approx(np.mean(per_class))
        assert line["head"] == pytest.approx(np.mean(per_class[:5]))  # counts fall with the class index
        assert line["tail"] == pytest.approx(np.mean(per_class[5:]))
        nll = -np.log(probabilities[np.arange(len(test.labels)), test.labels])
        assert line["nll"] == pytest.approx(nll.mean(), rel=1e-4)


def test_digest_is_that_of_the_raw_bytes(finished):
    _, home, states = finished
    leaves = [np.asarray(leaf)[1] for leaf in jax.tree.leaves(states["ce"].params)]
    assert digests(home, "ce")["1"] == hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def test_metrics_lines_tell_what_lpg_does(finished):
    _, home, states = finished
    lines = read_lines(home / "lpg" / "metrics.jsonl")
    assert [(line["step"], line["seed"]) for line in lines] == [
        (step, seed) for step in (6, 12, 18, 24) for seed in (0, 1)
    ]
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2, 3, 3, 4, 4]
    table = lpg_jax.class_table(states["lpg"].logit_state)
    for name in ("margin", "epsilon", "accuracy", "grad_variance"):
        assert lines[-1][f"class_{name}"] == pytest.approx(table[name][1].tolist())
    assert "class_margin" not in read_lines(home / "ce" / "metrics.jsonl")[0]


def test_state_is_the_contracted_tuple(finished):
    state = finished[2]["lpg"]
    of_method = ("logit_state", "loss_state", "sharpness_state", "meta_state")
    assert ("step", "params", "batch_stats", "opt_state", *of_method, "key") == STATES
    assert state.step.tolist() == [24, 24]
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(state.params))


def test_methods_and_seeds_differ(finished):
    found = {digests(finished[1], name)[seed] for name in ("ce", "lpg") for seed in "01"}
    assert len(found) == 4


def test_without_the_last_five_only_the_end_is_evaluated_and_nothing_else_changes(tmp_path):
    found = {}
    for last_five in (True, False):
        home = tmp_path / str(last_five)
        config = tiny(method="lpg", train__epochs=7, evaluate__every_epochs=7, evaluate__last_five=last_five)
        training.run(config, home)
        steps = sorted({line["step"] for line in read_lines(home / "lpg" / workdir.METRICS)})
        found[last_five] = steps, read(home / "summary.json")["methods"]["lpg"]
    assert (found[True][0], found[False][0]) == ([18, 24, 30, 36, 42], [42])
    with_five, without = found[True][1], found[False][1]
    assert with_five.keys() - without.keys() == {"mean_last_five"}
    assert without["params_sha256"] == with_five["params_sha256"]
    assert [without[name] for name in ("overall", "nll", "ece")] == [with_five[n] for n in ("overall", "nll", "ece")]


def test_a_validation_part_is_measured(tmp_path):
    training.run(tiny(data__validation=0.25, method="ce", num_seeds=1, train__epochs=1), tmp_path)
    entry = read(tmp_path / "summary.json")["methods"]["ce"]
    assert 0 < entry["validation"]["overall"] < 1
    assert entry["ci95"]["overall"] is None
    assert entry["ci95"]["per_class"] == [None] * 10


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_noisy_labels_are_exported_and_train_another_run(tmp_path, validation):
    """Also who was mistaken for whom, and what was learnt of the right, the wrong and the true labels."""
    noise = {"data__noise__kind": "pair", "data__noise__rate": 0.3}
    fields = {"data__imbalance": 1.0, "num_seeds": 1, "method": "ce", "train__epochs": 2}
    fields["data__validation"] = validation
    training.run(tiny(**fields, **noise), tmp_path / "first")
    again = {"data__noise__kind": "file", "data__noise__path": str(tmp_path / "first" / "labels.npz")}
    training.run(tiny(**fields, **again), tmp_path / "second")
    assert digests(tmp_path / "first", "ce") == digests(tmp_path / "second", "ce")
    written, summary = read(tmp_path / "first" / "noise.json"), read(tmp_path / "first" / "summary.json")
    assert written["rate"] == summary["noise_rate"] == pytest.approx(0.3, abs=0.03)
    confusion = np.array(written["confusion"])
    np.testing.assert_allclose(confusion.sum(1), 1)
    np.testing.assert_allclose(np.diag(confusion) + np.diag(np.roll(confusion, -1, axis=1)), 1)
    entry = summary["methods"]["ce"]
    assert entry["train_clean"] > entry["train_recovered"] > 0
    assert 0 < entry["train_memorised"] < 1


# --- the perturbation acts, with both signs, in every scenario


def test_the_main_job_acts_with_both_signs_and_epsilon_zero_is_plain(finished, tmp_path):
    _, home, _ = finished
    for last in read_lines(home / "lpg" / "metrics.jsonl")[-2:]:
        perturbation = np.sign(last["class_margin"]) * last["class_epsilon"]
        assert perturbation.max() > 0 > perturbation.min()
    assert not set(digests(home, "lpg").values()) & set(digests(home, "ce").values())
    training.run(tiny(method="lpg", lpg__epsilon=0.0), tmp_path)
    assert digests(tmp_path, "lpg") == digests(home, "ce")


@pytest.mark.parametrize("family", [digits_noisy, digits_balanced])
def test_the_other_scenarios_act_with_both_signs_and_epsilon_zero_is_plain(family):
    config = family.get_config()
    epsilon = config.lpg.epsilon
    dataset = data.load(config.data, config.seed)
    facts, arrays = recipe.Facts.of(dataset), parallel.on_devices(LAYOUT, batches.arrays_of(dataset.train))

    def three_steps(method, epsilon):
        config.lpg.epsilon = epsilon
        of = recipe.build(config, facts, method)
        state, _ = start(of)
        go = jax.jit(functools.partial(step.train_step, of))
        for index in range(3):
            state, _ = go(state, raw(arrays, 40 * index + jnp.arange(of.batch_size)))
        return state

    plain, acting, idle = three_steps("ce", 0.0), three_steps("lpg", epsilon), three_steps("lpg", 0.0)
    chex.assert_trees_all_close(plain.params, idle.params, atol=1e-6)  # two programs, which may round differently
    change = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), plain.params, acting.params)
    assert max(jax.tree.leaves(change)) > 1e-3
    perturbation = lpg_jax.class_table(acting.logit_state)["perturbation"]
    assert perturbation.max() > 0 > perturbation.min()


# --- resuming


class Killed(Exception):
    """Stands for whatever ends a process."""


def die_after_evaluations(monkeypatch, number):
    """The process ends when it has just written its number-th lines of metrics."""
    append, left = workdir.append_lines, [number]

    def append_and_die(path, records):
        append(path, records)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(workdir, "append_lines", append_and_die)


def test_resumed_run_is_bit_identical(finished, tmp_path, monkeypatch):
    config = tiny(checkpoint__every_steps=5)
    for evaluations in (2, 5):  # ends after step 12 of ce, saved at 10; then at the same point of lpg
        with monkeypatch.context() as patch:
            die_after_evaluations(patch, evaluations)
            with pytest.raises(Killed):
                training.run(config, tmp_path)
        assert not (tmp_path / "summary.json").exists()
    states = training.run(config, tmp_path)
    for name, state in states.items():
        assert digests(tmp_path, name) == digests(finished[1], name)
        assert read(tmp_path / "summary.json")["methods"][name]["restored_steps"] == [10]
        lines = (tmp_path / name / "metrics.jsonl").read_text()
        assert lines == (finished[1] / name / "metrics.jsonl").read_text()
        assert same_bits(state, finished[2][name]), "statistics, optimizer and key, too"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["la+lpl", "isda", "looksam+lpg", "gdw", "mixup+ogc", "learned_lpg", "sample_lpg"])
def test_methods_with_a_memory_resume_to_the_bit(method, tmp_path, monkeypatch):
    fields = {"data__validation": 0.2, "data__imbalance": 20.0, "checkpoint__every_steps": 5}
    config = tiny(method=method, **fields)
    whole = training.run(config, tmp_path / "whole")[method]
    with monkeypatch.context() as patch:
        die_after_evaluations(patch, 2)
        with pytest.raises(Killed):
            training.run(config, tmp_path / "cut")
    resumed = training.run(config, tmp_path / "cut")[method]
    assert read(tmp_path / "cut" / "summary.json")["methods"][method]["restored_steps"]
    assert same_bits(resumed, whole)


@pytest.mark.parametrize("num_devices", [3, 4])
def test_a_checkpoint_restores_on_other_devices(finished, tmp_path, monkeypatch, num_devices):
    """64 examples are spread over 3 devices, too; equal to rounding."""
    with monkeypatch.context() as patch:
        die_after_evaluations(patch, 2)
        with pytest.raises(Killed):
            training.run(tiny(checkpoint__every_steps=5, method="lpg"), tmp_path)
    states = training.run(tiny(checkpoint__every_steps=5, method="lpg", num_devices=num_devices), tmp_path)
    assert read(tmp_path / "summary.json")["methods"]["lpg"]["restored_steps"] == [10]
    close = functools.partial(np.testing.assert_allclose, atol=2e-5)
    jax.tree.map(close, states["lpg"][1:-1], finished[2]["lpg"][1:-1])


def test_finished_run_is_not_trained_again(finished, monkeypatch):
    config, home, states = finished
    monkeypatch.setattr(loop, "train", None)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    again = training.run(config, home)
    assert same_bits(again, states)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_another_config_is_refused_by_field(finished):
    message = r"another config \(lpg\.epsilon: 0\.05 -> 0\.2; seed: 0 -> 3\); set these back"
    with pytest.raises(training.ConfigError, match=message):
        training.run(tiny(seed=3, lpg__epsilon=0.2), finished[1])


def test_checkpoint_frequency_may_change(finished):
    assert training.run(tiny(checkpoint__every_steps=3, checkpoint__keep=1), finished[1]).keys() == {"ce", "lpg"}
    assert training.digest(tiny(checkpoint__every_steps=3)) == training.digest(tiny())
    assert training.digest(tiny(seed=1)) != training.digest(tiny())


def test_foreign_directory_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(training.ConfigError, match=r"holds 'thesis\.tex' but no config\.json, so it is no run of ours"):
        training.run(tiny(), tmp_path)
    with pytest.raises(training.ConfigError, match=r"is no directory; give another one"):
        training.run(tiny(), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unfinished_run_on_other_data_is_refused(tmp_path, finished):
    facts = recipe.Facts.from_json(read(finished[1] / "dataset.json"))
    workdir.claim(tmp_path, settings.to_json(tiny()), facts._replace(train_size=7)._asdict())
    with pytest.raises(training.ConfigError, match="the data changed since this run began"):
        training.run(tiny(), tmp_path)


def test_bad_config_leaves_no_directory(tmp_path):
    with pytest.raises(training.ConfigError, match=r"lpg\.epsilon=-1\.0: must be >= 0"):
        training.run(tiny(lpg__epsilon=-1.0), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_divergence_stops_with_seed_and_steps(tmp_path):
    with pytest.raises(FloatingPointError, match=r"seed 0: the loss became NaN or infinite in steps \d+ to \d+"):
        training.run(tiny(train__learning_rate=1e30, method="ce"), tmp_path)


@pytest.mark.parametrize("epochs", [1, 3])
def test_parameters_that_overflow_are_never_saved(tmp_path, epochs):
    """The loss of the step is finite, what the update leaves behind is not; also in the last step of all."""
    fields = {
        "train__gradient_noise": 1e10,
        "train__learning_rate": 3e38,
        "train__batch_size": 336,
        "train__epochs": epochs,
        "method": "ce",
    }
    with pytest.raises(FloatingPointError, match=r"seed 0: the loss became NaN or infinite in steps 1 to 1"):
        training.run(tiny(**fields, num_seeds=1, checkpoint__every_steps=1, checkpoint__keep=1), tmp_path)
    assert not [path for path in (tmp_path / "ce" / "checkpoints").glob("*") if path.name.isdigit()]
    assert not (tmp_path / "summary.json").exists()


def test_a_cut_line_is_dropped_and_later_lines_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    workdir.append_lines(path, [{"step": 3}, {"step": 6}])
    path.write_text(path.read_text() + '{"step": 9, "lo')
    workdir.keep_lines(path, 3)
    assert read_lines(path) == [{"step": 3}]


# --- steps, order of the data


def test_order_is_a_permutation_that_changes_with_epoch_and_seed(prepared):
    of, _ = prepared
    orders = {
        (seed, epoch): batches.epoch_order(of, jax.random.key(seed), jnp.asarray(epoch), jnp.zeros(336, int))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    for order in orders.values():
        assert order.shape == (6, 64)
        assert sorted(order.reshape(-1).tolist()) == [*range(336), *[336] * 48]
    assert len({order.tobytes() for order in map(np.asarray, orders.values())}) == 4


def test_padding_is_masked_and_changes_nothing(prepared):
    of, arrays = prepared
    go = jax.jit(functools.partial(step.train_step, of))
    plain = raw(arrays, jnp.arange(5))
    padded = raw(arrays, jnp.array([336, 0, 1, 336, 2, 3, 4, 336]))
    assert padded.mask[0].tolist() == [False, True, True, False, True, True, True, False]
    nonsense = padded._replace(inputs=jnp.where(padded.mask[..., None, None, None], padded.inputs, jnp.nan))
    (expected, figures), (found, found_figures) = (go(start(of)[0], batch) for batch in (plain, nonsense))
    assert not same_bits(expected.params, start(of)[0].params)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, found[1:-1], expected[1:-1])
    assert found_figures.count == figures.count == 5


def test_steps_cut_anywhere_or_seed_by_seed_are_the_same(prepared):
    of, arrays = prepared
    advance = parallel.make_advance(of, LAYOUT, arrays, True)
    whole = advance((3, 4), *start(of, (3, 4)), 0, 13)
    assert whole[1].count.tolist() == [2 * 336 + 64] * 2
    pieces = start(of, (3, 4))
    for first, last in ((0, 1), (1, 6), (6, 7), (7, 13)):
        pieces = advance((3, 4), *pieces, first, last)
    assert same_bits(whole, pieces)
    one, _ = parallel.make_advance(of, LAYOUT, arrays, False)((4,), *start(of, (4,)), 0, 13)
    assert one.step.shape == ()
    close = functools.partial(np.testing.assert_allclose, atol=1e-4)
    jax.tree.map(close, one[1:-1], jax.tree.map(lambda leaf: leaf[1], whole[0][1:-1]))


def test_a_plain_step_is_textbook_sgd(prepared):
    """One step of "ce" against softmax regression gradients written out in NumPy."""
    config = tiny(method="ce", num_seeds=1, model__name="linear", model__hidden=None, train__warmup_epochs=0.0)
    of = recipe.build(config, prepared[0].facts, "ce")
    state, _ = start(of)
    batch = raw(prepared[1], jnp.arange(7))
    after, figures = jax.jit(functools.partial(step.train_step, of))(state, batch)
    head = jax.tree.map(np.float64, state.params["head"])
    x = np.asarray(prepared[1].inputs[:7], np.float64).reshape(7, -1)
    x = (x - of.facts.mean[0]) / of.facts.std[0]
    logits = x @ head["kernel"] + head["bias"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rows = p - np.eye(10)[np.asarray(batch.labels[0])]
    gradient = x.T @ rows / 7 + 5e-4 * head["kernel"]
    np.testing.assert_allclose(after.params["head"]["kernel"], head["kernel"] - 0.1 * gradient, atol=1e-6)
    np.testing.assert_allclose(after.params["head"]["bias"], head["bias"] - 0.1 * rows.mean(0), atol=1e-6)
    assert float(figures.loss) == pytest.approx(-np.log(p[np.arange(7), batch.labels[0]]).sum(), rel=1e-5)
    assert float(figures.hits) == (p.argmax(-1) == np.asarray(batch.labels[0])).sum()


def test_start_is_the_same_for_every_method(prepared):
    shared = parallel.make_shared(prepared[0], LAYOUT)
    recipes = [recipe.build(tiny(), prepared[0].facts, name) for name in ("ce", "lpg")]
    starts = [parallel.start(of, LAYOUT, (0, 1), shared)[0].params for of in recipes]
    assert same_bits(*starts)
    kernel = starts[0]["head"]["kernel"]
    assert not jnp.any(kernel[0] == kernel[1]), "seeds differ"


def test_bfloat16_computes_coarsely_but_keeps_float32(prepared):
    states = []
    for dtype in ("float32", "bfloat16"):
        of = recipe.build(tiny(train__dtype=dtype), prepared[0].facts, "lpg")
        batch = raw(prepared[1], jnp.arange(64))
        seen = batches.prepare(of, jax.tree.map(lambda leaf: leaf[0], batch), None)
        assert seen.inputs.dtype == dtype
        states.append(jax.jit(functools.partial(step.train_step, of))(start(of)[0], batch)[0])
    assert not same_bits(states[0].params, states[1].params)
    floats = [leaf for leaf in jax.tree.leaves(states[1]._replace(key=None)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}


# --- load


def test_a_run_of_many_devices_is_read_on_one(finished, tmp_path, monkeypatch):
    home = shutil.copytree(finished[1], tmp_path / "copy")
    content = read(home / "config.json") | {"num_devices": 64, "parallel": "pmap"}
    (home / "config.json").write_text(json.dumps(content))
    predict, _, config = training.load(home, "lpg")
    assert config.num_devices == 64
    expected = training.load(finished[1], "lpg")[0](np.zeros((3, 8, 8, 1), np.float32))
    np.testing.assert_array_equal(predict(np.zeros((3, 8, 8, 1), np.float32)), expected)


def test_a_run_of_another_version_is_one_clear_error(finished, tmp_path):
    home = shutil.copytree(finished[1], tmp_path / "copy")
    content = read(home / "config.json")
    del content["operators"], content["augment"]
    (home / "config.json").write_text(json.dumps(content))
    with pytest.raises(training.ConfigError, match=r"lacks the field .*another version of lpg_jax wrote it"):
        training.load(home, "lpg")
    message = r"\(augment\.crop, augment\.cutout, augment\.flip, \.\.\.: not a field in both, so another version"
    with pytest.raises(training.ConfigError, match=message):
        training.run(finished[0], home)


def test_predict_averages_seeds_or_takes_one(finished):
    config, home, states = finished
    inputs = data.load(config.data, 0).test.inputs[:70]  # more than one batch of 64
    predict, params, read_config = training.load(home, "ce")
    assert settings.to_json(read_config) == settings.to_json(config)
    assert same_bits(params, states["ce"].params)
    each = [predict(inputs, seed=seed) for seed in (0, 1)]
    assert each[0].shape == (70, 10)
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(predict(inputs), np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(each[0].sum(-1), 1, atol=1e-5)
    assert predict(inputs[:0]).shape == (0, 10)


def test_load_and_predict_refuse_what_does_not_fit(finished, tmp_path):
    _, home, _ = finished
    predict, _, _ = training.load(home, "ce")
    with pytest.raises(training.ConfigError, match=r"config\.json: not found; is this the work directory of a run\?"):
        training.load(tmp_path, "ce")
    with pytest.raises(training.ConfigError, match=r"method='sam': not in this run; it has ce, lpg"):
        training.load(home, "sam")
    with pytest.raises(ValueError, match=r"inputs\.shape=\(3, 64\): must be \(N, 8, 8, 1\)"):
        predict(np.zeros((3, 64)))
    with pytest.raises(ValueError, match=r"inputs\.dtype=uint8: must be float, in the units of the training data"):
        predict(np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"inputs\[1\]: must be finite"):
        predict(np.array([0, np.nan]).repeat(64).reshape(2, 8, 8, 1))
    with pytest.raises(ValueError, match=r"seed=5: must be one of 0, 1"):
        predict(np.zeros((3, 8, 8, 1)), seed=5)
    workdir.claim(tmp_path / "fresh", settings.to_json(tiny()), workdir.read_facts(home)._asdict())
    with pytest.raises(training.ConfigError, match="no checkpoint; run the same config"):
        training.load(tmp_path / "fresh", "lpg")


def test_uint8_inputs_are_read_as_fractions(prepared):
    facts = prepared[0].facts._replace(input_dtype="uint8", mean=(0.5,), std=(0.25,))
    pixels = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    assert batches.standardise(facts, pixels, jnp.float32).reshape(-1).tolist() == [-2, 2]
