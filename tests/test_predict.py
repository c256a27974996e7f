"""A finished run as a function, and the CSV of suspect labels: laws, an independent reference, errors."""

import csv
import math

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_config import tiny

from lpg_jax import data, training
from lpg_jax.training import predict as under_test
from lpg_jax.training.predict import first_rows, read_examples, suspects, write_csv


def distributions(size, classes, seed=0):
    values = np.random.default_rng(seed).exponential(size=(size, classes))
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- suspects


@pytest.mark.parametrize("classes", [2, 5])
def test_suspects_are_those_of_plain_loops(classes):
    p, labels = distributions(40, classes), np.random.default_rng(1).integers(classes, size=40)
    found = suspects(p, labels)
    for i, label in enumerate(labels.tolist()):
        assert found.loss[i] == pytest.approx(-math.log(p[i, label]))
        squares = [(float(p[i, c]) - (c == label)) ** 2 for c in range(classes)]
        assert found.gradient_norm[i] == pytest.approx(math.sqrt(sum(squares)))
        assert found.label_probability[i] == p[i, label]
    assert found.order.tolist() == sorted(range(40), key=lambda i: (-found.loss[i], i))


def test_gradient_norm_is_that_of_the_logit_gradient_of_the_loss():
    logits, labels = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1])
    gradient = jax.grad(lambda z: -jax.nn.log_softmax(z)[np.arange(6), labels].sum())(logits)
    found = suspects(np.asarray(jax.nn.softmax(logits)), labels)
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(gradient, axis=1), rtol=1e-5)


def test_ties_stand_by_position_and_the_impossible_comes_first():
    p = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    found = suspects(p, np.array([0, 1, 1, 0, 0]))
    assert found.order.tolist() == [2, 0, 1, 3, 4]
    assert found.loss[2] == math.inf
    assert found.gradient_norm[2] == pytest.approx(math.sqrt(2))
    assert math.copysign(1, found.loss[4]) == 1


def test_no_example_is_no_error():
    assert [len(field) for field in suspects(np.zeros((0, 3)), np.zeros(0, int))] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("p", "labels", "message"),
    [
        ([0.5, 0.5], [0], r"probabilities\.shape=\(2,\): must be \(N, C\)"),
        ([[0.5, 0.5]], [2], r"labels: value 2 at index 0: must be in \[0, 2\)"),
        ([[0.5, 0.5]], [0, 1], r"labels: 2 of them for 1 rows"),
        ([[0.5, 0.5], [0.5, np.nan]], [0, 0], r"probabilities\[1\]: sum nan: must be >= 0 and sum to 1"),
        ([[0.5, 0.5], [1.5, -0.5]], [0, 0], r"probabilities\[1\]: sum 1\.0: must be >= 0"),
        ([[3.0, 4.0]], [0], r"probabilities\[0\]: sum 7\.0"),
    ],
)
def test_suspects_refuse(p, labels, message):
    with pytest.raises(ValueError, match=message):
        suspects(np.array(p), np.array(labels))


# --- the CSV


def test_csv_holds_every_row_most_suspect_first(tmp_path):
    p, labels, names = distributions(30, 3), np.random.default_rng(2).integers(3, size=30), ["a,b", "c", "d"]
    write_csv(tmp_path / "out.csv", p, names, labels)
    rows = rows_of(tmp_path / "out.csv")
    header = ["index", "label", "predicted", "label_probability", "loss", "gradient_norm"]
    assert list(rows[0]) == [*header, "probability_a,b", "probability_c", "probability_d"]
    assert sorted(int(row["index"]) for row in rows) == list(range(30))
    assert [float(row["loss"]) for row in rows] == sorted((float(row["loss"]) for row in rows), reverse=True)
    for row in rows:
        i, label = int(row["index"]), int(row["label"])
        written = np.array([np.float32(row[f"probability_{name}"]) for name in names])
        np.testing.assert_array_equal(written, p[i])  # no bit is lost
        assert np.float32(row["label_probability"]) == written[label]
        assert label == labels[i]
        assert int(row["predicted"]) == np.argmax(p[i])
        assert float(row["loss"]) == pytest.approx(-math.log(written[label]))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_csv_without_labels_stays_in_order(tmp_path):
    p = distributions(5, 2)
    write_csv(tmp_path / "out.csv", p, ["a", "b"])
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == ["index", "predicted", "probability_a", "probability_b"]
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(ValueError, match="must be in"):
        write_csv(tmp_path / "out.csv", distributions(2, 2), ["a", "b"], np.array([0, 5]))
    assert (tmp_path / "out.csv").read_text() == "old"


