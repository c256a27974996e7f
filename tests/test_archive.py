"""What a report keeps of its runs is enough to write it again, and is never lost to less."""

import lzma
import shutil
import tarfile

import numpy as np
import pytest
from test_evidence_report import CE, LA, LPG, entry_of, write_scenario

from lpg_jax import report
from lpg_jax.report import __main__ as door
from lpg_jax.report import archive, evidence

MARGIN = [-0.3, 0.0, 0.1, 0.3]
STUDIES = {"epsilon": ("lpg", "lpg.epsilon", {0.1: (0.7, 0.8), 0.3: (0.6, 0.7)})}
NAME = "T1-digits_longtail50.tar.xz"


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


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_what_is_unpacked_reads_like_the_runs(runs, tmp_path):
    (whole,) = evidence.read(runs)
    archive.pack(whole, tmp_path / "out")
    archive.unpack(tmp_path / "out", tmp_path / "again")
    (again,) = evidence.read(tmp_path / "again")
    for one, other in [(whole.results, again.results), *((s.results, again.studies[n].results)
                                                          for n, s in whole.studies.items())]:  # fmt: skip
        assert one.keys() == other.keys()
        for key, by_seed in one.items():
            assert by_seed.keys() == other[key].keys()
            for seed, result in by_seed.items():
                found = other[key][seed]
                np.testing.assert_equal(found._replace(home=None)._asdict(), result._replace(home=None)._asdict())
    for name in ("entries", "measures", "seeds", "base", "versions", "revision", "command"):
        np.testing.assert_equal(getattr(again, name), getattr(whole, name))
    assert again.results["lpg"][0].margin.tolist() == MARGIN
    assert again.results["ce"][0].revision == "abcdef"


def test_an_archive_holds_figures_and_nothing_else(runs, tmp_path):
    path = archive.pack(evidence.read(runs)[0], tmp_path)
    with tarfile.open(path) as tar:
        names = {name.rpartition("/")[2] for name in tar.getnames()}
    assert names == {"scenario.json", "measures.json", "summary.json", "run.json", "metrics.jsonl"}
    whole = lzma.decompress(path.read_bytes())
    assert b"parameters" not in whole
    assert b"a secret" not in whole


def test_a_report_is_written_again_without_the_runs(runs, tmp_path, capsys):
    report.evidence_report(runs, tmp_path / "out")
    before = content(tmp_path / "out")
    assert {"claims.md", "runs.csv", "tables/T1-digits_longtail50.csv", f"runs/{NAME}"} <= before.keys()
    for name in before.keys() - {f"runs/{NAME}"}:
        (tmp_path / "out" / name).unlink()
    shutil.rmtree(runs)
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
    shutil.rmtree(runs / "T1" / "digits_longtail50" / "final" / "la" / "seed=2")
    with pytest.raises(ValueError, match=rf"{NAME}: holds 2 files that .* lacks \(.*la/seed=2.*remove the archive"):
        report.evidence_report(runs, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_faults_are_named(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"runs: no \*\.tar\.xz in it; give the directory"):
        report.evidence_report(None, tmp_path / "nothing")
    with pytest.raises(SystemExit):
        door.main([])
    assert "give the directory of a finished run" in capsys.readouterr().err
    report.evidence_report(runs, tmp_path / "out")
    path = tmp_path / "out" / "runs" / NAME
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{NAME}: .*; restore it, or remove it and give its runs again"):
        report.evidence_report(None, tmp_path / "out")
    with pytest.raises(ValueError, match=rf"{NAME}: .*; restore it, or remove it and give its runs again"):
        report.evidence_report(runs, tmp_path / "out")
