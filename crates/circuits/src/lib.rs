//! Interventions on directions, attribution, edges, statistics.
//!
//! What an interpretability notebook does by hand, as functions that return rows of typed tables. Most of them ask one
//! question: what does a [`Change`] at an SAE's site do to a prediction, a loss, or another SAE's direction? That is a
//! [`Trial`], and [`effects`] answers any number of them at once: prompts are run once, changed prompts
//! [go on](directrix_model::Session) from there, many at a time. The analyses make trials and sum up their effects. A row
//! that is an effect is a [`Claim`]: its n, interval, false-discovery rate and control; [`Table`] is the column form of any rows.
//!
//! | question | function |
//! |---|---|
//! | which tokens are common | [`token_occurrences`] |
//! | which token a direction fires on | [`top_tokens`] |
//! | which directions of two SAEs point the same way | [`cosine_pairs`], [`pair_effects`] |
//! | how alike the directions of one SAE are, and which of two SAEs are the same | [`similarities`], [`match_directions`] |
//! | what is active before one token and not before another | [`before_tokens`] |
//! | which parts of the model carry a prediction | [`patching`], [`mean_ablations`] |
//! | which first directions a second one needs | [`cooccurrence`] |
//! | which directions influence which, over whole dictionaries | [`edges`] |
//! | where a behaviour occurs | [`behaviour_prompts`] |
//! | which few directions, errors and heads keep it | [`BehaviourCircuit`] |
//! | which directions are active there | [`answer_activations`], [`activity`], [`active_directions`], [`coactivation`] |
//! | what several changes do together | [`ChangeAt`], [`Observed`], [`most_changed`] |
//! | what ablating them does | [`Ablation`], [`effects`], [`ablate_each`], [`single_ablations`], [`PromptEffect`] |
//! | who writes the answer, who drives a direction | [`logit_attribution`], [`direct_attribution`], [`remainder`], [`attribution_to_direction`] |
//! | through which directions a prompt made the model predict a token | [`graph`] |
//! | how much of a site the SAE explains | [`AnswerLosses`] |
//! | which tokens a direction promotes | [`log_prob_boosts`], [`logit_boosts`], [`direction_attribution`] |
//!
//! ```
//! use directrix_circuits::{Change, Trial, effects};
//! use directrix_corpus::{Prompts, Watch};
//! use directrix_model::{Folder, Model, Processing};
//! use directrix_sae::Sae;
//!
//! let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
//! let sae = Sae::load(&Folder::open("../../assets/tinystories-2l/sae-l1")?)?.fit(model.config())?;
//! let prompts = Prompts::from_rows([[0, 17, 30, 45]]);
//! let before_the_answer = Trial::answer(&sae, &prompts, 0, Change::Ablate(vec![7, 9]))?;
//! let everywhere = Trial::everywhere(&sae, &prompts, 0, Change::Ablate(vec![7, 9]))?;
//! let effects = effects(&model, &prompts, &[before_the_answer, everywhere], &Watch::nobody())?;
//! println!("the answer's loss rises by {}, the mean loss by {}", effects[0].loss_increase()?, effects[1].loss_increase()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ablation;
mod active;
mod answer;
mod assignment;
mod attribution;
mod batch;
mod before;
mod behaviour;
mod behaviour_circuit;
mod boosts;
mod change;
mod claim;
mod cooccurrence;
mod cosine;
pub mod edges;
mod error;
mod exchange;
pub mod graph;
mod intervene;
mod largest;
mod matched;
mod matching;
mod mean_ablation;
mod patch;
mod plan;
mod shared;
mod similarity;
mod subspace;
mod table;
mod tokens;
mod trial;

pub use ablation::{Ablated, AblatedAnswer, AblatedLoss, AblatedPrompts, Ablation, AblationOptions};
pub use active::{Activity, activity};
pub use answer::{
    ActivePrompts, AnswerLosses, PromptEffect, SingleAblation, ablate_each, mean_site, share_of_means, single_ablations,
};
pub use attribution::{
    Component, DirectAttribution, DirectionAttribution, DirectionsPart, Inactive, attribution_to_direction,
    direct_attribution, direction_attribution, logit_attribution, mean_decomposition, remainder,
};
pub use before::{Before, BeforeTokens, before_tokens};
pub use behaviour::{
    ActiveDirection, ActiveOptions, Behaviour, BehaviourPrompts, active_directions, answer_activations,
    behaviour_prompts, coactivation,
};
pub use behaviour_circuit::{
    BehaviourCircuit, Circuit, CircuitNode, CircuitNodes, CircuitOptions, CircuitSize, Metric, Node, check_nodes,
};
pub use boosts::{Boosts, log_prob_boosts, logit_boost_ends, logit_boosts};
pub use change::Change;
pub use claim::{About, Chosen, Claim, Controls, LossClaim, loss_claims};
pub use cooccurrence::{
    Cooccurrence, CooccurrenceOptions, CooccurrencePair, control_pairs, cooccurrence, cooccurrence_pairs,
};
pub use cosine::{CosinePair, PairEffect, PairMeans, check_order, cosine_pairs, pair_effects};
pub use directrix_sae::statistics::{self, Estimate, Interval, correlation};
pub use error::{Error, Result};
pub use exchange::ModelPart;
pub use intervene::{ChangeAt, Changed, Hooks, Observed, most_changed};
pub use largest::largest;
pub use matched::Matched;
pub use matching::{Alike, BothIndexed, Correlated, MatchedPair, Matching, Unmatched, check_site, match_directions};
pub use mean_ablation::{DirectionWithout, MeanAblation, MeanAblations, PartMeans, mean_ablations};
pub use patch::{Patched, PatchedAt, Patching, PromptPair, patching};
pub use plan::effects;
pub use similarity::{SimilarPair, Similarity, similarities};
pub use subspace::Subspace;
pub use table::{Cells, Column, Table};
pub use tokens::{TopToken, token_occurrences, top_tokens};
pub use trial::{Effect, Look, Seen, Trial};
