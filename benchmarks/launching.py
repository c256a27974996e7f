"""The environment in which `launch.py` trains."""

import os
import sys

import environment as launch_environment
from benchmarks.process import TUNED, Environment


def environment() -> Environment:
    """What `launch.py` adds where the shell has set nothing."""
    plain = {name: value for name, value in os.environ.items() if name not in TUNED}
    on_cpu = launch_environment.computes_on_cpu(plain, launch_environment.installed_plugins())
    return launch_environment.additions(plain, sys.platform, on_cpu)
