"""Prompts that show a behaviour, and what is active in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _directrix
from .._directrix import Prompts, SparseActivations
from ..index import Index
from ..model import Input, Model, to_prompts
from ..opened import Opened
from ..sae import Sae
from ..table import Table
from ._arguments import Acts, Directions, Position, acts_of, cores_of, list_of, position_of, row_of


class BehaviourPrompts(NamedTuple):
    """Prompts that show a behaviour."""

    #: Each ends with the answer.
    prompts: Prompts
    #: The answer's id.
    answer: int
    #: Documents looked at.
    documents: int
    #: Prompts left out because they were longer than the model's context.
    too_long: int


def behaviour_prompts(opened: Opened, contains: str, ends_with: str, *, limit: int | None = None) -> BehaviourPrompts:
    """The texts of a corpus that contain a text, each cut after the next `ends_with`, which is to be one token, the answer; at most
    `limit`.
    """
    return BehaviourPrompts(*_directrix.behaviour_prompts(opened._core, contains, ends_with, limit))


def answer_activations(model: Model, sae: Sae, prompts: Input) -> SparseActivations:
    """An SAE's activations at the position before the answer: a row for each prompt."""
    return _directrix.answer_activations(model._core, sae._core, to_prompts(model, prompts))


def active_directions(
    acts: Acts,
    maxima: npt.ArrayLike,
    *,
    share_of_maximum: float = 0.17,
    share_of_prompts: float = 0.05,
    top: int = 100,
) -> Table:
    """The directions that are active before the answer, by mean activation, highest first.

    `acts` has a row for each prompt (`answer_activations`), `maxima` the highest activation of each direction over a corpus
    (`index.maxima(sae)`). A direction is active above `share_of_maximum` of its maximum, and listed if it is so on `share_of_prompts` of
    them; at most `top`. `mean_activation` is over the `prompts` on which it is active; the `share` of all prompts has both ends of its 95
    % interval (Wilson).
    """
    return Table(
        _directrix.active_directions(
            acts_of(acts), row_of(maxima, "maxima"), float(share_of_maximum), float(share_of_prompts), int(top)
        )
    )


def coactivation(acts: Acts, directions: Directions, *, above: float = 0.1) -> npt.NDArray[np.float64]:
    """The correlation over prompts of whether directions are active, above `above`: `[directions, directions]`; NaN where one is active on
    all prompts or on none. `acts` has a row for each prompt.
    """
    return _directrix.coactivation(acts_of(acts), list_of(directions), float(above))


def activity(
    model: Model, sae: Sae, prompts: Input, directions: Directions, *, position: Position = -2, everywhere: bool = False
) -> Table:
    """Which directions are active in which prompt: at a position of each, or at any position that predicts a token. A row for each
    `prompt` and `direction`.
    """
    at = None if everywhere else position_of(position)
    return Table(_directrix.activity(model._core, sae._core, to_prompts(model, prompts), list_of(directions), at))


def explain(model: Model, saes: Sae | Sequence[Sae], prompts: Input, *, top: int = 5, index: Index | None = None) -> Table:
    """The directions that are active at each position of each prompt, the `top` strongest of each SAE.

    With an index of these SAEs, each stands beside its activation as a share of its maximum over the corpus (`of_maximum`) and the token
    that it fires on most often (`top_token`).
    """
    return Table(
        _directrix.explain(model._core, cores_of(saes), to_prompts(model, prompts), int(top), None if index is None else index._core)
    )
