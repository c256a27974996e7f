"""Checks shared by every source of labels and inputs: an error names where, which index and which value."""

import numpy as np


def check_labels(labels: np.ndarray, num_classes: int | None, where: str) -> np.ndarray:
    """Returns labels as int32 [N] after checking that they are integers in [0, num_classes).

    Args:
      labels: [N], integers, or floats whose values are integers.
      num_classes: C; None checks only the lower end.
      where: what the error message calls them.

    Raises:
      ValueError: another rank, a value that is no integer, or one out of range; the first offender is named.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"{where}: shape {labels.shape}: labels must be one integer per example, shape [N]")
    if labels.dtype.kind not in "iuf":
        raise ValueError(f"{where}: dtype {labels.dtype}: labels must be integers")
    if labels.dtype.kind == "f":
        _refuse_first(labels != np.floor(labels), labels, where, "must be an integer")  # NaN differs from itself
    upper = np.iinfo(np.int32).max if num_classes is None else num_classes
    rule = "must be >= 0 and fit an int32" if num_classes is None else f"must be in [0, {num_classes})"
    _refuse_first((labels < 0) | (labels >= upper), labels, where, rule)
    return labels.astype(np.int32)


def _refuse_first(bad: np.ndarray, values: np.ndarray, where: str, rule: str) -> None:
    if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(f"{where}: value {values[index]} at index {index}: {rule}")


def check_classes_present(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raises ValueError, naming the first class of [0, num_classes) that has no example in `labels`."""
    present = np.unique(labels)
    if len(present) < num_classes:
        # The first gap, found without an array of num_classes entries: one wild label would make it huge.
        missing = int(np.argmax(np.append(present, -1) != np.arange(len(present) + 1)))
        raise ValueError(
            f"{where}: class {missing} has no example, but classes run from 0 to {num_classes - 1}; "
            "renumber the labels 0..C-1 without gaps"
        )


def check_inputs(inputs: np.ndarray, where: str) -> np.ndarray:
    """Returns inputs as uint8 or finite float32, [N, D] or [N, H, W, K] ([N, H, W] gains a channel axis).

    Raises:
      ValueError: another rank, no example, a dtype that is neither uint8 nor float, or a value that is not finite in
        float32.
    """
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise ValueError(
            f"{where}: shape {inputs.shape}: must be images [N, H, W, C] or [N, H, W], or feature vectors [N, D], "
            "none of them empty"
        )
    if inputs.dtype != np.uint8:
        if inputs.dtype.kind != "f":
            raise ValueError(f"{where}: dtype {inputs.dtype}: must be uint8 (0 to 255) or a float type")
        with np.errstate(over="ignore"):
            inputs = inputs.astype(np.float32)
        finite = np.isfinite(inputs)
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(f"{where}: value {inputs[index]} at index {index}: must be finite (in float32)")
    return inputs[..., None] if inputs.ndim == 3 else inputs
