//! Every direction of every SAE, to be looked through.

use super::{Body, SectionKind, table};
use crate::Result;
use crate::browser::{Browser, Extent};
use crate::findings::Findings;
use crate::report::Block;

options! {
    /// The browser of directions.
    Directions {
        /// Prompts with the highest activations.
        examples: usize = 20 => 1.0..,
        /// Prompts of each third of the range.
        spread: usize = 3,
        /// Tokens raised most and lowered most, each.
        tokens: usize = 10 => 1.0..,
        /// Tokens that occur at most this often are ignored.
        min_count: u64 = 100,
        /// The browser is at most this large; there are fewer examples if need be.
        megabytes: f64 = 8.0 => 0.1..,
    }
}

impl SectionKind for Directions {
    const KIND: &str = "directions";
    const TITLE: &str = "Every direction";

    fn make(&self, found: &Findings) -> Result<Body> {
        let Directions { examples, spread, tokens, min_count, megabytes } = *self;
        let (browser, shown) =
            Browser::of(found, "directions", Extent { examples, spread, tokens, min_count, megabytes })?;
        let mut prose = vec![
            "A slider over all directions of each SAE. Numbers of directions anywhere in this report lead here.".into(),
            "Read the darkest tokens and what comes before them: a direction means something if its examples share it over its whole range, not only at the top.".into(),
        ];
        if shown < examples {
            prose.push(format!(
                "With {examples} examples of each, this would be larger than {megabytes} MB: there are {shown}."
            ));
        }
        let mut blocks = vec![Block::Browser(browser)];
        for (number, sae) in found.index.saes().iter().enumerate() {
            let all: Vec<_> =
                (0..sae.directions()).map(|direction| Row { sae: number, of: sae.direction(direction) }).collect();
            blocks.push(table(
                &format!("directions-{number}"),
                &format!(
                    "What the corpus says of each direction of {}: its maximum, the positions at which it fires and their share, its mean activation there, and the prompts in which it fires. Counts of all positions of this corpus, no sample of them.",
                    sae.name()
                ),
                &all,
            ));
        }
        Ok(Body { prose, blocks })
    }
}

#[derive(serde::Serialize)]
struct Row {
    sae: usize,
    #[serde(flatten)]
    of: directrix_index::Direction,
}
