"""Class-level and row-level operators in plain NumPy float64 loops, written from the equations of their papers.

Nothing here may come from `lpg_jax`. rows [B, C] are un-reduced logit gradients, labels ints [B], all valid.
"""

import numpy as np


def class_balanced(rows, labels, counts, beta):
    """Cui 2019: rows times (1 - beta) / (1 - beta^n_y), the weights scaled to sum C."""
    alpha = [(1 - beta) / (1 - beta**n) for n in counts]
    scale = len(counts) / sum(alpha)
    return np.array([alpha[y] * scale * row for row, y in zip(rows, labels, strict=True)])


def class_level_reweighting(logits, labels, weights):
    """GDW: w_ij (p_ij - e_ij), with w_iy = sum_{j != y} w_ij p_ij / (1 - p_iy)."""
    edited = np.zeros_like(logits)
    for i, y in enumerate(labels):
        p = np.exp(logits[i] - logits[i].max())
        p /= p.sum()
        w = weights[i].copy()
        w[y] = sum(w[j] * p[j] for j in range(len(p)) if j != y) / (1 - p[y])
        for j in range(len(p)):
            edited[i, j] = w[j] * (p[j] - (j == y))
    return edited


class Equalization:
    """EQL-v2, one batch after the other."""

    def __init__(self, num_classes, gamma=12.0, mu=0.8, alpha=4.0):
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.positive, self.negative = np.zeros(num_classes), np.zeros(num_classes)

    def f(self, j):
        if self.negative[j] == 0:
            return 1.0
        return 1 / (1 + np.exp(-self.gamma * (self.positive[j] / self.negative[j] - self.mu)))

    def __call__(self, rows, labels):
        edited, f = np.zeros_like(rows), [self.f(j) for j in range(rows.shape[1])]
        for i, y in enumerate(labels):
            for j in range(rows.shape[1]):
                edited[i, j] = rows[i, j] * (1 + self.alpha * (1 - f[j]) if j == y else f[j])
        for i, y in enumerate(labels):
            for j in range(rows.shape[1]):
                (self.positive if j == y else self.negative)[j] += abs(edited[i, j])
        return edited


class Density:
    """GHM-C by unit regions with a running count per region."""

    def __init__(self, bins=10, momentum=0.75):
        self.bins, self.momentum, self.count = bins, momentum, np.zeros(bins)

    def __call__(self, rows, logits, labels):
        region = []
        for z, y in zip(logits, labels, strict=True):
            p_y = 1 / np.sum(np.exp(z - z[y]))
            region.append(min(int((1 - p_y) * self.bins), self.bins - 1))
        for k in set(region):
            new = region.count(k)
            self.count[k] = new if self.count[k] == 0 else self.momentum * self.count[k] + (1 - self.momentum) * new
        number, regions = len(region), len(set(region))
        return np.array([number / (regions * self.count[k]) * row for k, row in zip(region, rows, strict=True)])


def row_clip(rows, max_norm):
    """Each row by itself."""
    return np.array([row * min(1.0, max_norm / np.sqrt(np.sum(row**2))) for row in rows])


def zero_sum(rows):
    """The orthogonal projector I - 1 1^T / C, row by row."""
    num_classes = rows.shape[1]
    projector = np.eye(num_classes) - np.ones((num_classes, num_classes)) / num_classes
    return np.array([projector @ row for row in rows])


def size(rows):
    return sum(np.sqrt(np.sum(row**2)) for row in rows)


def ratio_and_cosine(plain, edited, labels, num_classes):
    """Per class: norm ratio and cosine of the mean rows; 1 and 1 for an absent class."""
    ratio, cosine = np.ones(num_classes), np.ones(num_classes)
    for c in set(labels.tolist()):
        m, n = (
            np.mean([row for row, y in zip(rows, labels, strict=True) if y == c], axis=0) for rows in (plain, edited)
        )
        ratio[c] = np.linalg.norm(n) / np.linalg.norm(m)
        cosine[c] = np.dot(m, n) / np.linalg.norm(m) / np.linalg.norm(n)
    return ratio, cosine
