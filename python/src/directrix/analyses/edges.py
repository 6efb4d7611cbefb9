"""Edges from directions of an SAE to those of a later one."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _directrix
from .._directrix import DirectrixError
from ..index import Index
from ..model import Model
from ..sae import Sae
from ..table import Table
from ._arguments import Directions, core_of, cores_of, list_of, pairs_of

#: By what edges are ranked.
Measure: TypeAlias = Literal[
    "cosine",
    "virtual-weight",
    "mutual-information",
    "conditional",
    "correlation",
    "attribution",
    "frozen-attribution",
    "integrated-attribution",
    "causal",
]

#: Which edges are verified and how, as the native module takes it.
HowVerified: TypeAlias = (
    "tuple[list[tuple[int, int, int, int, float]] | None, str, int, tuple[int, int] | None, int, int, int, int, float]"
)

_MEASURES = (
    "cosine",
    "virtual-weight",
    "mutual-information",
    "conditional",
    "correlation",
    "attribution",
    "frozen-attribution",
    "integrated-attribution",
    "causal",
)


def edges(
    model: Model,
    saes: Sequence[Sae],
    index: Index | None = None,
    *,
    by: Measure = "causal",
    top: int = 20,
    head: tuple[int, int] | None = None,
    steps: int = 10,
    sample_prompts: int = 16,
    least_prompts: int = 4,
) -> Table:
    """The `top` strongest edges from directions of each SAE to those of every later one.

    By what the weights say (`cosine`, `virtual-weight`: of the residual stream or through one `head`, `(layer, head)`), by what fires
    together (`mutual-information`, `conditional`, `correlation`), by gradients (`attribution`, `frozen-attribution`,
    `integrated-attribution` in `steps`; Syed et al. 2023, Marks et al. 2024, Sundararajan et al. 2017), or by what ablating the first does
    to the second (`causal`). All but the first two need an index of the SAEs, and look at its prompts of even number: `sample_prompts` of
    each direction, and pairs that fire together in `least_prompts`. `verify_edges` looks at the others.
    """
    return Table(
        _directrix.edges(
            model._core, cores_of(saes), core_of(index), by, int(top), head, int(steps), int(sample_prompts), int(least_prompts)
        )
    )


def verify_edges(
    model: Model,
    saes: Sequence[Sae],
    index: Index,
    edges: Table | npt.ArrayLike | None = None,
    *,
    by: Measure = "causal",
    top: int = 1000,
    head: tuple[int, int] | None = None,
    steps: int = 10,
    sample_prompts: int = 16,
    least_prompts: int = 4,
    verify_prompts: int = 24,
    rate: float = 0.05,
) -> Table:
    """The causal effect of each edge on prompts that did not choose it (those of odd number), `verify_prompts` at most, beside controls.

    `edges` is what the function `edges` gave, or pairs of directions of two SAEs, `[n, 2]`; by default the `top` strongest are ranked as
    there. `change` is that of the second's activation when the first is ablated where it fires, summed over a prompt; `verified` is 1
    where it exceeds zero and both controls at a false-discovery rate of `rate` over the list (signed-rank tests; Berger 1982).
    """
    sampled = (sample_prompts, least_prompts, verify_prompts)
    core = _directrix.verify_edges(model._core, cores_of(saes), index._core, *how_verified(saes, edges, by, top, head, steps, *sampled, rate))
    # It has no shard that others could be waited for.
    assert core is not None
    return Table(core)


def verify_edges_shard(
    model: Model,
    saes: Sequence[Sae],
    index: Index,
    units: str | PathLike[str],
    number: int,
    of: int,
    edges: Table | npt.ArrayLike | None = None,
    **how: Any,
) -> Table | None:
    """Does a part of `verify_edges`, whose other arguments it takes: shard `number`, from 1, of `of`. Any process does it, anywhere; what is
    done is kept in the folder `units`, in units that a later call does not do again.

    Nothing comes of it while other shards have not done theirs, and what `verify_edges` gives once they have. Edges are verified once all are
    ranked: call all shards until one of them gives the table, then remove `units`.
    """
    arguments = how_verified(saes, edges, **how)
    shard = (int(number), int(of), fspath(units))
    core = _directrix.verify_edges(model._core, cores_of(saes), index._core, *arguments, shard)
    return None if core is None else Table(core)


def how_verified(
    saes: Sequence[Sae],
    edges: Table | npt.ArrayLike | None = None,
    by: Measure = "causal",
    top: int = 1000,
    head: tuple[int, int] | None = None,
    steps: int = 10,
    sample_prompts: int = 16,
    least_prompts: int = 4,
    verify_prompts: int = 24,
    rate: float = 0.05,
) -> HowVerified:
    """Which edges are verified and how, as the native module takes it."""
    given = None
    if edges is not None:
        given, by = _edges(list(saes), edges, by)
    sampled = (int(sample_prompts), int(least_prompts))
    return given, by, int(top), head, int(steps), *sampled, int(verify_prompts), float(rate)


class Agreement(NamedTuple):
    """How far rankings of edges agree with that by causal effect."""

    #: A row for each measure: rank correlation with the causal effect, precision among the best, share verified.
    measures: Table
    #: The best thousand edges by each measure.
    best: Table
    #: The best hundred by each measure, verified.
    verified: Table
    #: Pairs drawn at random from those that have a causal effect, with their value by each measure.
    compared: Table


def edge_agreement(
    model: Model,
    first: Sae,
    second: Sae,
    index: Index,
    *,
    sample_prompts: int = 16,
    least_prompts: int = 4,
    verify_prompts: int = 24,
    rate: float = 0.05,
) -> Agreement:
    """Ranks all pairs of directions of two SAEs by every measure of `edges` (but `integrated-attribution`), verifies the best of each, and
    compares the rankings with that by causal effect.
    """
    tables = _directrix.edge_agreement(
        model._core,
        first._core,
        second._core,
        index._core,
        int(sample_prompts),
        int(least_prompts),
        int(verify_prompts),
        float(rate),
    )
    return Agreement(*map(Table, tables))


def upstream(
    model: Model,
    first: Sae,
    second: Sae,
    index: Index,
    direction: int,
    *,
    share_of_maximum: float = 0.17,
    sample_prompts: int = 16,
    least_prompts: int = 4,
) -> Table:
    """The directions of the first SAE by how much of a direction of the second ablating each alone takes, where both fire; on prompts of
    the index of even number. `lost` is a share of its activation, a mean over `n` prompts; `fires` the share of its positions at which the
    other fires.
    """
    how = (256, float(share_of_maximum), 0.25, 0.1, 0.05, 0.8)
    sampled = (int(sample_prompts), int(least_prompts))
    return Table(_directrix.upstream(model._core, first._core, second._core, index._core, int(direction), sampled, how))


def conjunctions(
    model: Model,
    first: Sae,
    second: Sae,
    index: Index,
    direction: int,
    *,
    firsts: Directions | None = None,
    most: int = 10,
    positions: int = 256,
    share_of_maximum: float = 0.17,
    interaction: float = 0.25,
    needed: float = 0.1,
    rate: float = 0.05,
    sample_prompts: int = 16,
    least_prompts: int = 4,
) -> Table:
    """Which directions of the first SAE a direction of the second needs together (`and`), or of which each is enough (`or`).

    A row for each two of `firsts` (by default the `most` that take most alone, found on prompts of even number), at positions at which all
    three fire in prompts of odd number: the shares of its activation lost when either and both are ablated; `interaction` is what both
    take less what each takes, about -1 if both are needed, 1 if each is enough, 0 if they add up (`additive`), beside the control of two
    other directions that fire there.

    Args:
        positions: Positions of each pair, at most.
        share_of_maximum: Only positions count at which the direction fires at this share of its maximum.
        interaction: An interaction whose interval is beyond this, either way, is none of a sum.
        needed: What each must take alone for the two to count as adding up.
        rate: False-discovery rate up to which an interaction counts.
    """
    how = (int(positions), float(share_of_maximum), float(interaction), float(needed), float(rate), 0.8)
    return Table(
        _directrix.conjunctions(
            model._core,
            first._core,
            second._core,
            index._core,
            int(direction),
            None if firsts is None else list_of(firsts),
            int(most),
            (int(sample_prompts), int(least_prompts)),
            how,
        )
    )


def joint_set(
    model: Model,
    first: Sae,
    second: Sae,
    index: Index,
    direction: int,
    *,
    firsts: Directions | None = None,
    most: int = 10,
    enough: float = 0.8,
    positions: int = 256,
    share_of_maximum: float = 0.17,
    sample_prompts: int = 16,
    least_prompts: int = 4,
) -> Table:
    """The smallest set found of directions of the first SAE whose ablation together takes `enough` of the activation of one of the second.

    Chosen on prompts of even number (`lost_choosing`). A row for the first, the first two and so on: `lost` is the share that they take on
    prompts of odd number, beside as many other directions that fire there.
    """
    how = (int(positions), float(share_of_maximum), 0.25, 0.1, 0.05, float(enough))
    return Table(
        _directrix.joint_set(
            model._core,
            first._core,
            second._core,
            index._core,
            int(direction),
            None if firsts is None else list_of(firsts),
            int(most),
            (int(sample_prompts), int(least_prompts)),
            how,
        )
    )


def _edges(
    saes: list[Sae], edges: Table | npt.ArrayLike, by: Measure
) -> tuple[list[tuple[int, int, int, int, float]], Measure]:
    """Edges as the native module takes them: numbers of the SAEs and directions, and the value, NaN if there is none."""
    pairs = pairs_of(edges) or []
    if not isinstance(edges, Table):
        if len(saes) != 2:
            raise DirectrixError("edges given by their directions alone are between two SAEs; give two")
        return [(0, 1, first, second, float("nan")) for first, second in pairs], by
    numbers = {sae.name: number for number, sae in enumerate(saes)}
    own: list[Measure] = [measure for measure in _MEASURES if measure.replace("-", "_") in edges]  # type: ignore[misc]
    values: Any = edges[own[0].replace("-", "_")] if own else np.full(len(edges), np.nan)
    if "from" in edges:
        unknown = sorted((set(edges["from"]) | set(edges["to"])) - numbers.keys())
        if unknown:
            raise DirectrixError(f"edges are of {', '.join(map(str, unknown))}; the SAEs given are {', '.join(numbers)}")
        ends = [(numbers[str(one)], numbers[str(two)]) for one, two in zip(edges["from"], edges["to"], strict=True)]
    elif len(saes) == 2:
        ends = [(0, 1)] * len(edges)
    else:
        raise DirectrixError("the table does not say which SAEs its edges are of (`from`, `to`); give two SAEs")
    given = [(*end, *pair, float(value)) for end, pair, value in zip(ends, pairs, values, strict=True)]
    return given, own[0] if own else by
