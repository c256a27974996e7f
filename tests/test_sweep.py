"""Grids of runs: how they are expanded, checked, run and collected; real runs and real submitit jobs at the end."""

import csv
import itertools
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_config import digests, read, tiny

import launch
from lpg_jax.training import ConfigError, sweep
from lpg_jax.training.signals import Interrupted

pytestmark = pytest.mark.slow

CONFIG = """
from configs import digits_longtail


def get_config(variant=""):
    config = digits_longtail.get_config(variant)
    config.num_seeds, config.train.epochs, config.train.batch_size = 2, 2, 64
    config.model.hidden = (16,)
    return config

def sweep():
    return {grid}
"""


SHORT = {"num_seeds": 1, "train__epochs": 1, "method": "lpg"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def calls(monkeypatch):
    """`training.run` replaced, no populations: directories in the order of the calls; epsilon 0.2 and 0.3 fail."""
    made = []

    def run(config, home, *, console=None, command=""):
        made.append(home.name)
        if config.lpg.epsilon == 0.2:
            raise FloatingPointError("the loss became NaN")
        if config.lpg.epsilon == 0.3:
            raise RuntimeError("out of memory")
        entry = {"overall": 0.5 + config.seed / 1000, "balanced": 0.25, "tail": None, "nll": 1 / 3}
        entry |= {"per_class": [0.5, None], "ci95": {"overall": 0.01, "balanced": None, "tail": None, "nll": 0.125}}
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.json").write_text(json.dumps(sweep.settings.to_json(config)))
        (home / "summary.json").write_text(json.dumps({"methods": {"ce": entry, "lpg": entry}}))

    monkeypatch.setattr(sweep.runner, "run", run)
    monkeypatch.setattr(sweep, "populations", lambda runs: [[run] for run in runs])
    return made


def expand(grid, **fields):
    return sweep.expand(tiny(**fields), grid, "here")


def call(*arguments):
    return launch.main(["launch.py", *map(str, arguments)])


def config_file(tmp_path, grid):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(grid=grid))
    return f"--config={path}"


# --- expansion


def test_a_grid_is_the_product_of_its_fields():
    epsilons, seeds = [0.1, 0.2, 0.3], [0, 7]
    runs = expand({"lpg.epsilon": epsilons, "seed": seeds})
    assert [(run.config.lpg.epsilon, run.config.seed) for run in runs] == list(itertools.product(epsilons, seeds))
    assert [run.point for run in runs][1] == {"lpg.epsilon": 0.1, "seed": 7}
    assert str(runs[1].home) == "here/lpg.epsilon=0.1,seed=7"
    base = tiny()
    for run in runs:  # nothing else changed, and the runs share nothing
        run.config.lpg.epsilon, run.config.seed = base.lpg.epsilon, base.seed
        assert run.config.to_dict() == base.to_dict()


def test_no_field_is_a_single_run():
    (run,) = expand({})
    assert (run.point, run.home.name) == ({}, "all")


def test_values_are_those_the_config_holds():
    grid = {"lpg.epsilon": np.array([0, 0.5]), "seed": range(2), "model.hidden": [[8, 4]], "lpg.zero_sum": [None]}
    names = [run.home.name for run in expand(grid)]
    assert names[0] == "lpg.epsilon=0.0,seed=0,model.hidden=8x4,lpg.zero_sum=None"
    assert names[-1] == "lpg.epsilon=0.5,seed=1,model.hidden=8x4,lpg.zero_sum=None"


def test_directory_names_are_safe_and_differ():
    values = ["/data/a b.npz", "/data/a_b.npz", "../data/a_b.npz", "ce,lpg", "é", "x" * 500, "x" * 501, ""]
    names = [sweep.directory_name({"data.path": value, "seed": 1}) for value in values]
    assert len(set(names)) == len(values)
    for name in names:
        assert len(name.encode()) < 200
        assert not set(name) & set("/\\ :*?\"'é")
    assert names == [sweep.directory_name({"data.path": value, "seed": 1}) for value in values]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lpg.epsilom": [1]}, r"sweep\(\): lpg\.epsilom: no such field; did you mean lpg\.epsilon\?"),
        ({"lpg": [1]}, r"sweep\(\): lpg: a group of fields"),
        ({"seed": []}, r"sweep\(\): seed: has no values"),
        ({"seed": 3}, r"sweep\(\): seed=3: must be a list of values"),
        ({"method": "ce"}, r"sweep\(\): method='ce': must be a list"),
        ({"lpg.epsilon": [1, 1.0]}, r"sweep\(\): lpg\.epsilon=1\.0: stands there twice"),
        ({"seed": ["one"]}, r"sweep\(\): seed='one': "),
        ({"lpg.scale": [3]}, r"sweep\(\): lpg\.scale=3: "),
    ],
)
def test_a_wrong_grid_is_refused(grid, message):
    with pytest.raises(ConfigError, match=message):
        expand(grid)


