"""lpg_jax.report: numbers reach the table, the picture and the reader unchanged; damaged files are named."""

import csv
import io
import json
import warnings

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from rich.console import Console

from lpg_jax import report
from lpg_jax.report import __main__ as command
from lpg_jax.report import classes, records, style, table

SCORES = ("overall", "balanced", "head", "tail", "many", "medium", "few", "nll", "ece")
NEW = ("many", "medium", "few", "ece")  # of which a summary of version 0.1 knows nothing
SELECTIONS = ("mean_last_five", "best_by_validation", "validation")
TRAINING = ("train_clean", "train_memorised", "train_recovered")


def make_run(workdir, num_classes=10, methods=("ce", "lpg"), seeds=(0, 1, 2), **extra):
    """A work directory as a run leaves it; returns summary and per LPG method margin, epsilon, ratio [T, seeds, C]."""
    rng = np.random.default_rng(num_classes)
    summary = {"methods": {}, "noise_rate": 0.0, "steps": 60, **extra}
    summary["class_counts"] = [round(500 * 50 ** (-c / max(num_classes - 1, 1))) for c in range(num_classes)]
    truth = {}
    for method in methods:
        many = len(seeds) > 1
        ci95 = {key: rng.uniform(0.001, 0.05) if many else None for key in SCORES}
        ci95["per_class"] = list(rng.uniform(0.001, 0.05, num_classes)) if many else None
        summary["methods"][method] = {
            **{key: rng.uniform(0.3, 1) for key in SCORES},
            "per_class": list(rng.uniform(0.3, 1, num_classes)),
            "ci95": ci95,
            "params_sha256": {str(seed): "0" * 64 for seed in seeds},
            "restored_steps": [],
        }
        shape = (3, len(seeds), num_classes)
        margin, epsilon, ratio = rng.normal(0, 0.3, shape), rng.uniform(0, 1, shape), rng.uniform(0, 3, shape)
        (workdir / method).mkdir(parents=True)
        with (workdir / method / "metrics.jsonl").open("w") as file:
            for t, step in enumerate((20, 40, 60)):
                for s, seed in enumerate(seeds):
                    record = {"step": step, "epoch": 0.5, "seed": seed, "loss": 1.0, "overall": 0.5}
                    if method != "ce":
                        record |= {"class_margin": list(margin[t, s]), "class_epsilon": list(epsilon[t, s])}
                        record |= {"gradient_ratio": list(ratio[t, s])}
                    file.write(json.dumps(record) + "\n")
        if method != "ce":
            truth[method] = margin, epsilon, ratio
    save(workdir, summary)
    return summary, truth


def complete(workdir, summary):
    """Adds what a run with a validation part and wrong labels has, too."""
    rng = np.random.default_rng(5)

    def figures(names):
        halves = {name: rng.uniform(0.001, 0.05) for name in names}
        return {name: rng.uniform(0.1, 0.9) for name in names} | {"ci95": halves}

    for entry in summary["methods"].values():
        training = figures(TRAINING)
        entry["ci95"] |= training.pop("ci95")
        entry |= training
        entry |= {name: figures(SCORES) for name in SELECTIONS}
        entry["best_by_validation"]["step"] = {"0": 20}
    save(workdir, summary)


def save(workdir, summary):
    (workdir / "summary.json").write_text(json.dumps(summary))


