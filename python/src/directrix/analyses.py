"""Analyses: what changing directions does, who wrote a prediction, which directions belong together.

Each gives a `Table`, or several under names. A mean stands beside the number of values it is over (`n`), its standard error (`se`) and the
half width of its 95 % interval (`half_width`); `p` is by Student's t, and `q` the false-discovery rate in the table (Benjamini and
Hochberg 1995). Losses are in nats, positions and ranks are counted from 0. Where a token has an id, `token_text` is its text.

Prompts are a text, texts, token ids or `Prompts`; the *answer* of a prompt is its last token, which the position before it predicts. An
SAE of an index is found by its hook point, size and name; `index_sae` names it by number or name where that does not tell.

Long work releases the interpreter's lock and stops on an interrupt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _directrix
from ._arrays import Floats, as_array, as_floats
from ._directrix import DirectrixError, Intervention, Prompts, SparseActivations
from .index import Index
from .model import Input, Model, to_prompts
from .opened import Opened
from .sae import Sae
from .table import Table

#: Directions: one, or several.
Directions: TypeAlias = "int | Sequence[int] | npt.ArrayLike"
#: A position of every prompt, negative ones from the end, or one for each prompt.
Position: TypeAlias = "int | Sequence[int] | npt.ArrayLike"
#: Activations: `SparseActivations`, or anything that has a CSR matrix's `indptr`, `indices`, `data` and `shape`.
Acts: TypeAlias = "SparseActivations | Any"
#: A token, by its id or its text.
Token: TypeAlias = "int | str"
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


# Tokens


def token_occurrences(index: Index) -> Table:
    """Every token's occurrences in the corpus, most frequent first: `token`, `count`, `token_text`."""
    return Table(_directrix.token_occurrences(index._core))


def top_tokens(index: Index, sae: int | str = 0) -> Table:
    """The token on which each direction of an SAE fires most often above half of its maximum; a row for each that fires.

    `occurrences` are positions above half of the maximum, `token_occurrences` those of its top token, `share` their quotient.
    """
    return Table(_directrix.top_tokens(index._core, index.number_of(sae)))


class BeforeTokens(NamedTuple):
    """What fires before one token and before another."""

    #: A row for each direction that fires before either.
    directions: Table
    #: Positions before each of the two.
    positions: tuple[int, int]
    #: Prompts that have such a position.
    prompts: int


def before_tokens(index: Index, one: Token, other: Token, *, sae: int | str = 0) -> BeforeTokens:
    """Mean activation of every direction where the token `one` follows, and where `other` does, over the positions of the corpus that
    count.

    `difference` is the first mean less the second; its interval is clustered by prompt (Liang and Zeger 1986). Largest differences first.
    """
    table, positions, prompts = _directrix.before_tokens(
        index._core, index.number_of(sae), _token(one), _token(other)
    )
    return BeforeTokens(Table(table), (positions[0], positions[1]), prompts)


# Behaviour


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
            _acts(acts), _row(maxima, "maxima"), float(share_of_maximum), float(share_of_prompts), int(top)
        )
    )


def coactivation(acts: Acts, directions: Directions, *, above: float = 0.1) -> npt.NDArray[np.float64]:
    """The correlation over prompts of whether directions are active, above `above`: `[directions, directions]`; NaN where one is active on
    all prompts or on none. `acts` has a row for each prompt.
    """
    return _directrix.coactivation(_acts(acts), _list(directions), float(above))


def activity(
    model: Model, sae: Sae, prompts: Input, directions: Directions, *, position: Position = -2, everywhere: bool = False
) -> Table:
    """Which directions are active in which prompt: at a position of each, or at any position that predicts a token. A row for each
    `prompt` and `direction`.
    """
    at = None if everywhere else _position(position)
    return Table(_directrix.activity(model._core, sae._core, to_prompts(model, prompts), _list(directions), at))


def explain(model: Model, saes: Sae | Sequence[Sae], prompts: Input, *, top: int = 5, index: Index | None = None) -> Table:
    """The directions that are active at each position of each prompt, the `top` strongest of each SAE.

    With an index of these SAEs, each stands beside its activation as a share of its maximum over the corpus (`of_maximum`) and the token
    that it fires on most often (`top_token`).
    """
    return Table(
        _directrix.explain(model._core, _saes(saes), to_prompts(model, prompts), int(top), None if index is None else index._core)
    )


