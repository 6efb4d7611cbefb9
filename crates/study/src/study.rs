//! Study files: what to load, which behaviour to take apart, which analyses to make.

use std::path::Path;

use directrix_circuits::{ActiveOptions, Behaviour, CooccurrenceOptions};
use directrix_model::Processing;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A study, as its TOML file says it. Every threshold has the origin's value as default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Title of the report.
    pub title: String,
    /// Model: a Hugging Face folder or a shipped name.
    pub model: String,
    /// SAEs, in the order of the model's layers.
    pub saes: Vec<String>,
    /// The one of them that is taken apart, counted from 0; the last if not said.
    pub sae: Option<usize>,
    /// Corpus: `.txt`, `.jsonl`, `.parquet`, or a shipped name.
    pub corpus: String,
    /// Text column of a JSON lines or Parquet corpus.
    pub column: Option<String>,
    /// Whether prompts start with BOS; the model's convention if not said.
    pub bos: Option<bool>,
    /// Only this many stories from the start of the corpus.
    pub limit: Option<usize>,
    /// Weight processing.
    #[serde(default)]
    pub processing: Processing,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Directions of that SAE to ablate together and look at closely; those with the largest single effects if not said.
    pub directions: Option<Vec<usize>>,
    /// How many directions to take if they are not said.
    #[serde(default = "three")]
    pub top_directions: usize,
    /// The analyses, in order; all of them with their defaults if none is named.
    #[serde(default, rename = "section")]
    pub sections: Vec<SectionKind>,
}

fn three() -> usize {
    3
}

macro_rules! options {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }
    )*};
}

