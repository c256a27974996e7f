"""Every field of a config, with its default. The other files of this directory start from here and `presets.py`.

    python launch.py --config=configs/default.py --config.data.name=digits

An unset field (None) takes the default that the comment names. A field that the others leave without effect is an error
where it is set. `:tiny` is a run of a few seconds, to see that everything works.
"""

from typing import Any, TypeAlias

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

Config: TypeAlias = Any  # a ConfigDict, whose fields a type checker cannot know

VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> Config:
    """The default config.

    Args:
      variant: "" or "tiny".

    Raises:
      ValueError: another variant.
    """
    check_variant(variant)
    config: Config = ConfigDict()
    config.seed = 0  # >= 0: fixes the data set (subset, noise, split), and is the first of the seeds below
    config.num_seeds = 5  # seeds seed, seed + 1, ...: initial parameters and data order; trained at once by vmap
    config.method = (
        "ce,lpg"  # ce, or names of `lpg`, `losses`, `operators`, `descent` and sums of them such as la+lpg; a
    )
    # comma list, each entry of which gets WORKDIR/METHOD and the same seeds
    config.parallel = "jit"  # how devices share a batch: "jit" over a mesh of all devices, or "pmap"
    config.num_devices = 0  # how many share a batch; 0: all there are
    config.data = data()
    config.model = model()
    config.augment = augment()
    config.train = train()
    config.lpg = lpg()
    config.losses = losses()
    config.operators = operators()
    config.descent = descent()
    config.evaluate = ConfigDict()
    config.evaluate.every_epochs = 5  # test (and validation) figures every so many epochs, and after the last one
    config.evaluate.last_five = True  # ... and after each of the last five, for the mean over them
    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000  # a resumed run loses at most these; 0: only at the end
    config.checkpoint.keep = 2  # how many of the newest stay
    config.log = ConfigDict()
    config.log.tensorboard = False  # event files in WORKDIR/METHOD/tensorboard (extra "tensorboard")
    config.log.wandb = ""  # name of a Weights & Biases project (extra "wandb"); empty: none
    config.log.wandb_mode = "offline"  # "offline" (files in the work directory, for `wandb sync`) or "online"
    return shrink(config) if variant == "tiny" else config


def data() -> Config:
    """What is learnt; see `lpg_jax.data`."""
    config: Config = ConfigDict()
    config.name = "digits"  # "digits", "npz", or any TFDS image-classification set
    config.data_dir = ""  # directory of TFDS sets; empty: TFDS's own default
    config.path = ""  # "npz": the file, with x_train, y_train[, x_test, y_test]
    config.train_size = 0  # so many training examples, drawn with classes in proportion; 0: all that there are
    config.imbalance = 1.0  # largest over smallest class count; 1.0: all data
    config.imbalance_kind = "exponential"  # or "step"
    config.validation = 0.0  # share of the training set held out as a validation part, in [0, 1)
    config.validation_per_class = 0  # or: so many examples of every class held out
    config.validation_labels = "noisy"  # labels of the validation part: "noisy" (as given) or "clean"
    config.test_fraction = 0.3  # share held out of a source that has no test part of its own
    config.standardise = True  # mean 0 and variance 1 per channel, by the training part; False: as they are
    config.noise = ConfigDict()
    config.noise.kind = "none"  # none, symmetric, asymmetric (cifar10, cifar100), pair, matrix, instance, human, file
    config.noise.rate = 0.0  # share of wrong labels, for symmetric, asymmetric, pair and instance
    config.noise.include_self = False  # symmetric: the true class may be drawn, too
    config.noise.path = ""  # matrix, human, file: where it lies
    config.noise.key = ""  # human: array in that file
    return config


