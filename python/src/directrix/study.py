"""Studies."""

from __future__ import annotations

import html
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path

from . import _directrix


class Study:
    """A study file: model, SAEs, corpus, a behaviour, and the analyses to make. Without a path, the study of closing quotations that the
    package brings.
    """

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        self._core = _directrix.CoreStudy.read(None if path is None else fspath(path))

    @classmethod
    def parse(cls, text: str, name: str = "study") -> Study:
        """A study from its text in TOML; `name` is what errors call it."""
        study = cls.__new__(cls)
        study._core = _directrix.CoreStudy.parse(text, name)
        return study

    def run(self, out: str | PathLike[str]) -> Report:
        """Makes every analysis and writes report, tables and figures to `out`. Interrupted, it goes on when it is run again."""
        path, notes, seconds = self._core.run(fspath(out))
        return Report(path, notes, dict(seconds))


class Report:
    """What a study left: a page, tables as CSV and Parquet, figures as SVG."""

    def __init__(self, path: str, notes: list[str], seconds: Mapping[str, float]) -> None:
        #: The page.
        self.path = Path(path)
        #: What is to be told of the model's files.
        self.notes = notes
        #: The seconds of each step.
        self.seconds = dict(seconds)

    def tables(self) -> dict[str, Path]:
        """The tables as CSV, by name."""
        return {path.stem: path for path in sorted((self.path.parent / "tables").glob("*.csv"))}

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 720px; border: 1px solid #8888"></iframe>'

    def __repr__(self) -> str:
        return f"Report({self.path})"
