"""CIFAR-10 and CIFAR-100 with wrong training labels: ResNet-32, 200 epochs, tested on clean labels.

    python launch.py --config=configs/cifar_noisy.py
    python launch.py --config=configs/cifar_noisy.py:cifar100,asymmetric --config.data.noise.rate=0.4
    python launch.py --config=configs/cifar_noisy.py:human --config.data.noise.path=FILE --config.data.noise.key=KEY
    python launch.py --config=configs/cifar_noisy.py:laptop

Words after the colon, with commas: cifar10 or cifar100; symmetric (50 %), asymmetric, pair or instance (40 %), or human
(CIFAR-10N and -100N, from a file with one array per set of labels); both (methods), ce, lpg, or recommended
(cifar10 with human): what did best in the evidence of all with LPG in it, with its options (results/recommended.json
says what it gains on a ResNet-8, three seeds of 10,000 images with the "worse" human labels, 12 epochs: nothing that
can be seen); laptop.

GDW and MW-Net learn from clean examples taken out of the training set: `--config.method=gdw,mwnet
--config.data.validation_per_class=100 --config.data.validation_labels=clean`.

"asymmetric" exchanges classes that look alike: five of CIFAR-10's ten, so that 40 % makes 20 % of all labels wrong.

"symmetric" draws among the other classes, so that 50 % means 50 % wrong labels; the flag data.noise.include_self draws
among all of them (45 % wrong on CIFAR-10). Batch 128, learning rate 0.1, x0.1 at epochs 100 and 150, weight decay 5e-4,
crop and flip; 3 seeds. LPG shortens the logit gradients of the classes that scatter more than the mean and lengthens
the others', by 0.1. The report says how many wrong labels were memorised, and how many were seen through.

`:laptop` trains a ResNet-8 for 2 epochs, one seed, in 7 minutes on two busy CPU cores (jax 0.10.2): too short to tell
ce from lpg. What 12 epochs on human labels give is in results/tables/T3-cifar10_human_resnet8.md. The full run has not
been made here.
"""

from configs import default, presets

RATES = {"symmetric": 0.5, "asymmetric": 0.4, "pair": 0.4, "instance": 0.4, "human": 0.0}


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the words of the variant."""
    chosen = default.words(
        variant,
        data=("cifar10", "cifar100"),
        noise=tuple(RATES),
        method=presets.METHODS,
        size=("full", "laptop"),
    )
    config = default.cifar(default.get_config(), chosen["data"])
    config.data.noise.kind, config.data.noise.rate = chosen["noise"], RATES[chosen["noise"]]
    config.model.name = "resnet32"
    presets.apply(config, chosen["data"], "noisy")
    if chosen["size"] == "laptop":
        default.laptop(config, epochs=2)
    return presets.set_method(config, chosen["method"], f"{chosen['data']}_{chosen['noise']}_resnet8")


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`."""
    return {"lpg.epsilon": [0.03, 0.1, 0.3]}