options! {
    /// Common and rare tokens.
    Tokens {
        /// A token is common if it occurs more often than this.
        min_count: u64 = 100,
        /// Tokens listed.
        top: usize = 50,
    }
    /// Examples of directions.
    Examples {
        /// Directions of the SAE taken apart; the top ones if not said.
        directions: Option<Vec<usize>> = None,
        /// Examples of each kind.
        examples: usize = 3,
    }
    /// Pairs of directions by cosine.
    Cosine {
        /// Pairs.
        pairs: usize = 10,
        /// Prompts per pair.
        prompts: usize = 100,
        /// Leave out pairs above the diagonal, as the origin did.
        lower_triangle: bool = false,
    }
    /// Pairs of directions by ablation at one position.
    CooccurrenceSection {
        /// Stories whose positions are looked at.
        prompts: usize = 20,
        /// Position and activation thresholds.
        options: CooccurrenceOptions = CooccurrenceOptions::default(),
        /// Also look at the last position of this text.
        text: Option<String> = None,
        /// Rows listed from each end.
        top: usize = 15,
    }
    /// Top token of each direction.
    TopTokens {
        /// List directions whose top token has less than this share.
        share_below: f64 = 0.2,
        /// Directions listed.
        top: usize = 30,
    }
    /// Prompts that show the behaviour.
    BehaviourSection {
        /// Prompts shown.
        examples: usize = 3,
    }
    /// Direct logit attribution.
    LogitAttribution {}
    /// Directions active before the answer.
    Active {
        /// Prompts looked at.
        prompts: usize = 1000,
        /// Thresholds.
        options: ActiveOptions = ActiveOptions::default(),
    }
    /// Ablation of each active direction.
    SingleAblations {
        /// Prompts per direction.
        prompts: usize = 200,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
    /// What the SAE leaves out of the MLP's write.
    Remainder {
        /// Prompts.
        prompts: usize = 200,
    }
    /// Direct feature attribution.
    FeatureAttribution {
        /// Prompts per direction.
        prompts: usize = 100,
        /// Stories over which the mean of inactive neurons is taken.
        mean_prompts: usize = 100,
    }
    /// A head's attention pattern.
    Attention {
        /// Layer; that of the chosen head if not said.
        layer: Option<usize> = None,
        /// Head; the one with the largest logit attribution if not said.
        head: Option<usize> = None,
        /// The first behaviour prompt of at most this many positions is shown.
        positions: usize = 100,
    }
    /// Whether the top directions are active together.
    Coactivation {
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
    /// Ablation of the top directions together.
    JointAblation {
        /// Prompts.
        prompts: usize = 200,
        /// Prompts on which the whole site is mean-ablated.
        mean_ablation_prompts: usize = 100,
        /// Stories over which the site's mean is taken.
        mean_prompts: usize = 10,
    }
    /// How much of the loss the SAE recovers.
    LossRecoveredSection {
        /// Stories over which the site's mean is taken.
        mean_prompts: usize = 20,
    }
    /// One direction closely.
    DirectionSection {
        /// The direction; the one with the largest single effect if not said.
        direction: Option<usize> = None,
        /// Prompts for the boosts.
        prompts: usize = 100,
        /// Examples.
        examples: usize = 5,
        /// Tokens listed by prompts.
        tokens: usize = 15,
        /// Tokens listed by weights.
        weight_tokens: usize = 25,
        /// Tokens less likely than this mean log-probability are ignored.
        log_prob_above: f64 = -9.0,
        /// Tokens that occur at most this often are ignored.
        min_count: u64 = 100,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
    /// More ablations of the one direction.
    MoreAblations {
        /// The direction; the one with the largest single effect if not said.
        direction: Option<usize> = None,
        /// Prompts with the highest activation.
        prompts: usize = 100,
        /// Prompts with the largest loss increase shown.
        examples: usize = 10,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
        /// One position at a time: those above this share of the maximum.
        share_of_maximum: f32 = 0.1,
    }
    /// Directions by their weights' attribution to the answer.
    DirectionAttributionSection {
        /// Directions listed.
        top: usize = 5,
        /// Directions drawn have a mean activation above this.
        active_above: f64 = 0.05,
    }
}

/// One analysis with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SectionKind {
    Tokens(Tokens),
    Examples(Examples),
    Cosine(Cosine),
    Cooccurrence(CooccurrenceSection),
    TopTokens(TopTokens),
    Behaviour(BehaviourSection),
    LogitAttribution(LogitAttribution),
    Active(Active),
    SingleAblations(SingleAblations),
    Remainder(Remainder),
    FeatureAttribution(FeatureAttribution),
    Attention(Attention),
    Coactivation(Coactivation),
    JointAblation(JointAblation),
    LossRecovered(LossRecoveredSection),
    Direction(DirectionSection),
    MoreAblations(MoreAblations),
    DirectionAttribution(DirectionAttributionSection),
}

impl SectionKind {
    /// Every analysis with its defaults, in the origin's order; those of two SAEs only if there are two.
    pub(crate) fn all(saes: usize) -> Vec<SectionKind> {
        let mut all = vec![SectionKind::Tokens(Tokens::default()), SectionKind::Examples(Examples::default())];
        if saes > 1 {
            all.push(SectionKind::Cosine(Cosine::default()));
            all.push(SectionKind::Cooccurrence(CooccurrenceSection::default()));
        }
        all.extend([
            SectionKind::TopTokens(TopTokens::default()),
            SectionKind::Behaviour(BehaviourSection::default()),
            SectionKind::LogitAttribution(LogitAttribution::default()),
            SectionKind::Active(Active::default()),
            SectionKind::SingleAblations(SingleAblations::default()),
            SectionKind::Remainder(Remainder::default()),
            SectionKind::FeatureAttribution(FeatureAttribution::default()),
            SectionKind::Attention(Attention::default()),
            SectionKind::Coactivation(Coactivation::default()),
            SectionKind::JointAblation(JointAblation::default()),
            SectionKind::LossRecovered(LossRecoveredSection::default()),
            SectionKind::Direction(DirectionSection::default()),
            SectionKind::MoreAblations(MoreAblations::default()),
            SectionKind::DirectionAttribution(DirectionAttributionSection::default()),
        ]);
        all
    }
}

impl Study {
    /// The shipped study: closing a quotation, on the shipped model.
    pub const CLOSING_QUOTE: &'static str = include_str!("../../../studies/closing-quote.toml");

    /// Reads a study file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or holds an unknown key or section.
    pub fn read(path: &Path) -> Result<Study> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Study::parse(&text, &path.display().to_string())
    }

    /// Reads a study from text; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, name: &str) -> Result<Study> {
        let study: Study =
            toml::from_str(text).map_err(|e| Error::Study { name: name.into(), problem: e.to_string() })?;
        if study.saes.is_empty() {
            let problem = "`saes` names no SAE; give at least one".into();
            return Err(Error::Study { name: name.into(), problem });
        }
        if study.sae.is_some_and(|sae| sae >= study.saes.len()) {
            let problem = format!("`sae` is {}, but `saes` names {}, counted from 0", study.chosen(), study.saes.len());
            return Err(Error::Study { name: name.into(), problem });
        }
        Ok(study)
    }

    /// The number of the SAE that is taken apart.
    pub(crate) fn chosen(&self) -> usize {
        self.sae.unwrap_or(self.saes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_study_is_read_and_names_what_is_shipped() {
        let study = Study::parse(Study::CLOSING_QUOTE, "closing-quote.toml").unwrap();
        assert_eq!(study.behaviour.ends_with, ".\"");
        assert_eq!(study.saes.len(), 2);
    }

    #[test]
    fn unknown_keys_and_sections_are_named_with_their_line() {
        let message = |extra: &str| {
            let text = format!("{extra}\n{}", Study::CLOSING_QUOTE);
            Study::parse(&text, "s.toml").unwrap_err().to_string()
        };
        assert!(message("colour = 3").contains("colour"));
        let section = |text: &str| {
            let text = format!("{}\n[[section]]\n{text}", Study::CLOSING_QUOTE);
            Study::parse(&text, "s.toml").unwrap_err().to_string()
        };
        assert!(section("kind = \"nonsense\"").contains("nonsense"));
        let message = section("kind = \"tokens\"\nmin_cuont = 3");
        assert!(message.contains("min_cuont") && message.contains("min_count"), "{message}");
        assert!(section("kind = \"tokens\"\nmin_count = \"x\"").contains("invalid type"));
    }
}
