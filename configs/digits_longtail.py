"""Long tail: scikit-learn's digits cut down to 122, 78, 51, 33, 21, 13, 8, 5, 3, 2 training images per class (50:1).

    python launch.py --config=configs/digits_longtail.py

LPG lengthens the logit gradients of the two rarest classes by 0.05 and shortens the others' by as much.
Accuracy in %, mean and 95 % interval over 10 seeds, 539 test images; 10 s on two CPU cores (jax 0.10.2):

| method | overall | head | tail | NLL |
|---|---|---|---|---|
| ce | 83.1 +- 0.7 | 98.9 +- 0.3 | 66.8 +- 1.5 | 0.72 +- 0.05 |
| lpg | 84.7 +- 0.9 | 97.7 +- 0.5 | 71.4 +- 1.7 | 0.58 +- 0.04 |
| lpg, `:varied` | 87.2 +- 0.8 | 96.4 +- 0.5 | 77.6 +- 1.4 | 0.48 +- 0.03 |

The tail gains and the head pays. The intervals are over initial parameters and data order; another subset (another
`seed`) moves the figures by more. Learning rate and batch size were chosen on the subsets of seeds 100 to 102 for both
methods, threshold and eps there among 0.15, 0.25, 0.5 and 0.0125 to 0.1 (slope 0.0375 to 0.6). The threshold matters
most: with 0.5 and eps 0.05 five classes are pushed for ever, also where they are learnt, and the mean over those
subsets is 81.7 % at an NLL of 2.1 (cross-entropy 84.4 % and 0.52; as chosen 89.4 % and 0.36, `:varied` 90.4 %, 0.32).

`--sweep=local` trains every point of `sweep()`.

Variants: `:varied` for eps_c = 0.3 |tau - s_c| with tau = 0.25 (Eq. 21), `:tiny` for 2 seeds and 10 epochs.
"""

from configs import default, presets

VARIANTS = (*default.VARIANTS, "varied")


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the variants."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.num_seeds = 10
    config.num_devices = 1  # too small to share
    config.data.imbalance = 50.0
    config.train.batch_size = 32
    presets.apply(config, "digits", "longtail")
    if variant == "varied":
        config.lpg.threshold, config.lpg.epsilon, config.lpg.slope = 0.25, 0.0, 0.3
    return default.shrink(config) if variant == "tiny" else config


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`: around what was chosen, on two subsets of the data."""
    return {"lpg.epsilon": [0.025, 0.05, 0.1], "seed": [0, 100]}
