"""What a report keeps of its runs is enough to write it again, and is never lost to less."""

import json
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evidence_runs import make_scenario
from given_runs import CE, LA, LPG, entry_of, write_scenario

from lpg_jax import report
from lpg_jax.report import __main__ as door
from lpg_jax.report import archive, evidence

MARGIN = [-0.3, 0.0, 0.1, 0.3]
STUDIES = {"epsilon": ("lpg", "lpg.epsilon", {0.1: (0.7, 0.8), 0.3: (0.6, 0.7)})}
COURSE = {"course": ("lpg", "evaluate.every_epochs", [1])}
NAME = "T1-digits_longtail50.tar.xz"
MADE = "T2-cifar10_longtail100.tar.xz"
PROBE = "method,level,measure,class,count,mean,std,batches\nlpg,parameters,cosine,0,40,0.5,0.1,4\n"
PROBE += "lpg,parameters,norm_ratio,0,40,0.5,0.1,4\n"


@pytest.fixture
def runs(tmp_path):
    entries = {"ce": entry_of(CE, held_out=0.7), "la": entry_of(LA, held_out=0.8), "lpg": entry_of(LPG, "lpg", 0.7)}
    entries["lpg"]["margin"] = MARGIN
    home = write_scenario(tmp_path / "runs", entries, studies=STUDIES)
    (home / "final" / "ce" / "seed=0" / "run.json").write_text('{"git_revision": "abcdef", "command": "a secret"}')
    (home / "final" / "ce" / "seed=0" / "ce" / "checkpoints").write_bytes(b"parameters")
    (home / "final" / "another").mkdir()
    (home / "measures.json").write_text('{"bound_total": {"values": [1.5], "seeds": [0], "command": "m"}}')
    return tmp_path / "runs"


@pytest.fixture
def drawn(tmp_path):
    """Runs of which every kind of figure is drawn."""
    make_scenario(tmp_path / "drawn", "cifar10_longtail100", "longtail", studies=COURSE, with_features=("ce", "lpg"))
    make_scenario(tmp_path / "drawn", "cifar10_symmetric50", "noisy")
    for path in (tmp_path / "drawn").glob("T2/cifar10_symmetric50/final/*/*/summary.json"):
        summary = json.loads(path.read_text())
        for entry in summary["methods"].values():
            entry |= {"train_clean": 0.9, "train_memorised": 0.2, "train_recovered": 0.4}
        path.write_text(json.dumps(summary))
    (tmp_path / "drawn" / "T2" / "cifar10_longtail100" / "probe.csv").write_text(PROBE)
    return tmp_path / "drawn"


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_what_is_unpacked_reads_like_the_runs(runs, tmp_path):
    (whole,) = evidence.read(runs)
    archive.pack(whole, tmp_path / "out")
    with archive.unpacked(tmp_path / "out") as found:
        (again,) = found
    pairs = [(whole.results, again.results), (whole.studies["epsilon"].results, again.studies["epsilon"].results)]
    for one, other in pairs:
        assert one.keys() == other.keys()
        for key, by_seed in one.items():
            assert by_seed.keys() == other[key].keys()
            for seed, result in by_seed.items():
                read = other[key][seed]._replace(home=result.home)
                np.testing.assert_equal(read._asdict(), result._asdict())
    for name in ("entries", "measures", "seeds", "base", "versions", "revision"):
        np.testing.assert_equal(getattr(again, name), getattr(whole, name))
    assert whole.command == "python -m evidence run T1 --workdir=/somebody/runs --only=ce"
    assert again.command == "python -m evidence run T1 --only=ce"
    assert again.results["lpg"][0].margin.tolist() == MARGIN
    assert again.results["ce"][0].revision == "abcdef"


def test_an_archive_holds_figures_and_nothing_else(runs, tmp_path):
    path = archive.pack(evidence.read(runs)[0], tmp_path)
    with tarfile.open(path) as tar:
        names = {name.rpartition("/")[2] for name in tar.getnames()}
    assert names == {"scenario.json", "measures.json", "summary.json", "run.json", "metrics.jsonl"}
    whole = lzma.decompress(path.read_bytes())
    for text in (b"parameters", b"a secret", b"/somebody"):
        assert text not in whole


def test_a_report_is_written_again_without_the_runs(drawn, tmp_path):
    report.evidence_report(drawn, tmp_path / "out")
    before = content(tmp_path / "out")
    figures = {f"figures/{stem}-{MADE.partition('.')[0]}.png" for stem in ("features", "margins", "probe", "overview")}
    assert {"claims.md", "runs.csv", "tables/features.csv", f"runs/{MADE}", *figures} <= before.keys()
    assert b",0.9,0.2,0.4," in before["runs.csv"]
    for name in before:
        if not name.startswith("runs/"):
            (tmp_path / "out" / name).unlink()
    shutil.rmtree(drawn)
    door.main(["--out", str(tmp_path / "out")])
    assert content(tmp_path / "out") == before


