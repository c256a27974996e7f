"""The problems: tiers, data sets, long tails and noise."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from configs import default, heads


class Scenario(NamedTuple):
    """A problem on which all methods of its kind are compared."""

    tier: str  # T1: digits; T2: features of CIFAR; T3: its images
    name: str  # DATA_PROBLEM
    data: str
    problem: str
    title: str
    held_out: Mapping[str, Any]  # fields of the validation part from which bounds are learnt
    file: str  # what `--config` takes
    fields: Mapping[str, Any]  # over it
    seeds: tuple[int, ...]  # of the final runs; one seed is one problem, see configs/heads.py

    @property
    def kind(self) -> str:
        """longtail, noisy or balanced."""
        return heads.KINDS[self.problem]

    def config(self) -> default.Config:
        """The config of its final runs, of no method yet."""
        module, _, variant = self.file.removeprefix("configs/").partition(".py:")
        config = importlib.import_module(f"configs.{module}").get_config(variant)
        config.update_from_flattened_dict(dict(self.fields))
        return config


_NAMES = {"digits": "digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_PROBLEMS = {
    "digits": ("balanced", "longtail50", "symmetric40"),
    "cifar": (
        *("longtail100", "symmetric50", "balanced", "human", "longtail10"),
        *("symmetric80", "symmetric20", "asymmetric40"),
    ),
}
_PER_CLASS = {  # held out of each class of a long tail, less than the rarest has
    ("digits", "longtail50"): 1,
    ("cifar10", "longtail100"): 10,
    ("cifar10", "longtail10"): 50,
    ("cifar100", "longtail100"): 2,
    ("cifar100", "longtail10"): 5,
}


def _title(data: str, problem: str) -> str:
    name, digits = _NAMES[data], "".join(filter(str.isdigit, problem))
    if problem.startswith("longtail"):
        return f"{name}, long tail {digits}:1"
    if problem == "human":
        return f"{name}, human labels"
    return f"{name}, {digits} % {problem.rstrip('0123456789')} noise" if digits else f"{name}, balanced"


def _head(tier: str, data: str, problem: str) -> Scenario:
    number = _PER_CLASS.get((data, problem))
    share = 0.2 if data == "cifar100" else 0.1  # noise must leave every class an example
    held_out = {"data.validation": share} if number is None else {"data.validation_per_class": number}
    file = f"configs/heads.py:{data},{problem}"
    return Scenario(
        tier, f"{data}_{problem}", data, problem, _title(data, problem), held_out, file, {}, tuple(range(10))
    )


EPOCHS = 12  # of T3
_HUMAN = {"data.noise.path": f"{heads.FEATURES}/cifar10_human.npz", "data.noise.key": heads.HUMAN["cifar10"]}


def _network(problem: str, file: str, fields: Mapping[str, Any]) -> Scenario:
    """A ResNet-8 on the images."""
    more = {"num_seeds": 1, "num_devices": 1, "train.epochs": EPOCHS, "evaluate.every_epochs": EPOCHS}
    more |= {"evaluate.last_five": False, **fields}
    title = f"{_title('cifar10', problem)}, ResNet-8"
    return Scenario("T3", f"cifar10_{problem}_resnet8", "cifar10", problem, title, {}, file, more, (0, 1, 2))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        *(_head("T1", "digits", problem) for problem in _PROBLEMS["digits"]),
        *(_head("T2", data, problem) for problem in _PROBLEMS["cifar"] for data in ("cifar10", "cifar100")),
        _network("longtail100", "configs/cifar_longtail.py:laptop", {}),
        _network("human", "configs/cifar_noisy.py:human,laptop", {"data.train_size": 10_000} | _HUMAN),
    )
}
