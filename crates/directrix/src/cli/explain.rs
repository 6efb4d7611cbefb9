//! `directrix explain`.

use std::path::PathBuf;

use clap::Args;
use directrix::corpus::{Event, token_text};
use directrix::index::Index;
use directrix::lab::Opened;
use directrix::model::{Ask, batches};
use serde::Serialize;

use super::inputs::{PromptArgs, Saes, SubjectArgs};
use super::numbers::{MANY, whole};
use super::results::{Found, ResultArgs};
use super::watch::watch;

/// Positions of a model pass.
const BATCH: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  directrix explain --text 'Tim said, \"I like it.\"'
  directrix explain --text 'Tim said, \"I like it.\"' --sae tinystories-2l/sae-l0 --top 100
  directrix explain --text 'Once upon a time' --index out/index --json";

/// See which directions are active at each position of a text.
///
/// Runs the model, encodes what each SAE reads, and lists the directions that are active at every position, strongest first. With
/// an index of these SAEs, each stands beside the token on which it fires most often, and beside its activation as a share of
/// its maximum over the corpus.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Explain {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub; give it once for each SAE [default: all of the model,
    /// tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Directions to list of each SAE at a position; 1000000 lists all
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<usize>(1..=MANY))]
    top: usize,
    /// Index of the model and these SAEs, as made by `directrix index` [default: none]
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    #[command(flatten)]
    results: ResultArgs,
}

/// A direction that is active at a position.
#[derive(Serialize)]
struct Row {
    prompt: usize,
    position: usize,
    token: String,
    sae: String,
    direction: u32,
    activation: f32,
    #[serde(flatten)]
    indexed: Option<Indexed>,
}

/// What an index says of a direction.
#[derive(Serialize)]
struct Indexed {
    /// The activation as a share of the direction's maximum over the corpus; none where it fires nowhere.
    of_maximum: Option<f32>,
    /// The token on which it fires most often.
    top_token: String,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::All(&self.sae), self.prompts.wanted())?;
        let parts = self.parts(&opened)?;
        let prompts = self.prompts.load_some(&opened)?;
        let ask = Ask::capture(opened.saes.iter().map(|sae| sae.site().reads.hook)).watched(&watch);
        let mut rows = Vec::new();
        for batch in batches(&prompts, BATCH) {
            let part = prompts.range(batch.clone());
            let run = opened.model.run(&part, &ask, &[])?;
            let mut acts = Vec::new();
            for sae in &opened.saes {
                acts.push(sae.encode(run.captured(sae.site().reads.hook))?);
            }
            for (number, tokens) in part.iter().enumerate() {
                for (position, token) in tokens.iter().enumerate() {
                    for (sae, (of, acts)) in opened.saes.iter().zip(&acts).enumerate() {
                        let (directions, values) = acts.at(part.offsets()[number] + position);
                        let mut active: Vec<(u32, f32)> =
                            directions.iter().copied().zip(values.iter().copied()).collect();
                        active.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                        for (direction, activation) in active.into_iter().take(self.top) {
                            let indexed = parts.get(sae).map(|part| indexed(part, direction, activation, &opened));
                            rows.push(Row {
                                prompt: batch.start + number,
                                position,
                                token: opened.token(*token),
                                sae: of.short_name().into(),
                                direction,
                                activation,
                                indexed: indexed.transpose()?,
                            });
                        }
                    }
                }
            }
            watch.tell(Event::new("explaining", batch.end as u64, "prompts").of(prompts.len() as u64));
        }
        drop(watch);
        let caption =
            format!("The directions that are active at each position, the {} strongest of each SAE at most.", self.top);
        self.results.show(
            &Found { name: "active", caption: &caption, rows: &rows, bars: "activation", missing: "", overall: None },
            &opened,
        )
    }

    /// The index and the number of its part, for each SAE; none without an index.
    fn parts(&self, opened: &Opened) -> anyhow::Result<Vec<(Index, usize)>> {
        let Some(folder) = &self.index else { return Ok(Vec::new()) };
        let part = |sae| {
            let (index, [part]) = opened.existing_index(folder, [sae])?;
            Ok((index, part))
        };
        (0..opened.saes.len()).map(part).collect()
    }
}

fn indexed(
    (index, part): &(Index, usize),
    direction: u32,
    activation: f32,
    opened: &Opened,
) -> anyhow::Result<Indexed> {
    let (sae, direction) = (index.sae(*part), direction as usize);
    let maximum = sae.maxima()[direction];
    let top = sae.token_counts(direction)?.first().map(|of| of.token);
    let top_token = top.map_or_else(String::new, |token| token_text(opened.tokenizer.as_ref(), token));
    Ok(Indexed { of_maximum: (maximum > 0.0).then_some(activation / maximum), top_token })
}
