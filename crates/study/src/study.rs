//! Study files: what to load, which behaviour to take apart, which analyses to make.

use std::path::Path;

use directrix_circuits::{Behaviour, PromptPair};
use directrix_lab::{Opened, Steps};
use serde::{Deserialize, Serialize};

use crate::sections::Analysis;
use crate::{Error, Result};

/// A study, as its TOML file says it. Every threshold has the origin's value as default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Title of the report.
    pub title: String,
    /// Model, by a name that [`Sources`](directrix_lab::Sources) find; so are SAEs and corpus.
    pub model: String,
    /// SAEs, in the order of the model's layers.
    pub saes: Vec<String>,
    /// The one of them that is taken apart, counted from 0; the last if not said.
    pub sae: Option<usize>,
    /// Corpus.
    pub corpus: String,
    /// Text column of a JSON lines or Parquet corpus.
    pub column: Option<String>,
    /// Whether prompts start with BOS; the model's convention if not said.
    pub bos: Option<bool>,
    /// Only this many texts from the start of the corpus.
    pub limit: Option<usize>,
    /// Tokens, each by its id or its text, at whose positions nothing counts in the index.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Steps of weight processing to take or not; as the SAEs were trained, or all, where nothing is said.
    #[serde(default)]
    pub processing: Steps,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Directions of that SAE to ablate together and look at closely; those with the largest single effects if not said.
    pub directions: Option<Vec<usize>>,
    /// Share of the behaviour's prompts on which directions are chosen; their effects are measured on the others. 0 takes all for
    /// both, as the origin did: an effect on the prompts that chose it is too large.
    #[serde(default = "half")]
    pub split: f64,
    /// What the prompts are divided by.
    #[serde(default)]
    pub seed: u64,
    /// How many directions to take if they are not said.
    #[serde(default = "three")]
    pub top_directions: usize,
    /// Pairs of prompts with another answer each.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// The analyses, in order; the usual ones with their defaults if none is named.
    #[serde(default, rename = "section")]
    pub sections: Vec<Analysis>,
}

/// Two prompts of equally many tokens that are followed by different tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The prompt that is run and changed.
    pub clean: String,
    /// The one that values are taken from.
    pub corrupted: String,
    /// The token that follows the clean prompt, then the one that follows the corrupted one.
    pub answers: [String; 2],
}

fn three() -> usize {
    3
}

fn half() -> f64 {
    0.5
}

impl Study {
    /// A shipped study: closing a quotation, on the shipped model.
    pub const CLOSING_QUOTE: &'static str = include_str!("../../../studies/closing-quote.toml");
    /// A shipped study: `he` or `she`.
    pub const PRONOUNS: &'static str = include_str!("../../../studies/pronouns.toml");
    /// A shipped study: how the parts of the shipped model and its directions work together.
    pub const CIRCUITS: &'static str = include_str!("../../../studies/circuits.toml");
    /// The shipped studies by name.
    pub const SHIPPED: [(&'static str, &'static str); 3] =
        [("closing-quote", Study::CLOSING_QUOTE), ("pronouns", Study::PRONOUNS), ("circuits", Study::CIRCUITS)];

    /// Reads a study file, or a shipped study where nothing has this path and it is the name of one.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or holds an unknown key or section.
    pub fn read(path: &Path) -> Result<Study> {
        let shipped = Study::SHIPPED.iter().find(|(name, _)| path == Path::new(name)).filter(|_| !path.exists());
        if let Some((name, text)) = shipped {
            return Study::parse(text, name);
        }
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
        if !(0.0..1.0).contains(&study.split) {
            let problem = format!("`split` is {}; give a share from 0 to below 1", study.split);
            return Err(Error::Study { name: name.into(), problem });
        }
        let out_of_range = |problem| Error::Study { name: name.into(), problem };
        for (key, number) in [("limit", study.limit), ("top_directions", Some(study.top_directions))] {
            if number == Some(0) {
                return Err(out_of_range(format!("`{key}` is 0; give a whole number from 1 on")));
            }
        }
        if study.behaviour.limit == Some(0) {
            return Err(out_of_range("`limit` of [behaviour] is 0; give a whole number from 1 on".into()));
        }
        for section in &study.sections {
            section.check_ranges().map_err(|found| out_of_range(format!("section `{}`: {found}", section.kind())))?;
        }
        Ok(study)
    }

