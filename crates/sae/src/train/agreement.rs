//! That all ranks of a run were given the same.

use directrix_corpus::agree;
use directrix_model::{Ask, HookPoint};
use serde_json::Value;

use super::member;
use super::over::Over;
use super::recipe::problem;
use super::training::Training;
use super::windows::Windows;
use crate::{Error, Result};

/// That the training can be divided as it says, and that all ranks have the same training, checkpoint and program, and
/// compute the same bits.
///
/// # Errors
/// The first that is not so, by its name.
pub(super) fn check(training: &Training, identity: &Value, step: Option<u64>, hooks: &[HookPoint]) -> Result<()> {
    let Some(ranks) = training.over.ranks() else { return Ok(()) };
    let mut said = vec![
        ("the program's version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (
            "what is divided".to_owned(),
            if training.over.holders().is_some() { "directions" } else { "positions" }.into(),
        ),
        ("the checkpoint found".to_owned(), step.map_or("none".into(), |step| format!("of step {step}"))),
        ("whether activations are kept".to_owned(), training.cache.is_some().to_string()),
        ("the model's and corpus's bits".to_owned(), format!("{:08x}", bits(training, hooks)?)),
    ];
    leaves("", identity, &mut said);
    let said: Vec<(&str, String)> = said.iter().map(|(name, of)| (name.as_str(), of.clone())).collect();
    agree(ranks, &said)?;
    if let Over::Directions(_) = training.over {
        if training.feed.evaluate_every > 0 && !training.evaluation.is_empty() {
            let what = "no rank holds a whole SAE to evaluate while its directions are divided; give 0, and evaluate what was trained";
            return Err(problem("evaluate-every", what));
        }
        for (_, recipe) in training.recipes {
            let width = super::training::end_of(recipe, training.model)?.width;
            let (directions, size) = (member::directions(recipe, width)?, ranks.size());
            if directions < size {
                let what =
                    format!("{directions} directions cannot be divided over {size} ranks; give more, or fewer ranks");
                return Err(problem("expansion", what));
            }
        }
    }
    Ok(())
}

/// A checksum of the corpus's first window, and of what the model makes of it at the hook points.
fn bits(training: &Training, hooks: &[HookPoint]) -> Result<u32> {
    let feed = training.feed;
    let longest = training.model.config().n_ctx;
    let window = Windows::new(training.documents, feed.windows, feed.context.min(longest), training.bos)?.advance()?;
    let sum = crc32c::crc32c(bytemuck::cast_slice(&window));
    let windows = directrix_corpus::Prompts::from_rows([window]);
    let run = training.model.run(&windows, &Ask::capture(hooks.iter().copied()), &[]).map_err(Error::from)?;
    Ok(hooks.iter().fold(sum, |sum, hook| crc32c::crc32c_append(sum, bytemuck::cast_slice(run.captured(*hook).data()))))
}

/// Every value inside another, with its place.
fn leaves(place: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let inside = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match value {
        Value::Object(of) => of.iter().for_each(|(key, value)| leaves(&inside(key), value, found)),
        Value::Array(of) => of.iter().enumerate().for_each(|(i, value)| leaves(&inside(&i.to_string()), value, found)),
        value => found.push((place.to_owned(), value.to_string())),
    }
}
