"""PGD for one class vector and the exact optimum it is measured against, in plain NumPy float64.

The problem (Eq. 11, 12 with the quadratic objective of reading 5): over ||d|| <= eps, make
f(d) = (m + d)^T M (m + d) large (amplify) or small (dampen), M [C, C] symmetric positive definite. Three solvers:
`pgd` (projected steps), `best_of_steps` (the best d in their reach) and `trust_region` (exact).
Independent of `lpg_jax`, like `reference.py`.
"""

import numpy as np
import reference


def objective(m, M, d):
    """f(d) = (m + d)^T M (m + d)."""
    return float((m + d) @ M @ (m + d))


def project_ball(d, radius):
    """The nearest point of the l2 ball."""
    norm = np.linalg.norm(d)
    return d if norm <= radius else d * (radius / norm)


def unit(v):
    """v / ||v||, 0 at v = 0 (reading 4)."""
    norm = np.linalg.norm(v)
    return v / norm if norm > 0 else np.zeros_like(v)


def pgd(m, M, epsilon, sign, steps=3, step_size=None, step_rule="l2", zero_sum=False, clamp=True):
    """d [C] after `steps` projected steps from 0 (Eq. 16, 17; reading 5). sign: +1 amplify, -1 dampen, 0 nothing."""
    d = np.zeros_like(m, dtype=np.float64)
    if sign == 0:
        return d
    guarded = sign < 0 and clamp
    radius = min(epsilon, np.linalg.norm(m)) if guarded else epsilon
    if step_rule == "l2" and step_size is None and clamp:
        return best_of_steps(m, M, radius, sign, steps, zero_sum)
    default = 2 * epsilon / steps
    for _ in range(steps):
        g = M @ (m + d)
        if step_rule == "sign":
            d = d + sign * (default if step_size is None else step_size) * np.sign(g)
            d = project_ball(d - np.mean(d) if zero_sum else d, radius)
            continue
        p = unit(g - np.mean(g) if zero_sum else g)
        if sign > 0 and step_size is None:
            d = radius * p
            continue
        length = default if step_size is None else step_size
        if guarded:  # never beyond the minimiser along the ray
            length = min(step_size, (p @ g) / (p @ M @ p) if np.any(p) else 0.0)
        d = project_ball(d + sign * length * p, radius)
    return d


def zero_sum_basis(size):
    """Orthonormal columns [C, C - 1] that span sum_j d_j = 0."""
    return np.linalg.svd(np.eye(size) - 1.0 / size)[0][:, : size - 1]


def secular_form(m, M, amplify, zero_sum):
    """basis, b, gaps >= 0: a stationary d is +-basis @ (b / (s + gaps)), with s >= 0 fixed by ||d|| = eps."""
    span = zero_sum_basis(len(m)) if zero_sum else np.eye(len(m))
    values, vectors = np.linalg.eigh(span.T @ M @ span)
    gaps = values.max(initial=0.0) - values if amplify else values
    return span @ vectors, vectors.T @ (span.T @ (M @ m)), gaps


def divide(b, denominator):
    """b / denominator with 0 / 0 = 0."""
    return np.divide(b, denominator, out=np.zeros_like(b), where=b != 0)


def trust_region(m, M, epsilon, amplify, zero_sum=False):
    """(d, f(d)) at the exact optimum over ||d|| <= epsilon, by bisection on s.

    Two ends need no root: a free minimiser inside the ball (s runs to 0) and the hard case, which fills the ball.
    """
    m = np.asarray(m, np.float64)
    if epsilon == 0:
        return np.zeros_like(m), objective(m, M, 0 * m)
    basis, b, gaps = secular_form(m, M, amplify, zero_sum)
    low, high = 0.0, np.linalg.norm(b) / epsilon
    for _ in range(400):
        middle = 0.5 * (low + high)
        if middle in (low, high):  # no number lies between
            break
        inside = np.linalg.norm(divide(b, middle + gaps)) <= epsilon
        low, high = (low, middle) if inside else (middle, high)
    x = divide(b, high + gaps)
    missing = epsilon**2 - x @ x
    if amplify and len(x) and missing > 1e-12 * epsilon**2:  # hard case: b has no part along the top eigenvector
        x[-1] += np.sqrt(missing)
    d = basis @ x if amplify else -basis @ x
    return d, objective(m, M, d)