def printed(workdir, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    report.show(workdir, console)
    return console.export_text()


# --- table.csv


def test_csv_holds_every_number_of_the_summary(tmp_path):
    summary, _ = make_run(tmp_path, class_names=["a, b", *"cdefghijk"])
    report.write(tmp_path)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ce", "lpg"]
    for name, entry in summary["methods"].items():
        row = rows[name]
        assert row["seeds"] == "3"
        for key in SCORES:
            assert (float(row[key]), float(row[f"{key} ci95"])) == (entry[key], entry["ci95"][key])
        for index, count in enumerate(summary["class_counts"]):
            column = f"{summary['class_names'][index]} (n={count})"
            assert float(row[column]) == entry["per_class"][index]
            assert float(row[f"{column} ci95"]) == entry["ci95"]["per_class"][index]


def test_csv_holds_selections_and_training_accuracies_where_measured(tmp_path):
    summary, _ = make_run(tmp_path)
    header = report.write(tmp_path)[0].read_text().splitlines()[0]
    assert not any(name in header for name in (*SELECTIONS, *TRAINING))
    complete(tmp_path, summary)
    del summary["methods"]["ce"]["validation"], summary["methods"]["ce"]["train_clean"]
    save(tmp_path, summary)
    with report.write(tmp_path)[0].open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    for method, entry in summary["methods"].items():
        for prefix, part, names in [("", entry, TRAINING), *((f"{s} ", entry.get(s), SCORES) for s in SELECTIONS)]:
            for name in names:
                wanted = (part[name], part["ci95"][name]) if part and name in part else ("", "")
                found = (rows[method][prefix + name], rows[method][f"{prefix}{name} ci95"])
                assert tuple(cell and float(cell) for cell in found) == wanted


def test_one_seed_has_no_interval(tmp_path):
    make_run(tmp_path, seeds=(7,))
    report.write(tmp_path)
    header, row, _ = csv.reader((tmp_path / "table.csv").read_text().splitlines())
    assert {cell for name, cell in zip(header, row, strict=True) if name.endswith("ci95")} == {""}
    assert "±" not in printed(tmp_path).partition("\n")[2]


# --- terminal


def test_show_prints_percent_interval_and_counts_within_the_width(tmp_path):
    summary, _ = make_run(tmp_path, dataset="digits")
    text = printed(tmp_path, width=100)
    lpg = summary["methods"]["lpg"]
    for key in ("overall", "balanced", "head", "tail"):
        assert f"{100 * lpg[key]:.1f} ± {100 * lpg['ci95'][key]:.1f}" in text
    assert f"{lpg['nll']:.3f} ± {lpg['ci95']['nll']:.3f}" in text
    header = next(line for line in text.splitlines() if line.split()[1:2] == ["n"])
    assert [int(cell) for cell in header.replace("┃", " ").split()[1:]] == summary["class_counts"]
    for accuracy, half in zip(lpg["per_class"], lpg["ci95"]["per_class"], strict=True):
        assert f" {100 * accuracy:.1f} " in text
        assert f"±{100 * half:.1f}" in text
    assert "digits, 3 seeds, 60 steps" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("rate", "seen"), [(0.0, False), (None, False), (0.4, True)])
def test_noise_is_mentioned_only_where_there_is_some(tmp_path, rate, seen):
    make_run(tmp_path, noise_rate=rate)
    assert ("noise rate 40 %" in printed(tmp_path)) == seen


def test_many_classes_are_shown_by_their_extremes(tmp_path):
    summary, _ = make_run(tmp_path, num_classes=100, class_names=[f"c{i}" for i in range(100)])
    text = printed(tmp_path, width=100)
    accuracy = np.array(summary["methods"]["lpg"]["per_class"])
    for index in (int(accuracy.argmax()), int(accuracy.argmin())):
        assert f"c{index} (n {summary['class_counts'][index]})" in text
    assert f"c{int(np.argsort(accuracy)[50])} " not in text.split("│ lpg")[-1]
    assert max(map(len, text.splitlines())) <= 100


def headers(text):
    return text.split("┃ method")[1].split("\n")[0].replace("┃", " ").replace("ECE %", "ECE%").split()


def test_many_medium_and_few_take_the_place_of_head_and_tail(tmp_path):
    summary, _ = make_run(tmp_path / "ten")
    assert headers(printed(tmp_path / "ten")) == ["overall", "balanced", "head", "tail", "NLL", "ECE%"]
    summary, _ = make_run(tmp_path / "more", num_classes=21)
    text = printed(tmp_path / "more")
    assert headers(text) == ["overall", "balanced", "many", "medium", "few", "NLL", "ECE%"]
    for name in NEW:
        assert f" {100 * summary['methods']['lpg'][name]:.1f} " in text
    for entry in summary["methods"].values():
        entry["few"] = entry["ci95"]["few"] = None
    save(tmp_path / "more", summary)
    assert headers(printed(tmp_path / "more")) == ["overall", "balanced", "many", "medium", "NLL", "ECE%"]


