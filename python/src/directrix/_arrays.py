"""Arrays in and out: what is accepted, and how a batch is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._directrix import DirectrixError, Prompts

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
#: Token ids: a list, an array or tensor of one or two dimensions, or Prompts.
Tokens: TypeAlias = "Prompts | Sequence[int] | Sequence[Sequence[int]] | npt.ArrayLike"
#: Which positions: one (negative ones count from the end of each prompt), a list, or a list for each prompt.
Positions: TypeAlias = "int | Sequence[int] | Sequence[Sequence[int]] | None"


def as_array(value: Any) -> npt.NDArray[Any]:
    """The array that `value` is or gives: by the buffer protocol, `__array__` or DLPack, without a copy where that can be."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError):
            # NumPy has no such type or device; the object may still turn itself into an array.
            if "bfloat16" in str(getattr(value, "dtype", "")):
                value = value.float()
    return np.asarray(value)


def as_floats(value: Any, what: str, last: int | None = None) -> Floats:
    """`value` as float32, row-major; other float types are converted. `last` is the size that its last axis must have."""
    array = as_array(value)
    if array.dtype.kind not in "fiu":
        raise DirectrixError(f"{what} is of type {array.dtype}; give real numbers, such as float32")
    if last is not None and (array.ndim == 0 or array.shape[-1] != last):
        raise DirectrixError(f"{what} is of shape {array.shape}; its last axis must have {last} numbers")
    return np.asarray(array, dtype=np.float32, order="C")


def as_rows(value: Any, what: str, last: int) -> tuple[Floats, tuple[int, ...]]:
    """`value` as `[rows, last]`, and the shape of its other axes."""
    array = as_floats(value, what, last)
    return array.reshape(math.prod(array.shape[:-1]), last), array.shape[:-1]


def as_ids(value: Any) -> npt.NDArray[np.uint32]:
    """Token ids as they are counted."""
    array = as_array(value)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.uint32)
    if array.dtype.kind not in "iu":
        raise DirectrixError(f"token ids are of type {array.dtype}; give whole numbers")
    if int(array.min()) < 0 or int(array.max()) > np.iinfo(np.uint32).max:
        raise DirectrixError(f"token ids are from {array.min()} to {array.max()}; there are none below 0 or so large")
    return np.asarray(array, dtype=np.uint32, order="C")


def prompts_of_ids(tokens: Tokens) -> Prompts:
    """Prompts of token ids: of one row, of a rectangle, or of rows of any lengths."""
    if isinstance(tokens, Prompts):
        return tokens
    if isinstance(tokens, (list, tuple)) and any(np.ndim(row) == 1 for row in tokens):
        rows = [as_ids(row) for row in tokens]
        if any(row.ndim != 1 for row in rows):
            raise DirectrixError("token ids are rows beside single ids; give rows alone")
        return Prompts(np.concatenate(rows), [len(row) for row in rows])
    array = as_ids(tokens)
    if array.ndim not in (1, 2):
        raise DirectrixError(f"token ids are of shape {array.shape}; give one row, or rows")
    rectangle = np.atleast_2d(array)
    return Prompts(rectangle.reshape(-1), [rectangle.shape[1]] * rectangle.shape[0])


def is_rectangle(prompts: Prompts) -> bool:
    """Whether all prompts are of one length."""
    return len(set(prompts.lengths)) == 1


def split(values: npt.NDArray[Any], prompts: Prompts) -> list[npt.NDArray[Any]]:
    """Rows of all prompts together as an array for each prompt; nothing is copied.

    A ragged batch has no rectangle: what a run gives of it is `[positions, …]`, prompt after prompt.
    """
    if values.shape[0] != prompts.positions:
        raise DirectrixError(f"{values.shape[0]} rows are not those of {prompts.positions} positions")
    return np.split(values, np.cumsum(prompts.lengths)[:-1])
