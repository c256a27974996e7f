"""Runs that differ in numbers only, trained at once: each writes, and is, what it would be alone."""

import copy
import itertools
import signal
from typing import Any

import chex
import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_config import digests, read, read_lines, tiny

from lpg_jax import training
from lpg_jax.training import ConfigError, loop, parallel, recipe, runner, sweep, workdir
from lpg_jax.training.signals import Interrupted

pytestmark = pytest.mark.slow

GRID = {"lpg.epsilon": [0.05, 0.5], "train.learning_rate": [0.02, 0.1]}
FIELDS = {"method": "lpg", "train__epochs": 2, "checkpoint__every_steps": 6}  # 12 steps, evaluated at 6 and 12


def expand(grid, home, **fields):
    return sweep.expand(tiny(**FIELDS | fields), grid, home)


def train(runs, **options) -> Any:
    return runner.run_many([(run.config, run.home) for run in runs], **options)


def assert_close(found, expected, atol=1e-4):
    """States equal to rounding, keys and steps to the bit."""
    np.testing.assert_array_equal(jax.random.key_data(found.key), jax.random.key_data(expected.key))
    np.testing.assert_array_equal(found.step, expected.step)
    chex.assert_trees_all_close(found._replace(key=()), expected._replace(key=()), atol=atol)


