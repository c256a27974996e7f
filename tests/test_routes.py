"""1 device = 8 devices = 8 by pmap = 2 processes, through launch.py itself, in parameters and class statistics."""

import signal
import socket
import time

import chex
import jax
import launching
import numpy as np
import pytest
from tiny_config import read

from lpg_jax import training
from lpg_jax.training import commandline

RESNET = {
    "model.name": "resnet8", "augment.crop": 1, "augment.flip": True, "train.learning_rate": 0.05,
    "lpg.epsilon": 0.1,
}  # fmt: skip
CASES = {
    # 336 examples: 20 steps of 17, which 8 devices do not divide
    "resnet8, float64, 20 steps": (RESNET | {"train.dtype": "float64", "train.batch_size": 17}, 1e-10),
    "resnet8, float32, 1 step": (RESNET | {"train.batch_size": 336}, 1e-5),
    "mlp, float32, 20 steps": ({"train.batch_size": 17}, 1e-5),
}
ROUTES = {"jit": 8, "pmap": 8, "processes": 2}


def arguments(home, fields):
    fields = {"num_seeds": 1, "method": "lpg", "train.epochs": 1, "num_devices": 0, **fields}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/digits_longtail.py", f"--workdir={home}", *overrides]


def start_processes(command):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meeting = [f"--coordinator={address}", "--num_processes=2"]
    return [launching.start(*command, *meeting, f"--process_id={index}") for index in range(2)]


def end_of(processes, codes):
    """What they printed."""
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == codes, outputs
    return outputs


def run_processes(command):
    outputs = end_of(start_processes(command), [0, 0])
    assert "2 cpu, by jit, 2 processes" in outputs[0]
    assert "accuracy" not in outputs[1], "one process talks and writes"


def final(command):
    """Parameters, batch and class statistics of a finished run."""
    config = commandline.parse(["launch.py", *command]).config
    with jax.enable_x64(config.train.dtype == "float64"):
        states = training.run(config, command[1].removeprefix("--workdir="))
        state = states["lpg"]
        return jax.tree.map(np.asarray, (state.params, state.batch_stats, state.opt_state, state.logit_state))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_every_route_through_launch(case, tmp_path):
    fields, tolerance = CASES[case]
    alone = arguments(tmp_path / "alone", fields)
    launching.run(*alone)
    expected = final(alone)
    for route, devices in ROUTES.items():
        command = arguments(tmp_path / route, fields | ({"parallel": "pmap"} if route == "pmap" else {}))
        if route == "processes":
            run_processes(command)
        else:
            output = launching.run(*command, devices=devices)
            assert f"8 cpu, by {route}" in output
        found = final(command)
        difference = max(
            float(np.max(np.abs(a - b))) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
            if a.dtype != bool and a.size
        )  # fmt: skip
        print(f"{case}, {route}: {difference:.1e}")
        chex.assert_trees_all_close(found, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_to_one_process_stops_both_and_one_process_resumes(tmp_path):
    """Also without a checkpoint before the signal; the end is that of the run that was left alone, to rounding."""
    # in float64: over 2000 steps the rounding of float32 grows to 1e-2
    fields = {
        "train.epochs": 100,
        "train.batch_size": 17,
        "train.dtype": "float64",
        "checkpoint.every_steps": 0,
        "evaluate.every_epochs": 1,
    }
    alone, home = (arguments(tmp_path / name, fields) for name in ("alone", "stopped"))
    launching.run(*alone)
    processes = start_processes(home)
    lines, end = tmp_path / "stopped" / "lpg" / "metrics.jsonl", time.monotonic() + 120
    while not lines.exists() and time.monotonic() < end:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    for output in end_of(processes, [143, 143]):
        assert "SIGTERM: a checkpoint was saved at step" in output
    launching.run(*home)
    steps = read(tmp_path / "stopped" / "summary.json")["methods"]["lpg"]["restored_steps"]
    assert len(steps) == 1
    assert 0 < steps[0] < 2000
    for found, expected in zip(jax.tree.leaves(final(home)), jax.tree.leaves(final(alone)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
