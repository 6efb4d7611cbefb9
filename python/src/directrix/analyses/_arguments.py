"""What analyses take, as the native module takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _directrix
from .._arrays import Floats, as_array, as_floats
from .._directrix import DirectrixError, SparseActivations
from ..index import Index
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table

#: Directions: one, or several.
Directions: TypeAlias = "int | Sequence[int] | npt.ArrayLike"
#: A position of every prompt, negative ones from the end, or one for each prompt.
Position: TypeAlias = "int | Sequence[int] | npt.ArrayLike"
#: Activations: `SparseActivations`, or anything that has a CSR matrix's `indptr`, `indices`, `data` and `shape`.
Acts: TypeAlias = "SparseActivations | Any"
#: A token, by its id or its text.
Token: TypeAlias = "int | str"


def core_of(index: Index | None) -> _directrix.CoreIndex | None:
    return None if index is None else index._core


def number_in(index: Index | None, sae: int | str | None) -> int | None:
    if sae is None:
        return None
    if index is None:
        raise DirectrixError("`index_sae` names an SAE of an index; give that as `index`")
    return index.number_of(sae)


def changed_where(
    model: Model, position: Position, everywhere: bool, index: Index | None, index_sae: int | str | None
) -> tuple[_directrix.CoreModel, int | list[int] | None, int | None]:
    return model._core, None if everywhere else position_of(position), number_in(index, index_sae)


def cores_of(saes: Sae | Sequence[Sae]) -> list[_directrix.CoreSae]:
    return [sae._core for sae in ([saes] if isinstance(saes, Sae) else saes)]


def whole(values: Any, what: str) -> npt.NDArray[np.int64]:
    array = as_array(values)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DirectrixError(f"{what} are of type {array.dtype}; give whole numbers")
    return array.astype(np.int64)


def list_of(values: Any) -> list[int]:
    numbers = np.atleast_1d(whole(values, "directions"))
    if numbers.ndim != 1 or (numbers.size and int(numbers.min()) < 0):
        raise DirectrixError("directions are one number or a list of numbers, none below 0")
    return [int(number) for number in numbers]


def position_of(position: Position) -> int | list[int]:
    numbers = whole(position, "positions")
    if numbers.ndim > 1:
        raise DirectrixError("`position` is one number, or one for each prompt")
    return int(numbers) if numbers.ndim == 0 else [int(number) for number in numbers]


def row_of(values: npt.ArrayLike, what: str) -> Floats:
    array = as_floats(values, what)
    if array.ndim != 1:
        raise DirectrixError(f"{what} is of shape {array.shape}; give one row")
    return array


def acts_of(acts: Acts) -> SparseActivations:
    if isinstance(acts, SparseActivations):
        return acts
    if not all(hasattr(acts, name) for name in ("indptr", "indices", "data", "shape")):
        raise DirectrixError("activations are SparseActivations or a CSR matrix, a row for each prompt")
    return SparseActivations(
        np.asarray(acts.indptr, dtype=np.int64),
        np.asarray(acts.indices, dtype=np.int32),
        np.asarray(acts.data, dtype=np.float32),
        int(acts.shape[1]),
    )


def token_of(token: Any) -> int | str:
    return token if isinstance(token, str) else int(token)


def id_of(model: Model, token: Token) -> int:
    return int(model.to_single_token(token)) if isinstance(token, str) else int(token)


def tokens_of(model: Model, prompt: Input) -> list[int]:
    prompts = to_prompts(model, prompt)
    if len(prompts) != 1:
        raise DirectrixError(f"a pair is of single prompts, and here are {len(prompts)}")
    return [int(token) for token in prompts[0]]


def pairs_of(pairs: Table | npt.ArrayLike | None) -> list[tuple[int, int]] | None:
    if pairs is None:
        return None
    if isinstance(pairs, Table):
        both = np.stack([np.asarray(pairs["first"]), np.asarray(pairs["second"])], axis=1)
    else:
        both = np.atleast_2d(whole(pairs, "pairs"))
    if both.size == 0:
        return []
    if both.ndim != 2 or both.shape[1] != 2 or int(both.min()) < 0:
        raise DirectrixError(f"pairs are of shape {both.shape}; give a table with `first` and `second`, or numbers [n, 2]")
    return [(int(first), int(second)) for first, second in both]
