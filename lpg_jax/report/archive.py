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
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lpg_jax.report import evidence
from lpg_jax.report.evidence import FEATURES, MAPS, MEASURES, PLAN, RUN, Scenario
from lpg_jax.report.records import SCORES, TRAINING
from lpg_jax.report.wording import without_paths

DIRECTORY, SUFFIX = "runs", ".tar.xz"
_MEASURED = (MEASURES, FEATURES, MAPS, "probe.csv")
_METHOD = (*SCORES, *TRAINING, "per_class", "params_sha256")
_SUMMARY = ("class_counts", "noise_rate", "steps", "seeds", "wall_time")
_LINE = ("step", "seed", "class_margin", "class_epsilon", "gradient_ratio")
_RESTORE = "restore it, or remove it and give its runs again"


def check(scenarios: Sequence[Scenario], out: Path) -> None:
    """ValueError if these scenarios would take the place of more than they hold, or if tables would vanish.

    Args:
      scenarios: read by `evidence.read`, from their directories.
      out: directory of the report.

    Raises:
      ValueError: an archive has files that its scenario lacks, or OUT/evidence.json names a scenario of which there are
        neither runs nor an archive; names the file and the fix.
    """
    for scenario in scenarios:
        path = path_of(scenario, out)
        if missing := sorted(_names(path) - _files(scenario).keys()):
            measured = all(name.rpartition("/")[2] in _MEASURED for name in missing)
            fix = f"start `python -m evidence measure {scenario.name}`" if measured else "finish that scenario"
            raise ValueError(
                f"{path}: holds {len(missing)} files that {scenario.home} lacks ({missing[0]}, ...); {fix}, or remove "
                "the archive"
            )
    origin = out / "evidence.json"
    known = {f"{s.tier}-{s.name}{SUFFIX}" for s in scenarios} | {path.name for path in _archives(out)}
    tables = json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else {}
    if lost := [name for name in tables if f"{name.replace('/', '-')}{SUFFIX}" not in known]:
        raise ValueError(
            f"{origin}: has {', '.join(lost)}, of which there are neither runs nor {out / DIRECTORY}; give their runs, "
            "too, or another directory"
        )


def pack(scenario: Scenario, out: Path) -> Path:
    """Write OUT/runs/TIER-NAME.tar.xz; an existing one is replaced, see `check`.

    The same runs give the same file, to the byte, with the same version of liblzma.

    Args:
      scenario: read by `evidence.read`, from its directory.
      out: made if absent.

    Returns:
      The path.

    Raises:
      ValueError: a file is damaged; nothing is written. Names file and fix.
    """
    path = path_of(scenario, out)
    contents = {name: _content(file) for name, file in sorted(_files(scenario).items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w:xz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    part.replace(path)
    return path


@contextlib.contextmanager
def unpacked(out: Path, but: Collection[Path] = ()) -> Iterator[tuple[Scenario, ...]]:
    """The scenarios of all archives of a report; their files are there as long as the context is open.

    Args:
      out: with runs/*.tar.xz, perhaps none.
      but: archives that are left out.

    Raises:
      ValueError: one is damaged, or what is in it, also where that is seen inside of the context; names file and fix.
    """
    paths = [path for path in _archives(out) if path not in but]
    with tempfile.TemporaryDirectory() as directory:
        for path in paths:
            with _opened(path) as tar:
                tar.extractall(directory, filter="data")
        try:
            yield evidence.read(directory) if paths else ()
        except ValueError as error:
            if directory not in str(error):
                raise
            text = str(error).replace(f"{directory}/", "")
            raise ValueError(f"{out / DIRECTORY}: {text}; or {_RESTORE}") from error


def path_of(scenario: Scenario, out: Path) -> Path:
    """Where the archive of a scenario is."""
    return out / DIRECTORY / f"{scenario.tier}-{scenario.name}{SUFFIX}"


def _archives(out: Path) -> list[Path]:
    return sorted((out / DIRECTORY).glob(f"*{SUFFIX}"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:xz") as tar:
            yield tar
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path}: {error}; {_RESTORE}") from error


def _names(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with _opened(path) as tar:
        return set(tar.getnames())


def _files(scenario: Scenario) -> dict[str, Path]:
    """Name in the archive -> file, of the scenario and of every run that was read."""
    found = [scenario.home / name for name in (PLAN, *_MEASURED) if (scenario.home / name).is_file()]
    studied = (by_seed for study in scenario.studies.values() for by_seed in study.results.values())
    for by_seed in (*scenario.results.values(), *studied):
        for result in by_seed.values():
            found += [result.home / name for name in ("summary.json", RUN) if (result.home / name).is_file()]
            found += result.home.glob("*/metrics.jsonl")
    return {f"{scenario.tier}/{scenario.name}/{file.relative_to(scenario.home).as_posix()}": file for file in found}


def _content(path: Path) -> bytes:
    try:
        return _CUT.get(path.name, Path.read_bytes)(path)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "remove the directory of that run and train it again"
        raise ValueError(f"{path}: damaged ({error!r}); {fix}") from error


def _plan(path: Path) -> bytes:
    whole = json.loads(path.read_text(encoding="utf-8"))
    return _text(whole | {"command": without_paths(str(whole.get("command") or ""))})


def _summary(path: Path) -> bytes:
    whole = json.loads(path.read_text(encoding="utf-8"))
    methods = {name: _only(entry, _METHOD) for name, entry in whole["methods"].items()}
    return _text({"methods": methods, **_only(whole, _SUMMARY)})


def _run(path: Path) -> bytes:
    return _text(_only(json.loads(path.read_text(encoding="utf-8")), ("git_revision",)))


def _metrics(path: Path) -> bytes:
    return b"".join(_text(_only(json.loads(line), _LINE)) for line in path.read_bytes().splitlines() if line.strip())


_CUT: dict[str, Callable[[Path], bytes]] = {
    PLAN: _plan, "summary.json": _summary, RUN: _run, "metrics.jsonl": _metrics
}  # fmt: skip


def _only(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
