"""Which directions belong together."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy.typing as npt

from .. import _directrix
from ..index import Index
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import core_of, number_in, pairs_of


def cosine_pairs(model: Model, first: Sae, second: Sae, *, k: int = 10, lower_triangle: bool = False) -> Table:
    """The `k` pairs of directions with the highest cosine between what the first writes (`W_dec W_out`) and what the second reads (`W_in
    W_enc`), over all pairs. `lower_triangle` leaves out pairs whose second number is above the first, as `torch.tril` does.
    """
    return Table(_directrix.cosine_pairs(model._core, first._core, second._core, int(k), lower_triangle))


def pair_effects(
    model: Model,
    first: Sae,
    second: Sae,
    index: Index,
    pairs: Table | npt.ArrayLike | None = None,
    *,
    k: int = 10,
    prompts: int = 100,
    index_sae: int | str | None = None,
) -> Table:
    """What ablating either direction of a pair does where the first is most active: means over the `prompts` prompts of the index in which
    it is.

    `pairs` is a table with `first` and `second`, or `[n, 2]`; by default the `k` with the highest cosine. Losses are in nats;
    `activation_change` is that of the second direction when the first is ablated, beside both controls.
    """
    return Table(
        _directrix.pair_effects(
            model._core, first._core, second._core, index._core, pairs_of(pairs), int(k), int(prompts), number_in(index, index_sae)
        )
    )


class Similarities(NamedTuple):
    """How alike the directions of one SAE are: within the decoder, within the encoder, between both."""

    #: Mean and standard deviation of the cosines; over random rows that is 1 / √width.
    summary: Table
    #: The most similar pairs.
    pairs: Table
    #: Each direction's highest cosine with any other, and between its own rows of encoder and decoder.
    nearest: Table
    #: Pairs by cosine, in 200 intervals from -1 to 1.
    counts: Table


def similarities(sae: Sae, *, k: int = 20) -> Similarities:
    """Cosines of all pairs of two directions of an SAE, with the `k` most similar of each kind."""
    return Similarities(*map(Table, _directrix.similarities(sae._core, int(k))))


class Matching(NamedTuple):
    """Directions of two SAEs, matched one to one."""

    #: A row for each pair: `in_first`, `in_second`, cosines, with an index the correlation of activations, and `similarity`.
    pairs: Table
    #: All others: the SAE, the direction, and what it is nearest to in the other.
    unmatched: Table


def match_directions(
    first: Sae,
    second: Sae,
    *,
    by: Literal["decoder", "activations"] = "decoder",
    least: float = 0.3,
    index: Index | None = None,
    index_saes: tuple[int | str, int | str] | None = None,
) -> Matching:
    """Which direction of one SAE is which of another of the same site: matched one to one so that the sum of similarities is the largest
    there is, exactly; pairs no more alike than `least` are none.

    Alike are decoder rows (cosine) or, with an index of both, activations (Pearson's correlation over the positions that count).
    `index_saes` names both in it; by default by their names.
    """
    numbers = None
    if index is not None:
        one, other = index_saes if index_saes is not None else (first.name, second.name)
        numbers = [index.number_of(one), index.number_of(other)]
    pairs, unmatched = _directrix.match_directions(first._core, second._core, by, float(least), core_of(index), numbers)
    return Matching(Table(pairs), Table(unmatched))


def cooccurrence(
    model: Model, first: Sae, second: Sae, prompts: Input, *, first_position: int = 10, above: float = 1.0
) -> Table:
    """Which first directions a second one needs (AND): at every position from `first_position` on, the most active direction of the second
    SAE, and its activation with each direction of the first SAE that is active above `above` there ablated. The largest decreases first.
    """
    return Table(
        _directrix.cooccurrence(
            model._core, first._core, second._core, to_prompts(model, prompts), int(first_position), float(above)
        )
    )


def cooccurrence_pairs(
    model: Model,
    first: Sae,
    second: Sae,
    prompts: Input,
    *,
    first_position: int = 10,
    above: float = 1.0,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> Table:
    """As `cooccurrence`, each pair of directions over all of its positions: the mean `difference` (ablated less original), with intervals
    clustered by prompt. Pairs found in several prompts come first, the most negative first; with an index, these stand beside both
    controls.
    """
    return Table(
        _directrix.cooccurrence_pairs(
            model._core,
            first._core,
            second._core,
            to_prompts(model, prompts),
            int(first_position),
            float(above),
            core_of(index),
            number_in(index, index_sae),
        )
    )