@pytest.mark.parametrize("num_classes", [10, 100])
def test_a_summary_without_the_newer_figures_is_read(tmp_path, num_classes):
    summary, _ = make_run(tmp_path, num_classes)
    for entry in summary["methods"].values():
        for name in NEW:
            del entry[name], entry["ci95"][name]
    save(tmp_path, summary)
    assert headers(printed(tmp_path)) == ["overall", "balanced", "head", "tail", "NLL"]
    with report.write(tmp_path)[0].open(newline="") as file:
        assert {row[name] for row in csv.DictReader(file) for name in NEW} == {""}


def test_how_the_step_is_chosen_is_shown_where_there_is_a_validation_part(tmp_path):
    summary, _ = make_run(tmp_path)
    assert "best by validation" not in printed(tmp_path)
    complete(tmp_path, summary)
    block = printed(tmp_path).split("step is chosen")[1].split("Training examples")[0]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in block.splitlines() if line.startswith("│")]
    expected = []
    for name, entry in summary["methods"].items():
        chosen = (name, "last", entry), ("", "mean of last five", entry["mean_last_five"])
        for first, title, part in (*chosen, ("", "best by validation", entry["best_by_validation"])):
            cells = [f"{100 * part[k]:.1f} ± {100 * part['ci95'][k]:.1f}" for k in ("overall", "balanced")]
            expected.append([first, title, *cells])
    assert rows == expected


def test_what_was_learnt_of_wrong_labels_is_one_line_per_method(tmp_path):
    summary, _ = make_run(tmp_path)
    assert "memorised" not in printed(tmp_path)
    complete(tmp_path, summary)
    for name, entry in summary["methods"].items():
        (line,) = (line for line in printed(tmp_path).splitlines() if line.startswith(f"  {name}: "))
        cells = [f"{100 * entry[key]:.1f} ± {100 * entry['ci95'][key]:.1f}" for key in TRAINING]
        assert line == "  {}: right labels learnt {}, wrong memorised {}, true recovered {}".format(name, *cells)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_class_gets_one_column_at_any_width(tmp_path, width):
    names = [f"class_{c:02d}" for c in range(18)]
    make_run(tmp_path, num_classes=18, class_names=names)
    text = printed(tmp_path, width)
    assert [text.count(name) for name in names] == [1] * 18
    assert "…" not in text.partition("per class")[2]


def test_names_are_never_read_as_markup(tmp_path):
    make_run(tmp_path, num_classes=2, methods=("[red]lpg",), class_names=["[bold]a", "$b$"])
    text = printed(tmp_path)
    for name in ("[red]lpg", "[bold]a", "$b$"):
        assert name in text
    report.write(tmp_path)


# --- classes.png


