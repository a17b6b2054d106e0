"""Figures, drawn without a display. matplotlib loads at the first figure."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(title: str = "", *, x: str = "", y: str = "", width: float = 6.0) -> "tuple[Figure, Axes]":
    """Open a figure with one pair of labelled axes, in the examples' common look.

    Parameters
    ----------
    title, x, y : str
        Title and axis labels.
    width : float
        Width in inches; the height is 0.62 of it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 0.62 * width), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def save_figures(figures: "dict[str, Figure]", folder: Path) -> list[str]:
    """Write each figure as ``<name>.png`` in ``folder``; return the file names."""
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=144)
    return [f"{name}.png" for name in figures]
