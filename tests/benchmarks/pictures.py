"""The pictures: mid tones on no background, so that they can be read on white and on dark."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.grid import Grid, number
from tests.benchmarks.measures import drain, growth, latency

OURS: Final = "#d9822b"
FLOOR: Final = "#4f9d69"
THEIRS: Final = "#7f8fa6"
_INK: Final = "#7a7a7a"

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small, and in the reader's own font
        "svg.hashsalt": "mailroom",  # the same figures give the same file
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw_drain(grids: Mapping[str, Grid], path: Path) -> None:
    """Bars: jobs a second of each way to drain, with their spread."""
    grid = grids[drain.RATES]
    _draw_bars(grid, "jobs/s", "jobs a second", path)


def draw_latency(grids: Mapping[str, Grid], path: Path) -> None:
    """Points on a log scale: the 99th percentile of each case."""
    grid = grids[latency.TIMES]
    names = list(grid.cells)[::-1]
    figure, axes = _rows(names)
    reach = _reach(grid, names, "p99")
    for place, name in enumerate(names):
        median = grid.median(name, "p99")
        spread = [[reach[0][place]], [reach[1][place]]]
        axes.errorbar([median], [name], xerr=spread, fmt="o", color=_colour(name), ecolor=_INK, capsize=3)
        axes.annotate(number(median), (median, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlabel("ms from commit to transport, 99th percentile (log scale)")
    _save(figure, path)


def draw_growth(grids: Mapping[str, Grid], path: Path) -> None:
    """Two curves by size: the drain rate, and the time of a claim."""
    grid = grids[growth.FOUND]
    names = list(grid.cells)
    figure = Figure(figsize=(8, 3.2))
    for place, (column, words) in enumerate((("jobs/s", "jobs a second"), ("claim ms", "ms a claim"))):
        axes = figure.add_subplot(1, 2, place + 1)
        medians = [grid.median(name, column) for name in names]
        labels = [name.replace(", ", ",\n") for name in names]
        axes.errorbar(labels, medians, yerr=_reach(grid, names, column), color=OURS, marker="o", capsize=4)
        axes.set_ylim(0, 1.2 * max(max(grid.cells[name][column]) for name in names))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_title(f"{words}, by jobs waiting", fontsize=10)
    _save(figure, path)


PICTURES: Final[Mapping[str, Callable[[Mapping[str, Grid], Path], None]]] = {
    "drain": draw_drain,
    "latency": draw_latency,
    "growth": draw_growth,
}


def _rows(names: list[str]) -> tuple[Any, Any]:
    """A figure with room for so many rows."""
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(names)))
    return figure, figure.add_subplot()


def _draw_bars(grid: Grid, column: str, words: str, path: Path) -> None:
    names = list(grid.cells)[::-1]
    medians = [grid.median(name, column) for name in names]
    figure, axes = _rows(names)
    colours = [_colour(name) for name in names]
    reach = _reach(grid, names, column)
    bars = axes.barh(names, medians, xerr=reach, color=colours, ecolor=_INK, capsize=3)
    axes.bar_label(bars, labels=[number(median) for median in medians], padding=6, color=_INK, fontsize=9)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(words)
    _save(figure, path)


def _colour(name: str) -> str:
    return OURS if name.startswith("mailroom") else FLOOR if name.startswith("floor") else THEIRS


def _reach(grid: Grid, names: list[str], column: str) -> list[list[float]]:
    """How far the runs lie below and above their median."""
    below = [grid.median(name, column) - min(grid.cells[name][column]) for name in names]
    above = [max(grid.cells[name][column]) - grid.median(name, column) for name in names]
    return [below, above]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
