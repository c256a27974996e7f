"""Trains what a config says, shows the table, and writes everything to a work directory.

    python launch.py --config=configs/digits_longtail.py
    python launch.py --config=configs/digits_longtail.py:tiny --workdir=runs/mine --config.lpg.epsilon=0.5

--config=FILE[:variant]   a file of configs/, or one like it; configs/default.py names every field
--config.FIELD=VALUE      changes a field; as often as needed
--workdir=DIR             where everything goes; default runs/NAME-DIGEST, so that other fields are another run
--compilation_cache=DIR   keeps compiled programs there, for the next start

The same command again resumes a run that was cut short, or shows the table of a finished one.
Exit codes: 0 done, 1 the training failed, 2 the command cannot be run, 130 interrupted.
"""

import logging
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before jax is imported

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags
from rich.console import Console

from lpg_jax import report, training

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


class CommandError(Exception):
    """A command line that cannot be run, in one line."""


def main(argv: list[str]) -> int:
    """Runs a whole command line, as in `sys.argv`; returns its exit code."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("jax").setLevel(logging.ERROR)
    if "--help" in argv:
        print(__doc__)
        return 0
    try:
        launch(parse(argv), shlex.join(argv), Console())
        return 0
    except (CommandError, training.ConfigError) as error:
        code, text = 2, f"error: {error}"
    except FloatingPointError as error:
        code, text = 1, f"error: {error}"
    except KeyboardInterrupt:
        code, text = 130, "interrupted; the same command resumes from the last checkpoint"
    print(text, file=sys.stderr)
    return code


class Command(NamedTuple):
    """What a command line asks for."""

    config: Any  # ml_collections.ConfigDict
    workdir: Path
    compilation_cache: str | None


def launch(command: Command, line: str, console: Console) -> None:
    """Trains, then reports; `line` is the command as typed."""
    jax.config.update("jax_enable_x64", command.config.train.dtype == "float64")
    if command.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", command.compilation_cache)
    training.run(command.config, command.workdir, console=console, command=line)
    try:
        report.show(command.workdir, console)
        written = report.write(command.workdir)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    for path in (*written, command.workdir / "summary.json"):
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def parse(argv: list[str]) -> Command:
    """Reads a command line.

    Raises:
      CommandError: an unknown flag or field, a value of the wrong type, or a config file that cannot be read.
    """
    options, rest = _parse_known(argv)
    if not options.config:
        raise CommandError("--config: missing; try --config=configs/digits_longtail.py (see --help)")
    config = load_config(options.config)
    for name in (match[1] for match in map(_OVERRIDE.match, rest) if match):
        if name not in training.field_names(config):
            close = training.closest_field(name, config)
            raise CommandError(f"config.{name}: no such field" + (f"; did you mean {close}?" if close else ""))
    config = _override(config, rest)
    file, _, variant = options.config.partition(":")
    name = "-".join(filter(None, (Path(file).stem, variant, training.digest(config))))
    return Command(config, Path(options.workdir or Path("runs") / name), options.compilation_cache)


def load_config(argument: str) -> Any:
    """The config of FILE[:variant], before any override."""
    file, _, variant = argument.partition(":")
    if not Path(file).is_file():
        raise CommandError(f"--config={argument}: no such file")
    try:
        get_config = runpy.run_path(file)["get_config"]
        return get_config(variant) if variant else get_config()
    except Exception as error:  # whatever the file raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CommandError(f"--config={argument}: {kind}{error}") from error


def _define() -> flags.FlagValues:
    """The flags other than --config and its fields."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow anything
    for name in ("workdir", "compilation_cache"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    return values


def _parse_known(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Our own flags, and the rest of the command line: fields of the config, and mistakes."""
    values = _define()
    flags.DEFINE_string("config", None, "", flag_values=values)
    try:
        return values, values(argv, known_only=True)
    except flags.Error as error:
        raise CommandError(str(error)) from error


def _override(config: Any, rest: list[str]) -> Any:
    """The config with the fields of the command line, parsed by their types."""
    values = _define()  # so that a mistyped flag is told of its neighbours
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    try:
        unexpected = values(rest)[1:]
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        raise CommandError(" ".join(str(error).split())) from error
    if unexpected:
        raise CommandError(f"{unexpected[0]!r}: not a flag; flags are --config, --config.FIELD, --workdir (see --help)")
    return values.config


if __name__ == "__main__":
    sys.exit(main(sys.argv))
