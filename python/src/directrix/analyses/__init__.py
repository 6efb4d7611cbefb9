"""Analyses: what changing directions does, who wrote a prediction, which directions belong together.

Each gives a `Table`, or several under names. A mean stands beside the number of values it is over (`n`), its standard error (`se`) and the
half width of its 95 % interval (`half_width`); `p` is by Student's t, and `q` the false-discovery rate in the table (Benjamini and
Hochberg 1995). Losses are in nats, positions and ranks are counted from 0. Where a token has an id, `token_text` is its text.

Prompts are a text, texts, token ids or `Prompts`; the *answer* of a prompt is its last token, which the position before it predicts. An
SAE of an index is found by its hook point, size and name; `index_sae` names it by number or name where that does not tell.

Long work releases the interpreter's lock and stops on an interrupt.
"""

from .ablation import ablate, ablate_each, Ablated, answer_effects, AnswerEffects, single_ablations
from .attribution import (
    attribution_to_direction,
    direct_attribution,
    DirectAttribution,
    direction_attribution,
    log_prob_boosts,
    logit_attribution,
    logit_boost_ends,
    logit_boosts,
    mean_decomposition,
    remainder,
)
from .behaviour import (
    active_directions,
    activity,
    answer_activations,
    behaviour_prompts,
    BehaviourPrompts,
    coactivation,
    explain,
)
from .circuits import behaviour_circuit, BehaviourCircuit, intervene, Intervened, prompt_graph, PromptGraph
from .edges import Agreement, conjunctions, edge_agreement, edges, joint_set, upstream, verify_edges, verify_edges_shard
from .pairs import (
    cooccurrence,
    cooccurrence_pairs,
    cosine_pairs,
    match_directions,
    Matching,
    pair_effects,
    Similarities,
    similarities,
)
from .parts import mean_ablations, MeanAblations, Patching, patching
from .sites import answer_losses, AnswerLosses, keep_directions, mean_site
from .tokens import before_tokens, BeforeTokens, token_occurrences, top_tokens

__all__ = [
    "ablate",
    "ablate_each",
    "Ablated",
    "active_directions",
    "activity",
    "Agreement",
    "answer_activations",
    "answer_effects",
    "answer_losses",
    "AnswerEffects",
    "AnswerLosses",
    "attribution_to_direction",
    "before_tokens",
    "BeforeTokens",
    "behaviour_circuit",
    "behaviour_prompts",
    "BehaviourCircuit",
    "BehaviourPrompts",
    "coactivation",
    "conjunctions",
    "cooccurrence",
    "cooccurrence_pairs",
    "cosine_pairs",
    "direct_attribution",
    "DirectAttribution",
    "direction_attribution",
    "edge_agreement",
    "edges",
    "explain",
    "intervene",
    "Intervened",
    "joint_set",
    "keep_directions",
    "log_prob_boosts",
    "logit_attribution",
    "logit_boost_ends",
    "logit_boosts",
    "match_directions",
    "Matching",
    "mean_ablations",
    "mean_decomposition",
    "mean_site",
    "MeanAblations",
    "pair_effects",
    "Patching",
    "patching",
    "prompt_graph",
    "PromptGraph",
    "remainder",
    "Similarities",
    "similarities",
    "single_ablations",
    "token_occurrences",
    "top_tokens",
    "upstream",
    "verify_edges",
    "verify_edges_shard",
]
