"""Every field of a config is checked, and every one of config.lpg does something."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import tiny

from configs import (
    cifar_balanced,
    cifar_longtail,
    cifar_noisy,
    default,
    digits_balanced,
    digits_longtail,
    digits_noisy,
    embeddings,
)
from lpg_jax import descent, training
from lpg_jax.training import methods, settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallel": "mpi"}, "parallel='mpi': must be one of 'jit', 'pmap'"),
        ({"num_devices": 99}, "num_devices=99: here are only 8"),
        ({"train__micro_batches": 65}, r"train\.micro_batches=65: must be <= train\.batch_size"),
        ({"train__feed": "disk"}, r"train\.feed='disk': must be one of 'device', 'host'"),
        ({"augment__crop": 99}, r"augment\.crop=99: must"),
        ({"log__wandb_mode": "loud"}, r"log\.wandb_mode='loud': must be"),
        ({"method": "lpg,sma"}, "method='sma': must be 'ce', or one or several"),
        ({"method": "ce,,lpg"}, "method='ce,,lpg': must be a comma list of different methods"),
        ({"method": "ce,ce"}, "method='ce,ce': must be a comma list of different methods"),
        ({"num_seeds": 0}, "num_seeds=0: must be >= 1"),
        ({"seed": -1}, "seed=-1: must be >= 0"),
        ({"train__batch_size": 0}, r"train\.batch_size=0: must be >= 1"),
        ({"train__dtype": "float16"}, r"train\.dtype='float16': must be one of 'float32', 'bfloat16', 'float64'"),
        ({"train__dtype": "float64"}, r"train\.dtype='float64': needs jax\.config\.update"),
        ({"train__optimizer": "lion"}, r"train\.optimizer='lion': must be one of 'sgd', 'adamw'"),
        ({"train__learning_rate": math.nan}, r"train\.learning_rate=nan: must be > 0 and finite"),
        ({"train__milestones": (0.5,)}, r"train\.milestones=\(0\.5,\): only read when train\.schedule='step'"),
        ({"train__schedule": "step", "train__milestones": (0.7, 0.2)}, "must be rising fractions"),
        ({"train__nesterov": True, "train__momentum": 0.0}, r"train\.nesterov=True: has no effect"),
        ({"train__warmup_epochs": 9.0}, r"train\.warmup_epochs=9\.0: must be >= 0 and below train\.epochs"),
        ({"model__name": "resnet33"}, r"model\.name='resnet33': no such model; closest: resnet"),
        ({"model__dropout_rate": 0.1}, r"model\.dropout_rate=0\.1: no option of model 'mlp'"),
        ({"data__imbalance": 0.5}, r"data\.imbalance=0\.5: must be >= 1"),
        ({"lpg__split": "loss"}, r"lpg\.split='loss': must be one of 'accuracy', 'frequency', 'gradient_variance'"),
        ({"lpg__threshold": "max"}, r"lpg\.threshold='max': must be 'mean', 'median' or a number"),
        ({"lpg__direction": "up"}, r"lpg\.direction='up': must be one of"),
        ({"lpg__direction": "sample", "lpg__pgd_steps": 3}, r"lpg\.direction='sample': PGD has one vector per class"),
        ({"lpg__metric": "head"}, r"lpg\.metric='head': only read by PGD"),
        ({"lpg__metric": "network", "lpg__pgd_steps": 3}, r"lpg\.metric='network': a reference for tests"),
        ({"lpg__pgd_steps": -1}, r"lpg\.pgd_steps=-1: must be >= 0"),
        ({"lpg__max_scale": 5.0}, r"lpg\.max_scale=5\.0: only read by lpg\.direction='class_scale'"),
        ({"lpg__scale": "max", "lpg__split": "accuracy"}, r"lpg\.scale='max': only read by lpg\.split='frequency'"),
        ({"lpg__decay": 0.9, "lpg__refresh_every": 5}, r"lpg\.decay=0\.9: not used with lpg\.refresh_every=5"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_with_value_and_fix(fields, message, tmp_path):
    with pytest.raises(training.ConfigError, match=message):
        training.run(tiny(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def rows_of(seed=0, **fields):
    """What a transformation made from config.lpg does to some logit gradients, over two batches."""
    tx = methods.build("lpg", tiny(**fields), [40, 20, 10, 5, 2]).tx
    state, found = tx.init(jnp.zeros(5)), []
    rng = np.random.default_rng(seed)
    for _ in range(3):
        logits = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
        labels = jnp.asarray(rng.integers(0, 5, 12))
        rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)
        features = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
        edited, state = tx.update(
            rows, state, None, labels=labels, logits=logits, features=features, head_kernel=kernel
        )
        found.append(np.asarray(edited - rows))
    return np.stack(found)


VECTORS = {"bias": np.array([0.3, -0.4]), "kernel": np.array([[1.0, 2.0], [-2.0, 0.5]])}
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "learning_rate": 0.5}


def changes(steps=1, **fields):
    """What the chain makes of VECTORS as gradients, at VECTORS as parameters, in float64: a list over steps."""
    with jax.enable_x64(True):
        train = tiny(**{f"train__{name}": value for name, value in (PLAIN | fields).items()}).train
        tx, tree, found = descent.from_config(train, 2).tx, jax.tree.map(jnp.asarray, VECTORS), []
        state = tx.init(tree)
        for _ in range(steps):
            change, state = tx.update(tree, state, tree)
            found.append(jax.tree.map(np.asarray, change))
    return found


def test_gradient_noise_falls_by_its_power():
    """Variance eta / (1 + t)^gamma [Neelakantan et al. 2015]: at t = 0 that of no decay, then less of the same draw."""
    plain, constant = changes()[0], changes(4, gradient_noise=0.3)
    falling = changes(4, gradient_noise=0.3, gradient_noise_decay=0.55)
    for step, (one, other) in enumerate(zip(constant, falling, strict=True)):
        for name in VECTORS:
            expected = plain[name] + (one[name] - plain[name]) * (1 + step) ** (-0.55 / 2)
            np.testing.assert_allclose(other[name], expected, rtol=1e-6)
            assert np.abs(one[name] - plain[name]).min() > 0


def test_normalised_gradients():
    """Over the global norm; or, as in LARS, each leaf at the norm of its parameters, weight decay included."""
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in VECTORS.values()))
    for name, leaf in changes(normalize="global")[0].items():
        np.testing.assert_allclose(leaf, -0.5 * VECTORS[name] / norm, rtol=1e-6)  # optax adds 1e-6
    params = VECTORS["kernel"]
    decayed = changes(normalize="layer", weight_decay=0.1)[0]["kernel"]
    towards = params + 0.1 * params
    expected = -0.5 * np.linalg.norm(params) * towards / np.linalg.norm(towards)
    np.testing.assert_allclose(decayed, expected, rtol=1e-12)


PGD = {"lpg__pgd_steps": 3, "lpg__epsilon": 0.3}
SCALE = {"lpg__direction": "class_scale", "lpg__epsilon": 3.0}
ACCURACY = {"lpg__split": "accuracy"}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"lpg__epsilon": 0.06}),
        ({}, {"lpg__slope": 0.1}),
        ({}, {"lpg__threshold": 0.7}),
        ({}, {"lpg__threshold": "median"}),
        ({}, {"lpg__scale": "share"}),
        ({}, {"lpg__split": "accuracy"}),
        ({}, {"lpg__split": "gradient_variance"}),
        ({}, {"lpg__direction": "class_mean"}),
        ({}, {"lpg__direction": "class_scale"}),
        ({}, {"lpg__warmup": 2}),
        ({"lpg__epsilon": 2.0}, {"lpg__clamp": False}),
        ({"lpg__direction": "class_mean"}, {"lpg__source": "running"}),
        (SCALE, {"lpg__max_scale": 2.0}),
        (ACCURACY, {"lpg__refresh_every": 2}),
        (ACCURACY, {"lpg__decay": 0.0}),
        ({"lpg__direction": "class_mean"}, {"lpg__pgd_steps": 3, "lpg__metric": "head"}),
        (PGD | {"lpg__metric": "head"}, {"lpg__pgd_steps": 1}),
        (PGD, {"lpg__step_rule": "sign"}),
        (PGD, {"lpg__step_size": 0.01}),
        (PGD | {"lpg__step_rule": "sign"}, {"lpg__zero_sum": True}),
    ],
)
def test_no_lpg_option_does_nothing(base, change):
    assert np.abs(rows_of(**base) - rows_of(**(base | change))).max() > 1e-4


def test_auto_direction_is_sample_and_class_mean_for_pgd():
    np.testing.assert_array_equal(rows_of(), rows_of(lpg__direction="sample"))
    np.testing.assert_array_equal(rows_of(**PGD), rows_of(**PGD, lpg__direction="class_mean"))


@pytest.mark.parametrize("family", [default, digits_balanced, digits_longtail, digits_noisy])
def test_config_files(family):
    with pytest.raises(ValueError, match="variant='huge': must be one of '', 'tiny'"):
        family.get_config("huge")
    for variant in family.VARIANTS if hasattr(family, "VARIANTS") else default.VARIANTS:
        check_config(family.get_config(variant))


@pytest.mark.parametrize(
    ("family", "variants"),
    [
        (cifar_balanced, ("", "cifar100,wrn28_10", "laptop,resnet32,lpg")),
        (cifar_longtail, ("", "cifar100,ce", "laptop")),
        (cifar_noisy, ("", "cifar100,instance", "human,lpg", "pair,laptop")),
        (embeddings, ("", "noisy,laptop")),
    ],
)
def test_config_families(family, variants):
    with pytest.raises(ValueError, match="variant='lpg,huge': 'huge': no such word; one word of each of "):
        family.get_config("lpg,huge")
    with pytest.raises(ValueError, match="variant='lpg,ce': 'ce': method is 'lpg' already"):
        family.get_config("lpg,ce")
    texts = set()
    for variant in variants:
        check_config(family.get_config(variant))
        texts.add(training.digest(family.get_config(variant)))
    assert len(texts) == len(variants)


def check_config(config):
    settings.check(config)
    descent.from_config(config.train, 97)
    assert training.field_names(config) == training.field_names(default.get_config())
    methods.build("lpg", config, [3, 2, 1])
