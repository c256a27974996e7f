"""The problems: tiers, data sets, long tails and noise."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from configs import default, heads

SEEDS = tuple(range(10))  # of the final runs: one seed is one problem, see configs/heads.py


class Scenario(NamedTuple):
    """A problem on which all methods of its kind are compared."""

    tier: str  # T1: digits; T2: features of CIFAR
    name: str  # DATA_PROBLEM
    data: str
    problem: str
    title: str
    held_out: Mapping[str, Any]  # fields of the validation part from which bounds are learnt

    @property
    def kind(self) -> str:
        """longtail, noisy or balanced."""
        return heads.KINDS[self.problem]

    @property
    def file(self) -> str:
        """What `--config` takes."""
        return f"configs/heads.py:{self.data},{self.problem}"

    def config(self) -> default.Config:
        """The config of its final runs, of no method yet."""
        return heads.get_config(f"{self.data},{self.problem}")


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


def _made(tier: str, data: str, problem: str) -> Scenario:
    number = _PER_CLASS.get((data, problem))
    held_out = {"data.validation": 0.1} if number is None else {"data.validation_per_class": number}
    return Scenario(tier, f"{data}_{problem}", data, problem, _title(data, problem), held_out)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        *(_made("T1", "digits", problem) for problem in _PROBLEMS["digits"]),
        *(_made("T2", data, problem) for problem in _PROBLEMS["cifar"] for data in ("cifar10", "cifar100")),
    )
}
