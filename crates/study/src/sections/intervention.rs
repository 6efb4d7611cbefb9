//! Changes of one text, and what they do there.

use directrix_circuits::{ChangeAt, PartMeans};
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::{Deserialize, Serialize};

use super::{Body, Ranges, SectionKind, check_range, table};
use crate::Result;
use crate::findings::Findings;
use crate::intervention::Intervention as Made;
use crate::report::{Block, ShadedText, Texts};

/// Changes of one text, spelled as [`ChangeAt`] has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Intervention {
    /// The text; the first prompt of the behaviour where none is given.
    pub text: String,
    /// The changes.
    pub changes: Vec<String>,
    /// The position whose prediction is looked at; the last but one where none is given.
    pub position: Option<usize>,
    /// Likely tokens shown, of before and of after.
    pub tokens: usize,
    /// Directions shown.
    pub directions: usize,
    /// Prompts of the corpus over which a part has its mean.
    pub mean_prompts: usize,
}

impl Default for Intervention {
    fn default() -> Self {
        let (text, changes, position) = (String::new(), Vec::new(), None);
        Intervention { text, changes, position, tokens: 10, directions: 20, mean_prompts: 200 }
    }
}

impl Ranges for Intervention {
    fn check_ranges(&self) -> Result<(), String> {
        check_range("tokens", self.tokens as f64, 1.0..)?;
        check_range("directions", self.directions as f64, 1.0..)?;
        check_range("mean_prompts", self.mean_prompts as f64, 1.0..)
    }
}

impl SectionKind for Intervention {
    const KIND: &str = "intervention";
    const TITLE: &str = "An intervention on one text";
    const BY_DEFAULT: bool = false;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        if self.changes.is_empty() {
            return Err("it needs `changes`, such as [\"sae-l1/429*0\"]".into());
        }
        let parsed = self.changes.iter().map(|text| ChangeAt::parse(text, &opened.model, &opened.saes).map(drop));
        parsed.collect::<Result<(), _>>().map_err(|error| error.to_string())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let tokens = if self.text.is_empty() {
            found.behaviour.prompts.get(0).to_vec()
        } else {
            let prompts = found
                .opened
                .prompts_of("the text of the section `intervention`", std::slice::from_ref(&self.text))?
                .prompts;
            prompts.get(0).to_vec()
        };
        let parse = |text: &String| ChangeAt::parse(text, &found.opened.model, &found.opened.saes);
        let changes = self.changes.iter().map(parse).collect::<directrix_circuits::Result<Vec<_>>>()?;
        let means = if changes.iter().any(ChangeAt::needs_means) {
            Some(PartMeans::of(&found.opened.model, &found.corpus_prompts(self.mean_prompts)?, found.watch)?)
        } else {
            None
        };
        let made = Made::of(found.opened, &tokens, &self.changes, self.position, means.as_ref(), found.watch)?;
        let values: Vec<f32> = [0.0].into_iter().chain(made.loss_increases()).collect();
        let maximum = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let shaded = ShadedText {
            label: self.changes.join("; "),
            tokens: found.texts(&tokens),
            values,
            maximum,
            marked: self.position,
        };
        let texts = Texts {
            name: "intervention".into(),
            title: "Where the loss changes".into(),
            caption: "Each token is shaded by how much the loss of predicting it rises, or falls.".into(),
            rows: vec![shaded],
        };
        let prose = vec![made.summary(), "It is one text, and what is seen there holds for it alone; what holds over prompts is in sections with intervals and controls.".into()];
        let blocks = vec![
            Block::Texts(texts),
            table(
                "intervention-next",
                "The most likely next tokens without and with the changes: probabilities, and ranks from 0.",
                &made.next(self.tokens),
            ),
            table(
                "intervention-directions",
                "The directions whose activation changes most at some position, each where it does.",
                &made.directions(self.directions),
            ),
        ];
        Ok(Body { prose, blocks })
    }
}
