"""Who writes a prediction, and who drives a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy.typing as npt

from .. import _directrix
from .._arrays import Floats
from .._directrix import DirectrixError
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import Acts, Position, Token, acts_of, cores_of, list_of, position_of, token_of
from .behaviour import answer_activations


def logit_attribution(model: Model, prompts: Input) -> Table:
    """Direct logit attribution (DLA): what each component adds to the answer's logit at the position before it, mean over prompts.

    The final norm's scale is the run's own; the unembedding's bias belongs to no component.
    """
    return Table(_directrix.logit_attribution(model._core, to_prompts(model, prompts)))


class DirectAttribution(NamedTuple):
    """Who writes one token's logit at one position of a prompt."""

    #: The logit.
    logit: float
    #: What each component adds.
    components: Table
    #: What each active direction adds, of SAEs that write to the residual stream; the largest first.
    directions: Table


def direct_attribution(
    model: Model, saes: Sae | Sequence[Sae], prompt: Input, *, position: int = -2, token: Token | None = None
) -> DirectAttribution:
    """Direct logit attribution to `token` at one position of one prompt; to the token that follows there if none is given."""
    logit, components, directions = _directrix.direct_attribution(
        model._core, cores_of(saes), to_prompts(model, prompt), int(position), None if token is None else token_of(token)
    )
    return DirectAttribution(logit, Table(components), Table(directions))


def remainder(model: Model, sae: Sae, prompts: Input, *, answer: Token | None = None) -> Table:
    """Mean DLA to the answer of what the SAE's site writes (`site`), of its `reconstruction` and of the difference (`remainder`): three
    rows.

    The answer is by default the last token of the prompts, if all end alike; it is looked at at the position before the last.
    """
    token = None if answer is None else token_of(answer)
    return Table(_directrix.remainder(model._core, sae._core, to_prompts(model, prompts), token))


def mean_decomposition(model: Model, sae: Sae, prompts: Input) -> Floats:
    """What each component adds to each neuron's pre-activation, `[components, d_mlp]`: mean over the positions of a prompt, then over
    prompts. Components are those of `attribution_to_direction`, in its order.
    """
    return _directrix.mean_decomposition(model._core, sae._core, to_prompts(model, prompts))


def attribution_to_direction(
    model: Model,
    sae: Sae,
    prompts: Input,
    direction: int,
    *,
    position: Position = -2,
    inactive: Literal["zero", "mean"] = "zero",
    mean_over: Input | None = None,
) -> Table:
    """Attribution to a direction (DFA): what each component adds to its pre-activation through the active neurons of the MLP that it
    reads, at one position of each prompt; means over prompts.

    Neurons that are not active contribute nothing, or with `inactive="mean"` their mean over `mean_over` (by default the prompts).
    """
    if inactive not in ("zero", "mean"):
        raise DirectrixError(f"`inactive` is {inactive!r}; there are 'zero' and 'mean'")
    own = to_prompts(model, prompts)
    over = (own if mean_over is None else to_prompts(model, mean_over)) if inactive == "mean" else None
    return Table(
        _directrix.attribution_to_direction(model._core, sae._core, own, int(direction), position_of(position), over)
    )


def direction_attribution(
    model: Model, sae: Sae, prompts: Input | None = None, *, answer: Token | None = None, acts: Acts | None = None
) -> Table:
    """What every direction writes towards the answer, by its weights.

    A row for each direction, in order: `attribution` is `W_dec W_out W_U[answer]`, logit per unit of activation, LayerNorm's scale not
    applied; `scaled` is times the mean activation before the answer, zeros included. `acts` are these activations, if they are there
    already; `answer` is by default the last token of the prompts, if all end alike.
    """
    own = None if prompts is None else to_prompts(model, prompts)
    if own is None and (acts is None or answer is None):
        raise DirectrixError("give prompts, or both `acts` and `answer`")
    if acts is None and own is not None:
        acts = answer_activations(model, sae, own)
    if answer is None and own is not None:
        lasts = {int(own[i][-1]) for i in range(len(own)) if len(own[i])}
        if len(lasts) != 1:
            raise DirectrixError("the prompts do not all end with one token; say which is the `answer`")
        answer = lasts.pop()
    return Table(_directrix.direction_attribution(model._core, sae._core, token_of(answer), acts_of(acts)))


def log_prob_boosts(model: Model, sae: Sae, prompts: Input, direction: int) -> Table:
    """The mean log-probability of every token before the answer, in nats, with a direction (`on`) and with it ablated there (`off`). A row
    for each token of the vocabulary, in order; `boost` is the mean of `on − off`, `q` is over all tokens.
    """
    return Table(_directrix.log_prob_boosts(model._core, sae._core, to_prompts(model, prompts), int(direction)))


def logit_boosts(model: Model, sae: Sae, direction: int) -> Table:
    """What a direction adds to every token's logit per unit of activation, by the weights alone: `W_dec W_out W_U`, LayerNorm's scale not
    applied. A row for each token of the vocabulary, in order: `boost`.
    """
    return Table(_directrix.logit_boosts(model._core, sae._core, int(direction)))


def logit_boost_ends(model: Model, sae: Sae, *, k: int = 10, tokens: npt.ArrayLike | None = None) -> Table:
    """The `k` tokens whose logit a unit of each direction raises most, and the `k` that it lowers most, by `logit_boosts`; of some tokens
    alone if they are given. A row for each direction, `end` (`raised`, `lowered`) and `rank` from 0.
    """
    return Table(_directrix.logit_boost_ends(model._core, sae._core, int(k), None if tokens is None else list_of(tokens)))
