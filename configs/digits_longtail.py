"""Long tail: scikit-learn's digits cut down to 122, 78, 51, 33, 21, 13, 8, 5, 3, 2 training images per class (50:1).

    python launch.py --config=configs/digits_longtail.py

LPG lengthens the logit gradients of the three rarest classes by 0.05 and shortens the others' by as much.
Accuracy in %, mean and 95 % interval over 10 seeds, 539 test images; 10 s on two CPU cores (jax 0.10.2):

| method | overall | head | tail | NLL |
|---|---|---|---|---|
| ce | 83.1 +- 0.7 | 98.9 +- 0.3 | 66.8 +- 1.5 | 0.72 +- 0.05 |
| lpg | 86.1 +- 0.6 | 96.0 +- 0.8 | 75.9 +- 1.3 | 0.65 +- 0.05 |
| lpg, `:varied` | 87.1 +- 0.5 | 95.9 +- 0.6 | 77.9 +- 1.1 | 0.66 +- 0.05 |

The tail gains and the head pays. The intervals are over initial parameters and data order; another subset (another
`seed`) moves the figures by more. Learning rate, batch size, threshold and eps were chosen on the subsets of seeds 100
to 102, for both methods. The threshold matters most: 0.5 with eps 0.1 keeps pushing five classes for ever, and ends
with 83.2 % and an NLL of 9.

`--sweep=local` trains every point of `sweep()`.

Variants: `:varied` for eps_c = 0.15 |tau - s_c| with tau = 0.5 (Eq. 21), `:tiny` for 2 seeds and 10 epochs.
"""

from configs import default

VARIANTS = (*default.VARIANTS, "varied")


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the variants."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.num_seeds = 10
    config.num_devices = 1  # too small to share
    config.data.imbalance = 50.0
    config.train.batch_size = 32
    config.lpg.split = "frequency"
    config.lpg.threshold = 0.25
    config.lpg.epsilon = 0.05
    if variant == "varied":
        config.lpg.threshold, config.lpg.epsilon, config.lpg.slope = None, 0.0, 0.15
    return default.shrink(config) if variant == "tiny" else config


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`: around what was chosen, on two subsets of the data."""
    return {"lpg.epsilon": [0.025, 0.05, 0.1], "seed": [0, 100]}
