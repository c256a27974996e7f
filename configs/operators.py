"""Every logit-gradient operator on scikit-learn's digits: long tail 50:1, or 40 % of the labels wrong.

    python launch.py --config=configs/operators.py
    python launch.py --config=configs/operators.py:noisy
    python launch.py --config=configs/operators.py --config.method=gr,ogc+lpg --config.operators.gr.beta=12.0

Words after the colon, with commas: longtail or noisy; laptop (2 seeds, 10 epochs). All options are as in
configs/default.py, untuned: this shows that everything runs and what each does to every class, not which is best.

FIGURES
"""

from configs import default, digits_longtail, digits_noisy

METHODS = "ce,lpg,equal_lpg,random_lpg,gr,imae,ogc,phuber,cb,eql,ghm,row_clip,row_noise,row_noise+zero_sum,gr+lpg"


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the words of the variant."""
    chosen = default.words(variant, problem=("longtail", "noisy"), size=("full", "laptop"))
    family = digits_longtail if chosen["problem"] == "longtail" else digits_noisy
    config = family.get_config()
    config.method = METHODS
    config.operators.ogc.queue_size = 256  # less than an epoch
    return default.shrink(config) if chosen["size"] == "laptop" else config
