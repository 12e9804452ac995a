"""How all figures look, and how they are saved: the same bytes each time they are drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from act_ray.files import replace_atomically

# Okabe and Ito's colours, which people who see fewer hues can tell apart as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARK = "#d55e00"
GREY = "#666666"
DPI = 160
WIDTH = 7.0  # inches; as wide as a page's text

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first comes with matplotlib; others are for viewers
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "act_ray",
}


class Missing(Exception):
    """The run has nothing that a figure could show; the message says what it lacks."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in the one style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write folder/name.png and folder/name.svg, without the date and the library's version."""
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):

        def write(temporary: Path, kind: str = kind, metadata: dict[str, None] = metadata) -> None:
            figure.savefig(
                temporary, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.06
            )  # SVG takes the resolution for the pictures in it

        replace_atomically(folder / f"{name}.{kind}", write)
