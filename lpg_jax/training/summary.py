"""summary.json: the outcome of a run, and everything needed to know where it came from."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lpg_jax
from lpg_jax.training import metrics
from lpg_jax.training.recipe import Facts
from lpg_jax.training.settings import Config

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "ml-collections"),
    *("numpy", "scikit-learn", "tensorflow-datasets"),
)


def compose(
    config: Config, facts: Facts, steps: int, results: dict[str, Any], command: str, seconds: float
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
      config: of the run.
      facts: of its data.
      steps: updates per seed and method.
      results: by method, as of `loop.train`.
      command: how the run was started.
      seconds: this process has spent on it.

    Returns:
      {methods: {NAME: the entry of `records.result`}, class_counts, class_names, shots, noise_rate, dataset, seeds,
      steps, device, wall_time, versions, git_revision, command}; shots: how many classes have many, medium and few
      training examples (`metrics.shots`); wall_time in seconds: "total" of the process that finished the run, and one
      entry per method.
    """
    names = ("class_counts", "class_names", "noise_rate")
    groups = metrics.shots(np.asarray(facts.class_counts))
    return {
        "methods": {name: {k: v for k, v in entry.items() if k != "seconds"} for name, entry in results.items()},
        **{name: getattr(facts, name) for name in names},
        "shots": {name: len(classes) for name, classes in groups.items()},
        "dataset": config.data.name,
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
        "steps": steps,
        "wall_time": {"total": seconds, **{name: entry["seconds"] for name, entry in results.items()}},
        **_origin(command),
    }


def provenance(command: str) -> dict[str, Any]:
    """What a run must say of itself when it starts; call it then, for run.json.

    Args:
      command: how the run was started.

    Returns:
      {device: {platform, kind, count}, versions: {package: version}, git_revision, command, started}; started is the
      time of this call in UTC by ISO 8601, to the second.
    """
    return {**_origin(command), "started": datetime.now(UTC).isoformat(timespec="seconds")}


def _origin(command: str) -> dict[str, Any]:
    versions = {"lpg_jax": lpg_jax.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    return {"device": _device(), "versions": versions, "git_revision": _git_revision(), "command": command}


def _device() -> dict[str, Any]:
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def _git_revision() -> str:
    """Of the checkout that this package lies in, with "+" if files differ from it; "" where there is none."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