# --- checks before the first run


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lpg.epsilon": [0.1, -0.1]}, r"lpg\.epsilon=-0\.1: lpg\.epsilon=-0\.1: must be >= 0"),
        ({"method": ["ce", "lgp"]}, r"method=lgp: method='lgp': "),
        ({"data.noise.rate": [0.0, 0.3]}, r"data\.noise\.rate=0\.3: data\.noise\."),
        ({"train.schedule": ["cosine", "cosin"]}, r"train\.schedule=cosin: train\.schedule='cosin'"),
        ({"seed": [0, -1]}, r"seed=-1: seed=-1: must be >= 0"),
    ],
)
def test_every_run_is_checked_before_the_first_is_trained(grid, message, calls, tmp_path, capsys):
    with pytest.raises(ConfigError, match=message):
        sweep.check(expand(grid))
    assert call(config_file(tmp_path, grid), "--sweep=local") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert calls == []


def test_the_checks_pass_what_can_be_run():
    grid = {"train.dtype": ["float32", "float64", "bfloat16"], "data.noise.kind": ["none", "pair"]}
    sweep.check(expand({"lpg.split": ["accuracy", "frequency", "gradient_variance"], **grid}, lpg__threshold=None))


def test_a_directory_of_another_config_is_found_before_training(calls, tmp_path):
    runs = expand({"seed": [0, 1]})
    sweep.run_local(runs)
    with pytest.raises(ConfigError, match=r"seed=0: workdir=.*another config \(train\.epochs: 4 -> 5\)"):
        sweep.check(expand({"seed": [0, 1]}, train__epochs=5))


# --- running and collecting


def test_failures_stop_nobody_and_finished_runs_are_skipped(calls):
    runs = expand({"lpg.epsilon": [0.1, 0.2, 0.3, 0.4]})
    outcomes = sweep.run_local(runs)
    errors = ["", "the loss became NaN", "RuntimeError: out of memory", ""]
    assert [outcome.error for outcome in outcomes] == errors
    assert calls == [run.home.name for run in runs]
    calls.clear()
    assert [outcome.error for outcome in sweep.run_local(runs)] == errors
    assert calls == ["lpg.epsilon=0.2", "lpg.epsilon=0.3"]


def test_every_run_has_its_own_precision(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep.runner, "run", lambda *_, **__: seen.append(jax.config.read("jax_enable_x64")))
    sweep.run_local(expand({"train.dtype": ["float64", "float32"]}))
    assert seen == [True, False]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(signal.SIGTERM, 7)])
def test_an_interrupt_stops_the_sweep(error, monkeypatch):
    made = []

    def run(config, home, **_):
        made.append(home)
        raise error

    monkeypatch.setattr(sweep.runner, "run", run)
    with pytest.raises(type(error)):
        sweep.run_local(expand({"seed": [0, 1]}))
    assert len(made) == 1


def test_the_exit_code_of_an_interrupt(monkeypatch, tmp_path):
    for error, code in ((KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM, 7), 143)):

        def run(*_, error=error, **__):
            raise error

        monkeypatch.setattr(sweep.runner, "run", run)
        assert call(config_file(tmp_path, {"seed": [0, 1]}), "--sweep=local") == code


