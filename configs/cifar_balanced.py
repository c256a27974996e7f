"""CIFAR-10 and CIFAR-100 as they are: ResNet-110 or WRN-28-10, 200 epochs [paper].

    python launch.py --config=configs/cifar_balanced.py
    python launch.py --config=configs/cifar_balanced.py:cifar100,wrn28_10,lpg --config.train.dtype=bfloat16
    python launch.py --config=configs/cifar_balanced.py:laptop

Words after the colon, with commas: cifar10 or cifar100; resnet110, wrn28_10 or resnet32; both (methods), ce or lpg;
laptop.

Batch 128, learning rate 0.1, x0.1 at epochs 100 and 150, weight decay 5e-4, crop and flip; 3 seeds. LPG lengthens the
logit gradients of the classes whose running training accuracy is below the mean over classes and shortens the others',
by 0.1 (the paper's "mean" and "fixed").

`:laptop` trains a ResNet-8 for 2 epochs, one seed: accuracy 60.7 % with ce and 59.9 % with lpg; 9 minutes on two very
busy CPU cores (jax 0.10.2). The full run has not been made here.
"""

from configs import default, presets


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the words of the variant."""
    chosen = default.words(
        variant,
        data=("cifar10", "cifar100"),
        model=("resnet110", "wrn28_10", "resnet32"),
        method=default.METHODS,
        size=("full", "laptop"),
    )
    config = default.cifar(default.get_config(), chosen["data"])
    config.method = default.methods(chosen["method"])
    config.model.name = chosen["model"]
    presets.apply(config, chosen["data"], "balanced")
    return default.laptop(config, epochs=2) if chosen["size"] == "laptop" else config


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`."""
    return {"lpg.epsilon": [0.03, 0.1, 0.3]}
