"""A run that is killed, terminated and damaged again and again ends with the bits of the run that was left alone."""

import random
import signal
import time

import launching
import pytest
from tiny_config import digests, read

KILLS = 20


def arguments(home, cache):
    """ResNet-8 with BatchNorm and augmentation, 1400 steps, a checkpoint every 5."""
    fields = {
        "model.name": "resnet8", "num_seeds": 1, "method": "lpg", "train.epochs": 100, "train.batch_size": 25,
        "augment.crop": 1, "augment.flip": True, "augment.cutout": 3, "checkpoint.every_steps": 5,
        "evaluate.every_epochs": 10,
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return (
        "--config=configs/digits_longtail.py", f"--workdir={home}", f"--compilation_cache={cache}", *overrides,
    )  # fmt: skip


def saved(home):
    """Steps of the checkpoints that are whole."""
    directory = home / "lpg" / "checkpoints"
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit()) if directory.exists() else []


def wait_for_checkpoint(process, home, after, seconds=120):
    """Until there is a checkpoint later than step `after`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if any(step > after for step in saved(home)):
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


def stop(home, cache, number, delay, wait=True):
    """Starts the run, lets it go on for a while, and sends it a signal; returns its exit code."""
    after = max(saved(home), default=0)
    process = launching.start(*arguments(home, cache))
    try:
        if wait:
            wait_for_checkpoint(process, home, after)
        time.sleep(delay)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_terminated_and_truncated(tmp_path):
    alone, home, cache = tmp_path / "alone", tmp_path / "killed", tmp_path / "cache"
    launching.run(*arguments(alone, cache))
    rng = random.Random(0)
    for kill in range(KILLS):
        after_a_checkpoint = kill >= KILLS // 4
        delay = rng.uniform(0, 0.3) if after_a_checkpoint else rng.uniform(0, 8)
        code, output = stop(home, cache, signal.SIGKILL, delay, wait=after_a_checkpoint)
        assert code == -signal.SIGKILL, output
    for number in (signal.SIGTERM, signal.SIGINT):
        code, output = stop(home, cache, number, 0.2)
        assert code == 128 + number, output
        assert f"{number.name}: a checkpoint was saved at step {saved(home)[-1]}; the same command resumes" in output
    newest = saved(home)[-1]
    victim = max((home / "lpg" / "checkpoints" / str(newest)).rglob("*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    output = launching.run(*arguments(home, cache))
    assert f"checkpoints/{newest}: checkpoint skipped" in " ".join(output.split())
    steps = read(home / "summary.json")["methods"]["lpg"]["restored_steps"]
    print(f"resumed from {steps}")
    assert len(steps) >= KILLS // 2
    assert 0 < steps[-1] < newest
    assert digests(home, "lpg") == digests(alone, "lpg")
    lines = [(run / "lpg" / "metrics.jsonl").read_text() for run in (alone, home)]
    assert lines[0] == lines[1]
