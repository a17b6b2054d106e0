"""The one picture of the benchmarks: how many times as long the peers take, on a logarithmic scale."""

import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["draw"]

#: One colour for each peer that the figure shows, and the order of its legend.
_COLOURS = {
    "geoopt": "#4c72b0",
    "hypll": "#dd8452",
    "pymanopt": "#55a868",
    "plain torch": "#8c8c8c",
    "torch.compile": "#c44e52",
}


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw one line of dots for each case, and write the figure (PNG) under a temporary name first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if any(peer in _COLOURS for peer in row["ratio"])]
    figure, axes = plt.subplots(figsize=(8.0, 0.21 * len(shown) + 1.4))
    for y, row in enumerate(reversed(shown)):
        for peer, ratio in row["ratio"].items():
            if peer in _COLOURS:
                axes.plot(ratio, y, "o", color=_COLOURS[peer], markersize=5)
    for peer, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, label=peer)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [row["case"] for row in reversed(shown)], fontsize=7)
    axes.set_ylim(-1, len(shown))
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("time of the peer over Holonomy's", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".png", delete=False) as file:
        figure.savefig(file, dpi=130, format="png")
    plt.close(figure)
    os.replace(file.name, path)
