"""Where data come from: the user's npz files, TFDS sets built on the spot, and label files."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from lpg_jax import data


def load(seed=0, **fields):
    return data.load(ConfigDict(fields), seed)


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    return {"x_train": rng.normal(size=(60, 5)), "y_train": np.arange(60) % 3}


# -------------------------------------------------------------------------------------------------- npz


def test_feature_vectors_without_a_test_part(tmp_path, vectors):
    dataset = load(name="npz", path=write(tmp_path / "v.npz", **vectors), test_fraction=0.25)
    assert dataset.train.inputs.shape == (45, 5)
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.test.labels.tolist().count(0) == 5
    assert dataset.mean.shape == dataset.std.shape == (5,)
    np.testing.assert_allclose(dataset.std, dataset.train.inputs.std(0), rtol=1e-5)
    np.testing.assert_array_equal(dataset.train.inputs, vectors["x_train"][dataset.train.index].astype(np.float32))


def test_images_with_a_test_part(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (30, 4, 6), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (9, 4, 6), dtype=np.uint8),
        "y_test": (np.arange(9) % 3).astype(float),  # floats are fine if their values are integers
    }
    dataset = load(name="npz", path=write(tmp_path / "i.npz", **arrays))
    assert dataset.train.inputs.shape == (30, 4, 6, 1)
    assert dataset.train.inputs.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.inputs[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(dataset.test.inputs[..., 0], arrays["x_test"])
    np.testing.assert_array_equal(dataset.test.labels, arrays["y_test"])
    np.testing.assert_allclose(dataset.mean, [(arrays["x_train"] / 255).mean()], rtol=1e-6)


def test_row_order_does_not_change_the_counts(tmp_path, vectors):
    order = np.random.default_rng(1).permutation(60)
    shuffled = {key: value[order] for key, value in vectors.items()}
    fields = {"name": "npz", "imbalance": 4.0, "validation": 0.2}
    first = load(path=write(tmp_path / "a.npz", **vectors), **fields)
    second = load(path=write(tmp_path / "b.npz", **shuffled), **fields)
    assert np.array_equal(first.class_counts, second.class_counts)
    assert np.array_equal(np.bincount(first.test.labels), np.bincount(second.test.labels))


def test_every_decision_follows_the_seed_where_the_test_part_is_given(tmp_path, vectors):
    path = write(tmp_path / "v.npz", **vectors, x_test=vectors["x_train"], y_test=vectors["y_train"])
    fields = {"name": "npz", "path": path, "noise": {"kind": "symmetric", "rate": 0.5}}
    for change in ({"imbalance": 4.0}, {"validation": 0.5}):
        indices = {tuple(load(seed=seed, **change, **fields).train.index) for seed in range(3)}
        assert len(indices) == 3
    labels = {tuple(load(seed=seed, **fields).train.labels) for seed in range(3)}
    assert len(labels) == 3


def test_a_rewritten_file_is_read_again(tmp_path, vectors):
    path = write(tmp_path / "v.npz", **vectors)
    assert load(name="npz", path=path).num_classes == 3
    write(path, x_train=np.ones((40, 2)), y_train=np.arange(40) % 4)
    assert load(name="npz", path=path).num_classes == 4


def test_what_a_caller_writes_cannot_reach_the_next_load(tmp_path, vectors):
    vectors |= {"x_test": vectors["x_train"], "y_test": vectors["y_train"]}
    dataset = load(name="npz", path=write(tmp_path / "v.npz", **vectors))
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.inputs[0] = 0


def replaced(array, index, value):
    array = array.astype(np.result_type(array, type(value)))
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {"y_train": replaced(v["y_train"], 7, -2)}, r"y_train: value -2 at index 7: must be >= 0"),
        (lambda v: {"y_train": replaced(v["y_train"], 7, 1.5)}, r"y_train: value 1\.5 at index 7: must be an integer"),
        (
            lambda v: {"y_train": replaced(v["y_train"], 7, np.nan)},
            r"y_train: value nan at index 7: must be an integer",
        ),
        (
            lambda v: {"y_train": replaced(v["y_train"], 7, 10**9)},
            r"y_train: class 3 has no example, .* 0 to 1000000000",
        ),
        (lambda v: {"y_train": v["y_train"] * 2}, r"y_train: class 1 has no example, but classes run from 0 to 4"),
        (lambda v: {"y_train": v["y_train"] + 1}, r"y_train: class 0 has no example, but classes run from 0 to 3"),
        (lambda v: {"y_train": v["y_train"][:, None]}, r"y_train: shape \(60, 1\): labels must be one integer"),
        (lambda v: {"y_train": v["y_train"].astype(str)}, r"y_train: dtype <U\d+: labels must be integers"),
        (lambda v: {"y_train": v["y_train"][:59]}, r"x_train has 60 rows, y_train has 59"),
        (lambda v: {"x_train": replaced(v["x_train"], (4, 2), np.nan)}, r"x_train: value nan at index \(4, 2\)"),
        (lambda v: {"x_train": replaced(v["x_train"], (4, 2), 1e300)}, r"x_train: value inf at index \(4, 2\)"),
        (lambda v: {"x_train": v["y_train"]}, r"x_train: shape \(60,\): must be images"),
        (lambda v: {"x_train": v["x_train"][:, :0]}, r"x_train: shape \(60, 0\)"),
        (
            lambda v: {"x_train": v["x_train"].astype(int)},
            r"x_train: dtype int64: must be uint8 \(0 to 255\) or a float",
        ),
        (lambda v: {"x_test": v["x_train"]}, r"no array y_test; it must hold x_train, y_train"),
        (lambda v: {"x_tset": v["x_train"]}, r"unknown array x_tset; it must hold"),
        (
            lambda v: {"x_test": v["x_train"][:, :4], "y_test": v["y_train"]},
            r"x_test holds float32 \(4,\), x_train float32 \(5,\): must be the same",
        ),
        (
            lambda v: {"x_test": v["x_train"], "y_test": v["y_train"] + 1},
            r"y_train: class 3 has no example",
        ),
    ],
)
def test_bad_content_is_named_by_file_index_and_value(tmp_path, vectors, change, message):
    path = write(tmp_path / "bad.npz", **(vectors | change(vectors)))
    with pytest.raises(ValueError, match=rf"bad\.npz.*{message}"):
        load(name="npz", path=path)


def test_missing_foreign_and_damaged_files(tmp_path, vectors):
    with pytest.raises(FileNotFoundError, match=r"data\.path='.*none\.npz': no such file"):
        load(name="npz", path=str(tmp_path / "none.npz"))
    path = tmp_path / "v.npz"
    whole = write(path, **vectors)
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = [b"", b"not a zip", content[:middle], content[:400] + b"\x00\xff" * 8 + content[416:]]
    for junk in damaged:
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"data\.path='.*v\.npz': not a readable \.npz file"):
            load(name="npz", path=whole)
    np.save(tmp_path / "lone.npy", vectors["x_train"])
    with pytest.raises(ValueError, match=r"lone\.npy': not a readable \.npz file"):
        load(name="npz", path=str(tmp_path / "lone.npy"))
    pickled = write(tmp_path / "pickled.npz", x_train=np.array([{}, 1], dtype=object), y_train=np.arange(2))
    with pytest.raises(ValueError, match=r"not a readable \.npz file \(x_train: Object arrays cannot be loaded"):
        load(name="npz", path=pickled)


# ------------------------------------------------------------------------------------------- label files


def test_labels_round_trip(tmp_path):
    labels = np.array([3, 0, 2], np.int64)
    data.save_labels(tmp_path / "l.npz", labels)
    read = data.load_labels(tmp_path / "l.npz")
    assert read.tolist() == [3, 0, 2]
    assert read.dtype == np.int32
    data.save_labels(tmp_path / "i.npz", labels, index=np.array([4, 0, 1]), clean_labels=np.array([3, 1, 1]))
    aligned = data.load_labels(tmp_path / "i.npz", clean_labels=np.array([1, 1, 9, 9, 3]))
    assert aligned.tolist() == [0, 2, -1, -1, 3]


def test_exported_noise_is_reproduced_from_the_file(tmp_path):
    fields = {"name": "digits", "imbalance": 10.0, "validation": 0.2}
    made = load(seed=3, noise={"kind": "symmetric", "rate": 0.4}, **fields)
    columns = {
        name: np.concatenate([getattr(part, name) for part in (made.train, made.validation)])
        for name in ("labels", "index", "clean_labels")
    }
    data.save_labels(tmp_path / "l.npz", **columns)
    noise = {"kind": "file", "path": str(tmp_path / "l.npz")}
    read = load(seed=3, noise=noise, **fields)
    assert np.array_equal(read.train.labels, made.train.labels)
    assert np.array_equal(read.validation.labels, made.validation.labels)
    assert np.array_equal(read.train.clean_labels, made.train.clean_labels)
    assert read.noise_rate == made.noise_rate > 0.3
    with pytest.raises(ValueError, match=r"holds no label for example \d+ of the source \(\d+ of \d+ are missing\)"):
        load(seed=4, noise=noise, **fields)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": [0, 1]}, r"no array 'labels' among \['label'\]"),
        ({"labels": [0, 1]}, r"2 labels without an index for a source of 60 examples"),
        ({"labels": [0, 1], "index": [0, 0]}, r"index must hold one distinct position for each of the 2 labels"),
        ({"labels": [0, 1], "index": [0, 60]}, r"index: value 60 at index 1: must be in \[0, 60\)"),
        ({"labels": [0] * 59 + [3]}, r"value 3 at index 59: must be in \[0, 3\)"),
        ({"labels": [0] * 59 + [-1]}, r"labels: value -1 at index 59"),
        (
            {"labels": [0, 1], "index": [5, 6], "clean_labels": [2, 2]},
            r"clean_labels: value 2 at index 1, but the source says 0: the file was made from other examples",
        ),
    ],
)
def test_label_file_errors(tmp_path, vectors, arrays, message):
    path = write(tmp_path / "v.npz", **vectors)
    noise = {"kind": "file", "path": write(tmp_path / "l.npz", **arrays)}
    with pytest.raises(ValueError, match=rf"l\.npz'.*{message}"):
        load(name="npz", path=path, noise=noise)


def test_save_labels_refuses_what_it_could_not_read_back(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        data.save_labels(tmp_path / "labels.txt", np.zeros(3, int))
    with pytest.raises(ValueError, match=r"index: 2 entries for 3 labels"):
        data.save_labels(tmp_path / "l.npz", np.zeros(3, int), index=np.arange(2))
    with pytest.raises(ValueError, match=r"labels: value -1 at index 1"):
        data.save_labels(tmp_path / "l.npz", np.array([0, -1]))


def test_human_labels(tmp_path, vectors):
    path = write(tmp_path / "v.npz", **vectors)
    clean = vectors["y_train"]
    human = replaced(clean, slice(0, 10), 2)
    labels = write(tmp_path / "h.npz", c3_worse_label=human, c3_clean_label=clean, short_label=clean[:5])
    for key in ("c3_worse", "c3_worse_label"):
        dataset = load(name="npz", path=path, noise={"kind": "human", "path": labels, "key": key})
        assert np.array_equal(dataset.train.labels, human[dataset.train.index])
        assert np.array_equal(dataset.train.clean_labels, clean[dataset.train.index])
    with pytest.raises(ValueError, match=r"data\.noise\.key='wrose': no such array .*c3_clean_label, c3_worse_label"):
        load(name="npz", path=path, noise={"kind": "human", "path": labels, "key": "wrose"})
    with pytest.raises(ValueError, match=r"short_label has 5 labels for a source of 60 examples"):
        load(name="npz", path=path, noise={"kind": "human", "path": labels, "key": "short"})
    cut = write(tmp_path / "cut.npz", noisy_label1=human, clean_label=clean[:5])
    with pytest.raises(ValueError, match=r"clean_label: 5 entries, but the source has 60"):
        load(name="npz", path=path, noise={"kind": "human", "path": cut, "key": "noisy_label1"})
    shifted = write(tmp_path / "s.npz", noisy_label=human, clean_label=np.roll(clean, 1))
    with pytest.raises(ValueError, match=r"clean_label: value 2 at index 0, but the source says 0"):
        load(name="npz", path=path, noise={"kind": "human", "path": shifted, "key": "noisy"})


def test_matrix_noise(tmp_path, vectors):
    path = write(tmp_path / "v.npz", **vectors)
    matrix = np.array([[0, 1, 0], [0, 0, 1], [0.5, 0, 0.5]])
    np.save(tmp_path / "t.npy", matrix)
    for file in (str(tmp_path / "t.npy"), write(tmp_path / "t.npz", transition=matrix)):
        train = load(name="npz", path=path, noise={"kind": "matrix", "path": file}).train
        assert (train.labels[train.clean_labels == 0] == 1).all()
        assert (train.labels[train.clean_labels == 1] == 2).all()
        assert set(train.labels[train.clean_labels == 2]) == {0, 2}


def test_matrix_file_errors(tmp_path, vectors):
    path = write(tmp_path / "v.npz", **vectors)

    def refuse(file, message, error=ValueError):
        with pytest.raises(error, match=rf"data\.noise\.path='.*{message}"):
            load(name="npz", path=path, noise={"kind": "matrix", "path": str(file)})

    refuse(tmp_path / "none.npy", r"no such file", FileNotFoundError)
    (tmp_path / "junk.npy").write_bytes(b"junk")
    refuse(tmp_path / "junk.npy", r"not a readable \.npy file")
    refuse(write(tmp_path / "two.npz", a=np.eye(3), b=np.eye(3)), r"must hold exactly one array, not \['a', 'b'\]")
    refuse(write(tmp_path / "four.npz", a=np.eye(4)), r"float64 of shape \(4, 4\): must be real numbers \[C, C\], C=3")
    refuse(write(tmp_path / "sum.npz", a=np.eye(3) * [1, 1, 0.9]), r"row 2 sums to 0\.9: must be 1")


# ------------------------------------------------------------------------------------------------- TFDS


def png(image):
    """Made with Pillow, because TFDS's own encoder needs TensorFlow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    file.seek(0)
    return file