def model() -> Config:
    """The network; see `lpg_jax.models.create`. Fields other than the name are options of that model."""
    config: Config = ConfigDict()
    config.name = "mlp"  # linear, mlp, resnet8 ... resnet110, se_resnet110, wrn16_8, wrn28_10
    config.hidden = placeholder(tuple)  # mlp: widths of the hidden layers, default (128,)
    config.dropout_rate = placeholder(float)  # wrn: default 0.0
    return config


def augment() -> Config:
    """Random changes of training images; see `lpg_jax.training.augment`."""
    config: Config = ConfigDict()
    config.crop = 0  # pixels of black border, from which a window of the old size is cut; CIFAR: 4
    config.flip = False  # left-right, every other time
    config.cutout = 0  # side of a square that is set to the mean colour; CIFAR: 16
    return config


def train() -> Config:
    """Optimisation; see `lpg_jax.descent.from_config`."""
    config: Config = ConfigDict()
    config.epochs = 100  # passes over the training set
    config.batch_size = 128  # the last batch of an epoch is padded and masked
    config.sampler = "uniform"  # every example once an epoch; or drawn: "class_balanced", "square_root"
    config.sampler_start = 0.0  # the others: fraction of the training, below 1, after which it begins; uniform before
    config.dtype = "float32"  # to compute in: float32, bfloat16 (parameters and statistics stay float32) or float64
    config.optimizer = "sgd"  # or "adamw"
    config.learning_rate = 0.1  # peak
    config.momentum = 0.9  # of sgd; b1 of adamw
    config.nesterov = False  # Nesterov's form of momentum
    config.weight_decay = 5e-4  # coupled for sgd, decoupled for adamw; times the learning rate in both
    config.decayed = "kernels"  # what decays: "kernels" or "all"
    config.schedule = "cosine"  # of the learning rate: constant, cosine (to 0) or step
    config.milestones = placeholder(tuple)  # step: fractions of the training, default (0.5, 0.75)
    config.step_factor = placeholder(float)  # step: factor at each of them, default 0.1
    config.warmup_epochs = 0.0  # linear, at the start
    config.clip_norm = 0.0  # global norm of the parameter gradient; 0.0: no clipping
    config.gradient_noise = 0.0  # standard deviation of Gaussian noise on the (clipped) parameter gradient
    config.gradient_noise_decay = 0.0  # gamma of a variance that falls as (1 + step)^-gamma
    config.normalize = "none"  # the gradient: "global" (over its norm) or "layer" (as in LARS)
    config.micro_batches = 1  # a batch is done in so many parts, to save memory; gradient and statistics are summed
    config.feed = "device"  # training data lie on the "device"; "host": they do not fit, and come batch by batch
    return config


def lpg() -> Config:
    """The method "lpg"; see `lpg_jax.lpg`, `lpg_jax.lpg_pgd`, the splits and the bounds."""
    config: Config = ConfigDict()
    config.split = "frequency"  # who is amplified: accuracy, frequency or gradient_variance
    config.threshold = placeholder(object)  # tau: a number, "mean" or "median"; default: the split's own
    config.opposite = False  # True: amplifies what the split dampens, and the reverse; a control
    config.scale = placeholder(str)  # split frequency: "log" (default), "max" or "share"
    config.epsilon = 0.3  # bound on the change of a logit gradient (its norm is below 1.42)
    config.slope = 0.0  # growth of the bound with the distance from tau; 0.0 is "fixed"
    config.direction = "auto"  # sample, class_mean or class_scale; auto: sample, and class_mean for PGD
    config.source = "batch"  # of class means: "batch" or "running"
    config.clamp = True  # dampening stops at zero; False: the equation to the letter
    config.refresh_every = 1  # steps between refreshes of the statistics; 1: running average
    config.decay = placeholder(float)  # of that average, default 0.99
    config.warmup = 0  # steps before anything is perturbed
    config.max_scale = placeholder(float)  # direction class_scale: cap of its factor, default 10.0
    config.pgd_steps = 0  # 0: closed form; > 0: projected gradient steps
    config.step_size = placeholder(float)  # PGD: default as in `lpg_jax.lpg_pgd`
    config.step_rule = placeholder(str)  # PGD: "l2" (default) or "sign"
    config.metric = placeholder(str)  # PGD: "identity" (default) or "head"
    config.zero_sum = placeholder(bool)  # PGD: project on sum 0, default False
    return config


