"""Losses with the site of an SAE changed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy.typing as npt

from .. import _directrix
from .._arrays import Floats
from .._directrix import Prompts
from ..index import Index
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import Directions, core_of, list_of, number_in, row_of


def mean_site(model: Model, sae: Sae, prompts: Input) -> Floats:
    """The mean of what an SAE writes, `[d_out]`: over the positions of each prompt, then over prompts."""
    return _directrix.mean_site(model._core, sae._core, to_prompts(model, prompts))


class AnswerLosses(NamedTuple):
    """The answer's loss with the site before it changed in five ways."""

    #: A row for each prompt, nats: `original`, `mean`, `zero`, `directions`, `sae`.
    losses: Table
    #: Shares of mean losses, with both ends of their 95 % intervals (bootstrap over prompts): loss recovered, and what the directions carry.
    shares: Table


def answer_losses(
    model: Model,
    sae: Sae,
    prompts: Input,
    directions: Directions,
    *,
    mean: npt.ArrayLike | None = None,
    mean_over: Input | None = None,
) -> AnswerLosses:
    """How much of the answer's loss the SAE recovers, and how much of what its site does the directions carry.

    The site before the answer is as it is, at its `mean` (`[d_out]`; by default that over `mean_over`, or else over the prompts), zero,
    with the directions ablated, or reconstructed. Recovered: `(zero − sae) / (zero − original)`; carried: `(directions − original) / (mean
    − original)`.
    """
    own = to_prompts(model, prompts)
    losses, shares = _directrix.answer_losses(
        model._core, sae._core, own, list_of(directions), _mean(model, sae, own, mean, mean_over)
    )
    return AnswerLosses(Table(losses), Table(shares))


def keep_directions(
    model: Model,
    sae: Sae,
    prompts: Input,
    directions: Directions,
    *,
    sizes: Sequence[int] = (0, 1, 2, 5, 10, 20, 40),
    mean: npt.ArrayLike | None = None,
    mean_over: Input | None = None,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> Table:
    """Keeps nothing of the site before the answer but the span of the decoder rows of the first directions: how few carry the behaviour.

    A row for each of `sizes` and each `rest`, what is orthogonal to them: at the `mean` (as of `answer_losses`) or zero. `loss_increase`
    in nats; with an index, `random_rows` is that of as many dimensions of random rows.
    """
    own = to_prompts(model, prompts)
    row = _mean(model, sae, own, mean, mean_over)
    return Table(
        _directrix.keep_directions(
            model._core, sae._core, own, list_of(directions), list_of(sizes), row, core_of(index), number_in(index, index_sae)
        )
    )


def _mean(model: Model, sae: Sae, own: Prompts, mean: npt.ArrayLike | None, mean_over: Input | None) -> Floats:
    if mean is not None:
        return row_of(mean, "the mean")
    return mean_site(model, sae, own if mean_over is None else mean_over)
