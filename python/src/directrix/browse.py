"""A page of directions to look through."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._directrix import DirectrixError

if TYPE_CHECKING:
    from .index import Index
    from .table import Table

#: Directions of a page, where none are named.
DIRECTIONS = 500
#: Tokens shown before and after the one at which a direction fires most strongly.
BEFORE, AFTER = 40, 15


class Browser:
    """Directions with their highest prompts, in one page without anything to fetch."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    @classmethod
    def of(cls, index: Index, directions: npt.ArrayLike | None, sae: int | str, k: int) -> Browser:
        """Of some directions of an SAE of an index."""
        number = index.number_of(sae)
        table = index.directions(number)
        fires = np.asarray(table["active"]) > 0
        if directions is None:
            wanted = np.flatnonzero(fires)[:DIRECTIONS]
        else:
            wanted = np.atleast_1d(np.asarray(directions, dtype=np.int64))
            if wanted.size and not (0 <= wanted.min() and wanted.max() < len(fires)):
                raise DirectrixError(f"directions are from {wanted.min()} to {wanted.max()}; the SAE has 0 to {len(fires) - 1}")
        words: dict[str, int] = {}
        shown = [_direction(index, table, int(direction), number, k, words) for direction in wanted]
        name, hook, total = index.about["saes"][number]
        return cls({"sae": name, "hook": hook, "total": total, "words": list(words), "directions": shown})

    def to_html(self) -> str:
        """The page."""
        data = json.dumps(self._data, separators=(",", ":")).replace("<", "\\u003c")
        return files("directrix").joinpath("browse.html").read_text(encoding="utf-8").replace("{{data}}", data)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the page."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        page = html.escape(self.to_html())
        style = "width: 100%; height: 560px; border: 1px solid #8886; border-radius: 6px"
        return f'<iframe title="Directions" sandbox="allow-scripts" srcdoc="{page}" style="{style}"></iframe>'

    def __repr__(self) -> str:
        return f"Browser({self._data['sae']}: {len(self._data['directions'])} of {self._data['total']} directions)"


def _direction(
    index: Index, table: Table, direction: int, sae: int, k: int, words: dict[str, int]
) -> dict[str, Any]:
    numbers = {name: _plain(table[name][direction]) for name in ("direction", "maximum", "density", "mean", "prompts")}
    top = {"top_token": table["top_token_text"][direction], "share": _plain(table["top_token_share"][direction])}
    found = index.top_examples(direction, sae, k)
    examples = []
    for prompt, position in zip(found["prompt"], found["position"], strict=True):
        start, end = max(0, int(position) - BEFORE), int(position) + AFTER + 1
        texts = _words(index, index.prompt(int(prompt))[start:end], words)
        values = index.on_prompt(direction, int(prompt), sae)[start:end]
        examples.append([int(prompt), int(position) - start, texts, [round(float(value), 3) for value in values]])
    return {**numbers, **top, "histogram": index.histogram(direction, sae), "examples": examples}


def _words(index: Index, tokens: npt.NDArray[np.uint32], words: dict[str, int]) -> Sequence[int]:
    return [words.setdefault(text, len(words)) for text in index._core.texts(tokens)]


def _plain(number: Any) -> float | None:
    return None if np.isnan(number) else float(f"{float(number):.5g}")
