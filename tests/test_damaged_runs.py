"""Work directories that a crash, a full disk or a hand has damaged: mended where possible, else one clear line."""

import json
import shutil

import pytest
from tiny_config import digests, read, read_lines, tiny

from lpg_jax import training


@pytest.fixture(scope="module")
def config():
    return tiny(num_seeds=1, train__epochs=2, method="lpg")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    home = tmp_path_factory.mktemp("run") / "whole"
    training.run(config, home)
    return home


@pytest.fixture
def home(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.parametrize("content", ["", '{"me', "[]", "{}"])
def test_a_damaged_summary_is_written_again(home, whole, config, content):
    (home / "summary.json").write_text(content)
    training.run(config, home)
    assert digests(home, "lpg") == digests(whole, "lpg")
    assert (
        read(home / "summary.json")["methods"]["lpg"]["overall"]
        == read(whole / "summary.json")["methods"]["lpg"]["overall"]
    )


@pytest.mark.parametrize("keep", [None, 0])
def test_lost_metrics_of_the_last_step_are_written_again(home, whole, config, keep):
    """The checkpoint survived, the lines before it did not."""
    (home / "summary.json").unlink()
    (home / "lpg" / "result.json").unlink()
    metrics = home / "lpg" / "metrics.jsonl"
    metrics.unlink() if keep is None else metrics.write_text("")
    training.run(config, home)
    last, expected = read_lines(metrics)[-1], read_lines(whole / "lpg" / "metrics.jsonl")[-1]
    assert last["per_class"] == expected["per_class"]
    assert digests(home, "lpg") == digests(whole, "lpg")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", r"config\.json: damaged \(dict expected, list found\)"),
        ("config.json", '{"a"', r"config\.json: damaged"),
        ("dataset.json", "[]", r"dataset\.json: damaged \(dict expected, list found\)"),
        ("dataset.json", '{"a": 1}', r"dataset\.json: damaged"),
    ],
)
def test_what_cannot_be_mended_is_one_clear_error(home, config, name, content, message):
    (home / name).write_text(content)
    with pytest.raises(training.ConfigError, match=message):
        training.run(config, home)
    with pytest.raises(training.ConfigError, match=message):
        training.load(home, "lpg")


def test_load_of_a_float64_run_says_what_it_needs(home):
    content = read(home / "config.json")
    content["train"]["dtype"] = "float64"
    (home / "config.json").write_text(json.dumps(content))
    with pytest.raises(training.ConfigError, match=r"train\.dtype='float64': needs jax\.config\.update"):
        training.load(home, "lpg")


@pytest.mark.parametrize("milestones", [("a", "b"), (0.5, 0.5001)])
def test_milestones_that_make_no_schedule(config, tmp_path, milestones):
    wrong = tiny(train__schedule="step", train__milestones=milestones)
    with pytest.raises(training.ConfigError, match=r"train\.milestones="):
        training.run(wrong, tmp_path / "run")
