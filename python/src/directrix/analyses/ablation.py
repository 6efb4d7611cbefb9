"""What taking out what directions contribute does."""

from __future__ import annotations

from typing import NamedTuple

from .. import _directrix
from .._directrix import Intervention
from ..index import Index
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import Acts, Directions, Position, acts_of, changed_where, core_of, list_of, number_in


class Ablated(NamedTuple):
    """What ablating directions together does."""

    #: A row for each prompt.
    prompts: Table
    #: One row: the mean increase of the loss over the prompts that are changed, beside both controls.
    overall: Table


def ablate(
    model: Model,
    sae: Sae,
    prompts: Input,
    directions: Directions,
    *,
    position: Position = -2,
    everywhere: bool = False,
    reconstruct: bool = False,
    only_active: bool = True,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> Ablated:
    """Ablates directions together: takes out of the SAE's site what they contribute.

    Args:
        position: Where, in each prompt; -2 predicts its last token. The prediction of the token behind it is looked at.
        everywhere: At every position; the mean loss over the prompt is looked at.
        reconstruct: Replace the site by the reconstruction without them, instead of subtracting.
        only_active: Leave prompts as they are in which none of them is active there: their ablated values are NaN, and they are in no
            mean.
        index: What draws the control of random directions of matched density; without it, these fire as often in the prompts.

    Controls, drawn anew for each prompt: `random_rows`, as much taken out along random rows of the same norm; `random_directions`.
    """
    core, at, number = changed_where(model, position, everywhere, index, index_sae)
    of_prompts, overall = _directrix.ablate(
        core, sae._core, to_prompts(model, prompts), list_of(directions), at, reconstruct, only_active, core_of(index), number
    )
    return Ablated(Table(of_prompts), Table(overall))


def ablate_each(
    model: Model,
    sae: Sae,
    prompts: Input,
    directions: Directions,
    *,
    position: Position = -2,
    everywhere: bool = False,
    reconstruct: bool = False,
    only_active: bool = True,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> Table:
    """Ablates each direction alone. A row for each, in the order given: `loss_increase` is the mean over `n` prompts, in nats, beside both
    controls. Arguments as of `ablate`; by default each mean is over the prompts in which the direction is active where it is ablated.
    """
    core, at, number = changed_where(model, position, everywhere, index, index_sae)
    return Table(
        _directrix.ablate_each(
            core, sae._core, to_prompts(model, prompts), list_of(directions), at, reconstruct, only_active, core_of(index), number
        )
    )


def single_ablations(
    model: Model,
    sae: Sae,
    prompts: Input,
    directions: Directions,
    *,
    acts: Acts | None = None,
    above: float = 0.1,
    limit: int = 200,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> Table:
    """Ablates each direction alone before the answer of the first `limit` prompts in which it is active above `above` there.

    A row for each direction: the mean `loss_increase` in nats; with an index, beside both controls. `acts` are the activations before the
    answer if they are there already (`answer_activations`).
    """
    return Table(
        _directrix.single_ablations(
            model._core,
            sae._core,
            to_prompts(model, prompts),
            list_of(directions),
            None if acts is None else acts_of(acts),
            float(above),
            int(limit),
            core_of(index),
            number_in(index, index_sae),
        )
    )


class AnswerEffects(NamedTuple):
    """What a change before the answer does to its prediction; a row for each prompt."""

    #: With the change.
    effects: Table
    #: With as much along random rows; empty without an index, or for a change that is no ablation.
    random_rows: Table
    #: With the change of random directions of matched density; empty without an index, or where none can be drawn.
    random_directions: Table


def answer_effects(
    model: Model,
    intervention: Intervention,
    prompts: Input,
    *,
    index: Index | None = None,
    index_sae: int | str | None = None,
) -> AnswerEffects:
    """What a change of an SAE's directions (`sae.ablate`, `sae.set`, `sae.scale`, `sae.reconstruct`), made before the answer, does to the
    answer's log-probability (nats), logit and rank (tokens with a higher logit): unchanged, and `_changed`.
    """
    tables = _directrix.answer_effects(
        model._core, intervention, to_prompts(model, prompts), core_of(index), number_in(index, index_sae)
    )
    return AnswerEffects(*map(Table, tables))