@pytest.mark.parametrize(
    ("num_classes", "methods"),
    [(1, ("lpg",)), (2, ("ce", "lpg")), (10, ("ce",)), (15, ("ce", "a", "b", "c", "d")), (100, ("ce", "lpg"))],
)
def test_picture_is_written_and_leaves_no_trace(tmp_path, num_classes, methods):
    make_run(tmp_path, num_classes, methods)
    before = dict(matplotlib.rcParams)
    paths = report.write(tmp_path)
    assert paths == [tmp_path / "table.csv", tmp_path / "classes.png"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def drawn(workdir):
    run = records.read_run(workdir)
    read = {m.name: records.read_history(workdir, m.name, len(run.class_counts)) for m in run.methods}
    with style.context():
        return classes.draw(run, {name: history for name, history in read.items() if history is not None})


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def test_picture_shows_the_numbers(tmp_path):
    summary, truth = make_run(tmp_path)
    figure = drawn(tmp_path)
    margin, epsilon, ratio = truth["lpg"]

    bars = panel(figure, "lpg: signed").patches
    expected = [
        np.mean([np.sign(m) * e for m, e in zip(margin[-1, :, c], epsilon[-1, :, c], strict=True)]) for c in range(10)
    ]
    np.testing.assert_allclose([bar.get_height() for bar in bars], expected, rtol=1e-12)
    for bar, value in zip(bars, expected, strict=True):
        assert to_hex(bar.get_facecolor()).upper() == (style.AMPLIFIED if value > 0 else style.DAMPENED)

    curves = [line.get_ydata() for line in panel(figure, "lpg: margin").lines[1:]]
    np.testing.assert_allclose(np.array(curves).T, margin.mean(axis=1), rtol=1e-12)
    curves = [line.get_ydata() for line in panel(figure, "lpg: effective").lines[1:]]
    np.testing.assert_allclose(np.array(curves).T, ratio.mean(axis=1), rtol=1e-12)

    for name, points in zip(summary["methods"], panel(figure, "Test accuracy").containers, strict=True):
        np.testing.assert_allclose(points.lines[0].get_ydata(), 100 * np.array(summary["methods"][name]["per_class"]))
        low, high = np.array([bar[:, 1] for bar in points.lines[2][0].get_segments()]).T
        np.testing.assert_allclose((high - low) / 2, 100 * np.array(summary["methods"][name]["ci95"]["per_class"]))
    labels = [label.get_text() for label in panel(figure, "Test accuracy").get_xticklabels()]
    assert labels == [f"{c}\n{count}" for c, count in enumerate(summary["class_counts"])]


def test_only_recorded_gradient_ratios_are_drawn(tmp_path):
    make_run(tmp_path, methods=("ce", "lpg", "old"))
    path = tmp_path / "old" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({k: v for k, v in line.items() if k != "gradient_ratio"}) for line in lines))
    titles = [axes.get_title(loc="left") for axes in drawn(tmp_path).axes]
    assert [title for title in titles if "ratio" in title] == ["lpg: effective gradient ratio"]


def test_gradient_ratios_from_nothing_to_a_hundred_are_all_in_sight(tmp_path):
    _, truth = make_run(tmp_path, seeds=(0,))
    ratio = truth["lpg"][2][:, 0]
    ratio[:, 0], ratio[:, 1] = 0.0, 100.0
    lines = (
        {"step": t, "seed": 0, "class_margin": [0.1] * 10, "class_epsilon": [0.1] * 10, "gradient_ratio": list(row)}
        for t, row in enumerate(ratio)
    )
    edit_metrics(tmp_path, lambda text: "\n".join(map(json.dumps, lines)))
    figure = drawn(tmp_path)
    axes = panel(figure, "lpg: effective")
    low, high = axes.get_ylim()
    assert low <= 0
    assert high >= 100
    assert axes.get_yscale() == "symlog"
    names = {text.get_text(): text.xyann[1] for text in axes.texts}
    order = sorted(range(10), key=lambda c: ratio[-1, c])
    assert sorted(names, key=names.get) == [str(c) for c in order]


def test_a_method_without_lpg_gets_no_lpg_panel(tmp_path):
    make_run(tmp_path, methods=("ce",))
    assert len(drawn(tmp_path).axes) == 1


def test_rare_classes_stand_on_the_right():
    np.testing.assert_array_equal(classes.class_order(np.array([5, 50, 9])), [1, 2, 0])
    np.testing.assert_array_equal(classes.class_order(np.array([9, 10, 9])), [0, 1, 2])  # nearly balanced: by index


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0.01, 1))
def test_spread_labels(positions, gap):
    positions = np.array(positions)
    moved = classes.spread(positions, gap)
    order = np.argsort(positions, kind="stable")
    assert np.all(np.diff(moved[order]) >= gap - 1e-9)
    np.testing.assert_allclose(moved.mean(), positions.mean(), atol=1e-9)
    np.testing.assert_allclose(classes.spread(moved, gap), moved, atol=1e-9)  # spread labels stay


# --- histories


def edit_metrics(workdir, change):
    path = workdir / "lpg" / "metrics.jsonl"
    path.write_text(change(path.read_text()))
    return path


