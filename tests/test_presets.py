"""The presets: every field is there, belongs to a method, is read and printed by it; who chose those of the digits."""

import csv
import json
import pathlib

import numpy as np
import pytest

from configs import (
    cifar_balanced,
    cifar_longtail,
    cifar_noisy,
    default,
    digits_balanced,
    digits_longtail,
    digits_noisy,
    embeddings,
    presets,
    tune,
)
from lpg_jax import training
from lpg_jax.training import methods, settings, sweep
from lpg_jax.training import presets as parts

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "presets"
FILES = {
    ("digits", "longtail"): digits_longtail.get_config(),
    ("digits", "noisy"): digits_noisy.get_config(),
    ("digits", "balanced"): digits_balanced.get_config(),
    ("cifar10", "longtail"): cifar_longtail.get_config(),
    ("cifar100", "longtail"): cifar_longtail.get_config("cifar100"),
    ("cifar10", "noisy"): cifar_noisy.get_config(),
    ("cifar100", "noisy"): cifar_noisy.get_config("cifar100,pair"),
    ("cifar10", "balanced"): cifar_balanced.get_config(),
    ("cifar100", "balanced"): cifar_balanced.get_config("cifar100"),
    ("embeddings", "longtail"): embeddings.get_config(),
    ("embeddings", "noisy"): embeddings.get_config("noisy"),
}
PROBLEMS = pytest.mark.parametrize("problem", presets.PRESETS, ids=" ".join)


def part_of(field):
    """The method that a field belongs to: "losses.sce.alpha" -> "sce", "lpg.epsilon" -> "lpg"."""
    return field.split(".")[-2]


def build(name, config):
    classes = 100 if config.data.name == "cifar100" else 10
    more = {"steps_per_epoch": 5, "confusion": np.eye(classes).tolist(), "noise_rate": 0.4}
    return methods.build(name, config, range(500, 500 - classes, -1), **more)


@PROBLEMS
def test_a_file_holds_its_preset(problem):
    held = settings.flat(FILES[problem].to_dict())
    assert {field: held[field] for field in presets.PRESETS[problem]} == presets.PRESETS[problem]
    assert FILES.keys() == presets.PRESETS.keys()


@PROBLEMS
def test_a_field_is_an_option_of_a_method_which_a_run_prints(problem):
    known = settings.flat(default.get_config().to_dict())
    for field, value in presets.PRESETS[problem].items():
        part, option = part_of(field), field.rsplit(".", 1)[-1]
        assert field in known
        assert part in parts.KNOWN
        assert field == f"{parts.home(part)}.{option}"
        text = f"{value:g}" if isinstance(value, float) else str(value)
        description = build(part, FILES[problem]).description[0]
        assert f"{option} {text}" in description.removesuffix(")").replace("(", ", ").split(", ")


@PROBLEMS
def test_a_field_is_read_by_its_method(problem):
    """A value that no option can take is an error where the method is built, and nowhere else."""
    for field, value in presets.PRESETS[problem].items():
        config = FILES[problem].copy_and_resolve_references()
        config.update_from_flattened_dict({field: "?" if isinstance(value, str) else type(value)(-1)})
        with pytest.raises(ValueError, match=field.rsplit(".", 1)[-1]):
            build(part_of(field), config)
        build("gr", config)


def test_controls_print_the_margins_they_take():
    for part in ("equal_lpg", "scaled_ce", "random_lpg"):
        assert "epsilon 0.1, " in build(part, FILES["cifar10", "longtail"]).description[0]


def test_no_such_preset():
    with pytest.raises(ValueError, match=r"preset='cifar10', 'tail': must be one of digits longtail, digits noisy"):
        presets.apply(default.get_config(), "cifar10", "tail")


# -- what chose those of the digits -----------------------------------------------------------------------------------


def rows_of(scenario):
    with (RESULTS / "digits.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["scenario"] == scenario]


@pytest.mark.parametrize("scenario", presets.DIGITS)
def test_the_presets_of_the_digits_are_those_chosen(scenario):
    chosen, rows = {}, rows_of(scenario)
    assert {row["method"] for row in rows} == set(tune.TRIALS[scenario])
    for method, trials in tune.TRIALS[scenario].items():
        own = [row for row in rows if row["method"] == method]
        assert [json.loads(row["options"]) for row in own] == trials
        (best,) = (row for row in own if row["chosen"] == "1")
        rivals = [row for row in own if int(row["wins"]) == len(tune.SEEDS)] or own[:1]
        assert float(best["balanced"]) == max(float(row["balanced"]) for row in rivals)
        assert best in rivals
        chosen |= json.loads(best["options"])
    assert chosen == presets.DIGITS[scenario]


def test_every_method_has_four_trials_that_differ_in_its_own_options():
    for methods_of in tune.TRIALS.values():
        for method, trials in methods_of.items():
            assert len({json.dumps(trial) for trial in trials}) == 4
            assert {field.rsplit(".", 1)[0] for trial in trials for field in trial} == {parts.home(method)}
            assert len({tuple(trial) for trial in trials}) == 1


def test_a_trial_is_chosen_that_is_better_everywhere():
    better_on_average = np.array([[0.5, 0.5, 0.5], [0.9, 0.9, 0.4], [0.6, 0.6, 0.6], [0.55, 0.55, 0.9]])
    rows = tune.rows_of("noisy", "sam", better_on_average)
    assert [row["chosen"] for row in rows] == [0, 0, 0, 1]
    assert [row["wins"] for row in rows] == [0, 2, 3, 3]
    assert rows[1]["balanced"] == 73.33
    assert rows[3]["ci95"] == pytest.approx(100 * 4.302653 * 0.2020726 / 3**0.5, abs=0.01)
    assert [row["chosen"] for row in tune.rows_of("noisy", "sam", better_on_average[:, ::-1][[0, 1, 1, 1]])] == [
        1,
        0,
        0,
        0,
    ]


def test_names_without_trials(capsys):
    assert ("noisy", "coteach") in tune.pairs_of(["longtail", "noisy"], [])
    assert tune.pairs_of(["longtail", "noisy"], ["la", "sam"]) == [
        ("longtail", "sam"), ("longtail", "la"), ("noisy", "sam"),
    ]  # fmt: skip
    for arguments in (["--scenarios=tail"], ["--methods=gdw"]):
        with pytest.raises(SystemExit, match="2"):
            tune.main(arguments)
        assert "has no trials; must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(("scenario", "method"), [("longtail", "lpl"), ("noisy", "coteach"), ("balanced", "lpg")])
def test_trials_can_be_trained(scenario, method, tmp_path):
    """As far as is known without data; the runs of lpg that differ in eps are one program."""
    runs = tune.runs_of(scenario, method, tmp_path)
    assert [len(of_trial) for of_trial in runs] == [3] * 4
    assert len({training.digest(run.config) for of_trial in runs for run in of_trial}) == 12
    sweep.check(runs[0])
    together = sweep.populations([of_trial[0] for of_trial in runs])
    assert len(together) == (1 if method == "lpg" else 4)


def test_the_pool_is_what_the_tables_train_on(tmp_path):
    from lpg_jax import data

    tune.write_pool(tmp_path)
    with np.load(tmp_path / tune.POOL) as pool:
        inputs, labels = pool["x_train"], pool["y_train"]
    train = data.load(digits_longtail.get_config().data, 0).train
    rows = {image.tobytes() for image in inputs}
    assert all(image.tobytes() in rows for image in train.inputs)
    test = data.load(digits_longtail.get_config().data, 0).test
    assert not any(image.tobytes() in rows for image in test.inputs)
    assert len(labels) == 1258