# Ablation


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
    core, at, number = _changed(model, position, everywhere, index, index_sae)
    of_prompts, overall = _directrix.ablate(
        core, sae._core, to_prompts(model, prompts), _list(directions), at, reconstruct, only_active, _core(index), number
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
    core, at, number = _changed(model, position, everywhere, index, index_sae)
    return Table(
        _directrix.ablate_each(
            core, sae._core, to_prompts(model, prompts), _list(directions), at, reconstruct, only_active, _core(index), number
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
            _list(directions),
            None if acts is None else _acts(acts),
            float(above),
            int(limit),
            _core(index),
            _number(index, index_sae),
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
        model._core, intervention, to_prompts(model, prompts), _core(index), _number(index, index_sae)
    )
    return AnswerEffects(*map(Table, tables))


# Losses of a site


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
        model._core, sae._core, own, _list(directions), _mean(model, sae, own, mean, mean_over)
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
            model._core, sae._core, own, _list(directions), _list(sizes), row, _core(index), _number(index, index_sae)
        )
    )


# Parts of the model


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
    losses, activations = _directrix.mean_ablations(model._core, sae._core, own, _list(directions), over)
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
        meant.append((_tokens(model, clean), _tokens(model, corrupted), [_id(model, one), _id(model, other)]))
    return Patching(*map(Table, _directrix.patching(model._core, meant, each_position)))


# Attribution


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
        model._core, _saes(saes), to_prompts(model, prompt), int(position), None if token is None else _token(token)
    )
    return DirectAttribution(logit, Table(components), Table(directions))


def remainder(model: Model, sae: Sae, prompts: Input, *, answer: Token | None = None) -> Table:
    """Mean DLA to the answer of what the SAE's site writes (`site`), of its `reconstruction` and of the difference (`remainder`): three
    rows.

    The answer is by default the last token of the prompts, if all end alike; it is looked at at the position before the last.
    """
    token = None if answer is None else _token(answer)
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
        _directrix.attribution_to_direction(model._core, sae._core, own, int(direction), _position(position), over)
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
    return Table(_directrix.direction_attribution(model._core, sae._core, _token(answer), _acts(acts)))


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
    return Table(_directrix.logit_boost_ends(model._core, sae._core, int(k), None if tokens is None else _list(tokens)))


# Pairs of directions


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
            model._core, first._core, second._core, index._core, _pairs(pairs), int(k), int(prompts), _number(index, index_sae)
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
    pairs, unmatched = _directrix.match_directions(first._core, second._core, by, float(least), _core(index), numbers)
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
            _core(index),
            _number(index, index_sae),
        )
    )


# Edges


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
            model._core, _saes(saes), _core(index), by, int(top), head, int(steps), int(sample_prompts), int(least_prompts)
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
    given = None
    if edges is not None:
        given, by = _edges(list(saes), edges, by)
    return Table(
        _directrix.verify_edges(
            model._core,
            _saes(saes),
            index._core,
            given,
            by,
            int(top),
            head,
            int(steps),
            int(sample_prompts),
            int(least_prompts),
            int(verify_prompts),
            float(rate),
        )
    )


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
            None if firsts is None else _list(firsts),
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
            None if firsts is None else _list(firsts),
            int(most),
            (int(sample_prompts), int(least_prompts)),
            how,
        )
    )


# Circuits


class BehaviourCircuit(NamedTuple):
    """The smallest set of directions, errors and heads that keeps a behaviour."""

    #: A row for each number of nodes kept: behaviour, faithfulness, completeness, and faithfulness of as many at random.
    sizes: Table
    #: The first nodes of the smallest circuit: attribution, and the change of the behaviour with each alone at its mean.
    nodes: Table
    #: How small it is, in a sentence.
    summary: str


def behaviour_circuit(
    model: Model,
    saes: Sae | Sequence[Sae],
    prompts: Input,
    *,
    reporting: Input | None = None,
    against: Token | None = None,
    enough: float = 0.8,
    named: int = 20,
) -> BehaviourCircuit:
    """Ranks the directions of SAEs, what each does not reconstruct, and heads by attribution patching, and measures how much of a
    behaviour the first of them keep with all others at their means (faithfulness), and how much the others keep without them
    (completeness): Marks et al. 2024 (*Sparse feature circuits*, 4), after Wang et al. 2022.

    The behaviour is the answer's log-probability in nats, or its logit less that of `against`. `prompts` choose and `reporting` report;
    without the latter every other prompt reports, and there must be four. The smallest circuit keeps `enough` on those that choose;
    `named` of its nodes are looked at alone.
    """
    sizes, nodes, summary = _directrix.behaviour_circuit(
        model._core,
        _saes(saes),
        to_prompts(model, prompts),
        None if reporting is None else to_prompts(model, reporting),
        None if against is None else _token(against),
        float(enough),
        int(named),
    )
    return BehaviourCircuit(Table(sizes), Table(nodes), summary)