def test_first_rows_show_names_not_markup(tmp_path):
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    console.print(first_rows(p, ["[bold]", "dog"], np.array([1, 1])))
    text = console.export_text()
    console.file.close()
    for part in ("Most suspect of 2 labels", "[bold]", "2.303", "1.273"):
        assert part in text


# --- the file that is read


@pytest.mark.parametrize(
    ("keys", "part", "names"),
    [
        (("x_train", "y_train", "x_test", "y_test", "x", "y"), "", ("x_test", "y_test")),
        (("x_train", "y_train", "x", "y"), "", ("x", "y")),
        (("x_train", "y_train", "more"), "", ("x_train", "y_train")),
        (("x_train", "y_train", "x_test", "y_test"), "train", ("x_train", "y_train")),
        (("x_val", "y_val", "x", "y"), "val", ("x_val", "y_val")),
        (("x", "y_test"), "", ("x",)),
        (("labels", "images"), "", ("images", "labels")),
        (("arr_0",), "", ("arr_0",)),
    ],
)
def test_which_arrays_are_read(tmp_path, keys, part, names):
    shapes = {key: (4,) if key[0] in "yl" else (4, 3) for key in keys}
    np.savez(tmp_path / "f.npz", **{key: np.zeros(shape) for key, shape in shapes.items()})
    found = read_examples(tmp_path / "f.npz", 2, part)
    assert found.names == names
    assert (found.labels is None) == (len(names) == 1)
    assert found.inputs.shape == (4, 3)


@pytest.mark.parametrize(
    ("arrays", "part", "message"),
    [
        ({"a": [[1.0]], "b": [[1.0]]}, "", r"f\.npz: no array x_test, x or x_train; .* \(it holds a, b\)"),
        ({"x": [[1.0]]}, "val", r"f\.npz: no array x_val; .* \(it holds x\)"),
        ({"x": [[1.0], [2.0]], "y": [0, 7]}, "", r"f\.npz: y: value 7 at index 1: must be in \[0, 3\)"),
        ({"x": [[1.0], [2.0]], "y": [0.0, 0.5]}, "", r"f\.npz: y: value 0\.5 at index 1: must be an integer"),
        ({"x": [[1.0], [2.0]], "y": [0]}, "", r"f\.npz: x has 2 rows, y has 1"),
        ({"x": [[1.0], [np.inf]]}, "", r"f\.npz: x: value inf at index \(1, 0\): must be finite"),
        ({"x": [[1], [2]]}, "", r"f\.npz: x: dtype int64: must be uint8"),
        ({}, "", r"f\.npz: no array .* \(it holds nothing\)"),
    ],
)
def test_errors_name_file_array_index_and_value(tmp_path, arrays, part, message):
    np.savez(tmp_path / "f.npz", **{name: np.array(value) for name, value in arrays.items()})
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / "f.npz", 3, part)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"f\.npz: no such file"):
        read_examples(tmp_path / "f.npz", 3)


# --- a real run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_label_is_found_by_a_trained_model(tmp_path, dtype):
    config = tiny(train__epochs=15, train__dtype=dtype, method="ce", data__imbalance=1.0)
    training.run(config, tmp_path / "run")
    predict, _, _ = training.load(tmp_path / "run", "ce")
    train = data.load(config.data, config.seed).train
    labels = train.labels[:200].copy()
    wrong = [3, 50, 120]
    labels[wrong] = (labels[wrong] + 5) % 10
    p = predict(train.inputs[:200])
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert set(wrong) <= set(suspects(p, labels).order[:8].tolist())


def test_config_of_no_run(tmp_path):
    with pytest.raises(training.ConfigError, match=r"config\.json: not found"):
        under_test.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"method": "ce"}')
    with pytest.raises(training.ConfigError, match="train"):
        under_test.read_config(tmp_path)
