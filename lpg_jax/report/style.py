"""The one look of every figure: sizes, fonts, colours.

The palette is Okabe and Ito's (2008), which stays apart under the common forms of colour blindness. Blue and
vermillion are kept for *amplified* and *dampened*, so a method never wears them; methods also differ by marker, and
classes by lightness, so that a print in grey can be read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lpg_jax.report.wording import REPORT

AMPLIFIED = "#0072B2"
DAMPENED = "#D55E00"
INK = "#222222"
GUIDE = "#9a9a9a"
WIDTH = 9.0  # inches: two columns of a paper, or a screen
CHARACTERS = 118  # of tick labels that fit side by side in WIDTH
DPI = 150
ROLES = ("baseline", "lpg", "control", "combination")  # what an entry of the evidence can be, in the order of legends

_METHOD_COLOURS = ("#000000", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_METHOD_LINES = ("-", "--", "-.", ":")
_ROLE_LOOKS: dict[str, dict[str, Any]] = {  # two hollow, two filled: they stay apart in grey and when small
    "baseline": {"color": "#000000", "marker": "o", "markerfacecolor": "white"},
    "lpg": {"color": "#009E73", "marker": "s"},
    "control": {"color": "#B07A00", "marker": "^", "markerfacecolor": "white"},
    "combination": {"color": "#A8508A", "marker": "D"},
}
_LINE = 162  # characters of a caption in WIDTH

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


def role_look(role: str) -> dict[str, Any]:
    """Colour, marker and its filling of a role of `ROLES`."""
    return dict(_ROLE_LOOKS[role])


def line_look(index: int) -> dict[str, Any]:
    """`method_look` with a line style: three signs that change at different steps, so that 42 curves differ."""
    return {**method_look(index), "linestyle": _METHOD_LINES[index % len(_METHOD_LINES)]}


def ink_on(colour: Sequence[float] | np.ndarray) -> str:
    """The colour of letters on a ground of colour (red, green, blue, ...), each in [0, 1]."""
    red, green, blue, *_ = colour
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else INK


def frame(figure: Figure, title: str, caption: str, handles: Sequence[Artist] = (), columns: int = 8) -> None:
    """Title, legend of `handles` (in so many columns) and below the caption, on the left; the layout makes room."""
    if handles:
        figure.legend(
            handles=list(handles), title=title, title_fontproperties={"size": 10.5, "weight": "bold"}, fontsize=7.5,
            ncols=columns, loc="outside upper left", alignment="left", borderaxespad=0, handletextpad=0.4,
            columnspacing=1.4,
        )  # fmt: skip
    else:
        figure.suptitle(title, x=0.005, ha="left", fontsize=10.5, fontweight="bold")
    lines = "\n".join(
        textwrap.fill(line, round(_LINE * figure.get_figwidth() / WIDTH)) for line in caption.splitlines()
    )
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="#555555")


def save_png(figure: Figure, path: Path) -> Path:
    """Write with a palette of 256 colours, a third of the size; the file says by which command, and not when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")
    origin = PngInfo()
    origin.add_text("Description", f"by `{REPORT}`; for runs, revisions, versions and machine see evidence.json")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True, dpi=(DPI, DPI), pnginfo=origin)
    return path
