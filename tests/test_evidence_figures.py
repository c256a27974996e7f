"""lpg_jax.report.figures: what is drawn is what was measured, nothing is drawn of nothing, no entry is left out."""

import doctest
import math
import textwrap

import numpy as np
import pytest
from evidence_runs import CLASSES, ENTRIES, SEEDS, make_run, make_scenario
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from lpg_jax.report import choice, evidence, figures, intervals, style
from lpg_jax.report.figures import (
    combinations,
    longtail,
    margins,
    marks,
    matrix,
    noise,
    overhead,
    overview,
    probe,
    sensitivity,
)

STUDIES = {
    "epsilon": ("lpg", "lpg.epsilon", [0.01, 0.1, 0.3, 1.0]),
    "direction": ("lpg-varied", "lpg.direction", ["a", "b"]),
    "steps": ("lpg-pgd", "lpg.pgd_steps", [1, 3]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    make_scenario(home, "cifar10_longtail100", "longtail", studies=STUDIES, with_features=("ce", "lpl", "lpg"))
    for name, base in (("symmetric20", 0.6), ("symmetric50", 0.5), ("symmetric80", 0.45), ("asymmetric40", 0.55),
                       ("human", 0.52)):  # fmt: skip
        make_scenario(home, f"cifar10_{name}", "noisy", base=base)
    return home


@pytest.fixture(scope="module")
def scenarios(runs):
    return evidence.read(runs)


@pytest.fixture(autouse=True)
def in_style():
    with style.context():
        yield


def named(scenarios, name):
    return next(scenario for scenario in scenarios if scenario.name.endswith(name))


def drawn(figure):
    """The figure, which must be there."""
    assert isinstance(figure, Figure)
    return figure


def dots(axes):
    """[(x, y, half-width)] of all dots with a horizontal interval, in the order of drawing."""
    found = []
    for container in axes.containers:
        line, _, bars = container.lines
        (x,), (y,) = line.get_xdata(), line.get_ydata()
        (segment,) = bars[0].get_segments()
        found.append((x, y, (segment[1, 0] - segment[0, 0]) / 2))
    return found


def caption(figure):
    return " ".join(figure._supxlabel.get_text().split())


def rows_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


# --- overview


def test_overview_shows_the_paired_differences_sorted_with_all_labels(scenarios):
    scenario = named(scenarios, "longtail100")
    figure = drawn(overview.draw(scenario))
    (axes,) = figure.axes
    gains = {label: intervals.difference(scenario.results[label], scenario.results["ce"], "balanced")
             for label in ENTRIES if label != "ce"}  # fmt: skip
    order = sorted(gains, key=lambda label: -gains[label].mean)
    knows = {"lpl": " (knows the noise rate)"}
    assert rows_of(axes) == [f"Method {label}{knows.get(label, '')}  [{label}]" for label in order]
    within = [label for label in order if label != "focal"]
    wanted = [(100 * gains[x].mean, order.index(x), 100 * gains[x].half) for x in within]
    np.testing.assert_allclose(dots(axes), wanted, rtol=1e-9)
    assert "3 seeds" in caption(figure)
    assert "MLP, 75 images" in caption(figure)
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [marks.signed(gains[label]) for label in order]


def test_overview_marks_a_far_loss_as_an_arrow_and_keeps_its_number(scenarios):
    (axes,) = drawn(overview.draw(named(scenarios, "longtail100"))).axes
    arrows = [line for line in axes.lines if line.get_marker() == "<"]
    assert len(arrows) == 1
    assert axes.get_xlim()[0] > -10  # focal loses 35
    loss = intervals.difference(*(named(scenarios, "longtail100").results[x] for x in ("focal", "ce")), "balanced")
    assert axes.texts[-1].get_text() == f"−{-100 * loss.mean:.1f} ± {100 * loss.half:.1f}"


def test_a_diverged_entry_is_named_below(scenarios):
    scenario = named(scenarios, "longtail100")
    broken = scenario.results["lpl"][1]._replace(scores=scenario.results["lpl"][1].scores | {"balanced": math.nan})
    results = scenario.results | {"lpl": scenario.results["lpl"] | {1: broken}}
    figure = drawn(overview.draw(scenario._replace(results=results)))
    assert caption(figure).endswith("diverged or shares no seed: lpl.")
    assert len(rows_of(figure.axes[0])) == len(ENTRIES) - 2


def test_overview_tells_roles_apart_by_marker(scenarios):
    figure = drawn(overview.draw(named(scenarios, "longtail100")))
    (legend,) = figure.legends
    texts = {text.get_text(): line.get_marker() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert texts == {"baseline": "o", "LPG": "s", "control": "^", "method + LPG": "D"}
    (axes,) = figure.axes
    markers = {round(c.lines[0].get_ydata()[0]): c.lines[0].get_marker() for c in axes.containers}
    for y, row in enumerate(rows_of(axes)):
        role = ENTRIES[row.partition("[")[2].rstrip("]")][0]
        assert markers.get(y, style.role_look(role)["marker"]) == style.role_look(role)["marker"]


def test_one_seed_is_drawn_without_an_interval(scenarios):
    scenario = named(scenarios, "longtail100")
    one = scenario._replace(results={label: {0: of[0]} for label, of in scenario.results.items()})
    figure = drawn(overview.draw(one))
    assert all(half == 0 for *_, half in dots(figure.axes[0]))
    assert "1 seed;" in caption(figure)
    assert "±" not in figure.axes[0].texts[0].get_text()


def test_the_table_of_a_tier_has_every_entry_in_every_scenario(scenarios):
    figure = drawn(matrix.draw(scenarios))
    (axes,) = figure.axes
    told = {label for scenario in scenarios for label, entry in scenario.entries.items() if entry.knows}
    assert told
    rows = [label for label in ENTRIES if label != "ce"]  # by role
    assert rows_of(axes) == [f"{label} *" if label in told else label for label in rows]
    columns = [label.get_text().replace("\n", "_", 1) for label in axes.get_xticklabels()]
    assert columns[0] == "cifar10_longtail100"
    assert set(columns) == {scenario.name for scenario in scenarios}
    cells = {text.get_position(): text for text in axes.texts}
    assert len(cells) == 6 * (len(ENTRIES) - 1)
    for (x, y), text in cells.items():
        scenario, label = named(scenarios, columns[x]), rows[y]
        metric = "balanced" if scenario.kind == "longtail" else "overall"
        value = intervals.difference(scenario.results[label], scenario.results["ce"], metric)
        assert text.get_text() == marks.signed(value._replace(half=math.nan))
        assert (text.get_weight() == "bold") == (value.low > 0 or value.high < 0)
    assert {text.get_weight() for text in axes.texts} == {"bold", "normal"}
    assert matrix.draw(scenarios[:1]) is None


# --- figure 2


def test_longtail_shows_head_tail_and_all_of_every_entry(scenarios):
    scenario = named(scenarios, "longtail100")
    figure = drawn(longtail.draw(scenario))
    assert len(figure.axes) == 3
    names = rows_of(figure.axes[0])
    assert len(names) == len(ENTRIES)
    for axes, metric in zip(figure.axes, ("head", "tail", "balanced"), strict=True):
        wanted = {}
        for label in ENTRIES:
            value = intervals.estimate(scenario.results[label], metric)
            wanted[next(y for y, name in enumerate(names) if name.split(" (")[0] == f"Method {label}")] = value
        for x, y, half in dots(axes):
            assert (x, half) == pytest.approx((100 * wanted[y].mean, 100 * wanted[y].half))
        assert len(dots(axes)) == len(ENTRIES) - 1  # focal is an arrow
        assert [line.get_marker() for line in axes.lines].count("<") == 1
    assert names[:2] == ["Method lpl (knows the noise rate)", "Method ce"]  # by role, then by accuracy
    assert longtail.save([named(scenarios, "human")], scenario.home) == []


def test_what_a_good_method_pays_with_frequent_classes_is_seen(scenarios):
    scenario = named(scenarios, "longtail100")
    paid = {seed: result._replace(scores=result.scores | {"head": 0.2, "tail": 0.9})
            for seed, result in scenario.results["lpl"].items()}  # fmt: skip
    figure = drawn(longtail.draw(scenario._replace(results=scenario.results | {"lpl": paid})))
    assert min(x for x, *_ in dots(figure.axes[0])) == pytest.approx(20)
    assert figure.axes[0].get_xlim()[0] < 20


# --- figure 3


def curves(figure):
    """{label: {x to the nearest place: y}} over all panels, and the labels with a line."""
    found, lines = {}, set()
    for axes in figure.axes:
        for container in axes.containers:
            line = container.lines[0]
            places = axes.get_xticks()
            near = [float(places[np.argmin(np.abs(places - x))]) for x in line.get_xdata()]
            found.setdefault(container.get_label(), {}).update(zip(near, line.get_ydata(), strict=True))
            if line.get_linestyle() != "None":
                lines.add((container.get_label(), tuple(near)))
    return found, lines


@pytest.mark.parametrize("base", [None, "ce"])
def test_noise_shows_methods_at_every_rate(scenarios, base):
    """Every gain; of accuracies, whose curves hide each other, those of what was chosen somewhere."""
    group = noise.groups(scenarios)["T2", "cifar10"]
    assert len(group) == 5
    figure = drawn(noise.draw(group, base))
    found, lines = curves(figure)
    chosen = {of(scenario) for scenario in group for of in (choice.best_baseline, choice.best_with_lpg)}
    assert set(found) == (set(ENTRIES) - {base} if base else {"ce", "lpg", *chosen} - {None})
    where = {scenario.name: place.x for scenario, place in zip(group, noise.places(group), strict=True)}
    for label, values in found.items():
        for scenario in group:
            results = scenario.results[label]
            of_scenario = (intervals.difference(results, scenario.results["ce"], "overall") if base
                           else intervals.estimate(results, "overall"))  # fmt: skip
            assert values[where[scenario.name]] == pytest.approx(100 * of_scenario.mean)
    assert {xs for _, xs in lines} == {(20.0, 50.0, 80.0)}  # other noise is not on the curve
    assert "3 seeds" in caption(figure)


def test_noise_needs_two_scenarios_of_the_same_data(scenarios):
    assert noise.groups([named(scenarios, "symmetric20"), named(scenarios, "longtail100")]) == {}


def test_a_curve_below_the_axis_says_so(scenarios):
    figure = drawn(noise.draw(noise.groups(scenarios)["T2", "cifar10"], "ce"))
    texts = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "focal (off the axis)" in texts
    assert sorted(text.split(" ")[0] for text in texts) == sorted(set(ENTRIES) - {"ce"})


# --- figure 4


def test_combinations_show_the_paired_gain_over_both_parts(scenarios):
    figure = drawn(combinations.draw(scenarios))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Long tails: X + LPG over X", "Long tails: X + LPG over LPG",
        "Wrong labels: X + LPG over X", "Wrong labels: X + LPG over LPG",
    ]  # fmt: skip
    group = sorted((s for s in scenarios if s.kind == "noisy"), key=lambda s: marks.natural(s.name))
    for axes, part in zip(figure.axes[2:], ("lpl", "lpg"), strict=True):
        wanted = [intervals.difference(s.results["lpl+lpg"], s.results[part], "overall") for s in group]
        np.testing.assert_allclose(
            dots(axes), [(100 * w.mean, y, 100 * w.half) for y, w in enumerate(wanted)], rtol=1e-9
        )
    assert rows_of(figure.axes[2]) == [scenario.title for scenario in group]


def test_no_combination_no_figure(scenarios):
    scenario = named(scenarios, "human")
    assert combinations.draw([scenario._replace(results={"ce": scenario.results["ce"]})]) is None


# --- figure 6


def test_sensitivity_shows_every_value_beside_cross_entropy(scenarios):
    scenario = named(scenarios, "longtail100")
    figure = drawn(sensitivity.draw(scenario))
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(titles) == {"Study epsilon", "Study direction", "Study steps"}
    axes, study = titles["Study epsilon"], scenario.studies["epsilon"]
    (container,) = axes.containers
    wanted = [intervals.estimate(study.results[value], "balanced") for value in study.values]
    np.testing.assert_allclose(container.lines[0].get_ydata(), [100 * value.mean for value in wanted])
    np.testing.assert_allclose(np.asarray(container.lines[0].get_xdata(), float), np.log10(study.values))
    halves = [np.ptp(segment[:, 1]) / 2 for segment in container.lines[2][0].get_segments()]
    np.testing.assert_allclose(halves, [100 * value.half for value in wanted])
    (line,) = [line for line in axes.lines if line.get_label() == "cross-entropy"]
    assert line.get_ydata()[0] == pytest.approx(100 * intervals.estimate(scenario.results["ce"], "balanced").mean)
    (chosen,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert chosen.get_xdata()[0] == pytest.approx(math.log10(0.3))
    assert [label.get_text() for label in titles["Study direction"].get_xticklabels()] == ["a", "b"]
    closed = {axes: [line for line in axes.lines if line.get_label() == sensitivity.CLOSED] for axes in figure.axes}
    (line,) = closed.pop(titles["Study steps"])
    assert line.get_ydata()[0] == pytest.approx(100 * intervals.estimate(scenario.results["lpg-mean"], "balanced").mean)
    assert not any(closed.values())  # the default moves each example along its own gradient, which is another problem
    assert "Dash-dotted" in caption(figure)
    alone = caption(drawn(sensitivity.draw(scenario._replace(studies={"epsilon": study}))))
    assert "Dash-dotted" not in alone
    assert sensitivity.draw(named(scenarios, "human")) is None


def test_margins_are_means_over_seeds(scenarios):
    scenario = named(scenarios, "longtail100")
    its = margins.course(scenario.results["lpg"], "lpg")
    assert its is not None
    draws = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        draws.append([(rng.normal(0, 1, CLASSES), rng.random(CLASSES)) for _ in range(3)])
    margin, epsilon = np.moveaxis(np.array(draws), 2, 0)
    np.testing.assert_allclose(its.margin, margin.mean(axis=0))
    np.testing.assert_allclose(its.epsilon, (np.sign(margin) * epsilon).mean(axis=0))
    figure = drawn(margins.draw(scenario))
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "2")
    np.testing.assert_allclose(curve.get_ydata(), margin.mean(axis=0)[:, 2])
    np.testing.assert_array_equal(curve.get_xdata(), [5, 20, 30])
    assert "3 seeds" in caption(figure)
    assert margins.draw(scenario._replace(results={"ce": scenario.results["ce"]})) is None


def test_margins_of_the_last_epochs_are_no_course_but_a_study_can_have_one(scenarios, tmp_path):
    scenario = named(scenarios, "longtail100")
    for seed in SEEDS:
        make_run(tmp_path / str(seed), "lpg", seed, 0.5, steps=(28, 29, 30))
    late = {seed: result._replace(home=tmp_path / str(seed)) for seed, result in scenario.results["lpg"].items()}
    assert margins.course(late, "lpg") is None
    whole = scenario.results["lpg"]
    study = evidence.Study("course", "lpg", margins.FIELD, "Every epoch", (1,), {1: whole})
    without = scenario._replace(results=scenario.results | {"lpg": late, "lpg-varied": {}}, studies={})
    assert margins.draw(without) is None
    found = margins.courses(without._replace(studies={"course": study}))
    np.testing.assert_array_equal(found["lpg"].steps, [5, 20, 30])
    assert sensitivity.draw(without._replace(studies={"course": study})) is None


# --- overhead and probe

COST = """\
part,case,what,value,unit,low,high,n
step,resnet8 B=128,lpg,100.0,ms,99.0,101.0,30
step,resnet8 B=128,lpg / plain,1.04,x,1.01,1.10,30
step,resnet32 B=128,lpg / plain,0.98,x,0.97,1.02,25
step,resnet8 B=128,sam / plain,1.9,x,1.8,2.0,30
head,C=10 B=128,lpg / plain,1.5,x,1.4,1.6,60
"""


def test_overhead_is_the_whole_step_in_percent_beside_the_paper(tmp_path):
    (tmp_path / "cost.csv").write_text(COST)
    figure = drawn(overhead.draw(overhead.read(tmp_path / "cost.csv")))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["LPG, closed form", "SAM"]
    np.testing.assert_allclose([dot[:2] for dot in dots(figure.axes[0])], [(4, 0), (-2, 1)], atol=1e-9)
    (segment,) = figure.axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [1, 10])
    for axes, paper in zip(figure.axes, (3, 15), strict=True):
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [paper]
    assert rows_of(figure.axes[0]) == ["resnet8 B=128", "resnet32 B=128"]


def test_a_damaged_cost_table_is_named(tmp_path):
    path = tmp_path / "cost.csv"
    path.write_text(COST.replace("1.04", "fast"))
    with pytest.raises(ValueError, match=r"cost\.csv: .*'fast'"):
        overhead.read(path)
    path.write_text("part,case\n")
    with pytest.raises(ValueError, match=r"no column '.*'; write it anew with `python -m benchmarks`"):
        overhead.read(path)


def write_probe(path):
    lines = ["method,level,measure,class,count,mean,std,batches"]
    for method, ratio in (("ce", 1.0), ("lpg", 0.5), ("MAE", 3.0)):
        for c, count in enumerate((5, 50, 20)):
            lines.append(f"{method},parameters,norm_ratio,{c},{count},{ratio + (ratio != 1) * c},0.25,{[4, 9, 0][c]}")
            lines.append(f"{method},parameters,cosine,{c},{count},{1 if ratio == 1 else 0.9},0.1,4")
        lines.append(f"{method},logits,norm_ratio,0,5,77,0,4")
        lines.append(f"{method},parameters,shared,all,75,0.5,0,4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_probe_shows_parameters_by_frequency_with_intervals_over_batches(tmp_path):
    write_probe(tmp_path / "probe.csv")
    found = probe.read(tmp_path / "probe.csv")
    half = found.effects["lpg"]["norm_ratio"].half
    assert half[0] == pytest.approx(stats.t.ppf(0.975, 3) * 0.25 / 2)
    assert half[1] == pytest.approx(stats.t.ppf(0.975, 8) * 0.25 / 3)
    assert math.isnan(half[2])
    figure = drawn(probe.draw(found, "Digits"))
    (container,) = figure.axes[0].containers  # of the methods there only "lpg" is in the paper's figure
    np.testing.assert_allclose(container.lines[0].get_ydata(), [1.5, 2.5, 0.5])  # 50, 20, 5 examples
    whole = drawn(probe.draw_all(found, "Digits"))
    assert rows_of(whole.axes[0]) == ["lpg", "MAE"]  # cross-entropy changes nothing
    assert [text.get_text() for text in whole.axes[0].texts] == ["1.5", "2.5", "0.5", "4", "5", "3"]


def test_a_damaged_probe_is_named(tmp_path):
    path = tmp_path / "probe.csv"
    write_probe(path)
    path.write_text(path.read_text().replace("0.25", "wide", 1))
    with pytest.raises(ValueError, match=r"probe\.csv, line 2: .*'wide'.*probe\.py"):
        probe.read(path)


# --- all


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert figures.save_all((), tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_scenarios_without_results_draw_nothing(scenarios, tmp_path):
    empty = [s._replace(results={label: {} for label in s.entries}, studies={}) for s in scenarios]
    assert figures.save_all(empty, tmp_path) == []


def test_everything_is_written_small_and_the_same_again(scenarios, tmp_path):
    few = [named(scenarios, "longtail100")]
    for name in ("symmetric20", "human"):
        scenario = named(scenarios, name)
        few.append(scenario._replace(results={label: scenario.results[label] for label in ("ce", "lpl")}))
    write_probe(few[0].home / "probe.csv")
    (tmp_path / "cost").mkdir()
    (tmp_path / "cost" / "cost.csv").write_text(COST)
    paths = figures.save_all(few, tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert sorted(names) == sorted(
        textwrap.dedent("""\
        figures/overview-T2.png figures/overhead.png
        figures/probe-T2-cifar10_longtail100.png figures/probe-all-T2-cifar10_longtail100.png
        figures/combinations-T2.png tables/features.csv
        figures/overview-T2-cifar10_longtail100.png figures/overview-T2-cifar10_symmetric20.png
        figures/overview-T2-cifar10_human.png figures/longtail-T2-cifar10_longtail100.png
        figures/noise-T2-cifar10.png figures/noise-gain-T2-cifar10.png figures/features-T2-cifar10_longtail100.png
        figures/sensitivity-T2-cifar10_longtail100.png figures/margins-T2-cifar10_longtail100.png""").split()
    )
    for path in paths:
        assert 500 < path.stat().st_size < 150_000
        if path.suffix == ".png":
            assert np.ptp(np.asarray(Image.open(path).convert("L"))) > 100
            assert "python -m lpg_jax.report runs/evidence --out results" in Image.open(path).text["Description"]
    before = (tmp_path / "figures" / "overview-T2-cifar10_human.png").read_bytes()
    overview.save(few[2:], tmp_path / "figures")
    assert (tmp_path / "figures" / "overview-T2-cifar10_human.png").read_bytes() == before


def test_examples_of_the_docstrings():
    assert doctest.testmod(marks).failed == 0
