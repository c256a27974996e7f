"""A head on fixed features, in seconds: the problems on which `python -m evidence` compares methods.

    python -m evidence prepare --data_dir=DIR
    python launch.py --config=configs/heads.py:cifar10,longtail100 --config.method=ce,la,lpg

Words after the colon, with commas: digits (pixels, 1,258 training images), cifar10 or cifar100 (patch features of
`benchmarks/features.py`); and a problem:

| word | training set |
|---|---|
| balanced | all digits, 10,000 CIFAR images |
| longtail100, longtail10 | 100 or 10 to 1, exponential, from 5,000 (2,500) images of a class, CIFAR-100 a tenth |
| longtail50 | 50 to 1: digits |
| symmetric20, symmetric40, symmetric50, symmetric80 | that share of the labels of "balanced" wrong, uniformly |
| asymmetric40 | 40 % of the labels of classes that look alike wrong (CIFAR-10: 20 % of all labels) |
| human | labels as people gave them: CIFAR-10N worse, CIFAR-100N |

One seed is one problem: subset, noise, initial parameters and data order follow from `seed`. One hidden layer (256
units, digits 128), SGD, cosine. 2 to 5 s for each method on a CPU. Learning rate and weight decay are only a start; the
word "recommended" sets those that `python -m evidence` chose, and the method and options with LPG in them that did best
there (results/recommended.json, with what they gain: not always something):

    python launch.py --config=configs/heads.py:cifar10,longtail100,recommended
"""

from configs import default, presets

KINDS = {
    "balanced": "balanced",
    **dict.fromkeys(("longtail100", "longtail50", "longtail10"), "longtail"),
    **dict.fromkeys(("symmetric20", "symmetric40", "symmetric50", "symmetric80", "asymmetric40", "human"), "noisy"),
}
HUMAN = {"cifar10": "c10_worse", "cifar100": "c100_noisy"}
FEATURES = "runs/features"


def get_config(variant: str = "") -> default.Config:
    """The config; see above for the words of the variant."""
    choices = {"data": ("digits", "cifar10", "cifar100"), "problem": tuple(KINDS), "setting": ("start", "recommended")}
    chosen = default.words(variant, **choices)
    data, problem = chosen["data"], chosen["problem"]
    config = default.get_config()
    config.num_seeds = 1
    config.num_devices = 1
    config.data.name, config.data.path = "npz", f"{FEATURES}/{data}.npz"
    config.data.standardise = False  # done, by all training images
    config.model.hidden = (128,) if data == "digits" else (256,)
    config.train.batch_size = 32 if data == "digits" else 128
    config.train.epochs = 50 if data == "digits" else 20
    config.evaluate.every_epochs, config.evaluate.last_five = config.train.epochs, False
    config.checkpoint.every_steps, config.checkpoint.keep = 0, 1
    presets.apply(config, "digits" if data == "digits" else data, KINDS[problem])
    _set_problem(config, data, problem)
    if chosen["setting"] == "recommended":
        config.update_from_flattened_dict(presets.recommended(f"{data}_{problem}"))
    return config


def _set_problem(config: default.Config, data: str, problem: str) -> None:
    """The fields of config.data; ValueError where the data set has no such problem."""
    if data == "digits" and problem in ("asymmetric40", "human"):
        raise ValueError(f"variant={data},{problem!r}: is for cifar10 and cifar100")
    fields = config.data
    if problem.startswith("longtail"):
        fields.imbalance = float(problem.removeprefix("longtail"))
        fields.train_size = 25_000 if problem == "longtail10" and data != "digits" else 0
    elif data != "digits":
        fields.train_size = 10_000
    if problem.startswith("symmetric"):
        fields.noise.kind, fields.noise.rate = "symmetric", int(problem.removeprefix("symmetric")) / 100
    elif problem == "asymmetric40":  # by a matrix, because features do not know of which classes they are
        fields.noise.kind, fields.noise.path = "matrix", f"{FEATURES}/{data}_asymmetric40.npy"
    elif problem == "human":
        fields.noise.kind, fields.noise.path = "human", f"{FEATURES}/{data}_human.npz"
        fields.noise.key = HUMAN[data]


def sweep() -> dict[str, list]:
    """Field -> values, for `--sweep`."""
    return {"lpg.epsilon": [0.03, 0.1, 0.3]}
