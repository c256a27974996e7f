"""The reference is only worth something if it is right: hand-worked values and laws."""

import numpy as np
import pytest
import reference as ref

C = 4


def batch(seed=0, size=24, num_classes=C, scale=1.5):
    """logits, labels (class C - 1 absent), rows."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(size, num_classes))
    labels = rng.integers(0, num_classes - 1, size)
    return logits, labels, ref.cross_entropy(logits, labels)[1]


def norms(rows):
    return np.linalg.norm(rows, axis=-1)


MARGIN = np.array([0.2, -0.3, 0.0, 0.1])
EPSILON = np.array([0.3, 0.7, 0.5, 0.4])
DIRECTIONS = ["sample", "class_mean", "class_scale"]


# --- cross-entropy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_rows_are_the_finite_differences_of_the_losses(soft):
    logits, labels, _ = batch(size=3)
    labels = np.random.default_rng(1).dirichlet(np.ones(C), 3) if soft else labels
    rows = ref.cross_entropy(logits, labels)[1]
    for j in range(C):
        shift = 1e-5 * np.eye(C)[j]
        slope = (ref.cross_entropy(logits + shift, labels)[0] - ref.cross_entropy(logits - shift, labels)[0]) / 2e-5
        np.testing.assert_allclose(rows[:, j], slope, atol=1e-9)


def test_hard_rows_are_softmax_minus_one_hot_and_unknown_labels_give_nothing():
    logits, labels, rows = batch()
    np.testing.assert_allclose(rows, ref.softmax(logits) - np.eye(C)[labels], atol=1e-14)
    losses, rows = ref.cross_entropy(logits[:3], np.array([-1, C, 1]))
    assert losses[0] == losses[1] == 0 < losses[2]
    assert not rows[:2].any()
    assert rows[2].any()
    losses, rows = ref.cross_entropy(np.array([[1e4, -1e4]]), np.array([1]))
    assert losses[0] == 2e4
    np.testing.assert_array_equal(rows, [[1, -1]])


# --- splits and bounds ---------------------------------------------------------------------------------------------


def test_margins_by_hand():
    seen = np.array([True, True, True, False])
    np.testing.assert_allclose(ref.margin_by_accuracy([0.2, 0.5, 0.8, 0.0], seen), [0.3, 0, -0.3, 0], atol=1e-15)
    np.testing.assert_allclose(ref.margin_by_variance([0.1, 0.2, 0.9, 7.0], seen, "median"), [0.1, 0, -0.7, 0])
    np.testing.assert_allclose(ref.margin_by_accuracy([0.2, 0.5, 0.8, 0.0], seen, 0.6), [0.4, 0.1, -0.2, 0])
    assert not ref.margin_by_accuracy(np.zeros(3), np.zeros(3, bool)).any()


def test_exponential_profile_has_median_one_half_on_the_log_scale():
    counts = 500 * 50.0 ** (-np.arange(11) / 10)
    s = ref.frequency(counts)
    np.testing.assert_allclose(s, 1 - np.arange(11) / 10)
    np.testing.assert_allclose(ref.margin_by_frequency(counts), 0.5 - s, atol=1e-15)
    np.testing.assert_allclose(ref.margin_by_frequency(counts, "median"), 0.5 - s, atol=1e-12)
    assert ref.margin_by_frequency(counts)[5] == 0
    np.testing.assert_allclose(ref.margin_by_frequency([1, 3], 0.5, "share"), [0.25, -0.25])
    np.testing.assert_allclose(ref.margin_by_frequency([1, 4], 0.5, "max"), [0.25, -0.5])
    for scale in ("log", "max", "share"):
        assert not ref.margin_by_frequency([7, 7, 7], 0.5, scale).any()


def test_ties_leave_a_class_alone_and_just_beyond_does_not():
    seen = np.ones(2, bool)
    near, far = 0.5 * (1 + 0.9e-5), 0.5 * (1 + 1.2e-5)
    np.testing.assert_array_equal(np.sign(ref.margin_by_accuracy([near, far], seen, 0.5)), [0, -1])
    ten = np.full(10, 0.1) + np.array([0, 1e-17] * 5)
    assert not ref.margin_by_accuracy(ten, np.ones(10, bool)).any()


def test_epsilon_grows_with_the_distance_from_the_threshold():
    np.testing.assert_allclose(ref.epsilon_of([-0.2, 0, 0.4], 0.1, 0.5), [0.2, 0.1, 0.3])


# --- statistics ----------------------------------------------------------------------------------------------------


def test_running_sums_by_hand():
    stats = ref.Statistics(2, decay=0.75)
    first = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0, 0]), np.array([[2.0, 1.0], [1.0, 2.0]])
    stats.absorb(*first)
    np.testing.assert_allclose([stats.accuracy[0], stats.variance[0], *stats.mean[0]], [0.5, 1, 2, 0])
    np.testing.assert_array_equal(stats.seen, [True, False])
    stats.absorb(np.array([[0.0, 4.0]]), np.array([0]), np.array([[5.0, 0.0]]))
    n = 0.75 * 0.25 * 2 + 0.25
    assert stats.accuracy[0] == pytest.approx((0.75 * 0.25 + 0.25) / n)
    mean = np.array([0.75 * 0.25 * 4, 0.25 * 4]) / n
    np.testing.assert_allclose(stats.mean[0], mean)
    assert stats.variance[0] == pytest.approx((0.75 * 0.25 * 10 + 0.25 * 16) / n - mean @ mean)


def test_absent_class_and_absent_rows_change_nothing():
    logits, labels, rows = batch()
    stats, other = ref.Statistics(C), ref.Statistics(C)
    stats.absorb(rows, labels, logits)
    only = labels == 0
    padded = np.concatenate([rows, np.full((3, C), np.nan), rows[:1]])
    marks = np.concatenate([labels, [0, 1, C], [1]])
    other.absorb(padded, marks, np.concatenate([logits, logits[:4]]), np.arange(len(marks)) < len(marks) - 1)
    for name in ("accuracy", "variance", "mean"):
        np.testing.assert_array_equal(getattr(stats, name), getattr(other, name))
    before = stats.accuracy[1], stats.variance[1], stats.mean[1].copy()
    stats.absorb(rows[only], labels[only], -logits[only])
    assert (stats.accuracy[1], stats.variance[1]) == before[:2]
    np.testing.assert_array_equal(stats.mean[1], before[2])
    assert stats.accuracy[0] != other.accuracy[0]


def test_one_hot_floats_equal_integers_and_soft_labels_weigh():
    logits, labels, rows = batch()
    hard, soft = ref.Statistics(C), ref.Statistics(C)
    hard.absorb(rows, labels, logits)
    soft.absorb(rows, np.eye(C)[labels], logits)
    np.testing.assert_array_equal(hard.mean, soft.mean)
    np.testing.assert_array_equal(hard.accuracy, soft.accuracy)
    mixed = ref.Statistics(2)
    mixed.absorb(np.array([[1.0, 0], [0, 1.0]]), np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([[1.0, 0], [0, 1.0]]))
    np.testing.assert_allclose(mixed.accuracy, [0.25 / 0.75, 0.5 / 1.25])
    np.testing.assert_allclose(mixed.mean[0], [1 / 3, 2 / 3])


def test_refresh_publishes_window_sums_and_keeps_what_the_window_missed():
    logits, labels, rows = batch(size=40)
    parts = [slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 40)]
    stats = ref.Statistics(C, decay=0.5, refresh_every=2)
    stats.absorb(rows[parts[0]], labels[parts[0]], logits[parts[0]])
    assert not stats.seen.any()
    stats.absorb(rows[parts[1]], labels[parts[1]], logits[parts[1]])
    whole = ref.Statistics(C)
    whole.absorb(rows[:20], labels[:20], logits[:20])
    np.testing.assert_allclose(stats.variance, whole.variance, atol=1e-14)
    kept = stats.variance.copy()
    for part in parts[2:]:
        stats.absorb(rows[part], np.where(labels[part] == 0, 0, -1), logits[part])
    index = np.flatnonzero(labels[20:] == 0) + 20
    assert stats.variance[0] == pytest.approx(np.mean(np.sum((rows[index] - rows[index].mean(0)) ** 2, axis=1)))
    np.testing.assert_array_equal(stats.variance[1:], kept[1:])


@pytest.mark.parametrize("refresh_every", [1, 300])
def test_equal_spread_reads_equal_variance_whatever_the_class_counts(refresh_every):
    # One example of class 1 per batch: a ratio taken inside each batch would read variance 0 for it.
    rng, num_classes = np.random.default_rng(0), 30
    stats, labels = ref.Statistics(num_classes, refresh_every=refresh_every), np.array([0] * 20 + [1])
    for _ in range(300):
        rows = rng.normal(size=(21, num_classes)) + np.eye(num_classes)[labels]
        stats.absorb(rows, labels, rows)
    np.testing.assert_allclose(stats.variance[:2], num_classes, rtol=0.1)


@pytest.mark.parametrize("soft", [False, True])
def test_pair_sums_have_the_closed_form_and_estimate_the_squared_mean(soft):
    _, labels, rows = batch()
    t = np.random.default_rng(2).dirichlet(np.ones(C), len(rows)) if soft else np.eye(C)[labels]
    dots, pairs = ref.pair_norm2(rows, t if soft else labels)
    np.testing.assert_allclose(dots, norms(t.T @ rows) ** 2 - (t**2).T @ norms(rows) ** 2, atol=1e-12)
    np.testing.assert_allclose(pairs, t.sum(0) ** 2 - (t**2).sum(0), atol=1e-12)
    same = np.tile([0.3, -0.1, 0.0, -0.2], (5, 1))
    dots, pairs = ref.pair_norm2(same, np.zeros(5, int))
    assert dots[0] / pairs[0] == pytest.approx(0.14)
    assert pairs[0] == 20


def test_run_reads_the_statistics_before_the_batch():
    batches = [(rows, labels, logits, None) for logits, labels, rows in (batch(seed) for seed in range(4))]

    def rule(stats):
        return ref.margin_by_accuracy(stats.accuracy, stats.seen)

    edited, stats = ref.run(batches, C, rule, 0.3, slope=0.5)
    np.testing.assert_array_equal(edited[0], batches[0][0])
    before = ref.Statistics(C)
    before.absorb(*batches[0])
    margin = rule(before)
    assert margin.any()
    expected = ref.closed_form(*batches[1][:2], margin, ref.epsilon_of(margin, 0.3, 0.5))
    np.testing.assert_array_equal(edited[1], expected)
    late, same = ref.run(batches, C, rule, 0.3, warmup=2)
    np.testing.assert_array_equal(late[1], batches[1][0])
    assert not np.array_equal(late[2], batches[2][0])
    np.testing.assert_array_equal(stats.mean, same.mean)
    moved = ref.run(batches, C, rule, 0.3, source="running", direction="class_mean")[0]
    assert not np.allclose(moved[2], ref.run(batches, C, rule, 0.3, direction="class_mean")[0][2])


# --- closed form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_changes_without_margin_or_epsilon(direction):
    _, labels, rows = batch()
    np.testing.assert_array_equal(ref.closed_form(rows, labels, np.zeros(C), EPSILON, direction), rows)
    np.testing.assert_array_equal(ref.closed_form(rows, labels, MARGIN, np.zeros(C), direction), rows)


def test_sample_moves_every_norm_by_epsilon():
    _, labels, rows = batch()
    after = norms(ref.closed_form(rows, labels, MARGIN, EPSILON))
    sign, radius = np.sign(MARGIN)[labels], EPSILON[labels]
    assert {-1, 0, 1} == set(sign)
    assert (norms(rows)[sign < 0] < radius[sign < 0]).any()
    np.testing.assert_allclose(after, np.maximum(norms(rows) + sign * radius, 0), atol=1e-14)


@pytest.mark.parametrize("direction", ["class_mean", "class_scale"])
@pytest.mark.parametrize("epsilon", [0.1, 5.0])
def test_class_rules_move_the_norm_of_the_class_mean(direction, epsilon):
    _, labels, rows = batch()
    before = norms(ref.class_means(rows, labels))
    edited = ref.closed_form(rows, labels, MARGIN, np.full(C, epsilon), direction, max_scale=1e9)
    expected = np.maximum(before + np.sign(MARGIN) * epsilon, 0) * (before > 0)
    np.testing.assert_allclose(norms(ref.class_means(edited, labels)), expected, atol=1e-13)
    np.testing.assert_allclose(edited.sum(1), 0, atol=1e-12)


def test_rules_agree_where_a_class_has_one_example_and_only_class_mean_rotates():
    _, labels, rows = batch()
    alone = [ref.closed_form(rows[:1], labels[:1], np.ones(C), EPSILON, direction) for direction in DIRECTIONS]
    np.testing.assert_allclose(alone[1:], [alone[0], alone[0]], atol=1e-14)
    cosine = {}
    for direction in DIRECTIONS:
        edited = ref.closed_form(rows, labels, np.ones(C), EPSILON, direction)
        cosine[direction] = np.min(np.sum(edited * rows, axis=1) / norms(edited) / norms(rows))
    assert cosine["sample"] > 1 - 1e-12
    assert cosine["class_scale"] > 1 - 1e-12
    assert cosine["class_mean"] < 0.999


def test_clamp_and_cap():
    row, label, down = np.array([[0.3, -0.3]]), np.array([0]), np.array([-1.0, 0])
    length = norms(row[0])
    for direction in DIRECTIONS:
        assert not ref.closed_form(row, label, down, [2.0, 0], direction).any()
        literal = ref.closed_form(row, label, down, [2.0, 0], direction, clamp=False)
        np.testing.assert_allclose(literal, row * (1 - 2 / length))
    capped = ref.closed_form(row, label, -down, [100.0, 0], "class_scale", max_scale=10)
    np.testing.assert_allclose(capped, 10 * row)
    capped = ref.closed_form(row, label, down, [100.0, 0], "class_scale", clamp=False, max_scale=10)
    np.testing.assert_allclose(capped, -10 * row)
    for direction in DIRECTIONS:
        np.testing.assert_array_equal(ref.closed_form(0 * row, label, -down, [1.0, 0], direction), 0 * row)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_masked_rows_vanish_and_broken_rows_pass_without_touching_others(direction):
    _, labels, rows = batch()
    clean = ref.closed_form(rows, labels, MARGIN, EPSILON, direction)
    junk = np.array([[np.nan] * C, [np.inf, 0, 0, 0], [1.0, 2, 3, 4], [np.nan] * C])
    mask = np.ones(len(rows) + 4)
    mask[-1] = 0
    marks = np.concatenate([labels, [0, 1, C, 0]])
    edited = ref.closed_form(np.concatenate([rows, junk]), marks, MARGIN, EPSILON, direction, mask=mask)
    np.testing.assert_array_equal(edited[:-4], clean)
    np.testing.assert_array_equal(edited[-4:-1], junk[:-1])
    np.testing.assert_array_equal(edited[-1], np.zeros(C))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_soft_rows_sum_over_classes_what_each_would_add(direction):
    _, labels, rows = batch()
    hard = ref.closed_form(rows, labels, MARGIN, EPSILON, direction)
    one_hot = ref.closed_form(rows, np.eye(C)[labels], MARGIN, EPSILON, direction)
    np.testing.assert_array_equal(hard, one_hot)
    soft = np.random.default_rng(3).dirichlet(np.ones(C), len(rows))
    means = ref.class_means(rows, soft)
    np.testing.assert_allclose(means, soft.T @ rows / soft.sum(0)[:, None])
    edited = ref.closed_form(rows, soft, MARGIN, EPSILON, direction)
    changes = 0
    for c in range(C):
        every = np.full(len(rows), c)
        as_hard = ref.closed_form(rows, every, MARGIN, EPSILON, direction, running_mean=means)
        changes = changes + soft[:, c : c + 1] * (as_hard - rows)
    np.testing.assert_allclose(edited, rows + changes, atol=1e-14)