def build_tfds(data_dir, name, splits, features, version="1.0.0", **info):
    """Writes a TFDS set without TensorFlow; splits: {split: [example, ...]}."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def generate(examples):
        for i, example in enumerate(examples):
            yield i, {k: png(v) if isinstance(v, np.ndarray) else v for k, v in example.items()}

    body = {
        "VERSION": tfds.core.Version(version),
        "pkg_dir_path": data_dir,
        "name": name,
        "_info": lambda self: tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), description="test", **info
        ),
        "_split_generators": lambda self, manager: {key: generate(rows) for key, rows in splits.items()},
        "_generate_examples": lambda self: iter(()),
    }
    with registered.skip_registration():
        builder_class = type(
            "".join(part.title() for part in name.split("_")), (tfds.core.GeneratorBasedBuilder,), body
        )
    builder_class(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A TFDS directory of three small sets, and the arrays of the first."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (n, 5, 6, 1), dtype=np.uint8) for split, n in (("train", 300), ("test", 9))}
    grey = tfds.features.Image(shape=(5, 6, 1))
    shade = tfds.features.ClassLabel(names=["dark", "mid", "light"])
    rows = {
        split: [{"id": f"{split}_{i:05d}", "image": image, "label": i % 3} for i, image in enumerate(images[split])]
        for split in images
    }
    build_tfds(folder, "tiny_shades", rows, {"id": tfds.features.Text(), "image": grey, "label": shade})
    colour = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    rows = {"train": [{"photo": image, "coarse": 0, "fine": i % 2} for i, image in enumerate(colour)]}
    features = {
        "photo": tfds.features.Image(shape=(4, 4, 3)),
        "coarse": tfds.features.ClassLabel(num_classes=1),
        "fine": tfds.features.ClassLabel(num_classes=2),
    }
    build_tfds(folder, "tiny_colours", rows, features, supervised_keys=("photo", "fine"))
    build_tfds(folder, "tiny_unclear", {"train": rows["train"][:2]}, features)
    ragged = [{"image": np.zeros((4, 4 + (i == 1), 3), np.uint8), "label": 0} for i in range(2)]
    label = tfds.features.ClassLabel(num_classes=1)
    build_tfds(folder, "tiny_ragged", {"train": ragged}, {"image": tfds.features.Image(), "label": label})
    lonely = [{"image": colour[0], "label": 0}]
    label = tfds.features.ClassLabel(num_classes=2)
    build_tfds(folder, "tiny_gap", {"train": lonely}, {"image": tfds.features.Image(), "label": label})
    other = [{"image": colour[0, :3], "label": 0}]
    label = tfds.features.ClassLabel(num_classes=1)
    splits = {"train": lonely, "validation": other}
    build_tfds(folder, "tiny_sizes", splits, {"image": tfds.features.Image(), "label": label})
    build_tfds(folder, "tiny_test_only", {"test": lonely}, {"image": tfds.features.Image(), "label": label})
    return str(folder), images


def test_any_tfds_set_comes_back_in_its_original_order(shelf):
    folder, images = shelf
    dataset = load(name="tiny_shades", data_dir=folder)
    np.testing.assert_array_equal(dataset.train.inputs, images["train"])
    np.testing.assert_array_equal(dataset.train.labels, np.arange(300) % 3)
    np.testing.assert_array_equal(dataset.test.inputs, images["test"])
    np.testing.assert_array_equal(dataset.test.labels, np.arange(9) % 3)
    assert dataset.train.inputs.dtype == np.uint8
    assert dataset.class_names == ("dark", "mid", "light")
    assert load(name="tiny_shades", data_dir=folder, imbalance=10.0).class_counts.tolist() == [100, 31, 10]


def test_human_labels_follow_the_ids_of_a_tfds_set(shelf, tmp_path):
    folder, _ = shelf
    clean = np.arange(300) % 3
    labels = write(tmp_path / "h.npz", worse_label=(clean + (np.arange(300) == 17)) % 3, clean_label=clean)
    noise = {"kind": "human", "path": labels, "key": "worse"}
    train = load(name="tiny_shades", data_dir=folder, noise=noise).train
    assert np.flatnonzero(train.labels != train.clean_labels).tolist() == [17]
    with pytest.raises(ValueError, match=r"'tiny_colours' carry no ids 0\.\.N-1"):
        load(name="tiny_colours", data_dir=folder, noise=noise)


def test_supervised_keys_decide_and_a_missing_test_part_is_carved(shelf):
    dataset = load(name="tiny_colours", data_dir=shelf[0], test_fraction=0.2)
    assert dataset.num_classes == 2
    assert dataset.train.inputs.shape == (32, 4, 4, 3)
    assert np.bincount(dataset.test.labels).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiny_unclear", ValueError, r"among its features \(coarse: ClassLabel, fine: ClassLabel, photo: Image\)"),
        ("tiny_ragged", ValueError, r"image \d has shape \(4, \d, 3\), image 0 has \(4, \d, 3\)"),
        ("tiny_sizes", ValueError, r"images are \(4, 4, 3\) in train but \(3, 4, 3\) in validation"),
        ("tiny_gap", ValueError, r"tiny_gap train: class 1 has no example"),
        ("tiny_test_only", ValueError, r"no split 'train' among \['test'\]"),
        ("tiny_shapes", ValueError, r"nor a TFDS set, registered or in"),
        ("cifar", ValueError, r"data\.name='cifar': .*closest names are .*cifar10"),
        ("digit", ValueError, r"closest names are digits"),
        ("mnist/none", ValueError, r"data\.name='mnist/none': .*BuilderConfig none not found"),
        (
            "mnist",
            FileNotFoundError,
            r"tfds-prepare\]\" && python -c .*tfds\.builder\('mnist', data_dir='.*'array_record'",
        ),
    ],
)
def test_tfds_errors(shelf, name, error, message):
    with pytest.raises(error, match=message):
        load(name=name, data_dir=shelf[0])


def test_a_set_in_a_sequential_format_is_told_to_be_prepared_again(shelf, tmp_path):
    source = Path(shelf[0]) / "tiny_gap" / "1.0.0"
    target = tmp_path / "tiny_gap" / source.name
    target.mkdir(parents=True)
    for file in source.iterdir():
        content = file.read_bytes()
        if file.name == "dataset_info.json":
            content = content.replace(b"array_record", b"tfrecord")
        (target / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"as tfrecord, which only TensorFlow reads.*\n.*array_record"):
        load(name="tiny_gap", data_dir=str(tmp_path))


def test_reading_is_quiet(shelf, caplog):
    caplog.set_level(logging.WARNING, logger="absl")
    with pytest.raises(FileNotFoundError):
        load(name="mnist", data_dir=shelf[0])  # TFDS reports the folder it looked into
    assert caplog.records == []
    assert logging.getLogger("absl").level == logging.WARNING
