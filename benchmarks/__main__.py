"""Measures what the package costs and writes cost.csv, cost.png and machine.json.

    python -m benchmarks --out=DIR
    python -m benchmarks head step --out=DIR --quick

head        loss, logit gradient and statistics, from 10 to 131,072 classes
step        the whole training step: plain, closed form, PGD, SAM
loops       our step against a hand-written Flax loop and PyTorch (extra "benchmarks")
population  16 networks in one program against 16 runs
devices     one device against several virtual ones
memory      temporary bytes that the compiler plans

Every part runs in processes of its own, with the allocator and threads that launch.py would set; the loops of others
run in the default environment. Within a part all that is compared takes turns; the figures are medians over the rounds
with quartiles, ratios are taken within a round. Keep the machine idle meanwhile.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import bars, devices, images, launching, loops, output
from benchmarks.process import Environment, cache, of_module, process
from benchmarks.settings import Settings
from benchmarks.timing import Row

PARTS = ("head", "step", "loops", "population", "devices", "memory")
_OF_PARENT: dict[str, Callable[..., list[Row]]] = {"loops": loops.measure, "devices": devices.measure}
_SHARING = ("head", "step", "memory")  # they compile much the same, and report no time of it


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    for part in set(options.parts) - set(PARTS):
        parser.error(f"part {part!r}: must be one of {', '.join(PARTS)}")
    console, out = Console(), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    launch = launching.environment()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(options.quick, str(Path(scratch, "images.npz")))
        with process(launch) as call:
            machine = call(output.machine, shlex.join(["python", "-m", "benchmarks", *argv]))
            machine |= {"images": call(images.prepare, options.data_dir, settings.images)}
        machine |= {"environment": dict(launch), "quick": options.quick}
        output.write_json(machine, out / output.MACHINE)
        rows: list[Row] = []
        for part in options.parts or PARTS:
            console.print(f"[bold]{part}[/] ...")
            rows += measure(part, settings, launch)
            output.write_csv(rows, out / output.CSV)  # what is measured stays, whatever happens next
    verdicts = bars.verdicts(rows)
    output.show(rows, verdicts, console)
    with process(launch) as call:
        call(of_module, "benchmarks.plot", "draw", rows, title(machine), out / output.PLOT)
    for name in (output.CSV, output.PLOT, output.MACHINE):
        console.print(str(out / name), soft_wrap=True)
    return 0


def measure(part: str, settings: Settings, launch: Environment) -> list[Row]:
    """The rows of a part."""
    if part in _OF_PARENT:
        return _OF_PARENT[part](settings, launch)
    kept = cache(Path(settings.images).parent) if part in _SHARING else {}
    with process({**launch, **kept}) as call:
        return call(of_module, f"benchmarks.{part}", "measure", settings)


def title(machine: dict[str, Any]) -> str:
    """Machine and versions in a line."""
    versions, cpu = machine["versions"], machine["cpu"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("jax", "flax", "torch") if versions[name])
    where = f"{cpu['name']}, {cpu['cores']} cores, {machine['device']['kind']}"
    quick = "; a quick run, whose figures mean little" if machine["quick"] else ""
    return f"{where}; {packages}; revision {machine['git_revision'][:9]}; {machine['images']}{quick}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the three files go")
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds: to see that everything works")
    parser.add_argument("--data_dir", default="", metavar="DIR", help="TFDS directory with cifar10; default: digits")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main(sys.argv[1:]))
