//! Interventions on directions, attribution, edges, statistics.
//!
//! What an interpretability notebook does by hand, as functions that return rows of typed tables. Most of them ask one
//! question: what does a [`Change`] at an SAE's site do to the model's prediction, or to another SAE's direction? Prompts
//! are run once, changed prompts are [resumed](directrix_model::Session::resume) from there, many at a time. A row that is a
//! mean carries its n, standard error and 95 % interval ([`Estimate`]); [`Table`] is the column form of any rows.
//!
//! | question | function |
//! |---|---|
//! | which tokens are common | [`token_occurrences`] |
//! | which token a direction fires on | [`top_tokens`] |
//! | which directions of two SAEs point the same way | [`cosine_pairs`], [`pair_effects`] |
//! | which first directions a second one needs | [`cooccurrence`] |
//! | where a behaviour occurs | [`behaviour_prompts`] |
//! | which directions are active there | [`answer_activations`], [`active_directions`], [`coactivation`] |
//! | what ablating them does | [`effects`], [`single_ablations`], [`ablate_everywhere`] |
//! | who writes the answer, who drives a direction | [`logit_attribution`], [`remainder`], [`feature_attribution`] |
//! | how much of a site the SAE explains | [`loss_recovered`] |
//! | which tokens a direction promotes | [`log_prob_boosts`], [`logit_boosts`], [`direction_attribution`] |
//!
//! ```
//! use directrix_circuits::{Change, Trial, effects};
//! use directrix_corpus::Prompts;
//! use directrix_model::{Folder, Model, Processing};
//! use directrix_sae::Sae;
//!
//! let model = Model::load(&Folder::open("../../assets/tinystories-2l")?, Processing::default())?;
//! let sae = Sae::load(&Folder::open("../../assets/tinystories-2l/sae-l1")?)?.fit(model.config())?;
//! let prompts = Prompts::from_rows([[0, 17, 30, 45]]);
//! let trial = Trial { prompt: 0, position: 2, token: 45, change: Change::Ablate(vec![7, 9]) };
//! let effect = effects(&model, &sae, &prompts, &[trial])?[0];
//! println!("the loss rises by {}", effect.loss_increase());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attribution;
mod behaviour;
mod boosts;
mod cooccurrence;
mod cosine;
mod effects;
mod error;
mod table;
mod tokens;

pub use attribution::{
    Component, DirectionAttribution, Inactive, direction_attribution, feature_attribution, logit_attribution,
    mean_decomposition, remainder,
};
pub use behaviour::{
    ActiveDirection, ActiveOptions, Behaviour, BehaviourPrompts, active_directions, answer_activations,
    behaviour_prompts, coactivation,
};
pub use boosts::{Boosts, log_prob_boosts, logit_boosts};
pub use cooccurrence::{Cooccurrence, CooccurrenceOptions, cooccurrence};
pub use cosine::{CosinePair, PairEffect, cosine_pairs, pair_effects};
pub use directrix_sae::statistics::{self, Estimate, correlation};
pub use effects::{
    Change, Effect, LossRecovered, PromptEffect, SingleAblation, Trial, ablate_everywhere, effects, loss_recovered,
    mean_site, single_ablations,
};
pub use error::{Error, Result};
pub use table::{Cells, Column, Table};
pub use tokens::{TopToken, token_occurrences, top_tokens};
