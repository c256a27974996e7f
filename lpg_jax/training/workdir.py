"""The files of a work directory, other than checkpoints.

WORKDIR/config.json         the config that it belongs to, written first
WORKDIR/dataset.json        `Facts` of its data
WORKDIR/run.json            where it came from: revision, versions, command; once more for every time it was resumed
WORKDIR/METHOD/metrics.jsonl, restored_steps.json, checkpoints/, result.json (written when the method is done)
WORKDIR/labels.npz, noise.json  with label noise: the labels that are trained on, their rate and confusion matrix
WORKDIR/summary.json        written when all methods are done
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lpg_jax.training import settings
from lpg_jax.training.recipe import Facts
from lpg_jax.training.settings import ConfigError

CONFIG, DATASET, SUMMARY, RUN = "config.json", "dataset.json", "summary.json", "run.json"
LABELS, NOISE = "labels.npz", "noise.json"
METRICS, RESTORED, CHECKPOINTS, RESULT = "metrics.jsonl", "restored_steps.json", "checkpoints", "result.json"
_PART = ".part"


def inspect(workdir: Path, config: dict[str, Any]) -> str:
    """Says what `workdir` is to a run with this config; changes nothing.

    | work directory | result |
    |---|---|
    | absent or empty | "new" |
    | a run with the same config (but for `settings.FREE`) | "finished" (it has a whole summary.json), or "unfinished" |
    | a run with another config | ConfigError naming the fields |
    | anything else | ConfigError |

    Args:
      workdir: the directory.
      config: the config in JSON form.

    Raises:
      ConfigError: see the table.
    """
    if not workdir.exists():
        return "new"
    if not workdir.is_dir():
        raise ConfigError(f"workdir={str(workdir)!r}: is no directory; give another one")
    content = sorted(entry.name for entry in workdir.iterdir() if not entry.name.endswith(_PART))
    if not content:
        return "new"
    if CONFIG not in content:
        raise ConfigError(
            f"workdir={str(workdir)!r}: holds {content[0]!r} but no {CONFIG}, so it is no run of ours; "
            "give an empty or a new directory"
        )
    changed = settings.differences(read_json(workdir / CONFIG, dict), config)
    if changed:
        raise ConfigError(
            f"workdir={str(workdir)!r}: holds a run with another config ({'; '.join(changed)}); set these back to "
            "resume it, or give another workdir"
        )
    return "finished" if _is_whole(workdir / SUMMARY) else "unfinished"


def _is_whole(summary: Path) -> bool:
    """Whether there is a summary that can be read; a damaged one is written again."""
    try:
        return isinstance(read_json(summary, dict).get("methods"), dict)
    except ConfigError:
        return False


def claim(workdir: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Makes a "new" or "unfinished" `workdir` the home of a run: writes config.json and dataset.json.

    Raises:
      ConfigError: it cannot be written, or an unfinished run was trained on other data.
    """
    facts = json.loads(json.dumps(facts))
    if (workdir / DATASET).exists() and read_json(workdir / DATASET) != facts:
        raise ConfigError(f"workdir={str(workdir)!r}: the data changed since this run began; give another workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / CONFIG, config)
        write_json(workdir / DATASET, facts)
    except OSError as error:
        raise ConfigError(
            f"workdir={str(workdir)!r}: cannot be written ({error.strerror}); give another one"
        ) from error


def check_room(workdir: Path, needed_bytes: int) -> None:
    """Checks that a run can write into `workdir`, absent or not, and leaves nothing behind.

    Args:
      workdir: directory of the run.
      needed_bytes: what all checkpoints of the run take; those that are there already count as room.

    Raises:
      ConfigError: it cannot be made or written, or the disk has too little room.

    Example:
      >>> check_room(Path("runs/mine"), needed_bytes=12_000_000)
    """
    named = f"workdir={str(workdir)!r}"
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
        free = shutil.disk_usage(existing).free + _bytes_below(workdir.glob(f"*/{CHECKPOINTS}"))
    except OSError as error:
        raise ConfigError(f"{named}: cannot be written ({error.strerror}); give another one") from error
    if free < needed_bytes:
        raise ConfigError(
            f"{named}: {_size(free)} free, but its checkpoints need about {_size(needed_bytes)}; free some space, set "
            "checkpoint.keep lower, or give another workdir"
        )


def _bytes_below(directories: Iterable[Path]) -> int:
    return sum(path.stat().st_size for top in directories for path in top.rglob("*") if path.is_file())


def _size(number: float) -> str:
    """12345678 -> '12.3 MB'."""
    units = iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while number >= 1000 and (larger := next(units, None)):
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def write_run(workdir: Path, entry: dict[str, Any]) -> None:
    """Writes run.json: `entry` itself at the first call, and later ones in its list "resumed".

    Args:
      workdir: of the run; exists.
      entry: JSON values, about how the program was started this time.
    """
    path = workdir / RUN
    try:
        first = read_json(path, dict) if path.exists() else entry
        content = first | {"resumed": [*first.get("resumed", []), entry]} if path.exists() else first
    except (ConfigError, TypeError):  # no reason to lose a run
        content = {"damaged": "the entries before were lost", "resumed": [entry]}
    write_json(path, content)


def read_facts(workdir: Path) -> Facts:
    """The `Facts` of a work directory."""
    try:
        return Facts.from_json(read_json(workdir / DATASET, dict))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{workdir / DATASET}: damaged ({error}); start in another work directory") from error


def read_json(path: Path, kind: type | None = None) -> Any:
    """The content of a JSON file.

    Raises:
      ConfigError: the file is missing or damaged, or holds something else than `kind`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if kind is not None and not isinstance(content, kind):
            raise ValueError(f"{kind.__name__} expected, {type(content).__name__} found")
        return content
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; is this the work directory of a run?") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: damaged ({error}); restore it or start in another work directory") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as a whole or not at all."""
    replace(path, json.dumps(content, indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """Replaces a file atomically, by a neighbour that is renamed."""
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Appends records to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())  # before the checkpoint that stands for these lines


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keep_lines(path: Path, step: int) -> None:
    """Drops the records after `step`, which a resumed run writes again, and a line that a kill cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    replace(path, "".join(kept))
