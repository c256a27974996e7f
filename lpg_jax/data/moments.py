"""Per-channel mean and standard deviation."""

import numpy as np


def moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel (last axis), over everything else.

    Args:
      inputs: uint8 or float [N, ..., K]; uint8 is read as inputs / 255.

    Returns:
      (mean, std), float32 [K]. A constant channel has std 1, so that dividing by it is safe.

    Example:
      >>> mean, std = moments(np.array([[0, 5], [255, 5]], np.uint8))
      >>> [round(float(value), 4) for value in (*mean, *std)]
      [0.5, 0.0196, 0.5, 1.0]
    """
    channels = inputs.shape[-1]
    rows = inputs.reshape(len(inputs), -1)
    copies = rows.shape[1] // channels  # values of one channel in one example
    # Blocks, because a float64 copy of a whole image set is eight times its size.
    blocks = np.array_split(rows, min(len(rows), 1 + rows.size // 2**20))
    total = np.sum([block.sum(0, dtype=np.float64) for block in blocks], axis=0)
    mean = total.reshape(copies, channels).sum(0) / (len(rows) * copies)
    centre = np.tile(mean, copies)
    squares = np.sum([np.square(block - centre).sum(0) for block in blocks], axis=0)
    std = np.sqrt(squares.reshape(copies, channels).sum(0) / (len(rows) * copies))
    scale = 255.0 if inputs.dtype == np.uint8 else 1.0
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, scale)
    return (mean / scale).astype(np.float32), (std / scale).astype(np.float32)


def standardise(inputs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(inputs - mean) / std with the units of `moments`; float32 of the shape of `inputs`."""
    values = inputs.astype(np.float32)
    if inputs.dtype == np.uint8:
        values /= 255
    return (values - mean) / std