def losses() -> Config:
    """Other losses, shifts of the logits and mixtures of examples, each a name for `method`; see `lpg_jax.losses`.

    Also a name, without fields: "mae". forward and backward take transition="noise", the matrix by which the labels
    were really corrupted (which nobody knows of real data), or a .npy file with T [C, C], for instance of
    `lpg_jax.losses.estimate_transition` on the predictions of a finished run.
    """
    groups = {
        "gce": {"q": 0.7},
        "sce": {"alpha": 0.1, "beta": 1.0, "log_zero": -9.21},
        "focal": {"gamma": 2.0},
        "smooth": {"alpha": 0.1},  # label smoothing
        "la": {"tau": 1.0},  # logit adjustment
        "posthoc": {"tau": 1.0},  # logit adjustment of what was trained, when it predicts
        "ldam": {"max_margin": 0.5, "scale": 30.0},
        "forward": {"transition": "noise"},
        "backward": {"transition": "noise"},
        "lpl": {"bounds": "accuracy", "epsilon": 0.1, "slope": 0.3, "step_size": 0.01, "num_head": placeholder(int)},
        # or bounds="longtail", the num_head (default 0.4 C) most frequent classes against the rest
        "isda": {"strength": 0.5, "covariance": "diagonal"},  # or "full"
        "gcl": {"scale": 30.0, "amplitude": 0.5},
        "mixup": {"alpha": 1.0},
        "cutmix": {"alpha": 1.0},  # images
    }
    return ConfigDict(groups)


def descent() -> Config:
    """Methods at the parameters, each a name for `method`; see `lpg_jax.descent`."""
    groups = {
        "sam": {"rho": 0.05},
        "asam": {"rho": 0.5, "eta": 0.01},
        "gsam": {"rho": 0.05, "alpha": 0.4},
        "looksam": {"rho": 0.05, "alpha": 0.7, "every": 5},
        "pcgrad": {"num_groups": 3},  # groups of classes by frequency, as tasks
        "graddrop": {"num_groups": 3},
        # the head, when the rest is trained: new, scaled per class, or of equal norms; see training/second_stage.py
        "crt": {"epochs": 10, "learning_rate": 0.1, "batch_size": 128},
        "lws": {"epochs": 10, "learning_rate": 0.1, "batch_size": 128},
        "tau_norm": {"tau": 1.0},
        # two networks; rate: share of a batch left out after ramp_epochs, default the noise rate of the data set
        "coteach": {"rate": placeholder(float), "ramp_epochs": 10},
        # learnt in every `every`-th step from the validation part (see `data`), which then is no yardstick for them;
        # batch_size: examples of it per step, default a quarter of train.batch_size
        "gdw": {"width": 100, "mean_change": 0.1, "max_change": 0.2, "every": 1, "batch_size": placeholder(int)},
        "mwnet": {"width": 100, "every": 1, "batch_size": placeholder(int)},
        "learned_lpg": {
            "epsilon_max": 0.5,
            "initial": 0.0,
            "learning_rate": 0.01,
            "every": 1,
            "batch_size": placeholder(int),
        },
    }
    return ConfigDict(groups)


