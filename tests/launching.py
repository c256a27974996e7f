"""launch.py as a user starts it: in processes of its own, with programs as optimised as theirs."""

import os
import pathlib
import subprocess
import sys

import jax

ROOT = pathlib.Path(__file__).parent.parent


def start(*arguments, devices=1, **environment):
    """The process of `python launch.py ARGUMENTS`, on so many virtual devices; its output is one stream of text."""
    variables = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    if devices > 1:
        variables["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    variables |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    variables["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir  # not that of the user's home
    variables |= environment
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(*arguments, devices=1, code=0, timeout=280):
    """Waits for `start`; the output. Fails on another exit code."""
    process = start(*arguments, devices=devices)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == code, output
    return output
