"""Figures of others, printed beside ours: of the LPG paper, and published for the same baselines. None is a target.

Accuracies in percent. The paper's balanced figures are errors there (Table 1), those of long tails and noise stand
beside the varied bound, though it does not say which reading they are of; all come without seeds. Published ones:
CIFAR-LT with ResNet-32 (LDAM-DRW's protocol), symmetric noise with PreAct-ResNet-18 or ResNet-32 (DivideMix's table and
its sources), balanced with ResNet-110 and WRN-28-10 (LPL's paper). Networks on whole images for 200 epochs or more: our
runs are smaller, so that only differences between rows compare.
"""

from __future__ import annotations

PAPER: dict[str, dict[str, str]] = {
    "cifar10_balanced": {
        "ce": "94.09 / 96.11", "smooth": "94.13 / 96.18", "mixup": "94.52 / 96.44", "la": "94.61 / 96.48",
        "isda": "94.70 / 96.56", "lpl": "94.88 / 96.72",
        "sam": "94.65 / 96.54", "gradient-noise": "94.38 / 96.29", "lpg": "94.95 / 96.76",
        "lpg-varied": "95.02 / 96.85", "lpg-pgd": "95.06 / 96.89",
    },
    "cifar100_balanced": {
        "ce": "75.44 / 81.15", "smooth": "75.88 / 81.60", "mixup": "76.45 / 82.18", "la": "76.65 / 82.31",
        "isda": "76.82 / 82.44", "lpl": "77.35 / 82.92",
        "sam": "76.99 / 82.55", "gradient-noise": "76.11 / 81.88", "lpg": "77.58 / 83.11",
        "lpg-varied": "77.72 / 83.29", "lpg-pgd": "77.85 / 83.37",
    },
    "cifar100_longtail100": {"lpg-varied": "32.0", "lpl": "28.8", "sam": "25.9"},
    "cifar10_symmetric80": {"lpg-varied": "75.5"},
}  # fmt: skip
PUBLISHED: dict[str, dict[str, str]] = {
    "cifar10_balanced": {"ce": "93.24 / 96.18", "lpl": "94.28 / 96.63"},
    "cifar100_balanced": {"ce": "71.33 / 81.47", "lpl": "74.13 / 82.39"},
    "cifar10_longtail100": {"ce": "70.4-71.4", "la": "77.7-80.9", "lpl": "78.0"},
    "cifar100_longtail100": {"ce": "38.3-39.9", "la": "42.0-44.1", "lpl": "44.3"},
    "cifar10_longtail10": {"ce": "86.4", "la": "88.9", "lpl": "89.4"},
    "cifar100_longtail10": {"ce": "55.7", "la": "58.3", "lpl": "61.0"},
    "cifar10_symmetric20": {"ce": "87.0", "gce": "90.0"},
    "cifar10_symmetric80": {"ce": "53.8", "gce": "57.4"},
}
NOTE = (
    "Paper and published: accuracies in % of much larger runs (networks on whole images, 200 epochs or more; "
    "two figures are ResNet-110 / WRN-28-10), without seeds: to be read for orientation, not compared."
)
