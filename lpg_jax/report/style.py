"""The one look of every figure: sizes, fonts, colours.

The palette is Okabe and Ito's (2008), which stays apart under the common forms of colour blindness. Blue and
vermillion are kept for *amplified* and *dampened*, so a method never wears them; methods also differ by marker, and
classes by lightness, so that a print in grey can be read.
"""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap

AMPLIFIED = "#0072B2"
DAMPENED = "#D55E00"
INK = "#222222"
GUIDE = "#9a9a9a"
WIDTH = 9.0  # inches: two columns of a paper, or a screen
CHARACTERS = 118  # of tick labels that fit side by side in WIDTH
DPI = 150

_METHOD_COLOURS = ("#000000", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

RC: dict = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same picture everywhere
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a class called "$" is a name, not a formula
    "savefig.dpi": DPI,
}


def context():
    """Context manager that applies the style and puts the reader's own settings back."""
    return matplotlib.rc_context(RC)


def method_look(index: int) -> dict[str, Any]:
    """Colour and marker of the method at `index` (0 is the first column of the run, usually plain cross-entropy)."""
    return {
        "color": _METHOD_COLOURS[index % len(_METHOD_COLOURS)],
        "marker": _METHOD_MARKERS[index % len(_METHOD_MARKERS)],
    }


def class_colours(num_classes: int):
    """[C, 4] colours from dark (first class) to light (last class); the palest end of viridis is left out."""
    return class_map()([i / max(num_classes - 1, 1) for i in range(num_classes)])


def class_map():
    """The colour map behind `class_colours`, for a colour bar."""
    viridis = matplotlib.colormaps["viridis"]
    return LinearSegmentedColormap.from_list("classes", viridis([i / 255 for i in range(231)]))
