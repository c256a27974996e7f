"""Two runs that differ in one field end with different parameters: no option does nothing."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_data_sources import build_tfds
from tiny_config import digests, tiny

from lpg_jax import data, training
from lpg_jax.training import presets

MATRIX = 0.7 * np.eye(10) + 0.3 * np.roll(np.eye(10), 2, axis=1)
SYMMETRIC = {"data__noise__kind": "symmetric", "data__noise__rate": 0.4}
STEP = {"train__schedule": "step"}
RESNET = {"model__name": "resnet8", "model__hidden": None}
CHANGES = {
    "data": [
        {"seed": 1}, {"data__imbalance": 20.0}, {"data__imbalance_kind": "step"}, {"data__validation": 0.3},
        {"data__validation_per_class": 1},
        {"data__test_fraction": 0.5}, {"data__train_size": 700}, {"data__standardise": False},
    ],
    "noise": [
        SYMMETRIC, SYMMETRIC | {"data__noise__rate": 0.2}, SYMMETRIC | {"data__noise__include_self": True},
        {"data__noise__kind": "pair", "data__noise__rate": 0.4},
        {"data__noise__kind": "instance", "data__noise__rate": 0.4},
        {"data__noise__kind": "matrix", "data__noise__path": "matrix.npy"},
        {"data__noise__kind": "file", "data__noise__path": "labels.npz"},
    ],
    "augmentation": [{"augment__crop": 1}, {"augment__crop": 2}, {"augment__flip": True}, {"augment__cutout": 3},
                     {"augment__cutout": 4}],
    "schedule": [
        {"train__schedule": "constant"}, STEP, STEP | {"train__milestones": (0.3,)}, STEP | {"train__step_factor": 0.5},
        {"train__warmup_epochs": 1.0}, {"train__epochs": 3}, {"train__sampler": "class_balanced"},
        {"train__sampler": "class_balanced", "train__sampler_start": 0.5}, {"train__sampler": "square_root"},
    ],
    "optimizer": [
        {"train__optimizer": "adamw"}, {"train__optimizer": "adamw", "train__weight_decay": 0.1},
        {"train__learning_rate": 0.2}, {"train__momentum": 0.5}, {"train__nesterov": True},
        {"train__weight_decay": 0.01}, {"train__decayed": "all"}, {"train__clip_norm": 0.1},
        {"train__gradient_noise": 0.01}, {"train__gradient_noise": 0.01, "train__gradient_noise_decay": 0.55},
        {"train__normalize": "global"}, {"train__normalize": "layer"}, {"train__batch_size": 32},
        {"train__dtype": "bfloat16"},
    ],
    "model": [
        {"model__hidden": (24,)}, {"model__name": "linear", "model__hidden": None}, RESNET,
        RESNET | {"train__micro_batches": 2},
    ],
}  # fmt: skip


def digest(home, **fields):
    """Of the parameters after a short run."""
    config = tiny(**({"num_seeds": 1, "method": "ce", "train__epochs": 2} | fields))
    training.run(config, home)
    return digests(home, "ce")[str(config.seed)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_field_moves_the_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("matrix.npy", MATRIX)
    data.save_labels("labels.npz", np.roll(load_digits().target, 1))
    base = digest(tmp_path / "base")
    assert digest(tmp_path / "again") == base
    found = {"base": base}
    for group, changes in CHANGES.items():
        for number, fields in enumerate(changes):
            found[f"{group} {fields}"] = digest(tmp_path / f"{group}{number}", **fields)
    same = {name for name, value in found.items() if list(found.values()).count(value) > 1}
    assert not same


OPTIONS = {  # values that no preset holds
    "losses": {
        "gce": {"q": 0.4}, "sce": {"alpha": 0.5, "beta": 0.5, "log_zero": -4.0}, "focal": {"gamma": 1.5},
        "smooth": {"alpha": 0.25}, "la": {"tau": 0.7}, "ldam": {"max_margin": 0.2, "scale": 12.0},
        "forward": {"transition": "matrix.npy"}, "backward": {"transition": "matrix.npy"},
        "lpl": {"bounds": "accuracy", "epsilon": 0.6, "slope": 0.6, "step_size": 0.1, "num_head": 7},
        "isda": {"strength": 2.0, "covariance": "full"}, "gcl": {"scale": 12.0, "amplitude": 0.2},
        "mixup": {"alpha": 0.3}, "cutmix": {"alpha": 0.3},
    },
    "descent": {
        "sam": {"rho": 0.15}, "asam": {"rho": 1.5, "eta": 0.1}, "gsam": {"rho": 0.15, "alpha": 0.2},
        "looksam": {"rho": 0.1, "alpha": 0.4, "every": 2}, "pcgrad": {"num_groups": 4}, "graddrop": {"num_groups": 4},
        "coteach": {"rate": 0.1, "ramp_epochs": 2},
        "gdw": {"width": 20, "mean_change": 0.02, "max_change": 0.05, "every": 3, "batch_size": 7},
        "mwnet": {"width": 20, "every": 3, "batch_size": 7},
        "learned_lpg": {"epsilon_max": 0.01, "initial": 0.005, "learning_rate": 0.1, "every": 3, "batch_size": 7},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", OPTIONS)
def test_every_option_of_a_method_moves_the_parameters(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("matrix.npy", MATRIX)
    base = {"num_seeds": 1, "train__epochs": 2, "data__validation": 0.2} | SYMMETRIC
    found = {}
    for method, options in OPTIONS[group].items():
        config = tiny(**base, method=method)
        assert set(getattr(config, group)[method]) == set(options), method
        for name, value in {"": None, **options}.items():
            fields = {f"{group}__{method}__{name}": value} if name else {}
            training.run(tiny(**base, method=method, **fields), tmp_path / f"{method}_{name}")
            found[f"{method} {name}"] = digests(tmp_path / f"{method}_{name}", method)["0"]
    assert set(OPTIONS["losses"] | OPTIONS["descent"]) == {
        *presets.LOSSES, *presets.SHIFTS, *presets.MIXING, *presets.SHARPNESS, *presets.CONFLICTS, *presets.META,
        *presets.CO_TEACHING,
    } - {"mae"}  # fmt: skip
    assert not {name for name, value in found.items() if list(found.values()).count(value) > 1}


@pytest.mark.slow
def test_noise_of_cifar_moves_the_parameters(tmp_path):
    """Asymmetric and human noise need the classes and the ids of CIFAR, which the digits here borrow."""
    import tensorflow_datasets as tfds

    images, labels = load_digits().images, load_digits().target
    pictures = np.uint8(images * 15)[..., None].repeat(3, -1)
    rows = [
        {"id": f"{'train' if i < 1200 else 'test'}_{i % 1200:05d}", "image": pictures[i], "label": int(labels[i])}
        for i in range(1600)
    ]
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    build_tfds(tmp_path / "tfds", "cifar10", {"train": rows[:1200], "test": rows[1200:]}, features, "3.0.2")
    np.savez(tmp_path / "human.npz", worse=np.roll(labels[:1200], 3), clean=labels[:1200])
    fields = {"data__name": "cifar10", "data__data_dir": str(tmp_path / "tfds"), "data__imbalance": 1.0}
    changes = [
        {}, {"data__noise__kind": "asymmetric", "data__noise__rate": 0.4},
        {"data__noise__kind": "human", "data__noise__path": str(tmp_path / "human.npz"), "data__noise__key": "worse"},
    ]  # fmt: skip
    found = {digest(tmp_path / str(number), **fields, **change) for number, change in enumerate(changes)}
    assert len(found) == len(changes)