def apart(left, right):
    """Largest distance of two parameter trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left.params, right.params)))


def names(groups):
    return [[run.home.name for run in group] for group in groups]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A 2x2 grid as one population: (runs, states of each)."""
    runs = expand(GRID, tmp_path_factory.mktemp("together"))
    return runs, train(runs, command="as typed")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same, one after the other."""
    runs = expand(GRID, tmp_path_factory.mktemp("alone"))
    return runs, [training.run(run.config, run.home) for run in runs]


# --- the same as alone


def test_states_are_those_of_lone_runs(together, alone):
    for found, expected in zip(together[1], alone[1], strict=True):
        assert_close(found["lpg"], expected["lpg"])
    for left, right in itertools.combinations(together[1], 2):
        assert apart(left["lpg"], right["lpg"]) > 0.01, "a hundred times the tolerance"
    for states in together[1]:
        first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], states["lpg"]._replace(key=())) for s in (0, 1))
        assert apart(first, second) > 0.01, "seeds, too"


def leaves_of(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("name", ["lpg/metrics.jsonl", "lpg/result.json"])
def test_figures_are_those_of_lone_runs(together, alone, name):
    for run, other in zip(together[0], alone[0], strict=True):
        read_one = read_lines if name.endswith("l") else read
        found, expected = leaves_of(read_one(run.home / name)), leaves_of(read_one(other.home / name))
        assert [path for path, _ in found] == [path for path, _ in expected]
        for (path, value), (_, like) in zip(found, expected, strict=True):
            if isinstance(like, float) and "seconds" not in str(path):
                assert value == pytest.approx(like, rel=1e-3, abs=2e-3), path  # an example of 539 may change sides


def test_files_are_those_of_lone_runs(together, alone):
    for run, other in zip(together[0], alone[0], strict=True):
        paths = [
            {str(path.relative_to(each.home)) for path in each.home.rglob("*") if "checkpoints" not in path.parts}
            for each in (run, other)
        ]
        assert paths[0] == paths[1]
        for name in ("config.json", "dataset.json"):
            assert (run.home / name).read_text() == (other.home / name).read_text()
        summary, expected = read(run.home / "summary.json"), read(other.home / "summary.json")
        assert summary.keys() == expected.keys()
        assert summary["methods"]["lpg"].keys() == expected["methods"]["lpg"].keys()
        assert (summary["command"], summary["steps"], summary["seeds"]) == ("as typed", 12, [0, 1])
        first = read(run.home / "run.json")
        assert first.pop("population") == 4
        assert first.keys() == read(other.home / "run.json").keys()


def test_a_run_of_a_population_is_an_ordinary_run(together, monkeypatch):
    monkeypatch.setattr(loop, "train", None)
    for run, states in zip(*together, strict=True):
        again = training.run(run.config, run.home)
        assert_close(again["lpg"], states["lpg"], atol=0)
        predict, params, config = training.load(run.home, "lpg")
        chex.assert_trees_all_equal(params, states["lpg"].params)
        assert config.lpg.epsilon == run.config.lpg.epsilon
        assert predict(np.zeros((3, 8, 8, 1), np.float32)).shape == (3, 10)


OTHER = {
    "lpg.epsilon": 0.2,
    "lpg.slope": 0.3,
    "lpg.threshold": 0.75,
    "lpg.decay": 0.5,
    "train.learning_rate": 0.02,
    "train.weight_decay": 0.5,
}


def test_every_field_acts_as_alone(tmp_path):
    """A population of a base, six runs that differ from it in one field, and one that differs in all of them.

    One seed, so that a run alone has no leading axis; other split, optimizer and schedule than above.
    """
    assert OTHER.keys() == set(recipe.POPULATION)
    base = tiny(
        **FIELDS | {"num_seeds": 1, "lpg__split": "accuracy", "lpg__threshold": 0.5, "lpg__decay": 0.9},
        train__optimizer="adamw",
        train__learning_rate=0.01,
        train__weight_decay=0.1,
        train__schedule="step",
        train__warmup_epochs=0.5,
    )
    runs = [sweep.Run({}, copy.deepcopy(base), tmp_path / str(number)) for number in range(8)]
    for run, change in zip(runs, [{}, *({name: value} for name, value in OTHER.items()), OTHER], strict=True):
        run.config.update_from_flattened_dict(change)
    (group,) = sweep.populations(runs)
    states = train(group)
    assert len({digests(run.home, "lpg")["0"] for run in runs}) == 8
    for left, right in itertools.combinations(states, 2):
        assert apart(left["lpg"], right["lpg"]) > 5e-4
    assert_close(states[-1]["lpg"], training.run(runs[-1].config, tmp_path / "alone")["lpg"], atol=5e-5)


def test_a_population_starts_as_its_runs():
    """By frequency, the first step reads margins that follow from the threshold."""
    runs = expand({"lpg.threshold": [0.25, 0.75]}, "nowhere")
    layout = parallel.Layout.of(runs[0].config)
    facts = sweep._stand_in(runs[0].config)._replace(input_shape=(2,), input_dtype="float32", mean=(0.0,), std=(1.0,))
    recipes = [recipe.build(run.config, facts, "lpg") for run in runs]
    shared = parallel.make_shared(recipes[0], layout)
    values = recipe.values_of([run.config for run in runs])
    begun = parallel.start(recipes[0], layout, (0, 1), shared, values)
    for number, one in enumerate(recipes):
        (found, _), (expected, _) = parallel.of_run(begun, number), parallel.start(one, layout, (0, 1), shared)
        assert_close(found, expected, atol=1e-6)
        assert expected.logit_state.class_margin.any()


# --- planted faults


@pytest.mark.parametrize("fault", ["values", "runs", "seeds"])
def test_members_that_are_mixed_up_are_noticed(fault, alone, tmp_path, monkeypatch):
    values_of, of_run, start = recipe.values_of, parallel.of_run, parallel.start
    wrong = {
        "values": (recipe, "values_of", lambda configs: {k: v[::-1] for k, v in values_of(configs).items()}),
        "runs": (parallel, "of_run", lambda tree, number: of_run(tree, number ^ 1)),
        "seeds": (parallel, "start", lambda recipe, layout, seeds, *rest: start(recipe, layout, seeds[::-1], *rest)),
    }
    monkeypatch.setattr(*wrong[fault])
    found = train(expand(GRID, tmp_path))
    for states, expected in zip(found, alone[1], strict=True):
        assert apart(states["lpg"], expected["lpg"]) > 0.01


# --- runs that end early


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_cut_short_and_resumed_alone(alone, tmp_path, monkeypatch):
    """It ends when the third of four runs has written its first lines; all have a checkpoint of none or of step 6."""
    runs, written, append = expand(GRID, tmp_path), [], workdir.append_lines

    def append_and_die(path, records):
        append(path, records)
        written.append(records[0]["step"])
        if len(written) == 4 + 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workdir, "append_lines", append_and_die)
        with pytest.raises(Killed):
            train(runs)
    assert written == [6] * 4 + [12] * 3
    assert names(sweep.populations(runs)) == [[run.home.name] for run in runs], "unfinished ones go alone"
    outcomes = sweep.run_local(runs)
    for outcome, expected, other in zip(outcomes, alone[1], alone[0], strict=True):
        assert outcome.error == ""
        home = outcome.run.home
        assert_close(training.run(outcome.run.config, home)["lpg"], expected["lpg"])
        assert read(home / "summary.json")["methods"]["lpg"]["restored_steps"] == [6]
        lines, like = read_lines(home / "lpg" / "metrics.jsonl"), read_lines(other.home / "lpg" / "metrics.jsonl")
        assert [(line["step"], line["seed"]) for line in lines] == [(line["step"], line["seed"]) for line in like]
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in like], rel=1e-3)


def test_a_signal_saves_every_run(tmp_path, monkeypatch):
    runs, append = expand(GRID, tmp_path), workdir.append_lines

    def append_and_signal(path, records):
        append(path, records)
        if path.parent.parent == runs[0].home:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(workdir, "append_lines", append_and_signal)
    with pytest.raises(Interrupted, match="a checkpoint was saved at step 6"):
        sweep.run_local(runs)
    for run in runs:
        assert (run.home / "lpg" / "checkpoints" / "6").is_dir()
        assert workdir.inspect(run.home, sweep.settings.to_json(run.config)) == "unfinished"


def test_a_run_that_diverges_fails_alone(alone, tmp_path):
    """Also in the methods after."""
    grid = {"train.learning_rate": [0.02, 1e30, 0.1]}
    runs = expand(grid, tmp_path, method="lpg,ce", lpg__epsilon=0.05)
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, record=True, width=200)
        outcomes = sweep.run_local(runs, console)
    assert outcomes[0].error == outcomes[2].error == ""
    assert "seed 0: the loss became NaN or infinite in steps " in outcomes[1].error
    text = console.export_text()
    assert "1, 2, 3 of 3: 3 runs as one population" in text
    assert "no population" not in text
    assert "failed: train.learning_rate=1e+30: seed 0: the loss became NaN" in text
    assert not (runs[1].home / "summary.json").exists()
    assert not (runs[1].home / "ce").exists()
    for run, expected in ((runs[0], alone[1][0]), (runs[2], alone[1][1])):
        assert_close(training.run(run.config, run.home)["lpg"], expected["lpg"])
        assert digests(run.home, "ce") != digests(run.home, "lpg")


def test_what_stops_a_population_is_tried_alone(tmp_path, monkeypatch):
    def too_large(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    made = []
    monkeypatch.setattr(runner, "run_many", too_large)
    monkeypatch.setattr(runner, "run", lambda config, home, **_: made.append(home.name))
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, record=True, width=200)
        outcomes = sweep.run_local(expand(GRID, tmp_path / "runs"), console)
    assert [outcome.error for outcome in outcomes] == [""] * 4
    assert made == [outcome.run.home.name for outcome in outcomes]
    assert "no population: RuntimeError: RESOURCE_EXHAUSTED: out of memory; now one after the other" in (
        console.export_text()
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(signal.SIGTERM, 7)])
def test_an_interrupt_stops_the_sweep(error, tmp_path, monkeypatch):
    made = []

    def run_many(runs, **_):
        made.append(len(runs))
        raise error

    monkeypatch.setattr(runner, "run_many", run_many)
    with pytest.raises(type(error)):
        sweep.run_local(expand(GRID | {"seed": [0, 1]}, tmp_path))
    assert made == [4]


# --- who is trained with whom


@pytest.mark.parametrize(
    ("grid", "sizes"),
    [
        ({"model.hidden": [(16,), (8,)]}, [2, 2]),
        ({"train.epochs": [1, 2]}, [2, 2]),
        ({"train.batch_size": [32, 64]}, [2, 2]),
        ({"seed": [0, 1]}, [2, 2]),
        ({"lpg.threshold": [0.2, "mean", 0.3, None]}, [4, 2, 2]),
        ({"lpg.decay": [None, 0.5, 0.6]}, [2, 4]),
        ({"train.weight_decay": [0.0, 1e-4, 1e-3]}, [2, 4]),
        ({"train.dtype": ["float32", "float64"]}, [2, 2]),
        ({"train.learning_rate": [0.1, -1.0]}, [2, 1, 1]),
        ({"parallel": ["jit", "pmap"]}, [2, 1, 1]),
        ({"num_devices": [1, 2]}, [2, 1, 1]),
        ({"train.feed": ["device", "host"]}, [2, 1, 1]),
        ({"log.wandb": ["", "project"]}, [2, 1, 1]),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_populations_are_runs_that_differ_in_numbers(grid, sizes, tmp_path):
    try:
        runs = expand(grid | {"lpg.epsilon": [0.05, 0.1]}, tmp_path)
        groups = sweep.populations(runs)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert [len(group) for group in groups] == sizes
    flat = [run for group in groups for run in group]
    assert sorted(run.home for run in flat) == sorted(run.home for run in runs)
    for group in groups:
        assert len({sweep.recipe.program_of(run.config) for run in group}) == 1
    assert not any(tmp_path.iterdir())


def test_convolutions_go_alone(tmp_path):
    runs = expand({"lpg.epsilon": [0.05, 0.1]}, tmp_path, model__name="resnet8", model__hidden=None)
    assert [len(group) for group in sweep.populations(runs)] == [1, 1]


def test_finished_and_unfinished_runs_go_alone(together, tmp_path):
    assert [len(group) for group in sweep.populations(together[0])] == [1] * 4
    runs = expand(GRID, tmp_path)
    workdir.claim(runs[0].home, sweep.settings.to_json(runs[0].config), {})
    (runs[2].home).mkdir()
    (runs[2].home / "thesis.tex").write_text("x")
    assert [len(group) for group in sweep.populations(runs)] == [1, 2, 1]
    with pytest.raises(ConfigError, match=r"is unfinished; a population begins with new ones, so run it alone"):
        train(runs[:2])


def test_runs_of_other_programs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"runs of one population must differ in lpg\.epsilon, .* only"):
        train(expand({"train.epochs": [1, 2]}, tmp_path))
    with pytest.raises(ConfigError, match=r"model\.name='resnet8': runs on this model and device cannot be"):
        train(expand({"lpg.epsilon": [0.1, 0.2]}, tmp_path, model__name="resnet8", model__hidden=None))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "limit"), [("MEMBERS", 7), ("POPULATION_BYTES", 80_000)])
def test_a_large_population_is_cut(name, limit, tmp_path, monkeypatch):
    """3 runs of 2 seeds are 6 members, and a run's state has 20 to 26 kB."""
    sizes = []
    monkeypatch.setattr(runner, name, limit)
    monkeypatch.setattr(runner, "_run_together", lambda tasks, *_: sizes.append(len(tasks)))
    train(expand({"lpg.epsilon": [0.1 * number for number in range(7)]}, tmp_path))
    assert sizes == [3, 3, 1]
