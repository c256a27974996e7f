"""Bars of the core: at most 5 times the head's plain run time, less than 1.5 times a step's plain compile time."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_cost_of_the_core():
    script = pathlib.Path(__file__).with_name("measure_cost.py")
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    ratios = json.loads(run.stdout.splitlines()[-1])
    print(ratios)
    assert min(ratios["run_time"]) <= 5
    assert min(ratios["compile_time"]) < 1.5
