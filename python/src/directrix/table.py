"""Tables: what analyses end in."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas
    import polars

    from ._directrix import CoreTable

#: Rows that a notebook shows.
SHOWN = 30


class Table:
    """Rows as columns of equal length: whole numbers, real numbers (NaN where there is none) and texts.

    `table["mean"]` is a column; `polars.DataFrame(table)`, `pyarrow.table(table)` and `pandas.DataFrame.from_arrow(table)` take it as it
    is. `table.caption` says what one row is and what means are over; standard errors and half widths of 95 % intervals stand beside means.
    """

    def __init__(self, core: CoreTable) -> None:
        self._core = core

    @property
    def name(self) -> str:
        """What it is called: words joined by `-`."""
        return self._core.name

    @property
    def caption(self) -> str:
        """What one row is, and what means are over."""
        return self._core.caption

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._core.columns

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> npt.NDArray[np.int64] | npt.NDArray[np.float64] | list[str]:
        # Without rows there is nothing that says which columns they would have had.
        return self._core.column(column) if len(self) else np.zeros(0)

    def row(self, number: int) -> dict[str, Any]:
        """One row, by column."""
        return {name: self[name][number] for name in self.columns}

    def to_dict(self) -> dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64] | list[str]]:
        """All columns, by name."""
        return self._core.to_dict()

    def to_pandas(self) -> pandas.DataFrame:
        """As a pandas data frame."""
        import pandas

        return pandas.DataFrame(self.to_dict())

    def to_polars(self) -> polars.DataFrame:
        """As a polars data frame."""
        import polars

        return polars.DataFrame(self)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._core.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"Table({self.name}: {len(self)} rows of {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        columns = self.to_dict()
        cells = [[_shown(column[i]) for column in columns.values()] for i in range(min(len(self), SHOWN))]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        more = f"<p>{len(self):,} rows, of which {SHOWN} are shown</p>" if len(self) > SHOWN else ""
        caption = f'<div style="max-width: 60em">{html.escape(self.caption)}</div>'
        return f"{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _shown(cell: Any) -> str:
    if isinstance(cell, (float, np.floating)):
        return "" if np.isnan(cell) else f"{cell:.4g}"
    return str(cell)
