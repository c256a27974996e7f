"""Processes of their own, since allocator, threads and virtual devices are fixed when a program starts."""

import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Environment: TypeAlias = Mapping[str, str]

# What decides how fast a program is, and what "default" therefore must not inherit from the shell.
TUNED = (
    *("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX"),
    *(
        "GLIBC_TUNABLES",
        "XLA_FLAGS",
        "NPROC",
        "LD_PRELOAD",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "JAX_COMPILATION_CACHE_DIR",
    ),
)
DEFAULT: Environment = {}


def devices(number: int) -> Environment:
    """So many virtual CPU devices; with fewer threads than devices a collective on CPU can wait for ever."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={number}", "NPROC": "64"}


def cache(directory: Path) -> Environment:
    """Compiled programs stay in a directory, for the next process."""
    return {"JAX_COMPILATION_CACHE_DIR": str(directory), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@contextmanager
def process(environment: Environment) -> Iterator[Callable[..., Any]]:
    """A process that does one thing after the other: `call(function, *arguments)` -> what the function returns there.

    Args:
      environment: variables it starts with instead of `TUNED`; all others are those of this process.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with _variables(environment):
            pool.submit(os.getpid).result()  # it starts here
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@contextmanager
def _variables(environment: Environment) -> Iterator[None]:
    kept = dict(os.environ)
    for name in TUNED:
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def of_module(module: str, function: str, *arguments: Any) -> Any:
    """Calls a function of a module that the parent does not import."""
    return getattr(importlib.import_module(module), function)(*arguments)


@functools.cache
def _made(module: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return importlib.import_module(module).Loop(**dict(options))


def of_loop(module: str, options: Mapping[str, Any], method: str, *arguments: Any) -> Any:
    """Calls a method of `module.Loop(**options)`, which is made once in a process and stays there."""
    return getattr(_made(module, tuple(options.items())), method)(*arguments)
