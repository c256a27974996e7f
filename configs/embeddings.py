"""A linear head on frozen feature vectors of your own, long-tailed or noisily labelled: seconds on a laptop.

    python launch.py --config=configs/embeddings.py --config.data.path=features.npz
    python launch.py --config=configs/embeddings.py:noisy,lpg --config.data.path=features.npz

Words after the colon, with commas: longtail (LPG by class frequency) or noisy (by the variance of a class's logit
gradients); both (methods), ce or lpg; laptop (2 seeds, 10 epochs).

The file, from any network that you trust (labels are integers 0 .. C-1, vectors are standardised per dimension):

    numpy.savez("features.npz", x_train=vectors, y_train=labels, x_test=..., y_test=...)   # [N, D], [N]

Without x_test, y_test, 30 % of each class are held out. Counts are used as they come; data.imbalance > 1 cuts a long
tail out of them. Then `python launch.py --predict=features.npz --workdir=DIR` lists the most suspect labels.

An example: the 64 features of the ResNet-8 that `cifar_longtail.py:laptop` trained for 8 epochs with cross-entropy, the
same long-tailed training set, 10,000 test images. Accuracy in %, mean and 95 % interval over 5 seeds, 15 s for each
method on two busy CPU cores (jax 0.10.2); eps and the rest are the file's defaults, untuned. On such heads
tuned logit adjustment gains more on long tails than LPG alone, and under noise other losses do (README, Evidence): try
`--config.method=ce,la,la+lpg`, and under noise `ce,la,gce,ogc,lpg,gce+lpg`.

| method | overall | head | tail | NLL |
|---|---|---|---|---|
| ce | 37.2 +- 0.1 | 65.5 +- 0.1 | 9.0 +- 0.1 | 2.038 +- 0.002 |
| lpg | 38.5 +- 0.1 | 64.8 +- 0.1 | 12.1 +- 0.2 | 1.841 +- 0.002 |
"""

from configs import default, presets


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the words of the variant."""
    chosen = default.words(variant, problem=("longtail", "noisy"), method=default.METHODS, size=("full", "laptop"))
    config = default.get_config()
    config.method = default.methods(chosen["method"])
    config.num_devices = 1
    config.data.name = "npz"
    config.model.name = "linear"
    config.train.epochs, config.train.weight_decay = 50, 1e-4
    presets.apply(config, "embeddings", chosen["problem"])
    return default.shrink(config) if chosen["size"] == "laptop" else config


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`."""
    return {"lpg.epsilon": [0.03, 0.1, 0.3]}