    /// The pairs of prompts as tokens; the error names the pair, counted from 1.
    pub(crate) fn prompt_pairs(&self, opened: &Opened) -> Result<Vec<PromptPair>, String> {
        let tokenizer = opened.tokenizer().map_err(|e| e.to_string())?;
        let context = opened.model.config().n_ctx;
        let pair = |(number, Pair { clean, corrupted, answers: [one, other] }): (usize, &Pair)| {
            let problem = |problem: String| format!("pair {} of [[pairs]] ({clean:?}): {problem}", number + 1);
            let pair = PromptPair::of_texts(tokenizer, opened.bos, [clean, corrupted], [one, other])
                .map_err(|e| problem(e.to_string()))?;
            pair.check().map_err(|e| problem(e.to_string()))?;
            match pair.clean.len() {
                n if n > context => {
                    Err(problem(format!("it has {n} tokens, and the model a context of {context}; shorten it")))
                }
                _ => Ok(pair),
            }
        };
        self.pairs.iter().enumerate().map(pair).collect()
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
    fn every_shipped_study_is_read_by_its_name_or_its_path() {
        for (name, text) in Study::SHIPPED {
            let study = Study::parse(text, name).unwrap();
            assert_eq!(Study::read(Path::new(name)).unwrap(), study, "{name}");
            assert_eq!(Study::read(Path::new(&format!("../../studies/{name}.toml"))).unwrap(), study, "{name}");
            assert!(text.contains(&format!("directrix study studies/{name}.toml")), "{name}");
        }
        assert!(Study::read(Path::new("nothing")).unwrap_err().to_string().contains("cannot read the study"));
    }

    #[test]
    fn unknown_keys_and_sections_are_named_with_their_line() {
        let message = |extra: &str| {
            let text = format!("{extra}\n{}", Study::CLOSING_QUOTE);
            Study::parse(&text, "s.toml").unwrap_err().to_string()
        };
        assert!(message("colour = 3").contains("colour"));
        for split in ["1.0", "-0.1", "nan"] {
            assert!(message(&format!("split = {split}")).contains("give a share from 0 to below 1"), "{split}");
        }
        let section = |text: &str| {
            let text = format!("{}\n[[section]]\n{text}", Study::CLOSING_QUOTE);
            Study::parse(&text, "s.toml").unwrap_err().to_string()
        };
        for (text, said) in [
            (
                "kind = \"single_ablations\"\nprompts = 0",
                "section `single_ablations`: `prompts` is 0; give a number from 1 on",
            ),
            ("kind = \"single_ablations\"\nactive_above = nan", "`active_above` is NaN"),
            ("kind = \"more_ablations\"\nshare_of_maximum = 1.5", "give a number from 0 to below 1"),
            ("kind = \"coactivation\"\nactive_above = inf", "`active_above` is inf"),
        ] {
            assert!(section(text).contains(said), "{}", section(text));
        }
        for key in ["limit", "top_directions"] {
            let shipped = Study::CLOSING_QUOTE.replace("top_directions = 5", "");
            let message = Study::parse(&format!("{key} = 0\n{shipped}"), "s.toml").unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}` is 0; give a whole number")), "{message}");
        }
        let line = format!("line {}", Study::CLOSING_QUOTE.lines().count() + 2);
        for (text, said) in [
            ("kind = \"nonsense\"", ["`nonsense`", "`tokens`"]),
            ("top = 3", ["needs a `kind`", "`tokens`"]),
            ("kind = \"tokens\"\nmin_cuont = 3", ["`min_cuont`", "`min_count`"]),
            ("kind = \"tokens\"\nmin_count = \"x\"", ["section `tokens`", "invalid type"]),
        ] {
            let message = section(text);
            assert!(message.contains(&line) && said.iter().all(|said| message.contains(said)), "{message}");
        }
    }
}