def best_of_steps(m, M, epsilon, sign, steps, zero_sum=False):
    """d at the exact optimum within span(m, M m, ..., M^steps m) and the ball: what no gradient method of as many steps
    can beat. The span is orthonormalised as it grows; directions that rounding alone would add are left out."""
    center = np.eye(len(m)) - zero_sum / len(m)
    columns, found = [center @ m, center @ M @ m], []
    for k in range(steps + 1):
        v = columns[k] if k < 2 else center @ M @ found[-1]
        size = np.linalg.norm(v)
        for _ in range(2):
            for q in found:
                v = v - (q @ v) * q
        if np.linalg.norm(v) <= 1e-10 * size:
            break
        found.append(v / np.linalg.norm(v))
    if not found:
        return np.zeros_like(m)
    Q = np.stack(found, axis=1)
    # f(Q x) = f(0) + 2 b.x + x.S x; with m' = S^-1 b it is the problem of (m', S) up to a constant
    S, b = Q.T @ M @ Q, Q.T @ M @ m
    return Q @ trust_region(np.linalg.solve(S, b), S, epsilon, sign > 0)[0]


def gap(m, M, d, epsilon, amplify, zero_sum=False):
    """|f(d) - f*| / |f(0) - f*|; 0 where nothing can be gained."""
    best = trust_region(m, M, epsilon, amplify, zero_sum)[1]
    room = abs(objective(m, M, np.zeros_like(m)) - best)
    return abs(objective(m, M, d) - best) / room if room > 0 else 0.0


def head_matrices(features, labels, head_kernel, mask=None, rows=None):
    """M_c = (mean_c ||phi||^2 + 1) I + W^T W [C, C, C]; features [B, D], head_kernel [D, C]. Absent class: mean 0.

    `rows` (default: zeros) only decides which examples count.
    """
    num_classes = head_kernel.shape[1]
    rows = np.zeros((len(features), num_classes)) if rows is None else rows
    weights, index = reference.membership(labels, num_classes), np.flatnonzero(reference.counted(rows, labels, mask))
    matrices = np.zeros((num_classes, num_classes, num_classes))
    for c in range(num_classes):
        total = sum(weights[i, c] for i in index)
        mean = sum(weights[i, c] * np.dot(features[i], features[i]) for i in index) / total if total > 0 else 0.0
        matrices[c] = (mean + 1) * np.eye(num_classes) + head_kernel.T @ head_kernel
    return matrices


def pgd_rows(rows, labels, margin, epsilon, matrices=None, mask=None, running_mean=None, solve=pgd, **options):
    """Edited rows [B, C]: h_i + sum_c t_ic d_c, d_c = solve(m_c, M_c, eps_c, sign_c, **options).

    `matrices` [C, C, C] is `head_matrices(...)`; None is the identity metric. A class with margin 0 keeps d_c = 0.
    """
    rows = np.asarray(rows, np.float64)
    num_classes = rows.shape[1]
    means = reference.class_means(rows, labels, mask) if running_mean is None else running_mean
    changes = np.zeros((num_classes, num_classes))
    for c in range(num_classes):
        if margin[c] != 0 and np.any(means[c]):
            metric = np.eye(num_classes) if matrices is None else matrices[c]
            changes[c] = solve(means[c], metric, epsilon[c], np.sign(margin[c]), **options)
    return reference.apply_changes(rows, labels, mask, lambda i, c: changes[c])
