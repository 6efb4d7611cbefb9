"""What keeps a behaviour, what made a prediction, and several changes together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import _directrix
from .._directrix import DirectrixError
from ..index import Index
from ..model import Input, Model, to_prompts
from ..sae import Sae
from ..table import Table
from ._arguments import Token, core_of, cores_of, token_of


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
        cores_of(saes),
        to_prompts(model, prompts),
        None if reporting is None else to_prompts(model, reporting),
        None if against is None else token_of(against),
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
        cores_of(saes),
        to_prompts(model, prompt),
        None if answer is None else token_of(answer),
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
        cores_of(saes),
        to_prompts(model, prompt),
        spelled,
        None if position is None else int(position),
        int(top),
        None if mean_over is None else to_prompts(model, mean_over),
        core_of(index),
    )
    return Intervened(Table(next_tokens), Table(directions), Table(losses), said)
