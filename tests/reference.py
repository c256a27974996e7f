"""LPG in plain NumPy float64 loops, one example and one class at a time: what the package is compared with.

Written from the equations alone; nothing here may come from `lpg_jax`, or agreement would prove nothing. Names: rows
[B, C] are the un-reduced logit gradients h_i, labels are ints [B] or memberships [B, C], `margin` [C] is tau - s_c
(> 0 amplifies, < 0 dampens, 0 leaves alone), `epsilon` [C] the radius of each class. Slow on purpose.
"""

import numpy as np


def softmax(logits):
    """Row-wise softmax of logits [B, C]."""
    shifted = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    return shifted / np.sum(shifted, axis=1, keepdims=True)


def membership(labels, num_classes):
    """t [B, C]: one-hot rows of int labels (a zero row for a label outside [0, C)), or the soft labels themselves."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return labels.astype(np.float64)
    weights = np.zeros((len(labels), num_classes))
    for i, label in enumerate(labels):
        if 0 <= label < num_classes:
            weights[i, label] = 1.0
    return weights


def cross_entropy(logits, labels):
    """Losses [B] and their logit gradients [B, C]; a label outside [0, C) gives loss 0 and a zero row."""
    logits = np.asarray(logits, np.float64)
    weights = membership(labels, logits.shape[1])
    losses, rows = np.zeros(len(logits)), np.zeros_like(logits)
    for i, (z, t) in enumerate(zip(logits, weights, strict=True)):
        log_total = np.max(z) + np.log(np.sum(np.exp(z - np.max(z))))
        losses[i] = sum(t[c] * (log_total - z[c]) for c in range(len(z)) if t[c] != 0)
        rows[i] = np.sum(t) * np.exp(z - log_total) - t
    return losses, rows


# --- which rows count --------------------------------------------------------------------------------------------


def present(mask, size):
    """Bool [B]: the mask, or all True."""
    return np.ones(size, bool) if mask is None else np.asarray(mask).astype(bool)


def counted(rows, labels, mask):
    """Bool [B]: present, every entry of the row finite, and member of at least one class."""
    weights = membership(labels, rows.shape[1])
    return present(mask, len(rows)) & np.isfinite(rows).all(axis=1) & (weights.sum(axis=1) > 0)


# --- splits and bounds (Eq. 18-21, readings 6-8) -------------------------------------------------------------------


def threshold_value(threshold, statistic, seen):
    """tau: a number, or "mean" / "median" of the statistic over the classes seen (0 while none is)."""
    if threshold not in ("mean", "median"):
        return float(threshold)
    values = [s for s, is_seen in zip(statistic, seen, strict=True) if is_seen]
    if not values:
        return 0.0
    return float(np.mean(values) if threshold == "mean" else np.median(values))


def margin_of(statistic, seen, threshold):
    """tau - s_c per class; exactly 0 for a tie (1e-5 relative) and for a class never seen."""
    tau = threshold_value(threshold, statistic, seen)
    margin = np.zeros(len(statistic))
    for c, s in enumerate(statistic):
        if seen[c] and abs(s - tau) > 1e-5 * max(abs(tau), abs(s)):
            margin[c] = tau - s
    return margin


def margin_by_accuracy(accuracy, seen, threshold: str | float = "mean"):
    """Eq. 18: classes less accurate than tau are amplified."""
    return margin_of(accuracy, seen, threshold)


def margin_by_variance(variance, seen, threshold: str | float = "mean"):
    """Eq. 20: classes whose gradients vary more than tau_v are dampened."""
    return margin_of(variance, seen, threshold)


def frequency(class_counts, scale="log"):
    """s_c of reading 6: "log", "max" or "share"."""
    counts = np.asarray(class_counts, np.float64)
    if scale == "log":
        spread = np.log(counts.max()) - np.log(counts.min())
        return (np.log(counts) - np.log(counts.min())) / spread if spread > 0 else np.zeros(len(counts))
    return counts / (counts.max() if scale == "max" else counts.sum())


def margin_by_frequency(class_counts, threshold: str | float = 0.5, scale="log"):
    """Eq. 19: classes rarer than tau are amplified; equal counts leave every class alone, whatever the scale."""
    counts = np.asarray(class_counts)
    if np.all(counts == counts[0]):
        return np.zeros(len(counts))
    return margin_of(frequency(counts, scale), np.ones(len(counts), bool), threshold)


def epsilon_of(margin, epsilon, slope=0.0):
    """Eq. 21: eps_c = eps + slope |margin_c|."""
    return np.array([epsilon + slope * abs(m) for m in margin], np.float64)


# --- running statistics (readings 8-11) ----------------------------------------------------------------------------


class Statistics:
    """Per-class accuracy, gradient variance and mean as ratios of running sums.

    `accuracy`, `variance` [C], `mean` [C, C] and `seen` bool [C] are what a split may read. With `refresh_every=1` they
    follow every `absorb`; with R > 1 they change at the end of steps R, 2R, ... from the plain sums since the last
    change. `sums` is {"n", "hits", "squares" [C], "vectors" [C, C]}.
    """

    def __init__(self, num_classes, decay=0.99, refresh_every=1):
        self.decay, self.refresh_every, self.step = decay, refresh_every, 0
        self.accuracy, self.variance = np.zeros(num_classes), np.zeros(num_classes)
        self.mean, self.seen = np.zeros((num_classes, num_classes)), np.zeros(num_classes, bool)
        self.sums = self._zeros()

    def _zeros(self):
        num_classes = len(self.seen)
        zeros = {name: np.zeros(num_classes) for name in ("n", "hits", "squares")}
        return {**zeros, "vectors": np.zeros((num_classes, num_classes))}

    def batch_sums(self, rows, labels, logits, mask=None):
        """The four sums of one batch, over the rows that count; soft labels weigh."""
        sums, weights = self._zeros(), membership(labels, rows.shape[1])
        for i in np.flatnonzero(counted(rows, labels, mask)):
            for c in np.flatnonzero(weights[i]):
                t = weights[i, c]
                sums["n"][c] += t
                sums["hits"][c] += t * (np.argmax(logits[i]) == c)
                sums["squares"][c] += t * np.dot(rows[i], rows[i])
                sums["vectors"][c] += t * rows[i]
        return sums

    def absorb(self, rows, labels, logits, mask=None):
        """Take in one batch: one step."""
        batch = self.batch_sums(np.asarray(rows, np.float64), labels, logits, mask)
        keep, add = (self.decay, 1 - self.decay) if self.refresh_every == 1 else (1.0, 1.0)
        for c in np.flatnonzero(batch["n"]):
            for name in self.sums:
                self.sums[name][c] = keep * self.sums[name][c] + add * batch[name][c]
        self.step += 1
        if self.step % self.refresh_every == 0:
            self._publish()
            if self.refresh_every > 1:
                self.sums = self._zeros()

    def _publish(self):
        for c in np.flatnonzero(self.sums["n"]):
            n = self.sums["n"][c]
            self.seen[c] = True
            self.accuracy[c] = self.sums["hits"][c] / n
            self.mean[c] = self.sums["vectors"][c] / n
            self.variance[c] = max(self.sums["squares"][c] / n - np.dot(self.mean[c], self.mean[c]), 0.0)


def pair_norm2(rows, labels, mask=None):
    """Reading 11: per class sum_{i != j} h_i . h_j and the number of ordered pairs, both [C] and additive over batches.

    Over hard labels they are ||sum h||^2 - sum ||h||^2 and n (n - 1). Soft labels weigh a pair by t_ic t_jc.
    """
    num_classes = rows.shape[1]
    weights, dots, pairs = membership(labels, num_classes), np.zeros(num_classes), np.zeros(num_classes)
    index = np.flatnonzero(counted(rows, labels, mask))
    for c in range(num_classes):
        for i in index:
            for j in index:
                if i != j:
                    dots[c] += weights[i, c] * weights[j, c] * np.dot(rows[i], rows[j])
                    pairs[c] += weights[i, c] * weights[j, c]
    return dots, pairs


# --- the perturbation ----------------------------------------------------------------------------------------------


def class_means(rows, labels, mask=None):
    """m_c [C, C] over the rows that count; zero for a class that is absent."""
    weights, means = membership(labels, rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
    index = np.flatnonzero(counted(rows, labels, mask))
    for c in range(len(means)):
        total = sum(weights[i, c] for i in index)
        if total > 0:
            means[c] = sum(weights[i, c] * rows[i] for i in index) / total
    return means


def step_along(vector, sign, epsilon, clamp):
    """Signed relative change +-eps/||v|| of Eq. 13-15; dampening stops at -1 if clamped (reading 3), 0 at v = 0."""
    norm = np.sqrt(np.dot(vector, vector))
    if norm == 0 or sign == 0:
        return 0.0
    length = min(epsilon, norm) if sign < 0 and clamp else epsilon
    return sign * length / norm


def class_change(row, mean, sign, epsilon, direction, clamp, max_scale):
    """d_ic [C]: what one class adds to one row."""
    if direction == "sample":
        return step_along(row, sign, epsilon, clamp) * row
    if direction == "class_mean":
        return step_along(mean, sign, epsilon, clamp) * mean
    if direction == "class_scale":
        factor = 1 + step_along(mean, sign, epsilon, clamp)
        return (min(max(factor, -max_scale), max_scale) - 1) * row
    raise ValueError(f"direction={direction!r}: use sample, class_mean or class_scale")


def apply_changes(rows, labels, mask, change):
    """h_i + sum_c t_ic change(i, c); masked rows become 0, rows that do not count pass as they are."""
    weights, edited = membership(labels, rows.shape[1]), np.array(rows, np.float64)
    alive, valid = present(mask, len(rows)), counted(rows, labels, mask)
    for i in range(len(rows)):
        if not alive[i]:
            edited[i] = 0.0
        elif valid[i]:
            for c in np.flatnonzero(weights[i]):
                edited[i] += weights[i, c] * change(i, c)
    return edited


def closed_form(
    rows, labels, margin, epsilon, direction="sample", clamp=True, max_scale=10.0, mask=None, running_mean=None
):
    """Edited rows [B, C] of Eq. 13-15 with readings 2-4 and 10; `running_mean` [C, C] replaces the batch mean."""
    rows = np.asarray(rows, np.float64)
    means = class_means(rows, labels, mask) if running_mean is None else running_mean

    def change(i, c):
        return class_change(rows[i], means[c], np.sign(margin[c]), epsilon[c], direction, clamp, max_scale)

    return apply_changes(rows, labels, mask, change)


def run(batches, num_classes, margin_rule, epsilon, slope=0.0, warmup=0, decay=0.99, refresh_every=1, **form):
    """Edited rows of each (rows, labels, logits, mask) in turn, and the Statistics after the last.

    `margin_rule(statistics) -> margin [C]`. The margin of a step is read from the statistics before its batch
    (reading 8); the first `warmup` steps are left alone. `form` goes to `closed_form`, where `source="running"` stands
    for the running mean, likewise before the batch.
    """
    statistics, edited = Statistics(num_classes, decay, refresh_every), []
    running = form.pop("source", "batch") == "running"
    for step, (rows, labels, logits, mask) in enumerate(batches):
        margin = margin_rule(statistics) if step >= warmup else np.zeros(num_classes)
        mean = statistics.mean.copy() if running else None
        radius = epsilon_of(margin, epsilon, slope)
        edited.append(closed_form(rows, labels, margin, radius, mask=mask, running_mean=mean, **form))
        statistics.absorb(rows, labels, logits, mask)
    return edited, statistics
