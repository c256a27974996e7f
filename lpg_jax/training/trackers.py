"""metrics.jsonl once more, for TensorBoard and Weights & Biases: optional packages, imported where switched on."""

import importlib
import math
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lpg_jax.training import metrics, workdir
from lpg_jax.training.settings import Config, ConfigError

MODES = ("offline", "online")
_TEST = (*metrics.SCALARS, "per_class")  # `metrics.summarise`
_FORBIDDEN = "/\\#?%:"  # in names of W&B projects
_WANDB = "wandb.json"


def check(log: Config) -> None:
    """Checks config.log before any training.

    Args:
      log: fields tensorboard (bool), wandb (name of a project, "" for none) and wandb_mode.

    Raises:
      ConfigError: names field=value and the fix: a value that is not supported, or a package that is missing.
    """
    if log.wandb_mode not in MODES:
        raise ConfigError(f"log.wandb_mode={log.wandb_mode!r}: must be one of {', '.join(map(repr, MODES))}")
    if set(log.wandb) & set(_FORBIDDEN) or len(log.wandb) > 128:
        raise ConfigError(
            f"log.wandb={log.wandb!r}: a project name has at most 128 characters and none of {' '.join(_FORBIDDEN)}"
        )
    if log.tensorboard:
        _import("tensorboardX", "tensorboard", log.tensorboard)
    if log.wandb:
        _import("wandb", "wandb", log.wandb)


class Trackers:
    """What is switched on in config.log; use as a context manager, which flushes and closes it. See `open_trackers`."""

    def __init__(self, *sinks: Any):
        self._sinks = sinks

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with ExitStack() as stack:  # one that fails to close does not keep the others from it
            for sink in self._sinks:
                stack.callback(sink.close, failed=kind is not None)

    def log(self, records: list[dict[str, Any]]) -> None:
        """Writes the records of one step, one per seed, as they stand in metrics.jsonl."""
        for sink in self._sinks:
            sink.log(records)


def open_trackers(
    log: Config, home: Path, run_name: str, config_json: dict[str, Any], seeds: tuple[int, ...]
) -> Trackers:
    """Opens what is switched on in config.log; nothing is, by default.

    TensorBoard gets one event directory per seed, HOME/tensorboard/seed_0 and so on, and every figure of a record by a
    name such as train/loss, test/overall, test/per_class/3, validation/nll or class_margin/3; None is left out.
    W&B gets one run with the means over the seeds, by the same names.

    A resumed run repeats the steps after its checkpoint. TensorBoard is told to forget the events from the first step
    that is logged again (`purge_step`). The W&B run keeps its id, and the last step logged, in HOME/wandb.json; what it
    has is not logged again, being the same to the bit. Offline every start writes one HOME/wandb/offline-run-*,
    which `wandb sync` joins by that id.

    Args:
      log: fields tensorboard (bool), wandb (name of a project, "" for none) and wandb_mode ("offline" or "online").
      home: directory of one method of a run; made if absent.
      run_name: shown by W&B.
      config_json: the config in JSON form, stored with the W&B run.
      seeds: whose records will come.

    Raises:
      ConfigError: as `check`; or W&B cannot start.

    Example:
      >>> with open_trackers(config.log, home, "run/lpg", {}, seeds=(0,)) as trackers:  # doctest: +SKIP
      ...     trackers.log([{"step": 10, "seed": 0, "loss": 0.3, "overall": 0.9}])
    """
    check(log)
    sinks: list[Any] = [_TensorBoard(Path(home) / "tensorboard", seeds)] if log.tensorboard else []
    if log.wandb:
        sinks.append(_Wandb(log, Path(home), run_name, config_json, seeds))
    return Trackers(*sinks)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The figures of a record under the names of `open_trackers`, without None.

    >>> scalars({"step": 5, "seed": 0, "loss": 0.5, "overall": 0.9, "class_margin": [0.1, None]})
    {'train/loss': 0.5, 'test/overall': 0.9, 'class_margin/0': 0.1}
    """
    figures = {name: value for name, value in record.items() if name not in ("step", "seed")}
    return dict(_flat({_title(name, value): value for name, value in figures.items()}))


def _title(name: str, value: Any) -> str:
    """Figures of the test part, groups of their own, and the rest, which is of training."""
    if name in _TEST:
        return f"test/{name}"
    return name if isinstance(value, dict) or name.startswith("class_") else f"train/{name}"


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat({f"{name}/{key}": inner for key, inner in value.items()})
        elif isinstance(value, list | tuple):
            yield from _flat({f"{name}/{index}": inner for index, inner in enumerate(value)})
        elif isinstance(value, int | float):
            yield name, float(value)


def _import(package: str, extra: str, value: Any) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'log.{extra}={value!r}: needs the extra "{extra}": python -m pip install "lpg_jax[{extra}]" ({error})'
        ) from error


class _TensorBoard:
    """One event directory per seed, opened at its first record."""

    def __init__(self, directory: Path, seeds: tuple[int, ...]):
        self._directory, self._seeds = directory, seeds
        self._writers: dict[int, Any] = {}

    def log(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            writer = self._writer(record["seed"], record["step"])
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record["step"])

    def close(self, failed: bool) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, seed: int, step: int) -> Any:
        if seed not in self._writers:
            home = self._directory / f"seed_{seed}"
            earlier = len(list(home.glob("events.*"))) if home.is_dir() else 0
            package = _import("tensorboardX", "tensorboard", True)
            self._writers[seed] = package.SummaryWriter(
                str(home),
                flush_secs=1,  # of work that a kill may lose; its flush() does not wait for its own queue
                purge_step=step if earlier else None,
                filename_suffix=f".{earlier}",  # else two within a second would share a file
            )
        return self._writers[seed]


class _Wandb:
    """One W&B run of means over seeds."""

    def __init__(self, log: Config, home: Path, run_name: str, config_json: dict[str, Any], seeds: tuple[int, ...]):
        wandb = _import("wandb", "wandb", log.wandb)
        home.mkdir(parents=True, exist_ok=True)
        self._path = home / _WANDB
        new = {"id": secrets.token_hex(8), "step": -1}
        self._known = workdir.read_json(self._path, dict) if self._path.exists() else new
        try:
            self._run = wandb.init(
                project=log.wandb,
                mode=log.wandb_mode,
                dir=str(home),
                name=run_name,
                config=config_json | {"seeds": list(seeds)},
                id=self._known["id"],
                resume="allow" if log.wandb_mode == "online" else None,  # W&B knows no resuming offline
                reinit="create_new",  # a run of the caller's own stays what it is
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.Error, OSError) as error:
            raise ConfigError(
                f"log.wandb={log.wandb!r}: cannot start ({error}); set log.wandb_mode='offline', or log in "
                "by `wandb login`"
            ) from error

    def log(self, records: list[dict[str, Any]]) -> None:
        for step in sorted({record["step"] for record in records}):
            if step > self._known["step"]:
                self._run.log(_means([scalars(record) for record in records if record["step"] == step]), step=step)
                self._known["step"] = step
        workdir.write_json(self._path, self._known)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """Means over the seeds that have the figure."""
    names = dict.fromkeys(name for one in figures for name in one)
    values = {name: [one[name] for one in figures if name in one] for name in names}
    return {name: math.fsum(value) / len(value) for name, value in values.items()}
