"""How far long work is, in a bar of tqdm where that is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from . import _directrix

_told: Callable[[int, str | None, int, int | None, str], None] | None = None


def show_progress(show: bool = True) -> None:
    """Shows a bar for what takes more than a second, or none. It is there from the start where tqdm is."""
    global _told
    if not show or find_spec("tqdm") is None:
        _told = None
        _directrix.set_progress(None)
        return
    bars: dict[int, tuple[str, Any]] = {}

    def told(work: int, step: str | None, done: int, total: int | None, unit: str) -> None:
        shown = bars.get(work)
        if shown is not None and shown[0] != step:
            bars.pop(work)[1].close()
            shown = None
        if step is None:
            return
        if shown is None:
            shown = bars[work] = (step, _bar(step, total, unit))
        shown[1].update(done - shown[1].n)

    _told = told
    _directrix.set_progress(told)


def tell(step: str | None, done: int = 0, total: int | None = None, unit: str = "") -> None:
    """Shows how far work is that others do; that it has ended, without a step."""
    if _told is not None:
        # The native module's are numbered from 0.
        _told(-1, step, done, total, unit)


def _bar(step: str, total: int | None, unit: str) -> Any:
    with warnings.catch_warnings():
        # That a bar of widgets would be nicer is nothing to warn of.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm(desc=step, total=total, unit=f" {unit}", leave=False, mininterval=0.5)