class PromptGraph(NamedTuple):
    """An attribution graph: what made a model predict a token after a prompt, through the directions of SAEs."""

    #: Logits first, then by influence; `node` is a node's number.
    nodes: Table
    #: What a node adds to another directly, by the numbers of both; most influential first.
    edges: Table
    #: Each edge by the last head that its paths pass; empty if not asked for.
    heads: Table
    #: What ablating directions does in the model itself, beside what the graph says; empty if not asked for.
    checks: Table
    #: A head's score as a sum of what is in the query and what is in the key; empty if not asked for.
    look: Table
    #: The graph as circuit-tracer's page reads it.
    json: str
    #: What is linearised, what was left out.
    notes: list[str]
    #: The token that is explained.
    answer: int
    #: Its probability.
    probability: float
    #: The share of the influence of embeddings in that of all that has no inputs: circuit-tracer's replacement score.
    replacement: float
    #: The share of inputs that are no errors, by influence: circuit-tracer's completeness score.
    completeness: float


def prompt_graph(
    model: Model,
    saes: Sae | Sequence[Sae],
    prompt: Input,
    *,
    answer: Token | None = None,
    logits: int = 0,
    probability: float = 0.95,
    max_directions: int = 7500,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    head_nodes: bool = False,
    heads: bool = False,
    check: int = 0,
    look: tuple[int, int] | tuple[int, int, int, int] | None = None,
    terms: int = 30,
    slug: str = "graph",
) -> PromptGraph:
    """The attribution graph of a predicted token (the local replacement model of Ameisen et al. 2025, *Circuit Tracing*).

    Nodes are embeddings, active directions, what SAEs miss (errors), and logits; an edge is what one adds to another's activation or logit
    directly, with divisors of norms and attention patterns held.

    Args:
        saes: SAEs or transcoders, in the order of what they write.
        answer: The token to explain, after the whole prompt; by default the prompt's last token, after the others.
        logits: Explain so many of the likeliest next tokens too, up to `probability` of the probability.
        max_directions: Directions whose inputs are found, at most, the most influential first.
        node_threshold: Keep nodes until they have this share of all influence.
        edge_threshold: Keep edges between them until they have this share.
        head_nodes: Take what heads write for nodes, and trace nothing further back through attention.
        heads: Split every edge over the attention heads that carry it.
        check: Ablate so many of the most influential directions, and the sources of as many edges, in the model itself.
        look: Why a head looks where it does: `(layer, head)`, from the last position to the one it looks at most, or `(layer, head, query,
            key)`.
        terms: Pairs of a head's score that are listed.
        slug: The name of the graph in its JSON.
    """
    pair: tuple[int, int, tuple[int, int] | None] | None = None
    if look is not None:
        if len(look) not in (2, 4):
            raise DirectrixError("`look` is (layer, head) or (layer, head, query, key)")
        pair = (look[0], look[1], (look[2], look[3]) if len(look) == 4 else None)
    found = _directrix.prompt_graph(
        model._core,
        _saes(saes),
        to_prompts(model, prompt),
        None if answer is None else _token(answer),
        int(logits),
        float(probability),
        int(max_directions),
        float(node_threshold),
        float(edge_threshold),
        head_nodes,
        heads,
        int(check),
        pair,
        int(terms),
        slug,
    )
    found |= {name: Table(found[name]) for name in ("nodes", "edges", "heads", "checks", "look")}
    return PromptGraph(**found)


class Intervened(NamedTuple):
    """A prompt without and with changes."""

    #: The most likely next tokens of both: probabilities, logits, ranks.
    next_tokens: Table
    #: The directions whose activation changes most at some position.
    directions: Table
    #: The loss of every token but the first, nats.
    losses: Table
    #: What was done, a sentence for each change.
    changes: list[str]


