"""The environment in which `launch.py` trains. Decided before jax is imported, so nothing here imports it.

| variable | value | why |
|---|---|---|
| MALLOC_ARENA_MAX, MALLOC_MMAP_MAX_ | 1, 0 | a step's memory comes from the one heap that can keep it; the others |
| | | of glibc hold 64 MB at most, and what is larger goes back to the system after use |
| GLIBC_TUNABLES | glibc.malloc.hugetlb=1 | ... in pages of 2 MB |
| MALLOC_TRIM_THRESHOLD_, MALLOC_TOP_PAD_ | 2^40, 2^28 bytes | that heap is kept, and grows in large pieces |
| NPROC | 64 | only with virtual devices: with fewer threads than devices a collective on CPU can wait for ever |
| TF_CPP_MIN_LOG_LEVEL | 3 | no notes of XLA's between those of the run |

glibc reads its variables when a process starts, hence `enter` starts the program again, in the same process. They are
for Linux, where jax computes on the CPU; musl ignores them. What the user has set stays. `--environment=asis` leaves
the allocator alone, and starts nothing again.
"""

import hashlib
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ENTERED = "LPG_JAX_ENVIRONMENT"  # set in a program that was started again, so that it is not a second time
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
}
CACHE_BYTES = 2**30  # of compiled programs that stay from one start to the next


def additions(environ: Mapping[str, str], system: str, tunes: bool) -> dict[str, str]:
    """The variables to add, none of which the user has set.

    Args:
      environ: the environment as it is.
      system: as `sys.platform`.
      tunes: whether the allocator is set: jax will compute on the CPU (`computes_on_cpu`), and nobody minds.

    | case | added |
    |---|---|
    | Linux, `tunes` | the allocator's |
    | another system, or not `tunes` | not those |
    | virtual devices in XLA_FLAGS | also NPROC |
    | a variable that is there, empty or not | it stays as it is |

    Example:
      >>> additions({"MALLOC_ARENA_MAX": "4", "MALLOC_TOP_PAD_": "0", "GLIBC_TUNABLES": ""}, "linux", True)
      {'TF_CPP_MIN_LOG_LEVEL': '3', 'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '1099511627776'}
    """
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if "host_platform_device_count" in environ.get("XLA_FLAGS", ""):
        wanted["NPROC"] = "64"
    if tunes and system == "linux":
        wanted |= ALLOCATOR
    return {name: value for name, value in wanted.items() if name not in environ}


def computes_on_cpu(environ: Mapping[str, str], plugins: Sequence[str]) -> bool:
    """Whether jax will choose the CPU: as JAX_PLATFORMS says, else where no accelerator's plugin is installed.

    Args:
      environ: the environment.
      plugins: those of jax that are installed, by any name.

    Example:
      >>> computes_on_cpu({"JAX_PLATFORMS": "cpu"}, ["cuda13"]), computes_on_cpu({}, ["cuda13"])
      (True, False)
    """
    chosen = environ.get("JAX_PLATFORMS", "").lower()
    return chosen.split(",")[0] == "cpu" if chosen else not plugins


def installed_plugins() -> list[str]:
    """Names of what lets jax compute elsewhere than on the CPU."""
    names = [entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")]
    return names + [entry.name for entry in importlib.metadata.distributions(name="libtpu")]


def is_wanted(argv: Sequence[str]) -> bool:
    """Whether a command line leaves `--environment` at its default.

    Example:
      >>> is_wanted(["launch.py", "--environment=asis"])
      False
    """
    return not any(
        text.lstrip("-") == "environment=asis" or (text.lstrip("-"), after) == ("environment", "asis")
        for text, after in zip(argv, [*argv[1:], ""], strict=True)
        if text.startswith("-")
    )


def is_the_program(argv: Sequence[str]) -> bool:
    """Whether this process was started for the script argv[0], and holds nothing yet that another start would lose: no
    host that runs the script (`runpy`, a notebook), no script from standard input, no jax, no other thread."""
    started, script = sys.orig_argv, Path(argv[0])
    module = started[started.index("-m") + 1].rpartition(".")[2] if "-m" in started[:-1] else ""
    of_script = module == script.stem or any(Path(text).resolve() == script.resolve() for text in started[1:])
    return script.is_file() and of_script and "jax" not in sys.modules and threading.active_count() == 1


def enter(argv: Sequence[str]) -> None:
    """Starts this very command again with `additions`, once; returns if there is nothing to add.

    The process stays the same (pid, open files, signals, limits), so that whoever started it notices nothing. Call it
    from a program's own first lines, before anything heavy is imported; never from an imported module.

    Args:
      argv: as `sys.argv`.
    """
    again = is_wanted(argv) and ENTERED not in os.environ and bool(sys.executable) and is_the_program(argv)
    new = additions(os.environ, sys.platform, again and computes_on_cpu(os.environ, installed_plugins()))
    if not ALLOCATOR.keys().isdisjoint(new):
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **new, ENTERED: "entered"})
    os.environ.update(new)  # these are read later than at the start


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where compiled programs stay by default: one directory per kind of CPU, as code for one can crash on another.

    Args:
      environ: the environment; XDG_CACHE_HOME, else HOME, says where caches lie.

    Example:
      >>> cache_directory({"XDG_CACHE_HOME": "/var/cache"}).parent.as_posix()
      '/var/cache/lpg_jax'
    """
    home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return Path(home) / "lpg_jax" / f"programs-{hashlib.sha256(_cpu().encode()).hexdigest()[:12]}"


def _cpu() -> str:
    """What tells one kind of CPU from another: on Linux its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()} {features}"


def prune(directory: Path, limit_bytes: int = CACHE_BYTES) -> None:
    """Deletes the oldest files of a directory until the others fit into so many bytes; what cannot be deleted stays."""
    try:
        files = [(path.stat(), path) for path in directory.iterdir() if path.is_file()]
    except OSError:
        return
    total = 0
    for status, path in sorted(files, key=lambda file: -file[0].st_mtime):
        total += status.st_size
        if total > limit_bytes:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return
