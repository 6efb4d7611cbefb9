"""How far long work is, in a bar of tqdm where that is installed."""

from __future__ import annotations

from typing import Any

from . import _directrix


def show_progress(show: bool = True) -> None:
    """Shows a bar for what takes more than a second, or none."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        show = False
    if not show:
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
            shown = bars[work] = (step, tqdm(desc=step, total=total, unit=f" {unit}", leave=False, mininterval=0.5))
        shown[1].update(done - shown[1].n)

    _directrix.set_progress(told)