def intervene(
    model: Model,
    saes: Sae | Sequence[Sae],
    prompt: Input,
    changes: str | Sequence[str],
    *,
    position: int | None = None,
    top: int = 20,
    mean_over: Input | None = None,
    index: Index | None = None,
) -> Intervened:
    """Changes a prompt's run in several places together.

    A change is spelled as everywhere: `sae-l1/429*0` ablates a direction, `sae-l1/429,17*2.5` multiplies two, `sae-l1/429=3.2` sets one,
    also where it does not fire, `sae-l1=reconstruction` puts the reconstruction in place of a site, `L0H3=zero` and `1_mlp_out=mean`
    replace a part of the model; its mean is over `mean_over`, or over 200 prompts of the index. `@5` or `@5..9` behind it says at which
    positions; without, at every one.

    `position` is that whose prediction is shown, by default the last but one; `top` the rows of next tokens and directions.
    """
    spelled = [changes] if isinstance(changes, str) else [str(change) for change in changes]
    next_tokens, directions, losses, said = _directrix.intervene(
        model._core,
        _saes(saes),
        to_prompts(model, prompt),
        spelled,
        None if position is None else int(position),
        int(top),
        None if mean_over is None else to_prompts(model, mean_over),
        _core(index),
    )
    return Intervened(Table(next_tokens), Table(directions), Table(losses), said)


# Arguments


def _core(index: Index | None) -> _directrix.CoreIndex | None:
    return None if index is None else index._core


def _number(index: Index | None, sae: int | str | None) -> int | None:
    if sae is None:
        return None
    if index is None:
        raise DirectrixError("`index_sae` names an SAE of an index; give that as `index`")
    return index.number_of(sae)


def _changed(
    model: Model, position: Position, everywhere: bool, index: Index | None, index_sae: int | str | None
) -> tuple[_directrix.CoreModel, int | list[int] | None, int | None]:
    return model._core, None if everywhere else _position(position), _number(index, index_sae)


def _saes(saes: Sae | Sequence[Sae]) -> list[_directrix.CoreSae]:
    return [sae._core for sae in ([saes] if isinstance(saes, Sae) else saes)]


def _whole(values: Any, what: str) -> npt.NDArray[np.int64]:
    array = as_array(values)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DirectrixError(f"{what} are of type {array.dtype}; give whole numbers")
    return array.astype(np.int64)


def _list(values: Any) -> list[int]:
    numbers = np.atleast_1d(_whole(values, "directions"))
    if numbers.ndim != 1 or (numbers.size and int(numbers.min()) < 0):
        raise DirectrixError("directions are one number or a list of numbers, none below 0")
    return [int(number) for number in numbers]


def _position(position: Position) -> int | list[int]:
    numbers = _whole(position, "positions")
    if numbers.ndim > 1:
        raise DirectrixError("`position` is one number, or one for each prompt")
    return int(numbers) if numbers.ndim == 0 else [int(number) for number in numbers]


def _row(values: npt.ArrayLike, what: str) -> Floats:
    array = as_floats(values, what)
    if array.ndim != 1:
        raise DirectrixError(f"{what} is of shape {array.shape}; give one row")
    return array


def _acts(acts: Acts) -> SparseActivations:
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


def _token(token: Any) -> int | str:
    return token if isinstance(token, str) else int(token)


def _id(model: Model, token: Token) -> int:
    return int(model.to_single_token(token)) if isinstance(token, str) else int(token)


def _tokens(model: Model, prompt: Input) -> list[int]:
    prompts = to_prompts(model, prompt)
    if len(prompts) != 1:
        raise DirectrixError(f"a pair is of single prompts, and here are {len(prompts)}")
    return [int(token) for token in prompts[0]]


def _mean(model: Model, sae: Sae, own: Prompts, mean: npt.ArrayLike | None, mean_over: Input | None) -> Floats:
    if mean is not None:
        return _row(mean, "the mean")
    return mean_site(model, sae, own if mean_over is None else mean_over)


def _pairs(pairs: Table | npt.ArrayLike | None) -> list[tuple[int, int]] | None:
    if pairs is None:
        return None
    if isinstance(pairs, Table):
        both = np.stack([np.asarray(pairs["first"]), np.asarray(pairs["second"])], axis=1)
    else:
        both = np.atleast_2d(_whole(pairs, "pairs"))
    if both.size == 0:
        return []
    if both.ndim != 2 or both.shape[1] != 2 or int(both.min()) < 0:
        raise DirectrixError(f"pairs are of shape {both.shape}; give a table with `first` and `second`, or numbers [n, 2]")
    return [(int(first), int(second)) for first, second in both]


def _edges(
    saes: list[Sae], edges: Table | npt.ArrayLike, by: Measure
) -> tuple[list[tuple[int, int, int, int, float]], Measure]:
    """Edges as the native module takes them: numbers of the SAEs and directions, and the value, NaN if there is none."""
    pairs = _pairs(edges) or []
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