def test_rows_are_those_of_the_summaries(calls, tmp_path):
    rows = sweep.collect(sweep.run_local(expand({"lpg.epsilon": [0.1, 0.2], "seed": [0, 5]})))
    assert [(row["run"], row.get("method")) for row in rows] == [
        ("lpg.epsilon=0.1,seed=0", "ce"),
        ("lpg.epsilon=0.1,seed=0", "lpg"),
        ("lpg.epsilon=0.1,seed=5", "ce"),
        ("lpg.epsilon=0.1,seed=5", "lpg"),
        ("lpg.epsilon=0.2,seed=0", None),
        ("lpg.epsilon=0.2,seed=5", None),
    ]
    assert (rows[2]["overall"], rows[2]["ci95.nll"], rows[2]["per_class.0"]) == (0.505, 0.125, 0.5)
    sweep.write_csv(rows, tmp_path / "out" / "sweep.csv")
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert float(written[0]["nll"]) == 1 / 3
    assert (written[0]["tail"], written[0]["error"]) == ("", "")
    assert (written[4]["overall"], written[4]["error"]) == ("", "the loss became NaN")


@pytest.mark.parametrize("width", [60, 120])
def test_no_digit_of_the_table_is_lost(calls, width, tmp_path):
    rows = sweep.collect(sweep.run_local(expand({"lpg.epsilon": [0.1, 0.2], "seed": [0]})))
    with (tmp_path / "out").open("w") as file:
        console = Console(width=width, record=True, file=file)
        console.print(sweep.table(rows, ["lpg.epsilon", "seed"], console))
    text = console.export_text()
    for part in ("50.0", "± 1.0" if width > 100 else "±1.0", "25.0", "0.333", "0.125", "–", "failed", "method"):
        assert part in text
    assert "…" not in text, text


# --- the command


def test_what_the_command_line_sets_is_not_swept(calls, tmp_path, capsys):
    config = config_file(tmp_path, {"lpg.epsilon": [0.1, 0.4], "seed": [0, 1]})
    assert call(config, "--sweep=local", "--config.seed=1", "--config.train.epochs=3") == 0
    assert "seed=1: as the command line says, in all runs" in capsys.readouterr().out
    assert calls == ["lpg.epsilon=0.1,seed=1", "lpg.epsilon=0.4,seed=1"]
    calls.clear()
    assert call(config, "--sweep=local", "--config.train.epochs=3") == 0
    assert calls == ["lpg.epsilon=0.1,seed=0", "lpg.epsilon=0.4,seed=0"], "the others are there already"
    (home,) = (tmp_path / "runs").iterdir()
    assert home.name.startswith("mine-sweep-")
    assert (home / "sweep.csv").read_text().count("\n") == 1 + 4 * 2


