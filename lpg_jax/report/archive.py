"""What a report reads of the evidence runs, in one small file per scenario, so that it can be written without them.

OUT/runs/TIER-NAME.tar.xz holds the files of TIER/NAME under their names, those of a run cut down to the fields below:
no parameters, no checkpoints, no data.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lpg_jax.report.evidence import FEATURES, MAPS, MEASURES, PLAN, RUN, Scenario
from lpg_jax.report.records import SCORES, TRAINING

DIRECTORY, SUFFIX = "runs", ".tar.xz"
_WHOLE = (PLAN, MEASURES, FEATURES, MAPS, "probe.csv")
_METHOD = (*SCORES, *TRAINING, "per_class", "ci95", "params_sha256")
_SUMMARY = ("class_counts", "noise_rate", "steps", "seeds", "wall_time")
_LINE = ("step", "seed", "class_margin", "class_epsilon", "gradient_ratio")


def pack(scenario: Scenario, out: Path) -> Path:
    """Write OUT/runs/TIER-NAME.tar.xz; an existing one is replaced.

    The same runs give the same file, to the byte, with the same version of liblzma.

    Args:
      scenario: read by `evidence.read`, from its directory.
      out: made if absent.

    Returns:
      The path.

    Raises:
      ValueError: what is there holds runs that the scenario lacks, or a file is damaged; it stays. Names file and fix.
    """
    path = out / DIRECTORY / f"{scenario.tier}-{scenario.name}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(_files(scenario), key=lambda file: str(file.relative_to(scenario.home)))
    names = {f"{scenario.tier}/{scenario.name}/{file.relative_to(scenario.home)}": file for file in files}
    if missing := sorted(_names(path) - names.keys()):
        raise ValueError(
            f"{path}: holds {len(missing)} files that {scenario.home} lacks ({missing[0]}, ...); finish that scenario, "
            "or remove the archive"
        )
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w:xz") as tar:
        for name, file in names.items():
            content = _content(file)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    part.replace(path)
    return path


def unpack(out: Path, to: Path) -> None:
    """Unpack every archive of a report, so that `evidence.read(to)` reads them.

    Args:
      out: with runs/*.tar.xz.
      to: an empty directory.

    Raises:
      ValueError: there is none, or one is damaged; names file and fix.
    """
    paths = sorted((out / DIRECTORY).glob(f"*{SUFFIX}"))
    if not paths:
        raise ValueError(f"{out / DIRECTORY}: no *{SUFFIX} in it; give the directory that `python -m evidence` wrote")
    for path in paths:
        with _opened(path) as tar:
            tar.extractall(to, filter="data")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:xz") as tar:
            yield tar
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path}: {error}; restore it, or remove it and give its runs again") from error


def _names(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with _opened(path) as tar:
        return set(tar.getnames())


def _files(scenario: Scenario) -> Iterator[Path]:
    """Of the scenario and of every run that was read."""
    yield from (scenario.home / name for name in _WHOLE if (scenario.home / name).is_file())
    studied = (by_seed for study in scenario.studies.values() for by_seed in study.results.values())
    for by_seed in (*scenario.results.values(), *studied):
        for result in by_seed.values():
            yield from (result.home / name for name in ("summary.json", RUN) if (result.home / name).is_file())
            yield from result.home.glob("*/metrics.jsonl")


def _content(path: Path) -> bytes:
    try:
        return _CUT.get(path.name, Path.read_bytes)(path)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); remove its directory and train that run again") from error


def _summary(path: Path) -> bytes:
    whole = json.loads(path.read_text(encoding="utf-8"))
    methods = {name: _only(entry, _METHOD) for name, entry in whole["methods"].items()}
    return _text({"methods": methods, **_only(whole, _SUMMARY)})


def _run(path: Path) -> bytes:
    return _text(_only(json.loads(path.read_text(encoding="utf-8")), ("git_revision",)))


def _metrics(path: Path) -> bytes:
    return b"".join(_text(_only(json.loads(line), _LINE)) for line in path.read_bytes().splitlines() if line.strip())


_CUT: dict[str, Callable[[Path], bytes]] = {"summary.json": _summary, RUN: _run, "metrics.jsonl": _metrics}


def _only(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
