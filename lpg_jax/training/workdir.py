"""The files of a work directory, other than checkpoints.

WORKDIR/config.json         the config that it belongs to, written first
WORKDIR/dataset.json        `Facts` of its data
WORKDIR/METHOD/metrics.jsonl, restored_steps.json, checkpoints/, result.json (written when the method is done)
WORKDIR/summary.json        written when all methods are done
"""

import json
import os
from pathlib import Path
from typing import Any

from lpg_jax.training import settings
from lpg_jax.training.recipe import Facts
from lpg_jax.training.settings import ConfigError

CONFIG, DATASET, SUMMARY = "config.json", "dataset.json", "summary.json"
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
