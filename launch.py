"""Trains what a config says, shows the table, and writes everything to a work directory.

    python launch.py --config=configs/digits_longtail.py
    python launch.py --config=configs/digits_longtail.py:tiny --workdir=runs/mine --config.lpg.epsilon=0.5

--config=FILE[:variant]   a file of configs/, or one like it; configs/default.py names every field
--config.FIELD=VALUE      changes a field; as often as needed
--workdir=DIR             where everything goes; default runs/NAME-DIGEST, so that other fields are another run
--compilation_cache=DIR   keeps compiled programs there, for the next start, up to 1 GiB only in the default place:
                          lpg_jax/ of XDG_CACHE_HOME or ~/.cache; "off": nowhere. The results are the same bits
--environment=asis        leaves the memory allocator as it is. On a Linux CPU the command otherwise starts itself
                          again, once and as the same process, with MALLOC_* variables (environment.py) that make
                          convolutions faster; those that are set already stay

Several processes, one command in each, with a work directory that all of them see:

    python launch.py --config=... --workdir=DIR --coordinator=HOST:PORT --num_processes=2 --process_id=0

--distributed             where the environment says it: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
                          SLURM, a TPU pod

Many runs: all points of the grid that sweep() in the config file returns, {field: values}, each in a directory of its
own; the table of all of them also goes to WORKDIR/sweep.csv.

    python launch.py --config=configs/digits_longtail.py --sweep=local
    python launch.py --config=configs/digits_longtail.py --sweep=slurm --slurm.partition=gpu --slurm.timeout_min=60

--sweep=local | slurm     here, where small networks that differ in eps, learning rate and the like are one vmapped
                          program, or as SLURM jobs (extra "slurm"), for which it waits; an interrupt cancels them.
                          A field set by --config.FIELD has that value in all runs, whatever sweep() says
--slurm.KEY=VALUE         of the jobs, as submitit calls it; timeout_min is 1440 unless given

A finished run, used: class probabilities to CSV; with labels also their loss and the norm of their logit gradient
||p - e_y||, most suspect labels first. Of several seeds, all three are those of the mean probabilities.

    python launch.py --predict=mine.npz --workdir=runs/mine
    python launch.py --predict=mine.npz:train --workdir=runs/mine --method=ce --out=suspects.csv

--predict=FILE.npz[:PART] reads x_PART and y_PART; without PART the first that is there of x_test, x, x_train, else the
                          only array, or the two of which one has rank 1 (labels). Make it by numpy.savez(FILE,
                          x=inputs, y=labels), inputs as in training: uint8 images [N, H, W, K] or floats; those of a
                          run are data.load(config.data, config.seed).train.inputs, .labels (from lpg_jax import data)
--method=NAME             default: the last one of the run
--out=FILE.csv            default: WORKDIR/METHOD/predictions-NAME.csv

The same command again resumes what was cut short, or shows the table of what is finished.
Exit codes: 0 done, 1 the training failed, 2 the command cannot be run, 130 and 143 interrupted (SIGINT, SIGTERM).
"""

import logging
import os
import shlex
import sys
import warnings
from pathlib import Path

import environment

if __name__ == "__main__":  # before jax is imported
    environment.enter(sys.argv)
else:
    os.environ.update(environment.additions(os.environ, sys.platform, False))

import jax
from absl import logging as absl_logging
from rich.console import Console
from rich.text import Text

from lpg_jax import report, training
from lpg_jax.training import predict, sweep
from lpg_jax.training.commandline import CommandError, Predict, Sweep, Train, parse
from lpg_jax.training.signals import Interrupted

SHORTEST_KEPT = 0.1  # seconds of compilation that are worth a file


def main(argv: list[str]) -> int:
    """Runs a whole command line, as in `sys.argv`; returns its exit code."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("jax").setLevel(logging.ERROR)
    if "--help" in argv:
        print(__doc__)
        return 0
    try:
        return launch(parse(argv), shlex.join(argv), Console())
    except (CommandError, training.ConfigError) as error:
        code, text = 2, f"error: {error}"
    except (FloatingPointError, OSError) as error:  # such as a disk that is full
        code, text = 1, f"error: {error}"
    except Interrupted as error:
        code, text = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, text = 130, "interrupted; the same command resumes from the last checkpoint"
    print(text, file=sys.stderr)
    return code


def launch(command: Train | Sweep | Predict, line: str, console: Console) -> int:
    """Does what a command asks for; `line` is the command as typed. Returns the exit code."""
    asked = command.compilation_cache
    command = command._replace(compilation_cache=keep_programs(asked))
    if isinstance(command, Sweep):
        if command.slurm is not None:  # other machines, perhaps with other CPUs: where the user says, or nowhere
            command = command._replace(compilation_cache=None if asked == "off" else asked)
        return sweep_(command, line, console)
    if isinstance(command, Predict):
        return predict_(command, console)
    return train(command, line, console)


def keep_programs(asked: str | None) -> str | None:
    """Lets jax keep compiled programs where --compilation_cache says; returns the directory, None: nowhere, or where
    jax keeps them already.

    A directory that cannot be read or written costs the time to compile, and a file that a kill cut short is noticed by
    its checksum: neither is worth a warning.
    """
    if asked is None and jax.config.values["jax_compilation_cache_dir"]:
        return None
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    directory = None if asked == "off" else asked
    if asked is None:
        directory = str(environment.cache_directory(os.environ))
        environment.prune(Path(directory))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_KEPT)
    jax.config.update("jax_compilation_cache_dir", directory)
    return directory


def train(command: Train, line: str, console: Console) -> int:
    """Trains, then reports."""
    jax.config.update("jax_enable_x64", command.config.train.dtype == "float64")
    if command.processes:
        training.join(*command.processes)
    with training.together():
        training.run(command.config, command.workdir, console=console, command=line)
    if not training.leads():
        return 0
    try:
        report.show(command.workdir, console)
        written = report.write(command.workdir)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    for path in (*written, command.workdir / "summary.json"):
        _say(path, console)
    return 0


def sweep_(command: Sweep, line: str, console: Console) -> int:
    """Trains all runs, then shows what came out; 1 if one failed."""
    for field, value in command.fixed.items():
        _say(f"{field}={value}: as the command line says, in all runs", console)
    sweep.check(command.runs)
    options = {"console": console, "command": line, "compilation_cache": command.compilation_cache}
    if command.slurm is None:
        outcomes = sweep.run_local(command.runs, **options)
    else:
        outcomes = sweep.run_slurm(command.runs, command.slurm, command.workdir / "submitit", **options)
    rows, path = sweep.collect(outcomes), command.workdir / "sweep.csv"
    try:
        sweep.write_csv(rows, path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from error
    console.print(sweep.table(rows, list(command.runs[0].point), console))
    failed = [row for row in rows if "error" in row]
    for row in failed:
        _say(f"failed: {row['run']}: {row['error']}", console)
    _say(path, console)
    return 1 if failed else 0


def predict_(command: Predict, console: Console) -> int:
    """Writes what a run says of the examples of a file."""
    config, methods = predict.read_config(command.workdir)
    jax.config.update("jax_enable_x64", config.train.dtype == "float64")
    method = command.method or methods[-1]
    name = "-".join(filter(None, ("predictions", command.file.stem, command.part)))
    out = command.out or command.workdir / method / f"{name}.csv"
    try:
        predict.predict_file(command.file, command.workdir, method, out, part=command.part, console=console)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    _say(out, console)
    return 0


def _say(text: str | Path, console: Console) -> None:
    console.print(Text(str(text)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