def operators() -> Config:
    """The other methods at the logits, each a name for `method`; see `lpg_jax.transforms`.

    Also names, without fields of their own: "zero_sum", and two controls: "equal_lpg", the method "lpg" with the total
    gradient norm of plain training, and "scaled_ce", plain gradients with the total norm of "lpg".
    """
    groups = {
        "sample_lpg": {"statistic": "loss", "amplify": "hard", "threshold": 0.5, "epsilon": 0.3, "slope": 0.0},
        "gr": {"beta": 8.0, "lam": 0.5, "normalizer": "integral"},  # gradient rescaling, DM; or "batch", "none"
        "imae": {"temperature": 8.0},
        "ogc": {"target_ratio": 1.2, "queue_size": 4096, "refit_every": 32},  # optimized gradient clipping
        "phuber": {"tau": 2.0},  # probability clip
        "cb": {"beta": 0.9999, "start_epoch": 0.0},  # class-balanced weights; start_epoch > 0 is DRW
        "eql": {"gamma": 12.0, "mu": 0.8, "alpha": 4.0},  # equalization, EQL-v2
        "ghm": {"bins": 10, "momentum": 0.75},  # density harmonizing
        "row_clip": {"max_norm": 0.5},
        "row_noise": {"stddev": 0.1, "key": 0},
        "random_lpg": {"key": 0},  # the margins of "lpg" handed to other classes, a control
    }
    return ConfigDict(groups)


def words(variant: str, **choices: tuple[str, ...]) -> dict[str, str]:
    """Reads a variant of several words with commas between them, in any order: {choice: word}, the first by default.

    >>> words("cifar100,laptop", data=("cifar10", "cifar100"), size=("full", "laptop"))
    {'data': 'cifar100', 'size': 'laptop'}

    Raises:
      ValueError: an unknown word, or two for one choice.
    """
    chosen: dict[str, str] = {}
    for word in filter(None, variant.split(",")):
        kinds = [kind for kind, known in choices.items() if word in known]
        if not kinds or kinds[0] in chosen:
            why = f"{kinds[0]} is {chosen[kinds[0]]!r} already" if kinds else "no such word"
            listed = "; ".join(f"{kind}: {', '.join(known)}" for kind, known in choices.items())
            raise ValueError(f"variant={variant!r}: {word!r}: {why}; one word of each of {listed}")
        chosen[kinds[0]] = word
    return {kind: known[0] for kind, known in choices.items()} | chosen


def cifar(config: Config, name: str) -> Config:
    """CIFAR with the usual augmentation and SGD; 200 epochs, learning rate 0.1, x0.1 at epochs 100 and 150 [paper]."""
    config.num_seeds = 3
    config.data.name = name
    config.augment.crop, config.augment.flip = 4, True
    config.train.epochs, config.train.batch_size = 200, 128
    config.train.learning_rate, config.train.momentum, config.train.weight_decay = 0.1, 0.9, 5e-4
    config.train.decayed = "all"
    config.train.schedule, config.train.milestones, config.train.step_factor = "step", (0.5, 0.75), 0.1
    config.evaluate.every_epochs = 10
    return config


def laptop(config: Config, epochs: int) -> Config:
    """The same problem for two CPU cores: ResNet-8, one seed, a few epochs of one cosine."""
    config.num_seeds = 1
    config.model.name = "resnet8"
    config.train.epochs, config.train.warmup_epochs = epochs, 1.0
    config.train.schedule, config.train.milestones, config.train.step_factor = "cosine", None, None
    config.evaluate.every_epochs = epochs
    config.checkpoint.every_steps = 100
    return config


METHODS = ("both", "ce", "lpg")  # words for config.method


def methods(word: str) -> str:
    """config.method for a word of `METHODS`."""
    return "ce,lpg" if word == "both" else word


def check_variant(variant: str, known: tuple[str, ...] = VARIANTS) -> None:
    """Raises ValueError unless the variant is known."""
    if variant not in known:
        raise ValueError(f"variant={variant!r}: must be one of {', '.join(map(repr, known))}")


def shrink(config: Config) -> Config:
    """The same run, cut down to a few seconds: to see that everything works, not what comes out."""
    config.num_seeds = 2
    config.train.epochs = min(config.train.epochs, 10)
    return config