def test_history_after_a_resume(tmp_path):
    """Seed 2 stopped early, seed 0 logged step 20 twice: common steps only, the later record counts."""
    _, truth = make_run(tmp_path)
    again = json.dumps({"step": 20, "seed": 0, "class_margin": [1.0] * 10, "class_epsilon": [0.5] * 10})
    edit_metrics(tmp_path, lambda text: "\n".join([*text.splitlines()[:-1], again]) + "\n")
    history = records.read_history(tmp_path, "lpg", 10)
    assert history.steps.tolist() == [20, 40]
    margin = truth["lpg"][0][:2].copy()
    margin[0, 0] = 1.0
    np.testing.assert_allclose(history.margin, margin.mean(axis=1), rtol=1e-12)


def test_null_of_a_class_never_seen(tmp_path):
    make_run(tmp_path)
    line = json.dumps({"step": 60, "seed": 0, "class_margin": [None] + [0.5] * 9, "class_epsilon": [None] + [0.1] * 9})
    edit_metrics(tmp_path, lambda text: line + "\n")
    history = records.read_history(tmp_path, "lpg", 10)
    assert np.isnan(history.signed_epsilon[-1, 0])
    np.testing.assert_allclose(history.signed_epsilon[-1, 1:], 0.1)
    report.write(tmp_path)


@pytest.mark.parametrize("kept", [1, 30, -2])
def test_a_last_line_cut_off_by_a_kill_is_skipped(tmp_path, kept):
    make_run(tmp_path)
    whole = records.read_history(tmp_path, "lpg", 10)
    path = edit_metrics(tmp_path, lambda text: text + text.splitlines()[0][:kept])
    with pytest.warns(UserWarning, match=rf"{path}, line 10: cut off, skipped"):
        cut = records.read_history(tmp_path, "lpg", 10)
    np.testing.assert_array_equal(cut.margin, whole.margin)


# --- damaged files


def without(summary, *keys):
    *outer, last = keys
    for key in outer:
        summary = summary[key]
    del summary[last]


DAMAGE = {
    "no methods": (lambda s: without(s, "methods"), r"methods is missing; start launch\.py on this work directory"),
    "empty methods": (lambda s: s.update(methods={}), r"methods=\{\}: must be an object with at least one method"),
    "no counts": (lambda s: s.update(class_counts=[]), r"class_counts=\[\]: must be a list"),
    "negative count": (lambda s: s.update(class_counts=[-1] * 10), r"class_counts\[0\]=-1: must lie in \[0, inf\]"),
    "names": (lambda s: s.update(class_names=["a"]), "class_names has 1 entries: must have 10, as class_counts"),
    "percent": (
        lambda s: s["methods"]["lpg"].update(overall=93.1),
        r"methods\.lpg: overall=93\.1: must lie in \[0, 1\]",
    ),
    "text": (lambda s: s["methods"]["lpg"].update(tail="93 %"), r"methods\.lpg: tail='93 %': must be a number or null"),
    "length": (
        lambda s: s["methods"]["ce"].update(per_class=[0.5]),
        r"methods\.ce: per_class has 1 entries: must be a list of 10",
    ),
    "score gone": (lambda s: without(s, "methods", "ce", "nll"), r"methods\.ce: nll is missing"),
    "seeds gone": (lambda s: without(s, "methods", "ce", "params_sha256"), r"methods\.ce: params_sha256 is missing"),
    "interval": (lambda s: s["methods"]["ce"].update(ci95=0.1), r"methods\.ce: ci95=0\.1: must be an object or null"),
    "ece": (lambda s: s["methods"]["ce"].update(ece=5.1), r"methods\.ce: ece=5\.1: must lie in \[0, 1\]"),
    "selection": (
        lambda s: s["methods"]["ce"].update(mean_last_five=0.4),
        r"methods\.ce: mean_last_five=0\.4: must be an object or null",
    ),
    "score of a selection": (
        lambda s: s["methods"]["ce"].update(best_by_validation={"overall": 2.0}),
        r"methods\.ce: best_by_validation\.overall=2\.0: must lie in \[0, 1\]",
    ),
    "method": (lambda s: s["methods"].update(ce=3), r"methods\.ce=3: must be an object"),
    "steps": (lambda s: s.update(steps="many"), "steps='many': must be a whole number"),
    "noise": (lambda s: s.update(noise_rate=40), r"noise_rate=40: must lie in \[0, 1\]"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_summary(tmp_path, case):
    change, message = DAMAGE[case]
    summary, _ = make_run(tmp_path)
    change(summary)
    save(tmp_path, summary)
    with pytest.raises(ValueError, match=rf"summary\.json: {message}"):
        report.show(tmp_path, Console(quiet=True))


def test_summary_missing_or_no_json(tmp_path):
    with pytest.raises(ValueError, match=r"summary\.json: not found, so the run has not ended; start launch\.py"):
        report.show(tmp_path)
    (tmp_path / "summary.json").write_text('{"methods":\n{"ce": ')
    with pytest.raises(ValueError, match=r"summary\.json, line 2: not JSON \(Expecting value\)"):
        report.write(tmp_path)
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match=r"summary\.json: \[\]: must be a JSON object"):
        report.write(tmp_path)


def replace_line(number, line):
    return lambda text: "\n".join([*text.splitlines()[: number - 1], line, *text.splitlines()[number:]]) + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 20, "se', r"line 2: not JSON \(.*\); remove that line"),
        ("[1]", r"line 2: \[1\]: must be a JSON object"),
        ('{"seed": 1}', "line 2: step is missing"),
        ('{"step": 2.5, "seed": 1}', r"line 2: step=2\.5: must be a whole number"),
        ('{"step": 20, "seed": 1, "class_margin": [0.1]}', "line 2: class_margin has 1 entries: must be a list of 10"),
        (
            json.dumps({"step": 1, "seed": 1, **dict.fromkeys(("class_margin", "class_epsilon"), [0] * 10)})[:-1]
            + f', "gradient_ratio": {[-1] * 10}}}',
            r"line 2: gradient_ratio\[0\]=-1: must lie in \[0, inf\]",
        ),
        ('{"step": 20, "seed": 1, "class_margin": "x"}', "line 2: class_margin has 'x': must be a list of 10"),
    ],
)
def test_damaged_metrics(tmp_path, line, message):
    make_run(tmp_path)
    edit_metrics(tmp_path, replace_line(2, line))
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {message}"):
        report.write(tmp_path)


