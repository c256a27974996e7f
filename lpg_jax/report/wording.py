"""How evidence is written down: numbers with intervals, and the command lines that make them again."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpg_jax.report.evidence import Scenario
from lpg_jax.report.intervals import Estimate

REPORT = "python -m lpg_jax.report runs/evidence --out results"
_PATH = r"[= ]('[^']*'|\S+)"


def plus_minus(estimate: Estimate, factor: float = 100.0, digits: int = 1, sign: bool = False) -> str:
    """Mean ± half-width; "–" where nothing is measured, no half-width below two seeds.

    >>> plus_minus(Estimate(0.123, 0.004, 10)), plus_minus(Estimate(0.123, 0.004, 10), sign=True)
    ('12.3 ± 0.4', '+12.3 ± 0.4')
    """
    if not math.isfinite(estimate.mean):
        return "–" if estimate.n == 0 or math.isnan(estimate.mean) else "diverged"
    mean = number(factor * estimate.mean, digits, sign)
    return f"{mean} ± {factor * estimate.half:.{digits}f}" if math.isfinite(estimate.half) else mean


def number(value: float, digits: int, sign: bool = False) -> str:
    """Fixed digits, a real minus sign, and no negative zero.

    >>> number(-0.04, 1), number(-1.25, 1), number(2.0, 1, sign=True)
    ('0.0', '−1.2', '+2.0')
    """
    text = f"{value:+.{digits}f}"
    if not text.strip("+-0."):
        text = f"+{text[1:]}"
    return text.replace("-", "−") if sign or text[0] == "-" else text[1:]


def seeds_text(seeds: Iterable[int]) -> str:
    """Runs of consecutive seeds.

    >>> seeds_text([0, 1, 2, 5])
    '0-2, 5'
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def fields_text(fields: Mapping[str, Any]) -> str:
    """Fields of a config, sorted.

    >>> fields_text({"lpg.slope": 0.4, "lpg.epsilon": 0.0})
    'lpg.epsilon=0.0, lpg.slope=0.4'
    """
    return ", ".join(f"{name}={fields[name]}" for name in sorted(fields))


def run_command(scenario: Scenario, label: str, seed: int) -> str:
    """The command line of one run, with paths as a reader has them.

    Example:
      >>> run_command(scenario, "ce", 0)  # doctest: +SKIP
      'python launch.py --config=configs/heads.py:digits,longtail50 --config.method=ce ...'
    """
    entry = scenario.entries[label]
    fields = {**scenario.base, **entry.fields, **dict.fromkeys(entry.seeded, seed)}
    given = {"method": entry.method, **{name: fields[name] for name in sorted(fields)}, "seed": seed, "num_seeds": 1}
    options = [f"--config={scenario.config}", *(f"--config.{name}={value}" for name, value in given.items())]
    workdir = f"--workdir=runs/{scenario.tier}/{scenario.name}/{label}/seed={seed}"
    return shlex.join(["python", "launch.py", *options, workdir])


def without_paths(command: str) -> str:
    """A command line of `python -m evidence` with directories as a reader has them, not where somebody's lay.

    >>> without_paths("python -m evidence run T1 --workdir=/mine/runs --chosen=/mine/results")
    'python -m evidence run T1 --chosen=results'
    """
    return re.sub(rf"\s--chosen{_PATH}", " --chosen=results", re.sub(rf"\s--workdir{_PATH}", "", command))


def scenario_command(scenario: Scenario) -> str:
    """The command line that makes the runs of a scenario, as a reader would give it; "": it is not known.

    What is recorded is how the runs were last continued, perhaps beside other scenarios and of some entries only.
    """
    if not scenario.command:
        return ""
    chosen = re.findall(r"\s--chosen=\S+", without_paths(scenario.command))
    before = f"{scenario.name.removesuffix('_resnet8')} " if scenario.tier == "T3" else ""  # T2 chose for it
    return f"python -m evidence run {before}{scenario.name}{''.join(chosen)}"


def scenarios_command(names: Sequence[str], measured: Sequence[str] = ()) -> str:
    """The command lines that make the runs of some scenarios, measure some of them, and write the report.

    >>> scenarios_command(["a", "b"], ["b"])
    'python -m evidence run a b && python -m evidence measure b && python -m lpg_jax.report runs/evidence --out results'
    """
    parts = [f"python -m evidence {task} {' '.join(dict.fromkeys(which))}"
             for task, which in (("run", names), ("measure", measured)) if which]  # fmt: skip
    return " && ".join([*parts, REPORT])
