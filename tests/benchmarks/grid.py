"""Figures by row and column, each with all of its runs; their medians, spread and ratios."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of figures. A cell holds one value for each run; the unit is in the name of its column."""

    title: str
    cells: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def put(self, row: str, columns: dict[str, float]) -> None:
        """Add what one run has found, by column."""
        for name, value in columns.items():
            self.cells.setdefault(row, {}).setdefault(name, []).append(value)

    def median(self, row: str, column: str) -> float:
        """The median of the runs; nan if it was not measured."""
        values = self.cells.get(row, {}).get(column)
        return statistics.median(values) if values else float("nan")

    def ratio(self, row: str, to: str, column: str) -> list[float]:
        """How one row compares to another, run by run: what ran side by side is compared."""
        pairs = zip(self.cells.get(row, {}).get(column, []), self.cells.get(to, {}).get(column, []), strict=False)
        return [one / other for one, other in pairs if other]

    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they came."""
        return list(dict.fromkeys(name for columns in self.cells.values() for name in columns))

    def markdown(self) -> str:
        """The table as the page shows it."""
        names = self.columns()
        lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
        for row, columns in self.cells.items():
            lines.append(f"| {row} | " + " | ".join(spread(columns.get(name, [])) for name in names) + " |")
        return f"**{self.title}**\n\n" + "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """What is kept of it."""
        return {"title": self.title, "cells": self.cells}


@dataclass(frozen=True, slots=True)
class Aim:
    """What a measure should come to: the figure of each run, the bound, and whether the bound is the least or most."""

    what: str
    values: list[float]
    bound: float
    at_most: bool = False
    unit: str = "%"

    def met(self) -> bool | None:
        """Whether the median is within the bound; None if it was not measured."""
        if not self.values:
            return None
        median = statistics.median(self.values)
        return median <= self.bound if self.at_most else median >= self.bound

    def markdown(self) -> str:
        """Its row in the table of aims."""
        percent = self.unit == "%"
        found = spread([value * 100 for value in self.values] if percent else self.values)
        sign = "≤" if self.at_most else "≥"
        verdict = {True: "yes", False: "**no**", None: "-"}[self.met()]
        bound = number(self.bound * 100 if percent else self.bound)
        return f"| {self.what} | {sign} {bound} {self.unit} | {found} | {verdict} |"


def number(value: float) -> str:
    """A figure with as many digits as it is worth."""
    if math.isnan(value):
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Iterable[float]) -> str:
    """The median, and between which bounds the runs were if there were several."""
    kept = sorted(value for value in values if not math.isnan(value))
    if not kept:
        return "-"
    middle = number(statistics.median(kept))
    return middle if kept[0] == kept[-1] else f"{middle} [{number(kept[0])}-{number(kept[-1])}]"


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of all lies."""
    kept = sorted(values)
    return kept[min(len(kept) - 1, int(share * len(kept)))]