def test_metrics_missing_or_empty(tmp_path):
    make_run(tmp_path)
    record = {"class_margin": [0.0] * 10, "class_epsilon": [0.0] * 10}
    lines = [json.dumps({"step": step, "seed": step, **record}) for step in (1, 2)]
    edit_metrics(tmp_path, lambda text: "\n".join(lines))
    with pytest.raises(ValueError, match=r"lpg/metrics\.jsonl: seeds \[1, 2\] have no step in common"):
        report.write(tmp_path)
    path = edit_metrics(tmp_path, lambda text: "\n")
    with pytest.raises(ValueError, match=r"lpg/metrics\.jsonl: empty; start launch\.py"):
        report.write(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"lpg/metrics\.jsonl: not found; start launch\.py"):
        report.write(tmp_path)


# --- command line


def test_command_prints_and_writes(tmp_path, capsys):
    make_run(tmp_path)
    command.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "overall" in out
    assert out.splitlines()[-2:] == [str(tmp_path / "table.csv"), str(tmp_path / "classes.png")]


def test_command_ends_with_one_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "summary.json: not found" in error
    assert error.count("\n") == 1


def test_a_float_rounded_above_one_is_no_error(tmp_path):
    summary, _ = make_run(tmp_path, num_classes=2)
    summary["methods"]["lpg"]["per_class"] = [1.0000001, None]
    save(tmp_path, summary)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(tmp_path)
    assert "–" in printed(tmp_path)
    assert table.describe(records.read_run(tmp_path)) == "3 seeds, 60 steps"


def test_wide_scores_keep_their_digits(tmp_path):
    """At 80 columns intervals of two digits go to a second line instead of being cut."""
    summary, _ = make_run(tmp_path)
    for entry in summary["methods"].values():
        entry["ci95"] |= {"overall": 0.12, "balanced": 0.13, "head": 0.14, "tail": 0.15, "nll": 17.254}
        entry["nll"] = 12.793
    save(tmp_path, summary)
    scores = printed(tmp_path, width=80).split("per class")[0]
    assert "12.793" in scores
    assert "±17.254" in scores
    assert "…" not in scores
