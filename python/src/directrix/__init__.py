"""A workbench for the sparse directions inside a language model.

Models run in Rust under TransformerLens's names, SAEs under SAELens's; an index says what every direction fires on, and analyses say what
it does. Results are numpy arrays and tables that polars, pandas and pyarrow read.

>>> import directrix as dx
>>> model = dx.Model.from_pretrained("tinystories-2l")
>>> sae = dx.Sae.from_pretrained("tinystories-2l/sae-l1")
>>> _, cache = model.run_with_cache("Once upon a time", return_type=None, names_filter=sae.cfg.hook_name)
>>> sae.encode(cache[sae.cfg.hook_name]).shape
(1, 5, 2048)
"""

from ._arrays import split
from ._directrix import (
    CircuitsError,
    CorpusError,
    DirectrixError,
    IndexingError,
    Intervention,
    LabError,
    ModelError,
    Prompts,
    SaeError,
    SparseActivations,
    StudyError,
    __version__,
)
from ._names import get_act_name
from .analyses import (
    ablate,
    ablate_each,
    Ablated,
    active_directions,
    activity,
    Agreement,
    answer_activations,
    answer_effects,
    answer_losses,
    AnswerEffects,
    AnswerLosses,
    attribution_to_direction,
    before_tokens,
    BeforeTokens,
    behaviour_circuit,
    behaviour_prompts,
    BehaviourCircuit,
    BehaviourPrompts,
    coactivation,
    conjunctions,
    cooccurrence,
    cooccurrence_pairs,
    cosine_pairs,
    direct_attribution,
    DirectAttribution,
    direction_attribution,
    edge_agreement,
    edges,
    explain,
    intervene,
    Intervened,
    joint_set,
    keep_directions,
    log_prob_boosts,
    logit_attribution,
    logit_boost_ends,
    logit_boosts,
    match_directions,
    Matching,
    mean_ablations,
    mean_decomposition,
    mean_site,
    MeanAblations,
    pair_effects,
    Patching,
    patching,
    prompt_graph,
    PromptGraph,
    remainder,
    Similarities,
    similarities,
    single_ablations,
    token_occurrences,
    top_tokens,
    upstream,
    verify_edges,
)
from .browse import Browser
from .cache import ActivationCache
from .figure import Figure, bars, heatmap, histogram, line, scatter
from .index import Index
from .model import HookPoint, Model
from .opened import Opened, open
from .progress import show_progress
from .sae import Sae
from .shaded import ShadedText, ShadedTexts
from .study import Report, Study
from .table import Table
from .tokenizer import Tokenizer

show_progress()
