"""Every method trains: on a long tail and on noisy labels it beats chance, and no two are the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import digests, read, read_lines

from configs import operators
from lpg_jax import training
from lpg_jax.training import methods


def test_the_config_names_every_method():
    named = {part for name in operators.METHODS.split(",") for part in name.split("+")}
    assert named == {"ce", "lpg", *methods.PRESETS}
    assert training.digest(operators.get_config()) != training.digest(operators.get_config("noisy"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("problem", ["longtail", "noisy"])
def test_every_method_trains(problem, tmp_path):
    config = operators.get_config(f"{problem},laptop")
    config.num_seeds = 1
    states = training.run(config, tmp_path)
    found = read(tmp_path / "summary.json")["methods"]
    assert len(found) == len(states) == len(operators.METHODS.split(","))
    for name, entry in found.items():
        assert entry["overall"] > 0.2, name
        (ratio,) = (line["gradient_ratio"] for line in read_lines(tmp_path / name / "metrics.jsonl")[-1:])
        assert (name == "ce") == bool(np.allclose([value for value in ratio if value], 1, atol=1e-5)), name
    assert len({digests(tmp_path, name)["0"] for name in found}) == len(found)


def test_seeds_draw_different_row_noise_and_chains_keep_their_order(tmp_path):
    config = operators.get_config("laptop")
    config.method, config.train.epochs = "row_noise+lpg", 1
    state = training.run(config, tmp_path)["row_noise+lpg"]
    noise, lpg = state.logit_state
    assert noise.key.shape[0] == 2
    assert not jnp.array_equal(noise.key[0], noise.key[1])
    assert lpg.class_margin.shape == (2, 10)


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("gr+sam", {}, r"method='gr\+sam': must be 'ce', or one or several \(a\+b\) of lpg, gr, imae"),
        ("ce+gr", {}, r"method='ce\+gr': must be"),
        ("phuber", {"operators.phuber.tau": 0.5}, r"operators\.phuber\.tau=0\.5: must be >= 1"),
        ("cb", {"operators.cb.beta": 1.5}, r"operators\.cb\.beta=1\.5: must be"),
        ("cb", {"operators.cb.start_epoch": -1.0}, r"operators\.cb\.start_epoch=-1\.0: must be >= 0"),
        ("equal_lpg", {"lpg.epsilon": -1.0}, r"lpg\.epsilon=-1\.0: must be >= 0"),
    ],
)
def test_bad_options_are_named(method, fields, message, tmp_path):
    config = operators.get_config("laptop")
    config.method = method
    config.update_from_flattened_dict(fields)
    with pytest.raises(training.ConfigError, match=message):
        training.run(config, tmp_path / "run")
