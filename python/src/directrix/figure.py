"""Figures, drawn as reports draw them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._directrix import CoreFigure, DirectrixError


class Figure:
    """A chart that a notebook draws (plotly), and an SVG.

    Jupyter and VS Code draw it interactively without plotly being installed; where nothing does, as in an exported notebook, it is the SVG.
    """

    def __init__(self, core: CoreFigure, title: str) -> None:
        self._core, self._title = core, title

    def to_plotly(self) -> dict[str, Any]:
        """What plotly draws: `data`, `layout` and `config`; `plotly.graph_objects.Figure(figure.to_plotly()["data"])` is one of its own."""
        drawn: dict[str, Any] = json.loads(self._core.to_plotly())
        drawn["layout"]["title"] = {"text": self._title}
        drawn["layout"]["margin"]["t"] = drawn["layout"]["margin"].get("t", 0) + 40
        return drawn

    def to_svg(self) -> str:
        """The figure as SVG."""
        return self._core.to_svg()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the SVG."""
        Path(path).write_text(self.to_svg(), encoding="utf-8")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "application/vnd.plotly.v1+json": self.to_plotly(),
            "image/svg+xml": self.to_svg(),
            "text/plain": repr(self),
        }

    def __repr__(self) -> str:
        return f"Figure({self._title})"


def line(
    labels: Sequence[Any], values: npt.ArrayLike | Mapping[Any, npt.ArrayLike], *, title: str = "", x: str = "", y: str = ""
) -> Figure:
    """A line over labels, or one for each name."""
    series = values if isinstance(values, Mapping) else {y or "value": values}
    lines = [{"name": str(name), "values": _numbers(of, len(labels))} for name, of in series.items()]
    return _figure({"kind": "lines", "labels": [str(label) for label in labels], "series": lines}, title, x, y)


def histogram(values: npt.ArrayLike, *, bins: int = 50, title: str = "", x: str = "", log: bool = False) -> Figure:
    """Counts of values in intervals of equal width; those that are not finite are left out."""
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    counts, edges = np.histogram(numbers[np.isfinite(numbers)], bins=bins)
    shape = {"kind": "histogram", "edges": edges.tolist(), "counts": counts.tolist(), "log_counts": log}
    return _figure(shape, title, x, "count")


def bars(
    labels: Sequence[Any],
    values: npt.ArrayLike,
    half_widths: npt.ArrayLike | None = None,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
) -> Figure:
    """A bar for each label, with half widths of intervals."""
    shape = {
        "kind": "bars",
        "labels": [str(label) for label in labels],
        "values": _numbers(values, len(labels)),
        "half_widths": [] if half_widths is None else _numbers(half_widths, len(labels)),
        "bands": [],
    }
    return _figure(shape, title, x, y)


def scatter(
    x_values: npt.ArrayLike,
    y_values: npt.ArrayLike,
    hover: Sequence[Any] | None = None,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
) -> Figure:
    """Points; `hover` is what pointing at each shows."""
    n = int(np.asarray(x_values).size)
    texts = [] if hover is None else [str(text) for text in hover]
    shape = {"kind": "scatter", "x": _numbers(x_values, n), "y": _numbers(y_values, n), "hover": texts}
    return _figure(shape, title, x, y)


def heatmap(
    values: npt.ArrayLike,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    diverging: bool = True,
) -> Figure:
    """A matrix of coloured cells, `[rows, columns]`, its first row on top."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise DirectrixError(f"values are of shape {matrix.shape}; give rows and columns")
    names = [[str(name) for name in (of if of is not None else range(n))] for of, n in zip((rows, columns), matrix.shape, strict=True)]
    if (len(names[0]), len(names[1])) != matrix.shape:
        raise DirectrixError(f"{len(names[0])} names of rows and {len(names[1])} of columns; values are {matrix.shape}")
    shape = {"kind": "heatmap", "rows": names[0], "columns": names[1], "values": _numbers(matrix, matrix.size), "diverging": diverging}
    return _figure(shape, title, x, y)


def _numbers(values: npt.ArrayLike, n: int) -> list[float]:
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(numbers) != n:
        raise DirectrixError(f"there are {len(numbers)} values; {n} are needed")
    if not np.isfinite(numbers).all():
        raise DirectrixError("a value is not finite; leave it out")
    return [float(number) for number in numbers]


def _figure(shape: dict[str, Any], title: str, x: str, y: str) -> Figure:
    about = {"name": "figure", "title": title, "x": x, "y": y, "caption": "", "shape": shape, "links": []}
    return Figure(CoreFigure(json.dumps(about)), title)