def test_a_failed_run_is_listed_and_the_code_is_1(calls, tmp_path, capsys):
    assert call(config_file(tmp_path, {"lpg.epsilon": [0.2, 0.4]}), "--sweep=local", "--workdir=out") == 1
    printed = capsys.readouterr().out
    assert "failed: lpg.epsilon=0.2: the loss became NaN" in printed
    assert "50.0 ± 1.0" in printed
    assert printed.splitlines()[-1] == "out/sweep.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep=local"], "--config: missing"),
        (["--sweep=moon"], "value should be one of <local|slurm>"),
        (["--sweep=local", "--config={root}/configs/default.py"], "has no sweep(); write one beside get_config"),
        (["--sweep=local", "--slurm.partition=x"], "--slurm.KEY: only read with --sweep=slurm"),
        (["--sweep=local", "--out=x"], "--out: only read with --predict"),
        (["--sweep=local", "--predict=x.npz"], "--sweep: not read with --predict"),
        (["--sweep=local", "--config={root}/configs/digits_longtail.py", "--config.lpg.epsilom=1"], "did you mean"),
    ],
)
def test_a_wrong_command_gets_one_line(arguments, message, capsys):
    root = launch.Path(launch.__file__).parent
    assert call(*(argument.format(root=root) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


# --- real runs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep of two small runs, trained one after the other; a population would equal them to rounding only."""
    home = tmp_path_factory.mktemp("sweep")
    runs = sweep.expand(tiny(**SHORT), {"lpg.epsilon": [0.05, 0.5]}, home)
    sweep.check(runs)
    return runs, [sweep.Outcome(run, sweep.train(run)) for run in runs]


def test_real_runs_differ_where_the_grid_does(done):
    runs, outcomes = done
    assert [outcome.error for outcome in outcomes] == ["", ""]
    assert digests(runs[0].home, "lpg") != digests(runs[1].home, "lpg")
    rows = sweep.collect(outcomes)
    assert [row["overall"] for row in rows] == [
        read(run.home / "summary.json")["methods"]["lpg"]["overall"] for run in runs
    ]


def test_a_broken_run_is_resumed_to_the_same_bits(done, tmp_path):
    runs, _ = done
    shutil.copytree(runs[0].home.parent, tmp_path / "copy")
    broken = sweep.expand(tiny(**SHORT), {"lpg.epsilon": [0.05, 0.5]}, tmp_path / "copy")
    (broken[1].home / "summary.json").unlink()
    shutil.rmtree(broken[1].home / "lpg")
    stamp = (broken[0].home / "summary.json").stat().st_mtime_ns
    assert [outcome.error for outcome in sweep.run_local(broken)] == ["", ""]
    assert digests(broken[1].home, "lpg") == digests(runs[1].home, "lpg")
    assert (broken[0].home / "summary.json").stat().st_mtime_ns == stamp


# --- jobs


def test_without_submitit_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(ConfigError, match=r'pip install "lpg_jax\[slurm\]"'):
        sweep.run_slurm(expand({"seed": [0]}), {}, tmp_path / "logs")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"--sweep=slurm: Could not detect \"srun\""),
        ({"cluster": "local", "timeout_min": "an hour"}, r'Parameter "timeout_min" expected type'),
        ({"cluster": "local", "partitoin": "x"}, r"Unknown argument 'partitoin' for executor 'slurm'"),
    ],
)
def test_what_submitit_refuses_is_one_line(parameters, message, monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        sweep.run_slurm(expand({"seed": [0]}), parameters, tmp_path / "logs")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its debug jobs leave logs open
def test_jobs_in_this_process_give_what_a_local_sweep_gives(calls, tmp_path):
    pytest.importorskip("submitit")
    runs = expand({"lpg.epsilon": [0.1, 0.2, 0.4]})
    parameters = {"cluster": "debug", "partition": "any", "timeout_min": 1}
    outcomes = sweep.run_slurm(runs, parameters, tmp_path / "logs", command="as typed")
    assert [outcome.error for outcome in outcomes] == ["", "the loss became NaN", ""]
    calls.clear()
    again = sweep.run_slurm(runs, parameters, tmp_path / "logs")
    assert [outcome.error for outcome in again] == [outcome.error for outcome in outcomes]
    assert calls == ["lpg.epsilon=0.2"], "finished runs are not submitted"


def test_an_interrupted_wait_cancels_the_jobs(monkeypatch, tmp_path):
    submitit = pytest.importorskip("submitit")
    cancelled = []

    class Job:
        job_id = "1"

        def results(self):
            raise KeyboardInterrupt

        def cancel(self, check):
            cancelled.append(check)

    monkeypatch.setattr(submitit.AutoExecutor, "map_array", lambda *_: [Job(), Job()])
    with pytest.raises(KeyboardInterrupt):
        sweep.run_slurm(expand({"seed": [0, 1]}), {"cluster": "local"}, tmp_path / "logs")
    assert cancelled == [False, False]


def test_a_job_that_dies_is_a_failed_run(monkeypatch, tmp_path):
    submitit = pytest.importorskip("submitit")

    class Job:
        job_id = "17"
        paths = submitit.core.utils.JobPaths(tmp_path, "17")

        def results(self):
            raise submitit.core.utils.UncompletedJobError("Job 17 was killed\nmore")

    monkeypatch.setattr(submitit.AutoExecutor, "map_array", lambda *_: [Job()])
    (outcome,) = sweep.run_slurm(expand({"seed": [0]}), {"cluster": "local"}, tmp_path / "logs")
    assert outcome.error.startswith("job 17: UncompletedJobError: Job 17 was killed (see ")


def test_real_jobs_in_processes_of_their_own(done, tmp_path, capsys):
    pytest.importorskip("submitit")
    config = config_file(tmp_path, {"lpg.epsilon": [0.05]})
    fields = [
        "--config.method=lpg",
        "--config.num_seeds=1",
        "--config.train.epochs=1",
        "--config.evaluate.every_epochs=2",
    ]
    jobs = ["--sweep=slurm", "--slurm.cluster=local", "--slurm.timeout_min=5", "--workdir=jobs"]
    assert call(config, *fields, *jobs) == 0
    assert digests(tmp_path / "jobs" / "lpg.epsilon=0.05", "lpg") == digests(done[0][0].home, "lpg")
    assert "job " in capsys.readouterr().out