def test_a_report_grows_by_what_was_trained_elsewhere(runs, tmp_path):
    report.evidence_report(runs, tmp_path / "out")
    new = tmp_path / "new"
    write_scenario(new, {"ce": entry_of(CE), "lpg": entry_of(LPG)}, kind="balanced", name="digits_balanced")
    report.evidence_report(new, tmp_path / "out")
    shutil.copytree(runs, new, dirs_exist_ok=True)
    report.evidence_report(new, tmp_path / "at_once")
    assert content(tmp_path / "out") == content(tmp_path / "at_once")


def test_less_never_takes_the_place_of_more(runs, tmp_path):
    report.evidence_report(runs, tmp_path / "out")
    before = content(tmp_path / "out")
    home = runs / "T1" / "digits_longtail50"
    (home / "measures.json").unlink()
    with pytest.raises(
        ValueError, match=rf"{NAME}: holds 1 files that .* lacks \(.*; start `python -m evidence measure"
    ):
        report.evidence_report(runs, tmp_path / "out")
    shutil.rmtree(home / "final" / "la" / "seed=2")
    with pytest.raises(ValueError, match=rf"{NAME}: holds 3 files that .*la/seed=2.*; finish that scenario, or remove"):
        report.evidence_report(runs, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_no_table_vanishes(runs, tmp_path):
    """Of a report whose runs were not kept."""
    report.evidence_report(runs, tmp_path / "out")
    (tmp_path / "out" / "runs" / NAME).unlink()
    before = content(tmp_path / "out")
    write_scenario(tmp_path / "new", {"ce": entry_of(CE)}, kind="balanced", name="digits_balanced")
    with pytest.raises(ValueError, match=r"evidence\.json: has T1/digits_longtail50, of which there are neither"):
        report.evidence_report(tmp_path / "new", tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_damaged_file_keeps_the_archive(drawn, tmp_path):
    report.evidence_report(drawn, tmp_path / "out")
    before = (tmp_path / "out" / "runs" / MADE).read_bytes()
    path = drawn / "T2" / "cifar10_longtail100" / "features.csv"
    path.write_text(path.read_text() + "ce,0,silhouette,much\n")
    with pytest.raises(ValueError, match=rf"{path}: could not convert"):
        report.evidence_report(drawn, tmp_path / "out")
    assert (tmp_path / "out" / "runs" / MADE).read_bytes() == before
    path = drawn / "T2" / "cifar10_symmetric50" / "final" / "ce" / "seed=0" / "ce" / "metrics.jsonl"
    path.write_text("7\n" + path.read_text())
    with pytest.raises(ValueError, match=rf"{path}: damaged .*; remove the directory of that run"):
        archive.pack(evidence.read(drawn)[1], tmp_path / "out")
    assert not list((tmp_path / "out" / "runs").glob("*.part"))


def test_faults_are_named(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"runs: no \*\.tar\.xz in it; give the runs, too"):
        report.evidence_report(None, tmp_path / "nothing")
    with pytest.raises(SystemExit):
        door.main([])
    assert "give the directory of a finished run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        door.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert "no TIER/SCENARIO/scenario.json in it" in capsys.readouterr().err
    report.evidence_report(runs, tmp_path / "out")
    path = tmp_path / "out" / "runs" / NAME
    path.write_bytes(path.read_bytes()[:-200])
    for given in (None, runs):
        with pytest.raises(ValueError, match=rf"{NAME}: .*; restore it, or remove it and give its runs again"):
            report.evidence_report(given, tmp_path / "out")
    (tmp_path / "scenario.json").write_text("{}")
    with tarfile.open(path, "w:xz") as tar:
        tar.add(tmp_path / "scenario.json", "T1/digits_longtail50/scenario.json")
    with pytest.raises(ValueError, match=r"out/runs: T1/digits_longtail50/scenario\.json: .*; or restore it"):
        report.evidence_report(None, tmp_path / "out")


def test_two_directories_of_one_scenario_are_refused(runs, tmp_path):
    shutil.copytree(runs / "T1" / "digits_longtail50", runs / "T1" / "old")
    with pytest.raises(ValueError, match=r"is T1/digits_longtail50, as is .*; move one of them away"):
        report.evidence_report(runs, tmp_path / "out")


def test_git_keeps_the_archives():
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("no git repository")
    ignored = subprocess.run(["git", "check-ignore", f"results/runs/{NAME}"], cwd=root, check=False)
    assert ignored.returncode == 1
