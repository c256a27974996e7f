"""Figure 5: numbers on features by plain loops, maps that are those of the features, and damaged files."""

import csv
import doctest
import itertools
import math

import numpy as np
import pytest
from evidence_runs import CLASSES, COUNTS, SEEDS, clusters, make_scenario

from evidence import feature_maps
from lpg_jax.report import evidence, intervals, style
from lpg_jax.report.figures import features


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    make_scenario(home, "cifar10_longtail100", "longtail", with_features=("ce", "lpl", "lpg"))
    return evidence.read(home)[0]


def reference(values, labels, tail):
    """Silhouette and distances in plain loops."""
    values = values / np.mean([math.sqrt(v @ v) for v in values])
    distance = lambda a, b: math.sqrt(((a - b) ** 2).sum())  # noqa: E731
    means = {c: values[labels == c].mean(axis=0) for c in set(labels)}
    silhouettes = []
    for i, label in enumerate(labels):
        to = {c: [distance(values[i], values[j]) for j in np.flatnonzero(labels == c) if j != i] for c in means}
        a, b = np.mean(to[label]), min(np.mean(to[c]) for c in means if c != label)
        silhouettes.append((b - a) / max(a, b))
    found = {}
    for part, classes in (("", sorted(means)), ("_tail", sorted(tail))):
        intra = np.mean([np.mean([distance(v, means[c]) for v in values[labels == c]]) for c in classes])
        inter = np.mean([np.mean([distance(means[c], means[d]) for d in means if d != c]) for c in classes])
        inside = np.isin(labels, classes)
        found[f"silhouette{part}"] = np.mean(np.array(silhouettes)[inside])
        found |= {f"intra{part}": intra, f"inter{part}": inter, f"ratio{part}": inter / intra}
    return found


def test_feature_numbers_are_those_of_plain_loops():
    values, labels = clusters(1.5)
    found = feature_maps.measure(feature_maps.features_of(values, labels), np.array(COUNTS))
    assert set(found) == set(features.NAMES)
    assert found == pytest.approx(reference(values, labels, tail={2, 3}))
    scaled = feature_maps.measure(feature_maps.features_of(70 * values, labels), np.array(COUNTS))
    assert scaled == pytest.approx(found)


def test_numbers_above_four_maps_leave_each_other_room(tmp_path):
    make_scenario(tmp_path, "cifar10_longtail100", "longtail", with_features=("ce", "lpl", "lpg", "lpg-varied"))
    (four,) = evidence.read(tmp_path)
    with style.context():
        figure = features.draw(four, features.feature_figures(four))
        figure.draw_without_rendering()
        words = [text.get_window_extent() for axes in figure.axes[:4] for text in axes.texts]
        maps = [axes.get_window_extent() for axes in figure.axes[:4]]
    assert len(words) == 4
    assert all(word.x1 < after.x0 for word, after in itertools.pairwise(words))
    assert min(each.width for each in maps) > 0.15 * figure.bbox.width


def test_features_that_are_not_finite_are_not_measured():
    with pytest.raises(ValueError, match="not finite: the run diverged"):
        feature_maps.features_of(np.full((2, 2), np.nan), np.zeros(2, int))


def test_feature_figures_are_intervals_over_seeds_of_the_labels_with_features(scenario, tmp_path):
    found = features.feature_figures(scenario)
    assert set(found) == {"ce", "lpl", "lpg"}
    singles = [reference(*clusters(1.09, seed), tail={2, 3})["intra_tail"] for seed in SEEDS]
    assert found["lpg"]["intra_tail"] == pytest.approx(intervals.interval(singles))
    make_scenario(tmp_path, "cifar10_human", "noisy")
    assert features.feature_figures(evidence.read(tmp_path)[0]) == {}


def test_feature_maps_carry_the_numbers_and_the_same_points_twice(scenario, tmp_path):
    found = features.feature_figures(scenario)
    with style.context():
        figure = features.draw(scenario, {label: found[label] for label in ("ce", "lpg")})
    assert figure is not None
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert {line.get_label(): len(line.get_xdata()) for line in axes.lines} == {str(c): 12 for c in range(CLASSES)}
    maps = features.feature_maps(scenario)["ce"]
    for axes, name in ((figure.axes[0], "t-SNE"), (figure.axes[2], "PCA")):
        shown = np.concatenate([line.get_xydata() for line in axes.lines])
        assert {tuple(place) for place in shown} == {tuple(place) for place in maps[name].places}
    text = figure.axes[0].texts[0].get_text()
    value = found["ce"]["silhouette"]
    assert f"silhouette: {value.mean:.3f} ± {value.half:.3f}" in text
    points = clusters(1.0)[0]
    np.testing.assert_array_equal(feature_maps.tsne(points), feature_maps.tsne(points))
    path = features.write_csv({("T2", "x"): found}, tmp_path / "features.csv")
    with path.open() as file:
        table = {(row["label"], row["name"]): row for row in csv.DictReader(file)}
    assert len(table) == 3 * len(features.NAMES)
    assert float(table["lpl", "inter"]["mean"]) == pytest.approx(found["lpl"]["inter"].mean, rel=1e-5)
    assert table["lpl", "inter"]["n"] == "3"


def test_a_map_is_that_of_the_features(scenario):
    """PCA of the first seed: distances in the plane are no longer than those of the features, and go with them."""
    found = features.feature_maps(scenario)["lpg"]["PCA"]
    whole = feature_maps.features_of(*clusters(1.09, SEEDS[0]))
    assert found.seed == SEEDS[0]
    np.testing.assert_array_equal(found.labels, whole.labels)
    inside, outside = (
        np.linalg.norm(points[:, None] - points[None], axis=-1) for points in (found.places, whole.values)
    )
    assert (inside <= outside + 1e-4).all()
    assert np.corrcoef(inside.ravel(), outside.ravel())[0, 1] > 0.7
    flat = features.feature_maps(scenario)["lpg"]["t-SNE"]
    nearest = [np.argsort(np.linalg.norm(p - p[:, None], axis=-1), axis=1)[:, 1] for p in (flat.places, whole.values)]
    assert np.mean(nearest[0] == nearest[1]) > np.mean(np.argsort(inside, axis=1)[:, 1] == nearest[1])  # its purpose


@pytest.mark.parametrize(
    ("name", "line", "text"),
    [
        ("features.csv", "ce,0,silhouette", "must have columns label, seed, name, value"),
        ("features.csv", "ce,0,silhouette,much", "could not convert string to float: 'much'"),
        ("features.csv", "ce,0,silhouette,nan", "no silhouette of ce, seed 0"),
        ("features.csv", "new,0,intra,1", "no silhouette of new, seed 0"),
        ("maps.csv", "ce,first,PCA,0,1,1", "invalid literal for int"),
        ("maps.csv", "ce,0,PCA,0,1,here", "could not convert string to float: 'here'"),
    ],
)
def test_damaged_features_are_named(tmp_path, name, line, text):
    make_scenario(tmp_path, "cifar10_longtail100", "longtail", with_features=("ce",))
    (scenario,) = evidence.read(tmp_path)
    path = scenario.home / name
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, line, *rest[1:]]))
    with pytest.raises(ValueError, match=rf"{name}: .*{text}.*evidence measure"):
        features.feature_values(scenario), features.feature_maps(scenario)


def test_examples_of_the_docstrings():
    assert doctest.testmod(feature_maps).failed == 0
