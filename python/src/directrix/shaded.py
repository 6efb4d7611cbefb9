"""Texts with shaded tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._directrix import DirectrixError

#: The colours of positive and negative values, as in reports.
POSITIVE, NEGATIVE = (217, 119, 6), (37, 99, 235)
_BOX = "font-family: ui-monospace, monospace; font-size: 13px; line-height: 1.9; white-space: pre-wrap; margin: 0.4em 0"
_LABEL = "font-family: sans-serif; font-size: 12px; opacity: 0.7; display: block"


class ShadedText:
    """A text whose tokens are shaded by values, `[tokens]`; a token's value shows when pointed at.

    `maximum` is the absolute value of the darkest shade: the largest of the text's if left out. `marked` is a position to outline.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        values: npt.ArrayLike,
        maximum: float | None = None,
        label: str = "",
        marked: int | None = None,
    ) -> None:
        self.tokens = list(tokens)
        self.values = np.asarray(values, dtype=np.float64).reshape(-1)
        if len(self.tokens) != len(self.values):
            raise DirectrixError(f"{len(self.tokens)} tokens have {len(self.values)} values; give one for each")
        finite = np.abs(self.values[np.isfinite(self.values)])
        self.maximum = float(maximum) if maximum is not None else float(finite.max(initial=0.0))
        self.label, self.marked = label, marked

    def _repr_html_(self) -> str:
        label = f'<span style="{_LABEL}">{html.escape(self.label)}</span>' if self.label else ""
        return f'<div style="{_BOX}">{label}{"".join(map(self._token, range(len(self.tokens))))}</div>'

    def _token(self, i: int) -> str:
        value = self.values[i]
        share = min(abs(value) / self.maximum, 1.0) if self.maximum > 0 and np.isfinite(value) else 0.0
        red, green, blue = POSITIVE if value >= 0 else NEGATIVE
        style = f"background: rgba({red}, {green}, {blue}, {0.85 * share:.2f})" if share >= 0.01 else ""
        if i == self.marked:
            style += "; outline: 1.5px solid currentColor; border-radius: 2px"
        shown = html.escape(self.tokens[i]).replace("\n", "↵\n")
        return f'<span title="{html.escape(repr(self.tokens[i]))}: {value:.4g}" style="{style}">{shown}</span>'

    def __repr__(self) -> str:
        return f"ShadedText({''.join(self.tokens)!r})"


class ShadedTexts(Sequence[ShadedText]):
    """Several texts below each other."""

    def __init__(self, texts: Sequence[ShadedText]) -> None:
        self._texts = list(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: Any) -> Any:
        return self._texts[number]

    def _repr_html_(self) -> str:
        return "".join(text._repr_html_() for text in self._texts)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._texts))
