//! The analyses of the circuits room, each a function that gives tables.
//!
//! What comes from Python is checked before a room takes it: an SAE against its model, a direction against its SAE, an index against both.

mod ablation;
mod attribution;
mod behaviour;
mod boosts;
mod circuit;
mod conjunctions;
mod edges;
mod graph;
mod intervene;
mod losses;
mod pairs;
mod parts;
mod tokens;

use directrix_circuits::{self as circuits, Cells, Column};
use directrix_corpus::{self as corpus, Tokenizer};
use directrix_index::SaeIndex;
use directrix_sae as sae;
use pyo3::prelude::*;
use serde::Serialize;

use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;

/// Adds them to the module.
pub(crate) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    tokens::register(module)?;
    behaviour::register(module)?;
    ablation::register(module)?;
    losses::register(module)?;
    parts::register(module)?;
    attribution::register(module)?;
    boosts::register(module)?;
    pairs::register(module)?;
    edges::register(module)?;
    conjunctions::register(module)?;
    circuit::register(module)?;
    graph::register(module)?;
    intervene::register(module)
}

/// A token, by its id or its text.
#[derive(FromPyObject)]
enum Token {
    Id(u32),
    Text(String),
}

impl Token {
    fn of(&self, tokenizer: Option<&Tokenizer>) -> Result<u32> {
        match (self, tokenizer) {
            (Token::Id(id), _) => Ok(*id),
            (Token::Text(text), Some(tokenizer)) => Ok(tokenizer.single_token(text)?),
            (Token::Text(text), None) => {
                Err(Failure::argument(format!("there is no tokenizer to look up {text:?} with; give the token's id")))
            }
        }
    }
}

/// Positions of prompts: one in all, from the end if negative, or one for each.
#[derive(FromPyObject)]
enum At {
    One(i64),
    Each(Vec<i64>),
}

impl At {
    /// The position in each prompt; with `predicts`, one behind which a token follows.
    fn of(&self, prompts: &corpus::Prompts, predicts: bool) -> Result<Vec<usize>> {
        if let At::Each(each) = self
            && each.len() != prompts.len()
        {
            return Err(Failure::argument(format!("{} positions are given for {} prompts", each.len(), prompts.len())));
        }
        let position = |(prompt, tokens): (usize, &[u32])| {
            let at = match self {
                At::One(at) => *at,
                At::Each(each) => each[prompt],
            };
            let length = tokens.len();
            let from_start = if at < 0 { length.checked_add_signed(at as isize) } else { usize::try_from(at).ok() };
            from_start.filter(|found| found + usize::from(predicts) < length).ok_or_else(|| {
                let predicting = if predicts { " that predicts a token" } else { "" };
                Failure::argument(format!(
                    "prompt {prompt} has {length} tokens, so there is no position {at}{predicting}"
                ))
            })
        };
        prompts.iter().enumerate().map(position).collect()
    }
}

/// The prompts, if there are any.
fn some(prompts: &Prompts) -> Result<&corpus::Prompts> {
    if prompts.0.is_empty() {
        return Err(Failure::argument("there are no prompts; give one at least"));
    }
    Ok(&prompts.0)
}

/// The one prompt there is, if it has a token.
fn one(prompts: &Prompts) -> Result<&[u32]> {
    match prompts.0.iter().next() {
        Some(tokens) if prompts.0.len() == 1 && !tokens.is_empty() => Ok(tokens),
        Some(_) if prompts.0.len() == 1 => Err(Failure::argument("the prompt has no token")),
        _ => Err(Failure::argument(format!("this is of one prompt, and there are {}", prompts.0.len()))),
    }
}

/// The SAEs, if all fit a model.
fn fitted(model: &Model, saes: &[PyRef<Sae>]) -> Result<Vec<sae::Sae>> {
    saes.iter().map(|sae| sae.of(model)).collect()
}

/// Directions, if there is one at least and the SAE has all of them.
fn checked(sae: &sae::Sae, directions: Vec<u32>) -> Result<Vec<u32>> {
    if directions.is_empty() {
        return Err(Failure::argument("there are no directions; give one at least"));
    }
    for direction in &directions {
        sae.check(*direction as usize)?;
    }
    Ok(directions)
}

/// The part of an index that is of an SAE: that of number `given`, or the one that is of its hook point, its size and, of several, its name.
fn part<'a>(index: &'a Index, model: &Model, of: &sae::Sae, given: Option<usize>) -> Result<&'a SaeIndex> {
    let identity = &index.index.meta().identity;
    if identity.processing != model.model.processing() || index.index.meta().vocabulary != model.model.config().d_vocab
    {
        let (other, own) = (&identity.model.name, &model.name);
        let problem =
            format!("the index is of another model ({other}) than {own}, or its weights are processed otherwise");
        return Err(Failure::argument(problem));
    }
    let is_of = |part: &&SaeIndex| part.hook() == of.site().reads.hook && part.directions() == of.directions();
    if let Some(given) = given {
        let part = index.sae(given)?;
        if !is_of(&part) {
            let (name, hook, n) = (part.name(), part.hook(), part.directions());
            let (own, own_hook, own_n) = (of.short_name(), of.site().reads.hook, of.directions());
            return Err(Failure::argument(format!(
                "SAE {given} of the index is {name}: {n} directions of {hook}; {own} has {own_n} of {own_hook}"
            )));
        }
        return Ok(part);
    }
    let parts: Vec<&SaeIndex> = index.index.saes().iter().filter(is_of).collect();
    let of_name: Vec<&SaeIndex> = parts.iter().copied().filter(|part| part.name() == of.short_name()).collect();
    match (&of_name[..], &parts[..]) {
        ([part], _) | ([], [part]) => Ok(part),
        ([], []) => {
            let all: Vec<&str> = index.index.saes().iter().map(SaeIndex::name).collect();
            let problem = format!("the index is not of {}: it is of {}", of.short_name(), all.join(", "));
            Err(Failure::argument(problem))
        }
        _ => Err(Failure::argument(format!("several SAEs of the index may be {}; say which", of.short_name()))),
    }
}

/// A row beside the text of its token.
#[derive(Serialize)]
struct Told<R: Serialize> {
    #[serde(flatten)]
    row: R,
    token_text: String,
}

/// The texts of all tokens of a model's vocabulary, by id, with the ids.
fn vocabulary(model: &Model) -> [Column; 2] {
    let tokens = 0..model.model.config().d_vocab as u32;
    [
        column("token", Cells::Integer(tokens.clone().map(i64::from).collect())),
        column("token text", Cells::Text(tokens.map(|token| model.token(token)).collect())),
    ]
}

fn column(name: &str, cells: Cells) -> Column {
    Column { name: name.into(), cells }
}

fn reals(name: &str, values: impl IntoIterator<Item = impl Into<f64>>) -> Column {
    column(name, Cells::Real(values.into_iter().map(Into::into).collect()))
}

fn table_of(name: &str, caption: &str, columns: impl IntoIterator<Item = Column>) -> Table {
    Table::new(circuits::Table { name: name.into(), caption: caption.into(), columns: columns.into_iter().collect() })
}

/// A table whose columns of these names, of yes and no, are 1 and 0.
fn flags(mut table: circuits::Table, names: &[&str]) -> circuits::Table {
    for column in table.columns.iter_mut().filter(|column| names.contains(&column.name.as_str())) {
        if let Cells::Text(cells) = &column.cells {
            column.cells = Cells::Integer(cells.iter().map(|cell| i64::from(cell == "true")).collect());
        }
    }
    table
}
