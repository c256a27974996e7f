"""A command line, as in `sys.argv` -> what is to be done. Nothing here trains, and no flag is kept anywhere else."""

import ast
import copy
import re
import runpy
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from absl import flags
from ml_collections import config_flags

from lpg_jax.training import settings, sweep
from lpg_jax.training.settings import Config

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
_SLURM = re.compile(r"--?slurm\.(\w+)=(.*)", re.DOTALL)
_FLAGS = "--config, --config.FIELD, --workdir, --sweep, --predict"


class CommandError(Exception):
    """A command line that cannot be run, in one line."""


class Processes(NamedTuple):
    """This process among those that train together; None: as the environment says."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


class Train(NamedTuple):
    """One run."""

    config: Config
    workdir: Path
    compilation_cache: str | None
    processes: Processes | None = None  # None: this one alone


class Sweep(NamedTuple):
    """Many runs."""

    runs: list[sweep.Run]
    workdir: Path
    compilation_cache: str | None
    slurm: dict[str, Any] | None  # parameters of jobs; None: in this process
    fixed: dict[str, Any]  # fields of the grid that the command line sets


class Predict(NamedTuple):
    """A finished run, used."""

    file: Path
    part: str  # which arrays of the file; see `predict.read_examples`
    workdir: Path
    method: str | None  # None: the last one
    out: Path | None  # None: in the work directory
    compilation_cache: str | None


Command: TypeAlias = Train | Sweep | Predict


def parse(argv: list[str]) -> Command:
    """Reads a command line; launch.py documents the flags.

    Raises:
      CommandError: an unknown flag or field, a value of the wrong type, flags that do not go together, or a config file
        that cannot be read.
      ConfigError: a grid that cannot be expanded.
    """
    options, rest = _parse_known(argv)
    slurm = {match[1]: _literal(match[2]) for match in map(_SLURM.fullmatch, rest) if match}
    rest = [argument for argument in rest if not _SLURM.fullmatch(argument)]
    _check_together(options, bool(slurm))
    if options.predict:
        return _predict(options, rest)
    if not options.config:
        raise CommandError("--config: missing; try --config=configs/digits_longtail.py (see --help)")
    file = read_config_file(options.config)
    named = [match[1] for match in map(_OVERRIDE.match, rest) if match]
    for name in named:
        if name not in settings.field_names(file.config):
            close = settings.closest_field(name, file.config)
            raise CommandError(f"config.{name}: no such field" + (f"; did you mean {close}?" if close else ""))
    config = _override(file.config, rest)
    if options.sweep:
        return _sweep(options, file, config, set(named), slurm)
    return Train(config, _home(options, config), options.compilation_cache, _processes(options))


class ConfigFile(NamedTuple):
    """What FILE[:variant] says, before any override."""

    config: Config
    grid: dict[str, Any] | None  # of its sweep(); None: it has none


def read_config_file(argument: str) -> ConfigFile:
    """Runs FILE[:variant].

    Raises:
      CommandError: no such file, or whatever it raises.
    """
    file, _, variant = argument.partition(":")
    if not Path(file).is_file():
        raise CommandError(f"--config={argument}: no such file")
    try:
        content = runpy.run_path(file)
        config = content["get_config"](variant) if variant else content["get_config"]()
        return ConfigFile(config, dict(content["sweep"]()) if "sweep" in content else None)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CommandError(f"--config={argument}: {kind}{error}") from error


def _sweep(options: Any, file: ConfigFile, config: Config, named: set[str], slurm: dict[str, Any]) -> Sweep:
    """A grid's field that the command line sets has that value in all runs, which lie where the whole grid's would."""
    if file.grid is None:
        raise CommandError(
            f"--config={options.config}: has no sweep(); write one beside get_config, that returns "
            'fields with their values, such as {"lpg.epsilon": [0.05, 0.1]}'
        )
    before, after = (settings.flat(each.to_dict()) for each in (file.config, config))
    fixed = {field: after[field] for field in file.grid if field in named}
    base = copy.deepcopy(config)
    base.update_from_flattened_dict({field: before[field] for field in fixed})
    home = _home(options, base, "sweep")
    runs = sweep.expand(config, file.grid | {field: [value] for field, value in fixed.items()}, home)
    return Sweep(runs, home, options.compilation_cache, slurm if options.sweep == "slurm" else None, fixed)


def _predict(options: Any, rest: list[str]) -> Predict:
    _refuse(rest[1:])
    if not options.workdir:
        raise CommandError("--workdir: missing; --predict needs that of a run")
    file, _, part = options.predict.partition(":")
    out = Path(options.out) if options.out else None
    return Predict(Path(file), part, Path(options.workdir), options.method, out, options.compilation_cache)


def _processes(options: Any) -> Processes | None:
    given = Processes(options.coordinator, options.num_processes, options.process_id)
    return given if options.distributed or given != Processes(None, None, None) else None


def _check_together(options: Any, slurm: bool) -> None:
    """Refuses flags that the others leave without effect."""
    useless = {
        "--config": options.predict and options.config,
        "--sweep": options.predict and options.sweep,
        "--method": options.method and not options.predict,
        "--out": options.out and not options.predict,
        "--slurm.KEY": slurm and options.sweep != "slurm",
    }
    if (options.predict or options.sweep) and _processes(options):
        raise CommandError(
            "--coordinator, --num_processes, --process_id, --distributed: only read by a single --config"
        )
    for name in (name for name, is_useless in useless.items() if is_useless):
        needs = "--sweep=slurm" if slurm and name == "--slurm.KEY" else "--predict"
        raise CommandError(f"{name}: {'not read with --predict' if options.predict else f'only read with {needs}'}")


def _home(options: Any, config: Config, *more: str) -> Path:
    """The work directory asked for, or one that no other config has."""
    file, _, variant = options.config.partition(":")
    name = "-".join(filter(None, (Path(file).stem, variant, *more, settings.digest(config))))
    return Path(options.workdir or Path("runs") / name)


def _literal(text: str) -> Any:
    """A Python literal, or the text as it is."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _define() -> flags.FlagValues:
    """The flags other than --config and its fields."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow anything
    for name in ("workdir", "compilation_cache", "predict", "method", "out", "coordinator"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    for name in ("num_processes", "process_id"):
        flags.DEFINE_integer(name, None, "", lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("distributed", False, "", flag_values=values)
    flags.DEFINE_enum("environment", "tuned", ["tuned", "asis"], "", flag_values=values)  # read by environment.py
    flags.DEFINE_enum("sweep", None, ["local", "slurm"], "", flag_values=values)
    return values


def _parse_known(argv: list[str]) -> tuple[Any, list[str]]:
    """Our own flags, and the rest of the command line: fields of the config, and mistakes."""
    values = _define()
    flags.DEFINE_string("config", None, "", flag_values=values)
    try:
        return values, values(argv, known_only=True)
    except flags.Error as error:
        raise CommandError(str(error)) from error


def _override(config: Config, rest: list[str]) -> Config:
    """The config with the fields of the command line, parsed by their types; `config` itself stays."""
    values = _define()  # so that a mistyped flag is told of its neighbours
    config_flags.DEFINE_config_dict("config", copy.deepcopy(config), flag_values=values, sys_argv=rest)
    try:
        _refuse(values(rest)[1:])
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        raise CommandError(" ".join(str(error).split())) from error
    return values.config


def _refuse(rest: list[str]) -> None:
    if rest:
        raise CommandError(f"{rest[0]!r}: not a flag; flags are {_FLAGS} (see --help)")
