"""Every method trains: on a long tail and on noisy labels it beats chance, and no two are the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import digests, read, read_lines

from configs import baselines, learnt, operators
from lpg_jax import training
from lpg_jax.training import presets


def parts(config):
    return {part for name in config.method.split(",") for part in name.split("+")}


def test_the_configs_name_every_method():
    assert parts(operators.get_config()) == {"ce", *presets.OPERATORS}
    assert parts(baselines.get_config("noisy")) | parts(learnt.get_config()) >= {*presets.KNOWN} - {*presets.OPERATORS}
    assert parts(baselines.get_config("noisy")) - parts(baselines.get_config()) == {"forward", "backward", "coteach"}
    for family in (operators, baselines, learnt):
        assert training.digest(family.get_config()) != training.digest(family.get_config("noisy"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("problem", ["longtail", "noisy"])
@pytest.mark.parametrize("family", [operators, baselines, learnt])
def test_every_method_trains(family, problem, tmp_path):
    config = family.get_config(f"{problem},laptop")
    config.num_seeds = 1
    states = training.run(config, tmp_path)
    found = read(tmp_path / "summary.json")["methods"]
    assert set(found) == set(states) == set(config.method.split(","))
    for name, entry in found.items():
        assert entry["overall"] > 0.2, name
        (ratio,) = (line["gradient_ratio"] for line in read_lines(tmp_path / name / "metrics.jsonl")[-1:])
        plain = set(name.split("+")).isdisjoint(presets.OPERATORS | presets.META | presets.CO_TEACHING)
        assert plain == bool(np.allclose([value for value in ratio if value], 1, atol=1e-5)), name
    same = {"posthoc"} & set(found)  # is ce until it predicts
    assert len({digests(tmp_path, name)["0"] for name in found}) == len(found) - len(same)
    assert not same or found["posthoc"]["per_class"] != found["ce"]["per_class"]


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
        ("gr+sma", {}, r"method='gr\+sma': must be 'ce', or one or several \(a\+b\) of lpg, sample_lpg, gr, imae"),
        ("lpg+lpg", {}, r"method='lpg\+lpg': names a part twice"),
        ("la+posthoc", {}, r"method='la\+posthoc': la and posthoc adjust the same logits"),
        (
            "gdw+ldam",
            {"data.validation": 0.2},
            r"method='gdw\+ldam': gdw tries a step out at the logits, but ldam",
        ),
        ("ogc", {"train.micro_batches": 2}, r"train\.micro_batches=2: must be 1 for method='ogc'"),
        ("sam+asam", {}, r"method='sam\+asam': sam and asam exclude each other"),
        ("la+gce", {}, r"method='la\+gce': la and gce exclude each other"),
        ("ldam+posthoc", {}, r"method='ldam\+posthoc': ldam and posthoc exclude each other"),
        ("ldam+lpl", {}, r"method='ldam\+lpl': lpl goes around a plain loss, not around ldam"),
        ("mixup+smooth", {}, r"method='mixup\+smooth': smooth needs a class per example"),
        ("forward", {}, r"losses\.forward\.transition='noise': has no effect without label noise"),
        (
            "backward",
            {"losses.backward.transition": "no.npy"},
            r"transition='no.npy': must be 'noise'",
        ),
        ("gce", {"losses.gce.q": -1.0}, r"losses\.gce\.q=-1\.0: must be"),
        ("lpl", {"losses.lpl.bounds": "x"}, r"losses\.lpl\.bounds='x': must be 'accuracy' or 'longtail'"),
        ("sam", {"descent.sam.rho": -1.0}, r"descent\.sam\.rho=-1\.0: must be"),
        ("gdw", {}, r"data\.validation=0\.0: must be > 0, or data\.validation_per_class; this method learns"),
        (
            "mwnet",
            {"data.validation": 0.2, "train.micro_batches": 2},
            r"train\.micro_batches=2: must be 1 for a method",
        ),
        ("learned_lpg", {"data.validation": 0.2, "descent.learned_lpg.batch_size": 0}, r"batch_size=0: must be >= 1"),
        (
            "learned_lpg",
            {"data.validation": 0.2, "descent.learned_lpg.learning_rate": 0.0},
            r"learning_rate=0\.0: must be",
        ),
        ("gdw+mwnet", {"data.validation": 0.2}, r"method='gdw\+mwnet': gdw and mwnet exclude each other"),
        ("pcgrad", {"descent.pcgrad.num_groups": 0}, r"descent\.pcgrad\.num_groups=0: must be"),
        ("coteach", {}, r"descent\.coteach\.rate=None: defaults to the share of wrong labels, which is 0 or not known"),
        ("coteach", {"descent.coteach.rate": 1.0}, r"descent\.coteach\.rate=1\.0: must be in \[0, 1\)"),
        (
            "coteach",
            {"descent.coteach.rate": 0.2, "descent.coteach.ramp_epochs": 0},
            r"descent\.coteach\.ramp_epochs=0: must be >= 1",
        ),
        ("coteach", {"train.micro_batches": 2}, r"^train\.micro_batches=2: must be 1 for a method that chooses among"),
        ("coteach+sam", {}, r"method='coteach\+sam': coteach and sam exclude each other; take one of them"),
        ("pcgrad+coteach", {}, r"method='pcgrad\+coteach': pcgrad and coteach exclude each other"),
        ("coteach+gdw", {"data.validation": 0.2}, r"method='coteach\+gdw': coteach and gdw exclude each other"),
        ("coteach+crt", {}, r"method='coteach\+crt': coteach and crt exclude each other"),
        ("ce+gr", {}, r"method='ce\+gr': must be"),
        ("phuber", {"operators.phuber.tau": 0.5}, r"operators\.phuber\.tau=0\.5: must be >= 1"),
        ("cb", {"operators.cb.beta": 1.5}, r"operators\.cb\.beta=1\.5: must be"),
        ("cb", {"operators.cb.start_epoch": -1.0}, r"operators\.cb\.start_epoch=-1\.0: must be >= 0"),
        ("random_lpg", {"lpg.threshold": 2.0}, r"^lpg\.threshold=2\.0: must be"),
        ("equal_lpg", {"lpg.epsilon": -1.0}, r"lpg\.epsilon=-1\.0: must be >= 0"),
    ],
)
def test_bad_options_are_named(method, fields, message, tmp_path):
    config = operators.get_config("laptop")
    config.method = method
    config.update_from_flattened_dict(fields)
    with pytest.raises(training.ConfigError, match=message):
        training.run(config, tmp_path / "run")
