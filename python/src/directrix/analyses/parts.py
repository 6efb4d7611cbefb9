"""What heads, attention and MLPs do: replaced by their means, or by what they are in another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import _directrix
from .._directrix import DirectrixError
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import Directions, Token, id_of, list_of, tokens_of


class MeanAblations(NamedTuple):
    """What replacing each part of the model by its mean does."""

    #: A row for each head, attention and MLP: increase of the answer's loss, nats.
    losses: Table
    #: A row for each direction and part before it: change of its activation.
    activations: Table


def mean_ablations(
    model: Model, sae: Sae, prompts: Input, directions: Directions = (), *, mean_over: Input | None = None
) -> MeanAblations:
    """Replaces each head, attention and MLP by its mean at every position before the answer, one at a time.

    Means are over the positions of each prompt of `mean_over` (by default the prompts), then over prompts. The control changes the part by
    as much along random rows.
    """
    own = to_prompts(model, prompts)
    over = own if mean_over is None else to_prompts(model, mean_over)
    losses, activations = _directrix.mean_ablations(model._core, sae._core, own, list_of(directions), over)
    return MeanAblations(Table(losses), Table(activations))


class Patching(NamedTuple):
    """What patching between pairs of prompts shows. Effects are changes of the logit difference: the clean answer's less the corrupted
    one's.
    """

    #: A row for each part: total, direct and indirect effect, means over pairs.
    parts: Table
    #: A row for each part but heads and each position from the end (1 is the last).
    positions: Table
    #: A row for each pair: both prompts, answers and logit differences.
    pairs: Table


def patching(
    model: Model,
    pairs: Sequence[tuple[Input, Input, tuple[Token, Token]]],
    *,
    each_position: bool = True,
) -> Patching:
    """Gives each part of the model, in the clean prompt of a pair, the values it has in the corrupted one (activation patching: Vig et al.
    2020, Meng et al. 2022), and takes the effect apart into what goes straight to the logits and what goes through later parts (Pearl
    2001).

    A pair is `(clean, corrupted, (answer of the clean, answer of the corrupted))`: two prompts of equally many tokens, which do not end
    with their answers.
    """
    meant = []
    for pair in pairs:
        if len(pair) != 3 or len(pair[2]) != 2:
            raise DirectrixError("a pair is (clean, corrupted, (answer of the clean, answer of the corrupted))")
        clean, corrupted, (one, other) = pair
        meant.append((tokens_of(model, clean), tokens_of(model, corrupted), [id_of(model, one), id_of(model, other)]))
    return Patching(*map(Table, _directrix.patching(model._core, meant, each_position)))
