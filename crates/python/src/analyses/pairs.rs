//! Pairs of directions: alike, the same, one needed by the other.

use directrix_circuits::edges::{Edge, Measure, Path, Weights};
use directrix_circuits::{
    self as circuits, Alike, BothIndexed, Cooccurrence, CooccurrenceOptions, CosinePair, Matched, SimilarPair,
};
use directrix_index::SaeIndex;
use pyo3::prelude::*;
use serde::Serialize;

use super::{part, some};
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::prompts::Prompts;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(cosine_pairs, module)?)?;
    module.add_function(wrap_pyfunction!(pair_effects, module)?)?;
    module.add_function(wrap_pyfunction!(similarities, module)?)?;
    module.add_function(wrap_pyfunction!(match_directions, module)?)?;
    module.add_function(wrap_pyfunction!(cooccurrence, module)?)?;
    module.add_function(wrap_pyfunction!(cooccurrence_pairs, module)?)
}

#[pyfunction]
fn cosine_pairs(py: Python, model: &Model, first: &Sae, second: &Sae, k: usize, lower_triangle: bool) -> Result<Table> {
    let (first, second) = (first.of(model)?, second.of(model)?);
    let rows = watched(py, |watch| circuits::cosine_pairs(&model.model, &first, &second, k, lower_triangle, watch))?;
    let caption = format!(
        "Directions of {} that write what directions of {} read, by cosine; highest first",
        first.short_name(),
        second.short_name()
    );
    Ok(Table::of("cosine-pairs", &caption, &rows))
}

/// Of the pairs that are given, or of the `k` with the highest cosine.
#[pyfunction]
#[pyo3(signature = (model, first, second, index, pairs, k, prompts, number = None))]
fn pair_effects(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    index: &Index,
    pairs: Option<Vec<(usize, usize)>>,
    k: usize,
    prompts: usize,
    number: Option<usize>,
) -> Result<Table> {
    let (first, second) = (first.of(model)?, second.of(model)?);
    let indexed = part(index, model, &first, number)?;
    for (one, other) in pairs.iter().flatten() {
        first.check(*one)?;
        second.check(*other)?;
    }
    let rows = watched(py, |watch| {
        let pairs = match pairs {
            None => circuits::cosine_pairs(&model.model, &first, &second, k, false, watch)?,
            Some(pairs) => {
                // Where the one does not write what the other reads there is none.
                let weights = Weights::new(&model.model, [&first, &second], Path::Residual, Measure::Cosine).ok();
                let of = |edge| weights.as_ref().map_or(f32::NAN, |weights| weights.of(edge) as f32);
                let pair = |(first, second)| CosinePair { first, second, cosine: of(Edge { first, second }) };
                pairs.into_iter().map(pair).collect()
            }
        };
        circuits::pair_effects(&model.model, [&first, &second], &index.index, indexed, &pairs, prompts, watch)
    })?;
    let caption = "Per pair, means over n prompts at the position of the first direction's maximum: loss of the next token in nats unchanged and \
                   with either direction ablated there, and the second direction's activation; half widths are of 95 % intervals over prompts; of \
                   the activation change also p, its false-discovery rate q in this list, and its controls";
    Ok(Table::of("pair-effects", caption, &rows))
}

#[derive(Serialize)]
struct Spread {
    between: &'static str,
    pairs: u64,
    mean: f64,
    sd: f64,
}

#[derive(Serialize)]
struct NearestRow {
    between: &'static str,
    direction: usize,
    nearest: f32,
    own: Option<f32>,
}

#[derive(Serialize)]
struct Counted {
    between: &'static str,
    low: f64,
    high: f64,
    pairs: u64,
}

/// What they are on the whole, the most similar pairs, the nearest of each direction, and how many pairs are how similar.
#[pyfunction]
fn similarities(py: Python, sae: &Sae, k: usize) -> Result<(Table, Table, Table, Table)> {
    let all = watched(py, |watch| circuits::similarities(&sae.0, k, watch))?;
    let spread = |of: &circuits::Similarity| Spread { between: of.between, pairs: of.pairs, mean: of.mean, sd: of.sd };
    let summary: Vec<Spread> = all.iter().map(spread).collect();
    let pairs: Vec<SimilarPair> = all.iter().flat_map(|of| of.top.iter().copied()).collect();
    let (mut nearest, mut counts) = (Vec::new(), Vec::new());
    for of in &all {
        let row = |(direction, cosine): (usize, &f32)| NearestRow {
            between: of.between,
            direction,
            nearest: *cosine,
            own: of.own.get(direction).copied(),
        };
        nearest.extend(of.nearest.iter().enumerate().map(row));
        let width = 2.0 / of.counts.len() as f64;
        counts.extend(of.counts.iter().enumerate().map(|(bin, pairs)| Counted {
            between: of.between,
            low: bin as f64 * width - 1.0,
            high: (bin + 1) as f64 * width - 1.0,
            pairs: *pairs,
        }));
    }
    Ok((
        Table::of(
            "similarities",
            "Cosines of all pairs of two directions: their mean and standard deviation",
            &summary,
        ),
        Table::of("similar-pairs", "The pairs of directions with the highest cosines", &pairs),
        Table::of(
            "nearest-directions",
            "The highest cosine of each direction with any other; own: between its rows of encoder and decoder",
            &nearest,
        ),
        Table::of("similarity-counts", "Pairs of two directions by cosine, in intervals of equal width", &counts),
    ))
}

#[derive(Serialize)]
struct MatchRow {
    #[serde(flatten)]
    pair: circuits::MatchedPair,
    similarity: f64,
}

#[derive(Serialize)]
struct Alone {
    sae: String,
    #[serde(flatten)]
    row: OfDirection,
}

#[derive(Serialize)]
struct OfDirection {
    direction: usize,
    nearest: usize,
    similarity: f64,
}

/// Matched pairs, and directions without a partner.
#[pyfunction]
#[pyo3(signature = (first, second, by, least, index = None, numbers = None))]
fn match_directions(
    py: Python,
    first: &Sae,
    second: &Sae,
    by: &str,
    least: f64,
    index: Option<&Index>,
    numbers: Option<[usize; 2]>,
) -> Result<(Table, Table)> {
    let alike = match by {
        "decoder" => Alike::Decoder,
        "activations" => Alike::Activations,
        _ => return Err(Failure::argument(format!("`{by}` is not known; there are decoder, activations"))),
    };
    let (first, second) = (&first.0, &second.0);
    let indexed = match (index, numbers) {
        (Some(index), Some(saes)) => {
            for (sae, number) in [first, second].into_iter().zip(saes) {
                let part: &SaeIndex = index.sae(number)?;
                if (part.directions(), part.hook()) != (sae.directions(), sae.site().reads.hook) {
                    let problem = format!("SAE {number} of the index, {}, is not {}", part.name(), sae.short_name());
                    return Err(Failure::argument(problem));
                }
            }
            Some(BothIndexed { index: &index.index, saes })
        }
        (None, None) => None,
        _ => return Err(Failure::argument("give an index and the numbers that both SAEs have in it")),
    };
    let found = watched(py, |watch| circuits::match_directions([first, second], alike, indexed, least, watch))?;
    let names = [first.short_name(), second.short_name()];
    let pair = |(pair, similarity): (&circuits::MatchedPair, &f64)| MatchRow { pair: *pair, similarity: *similarity };
    let pairs: Vec<MatchRow> = found.pairs.iter().zip(&found.similarities).map(pair).collect();
    let alone = |row: &circuits::Unmatched| Alone {
        sae: names[row.sae.min(1)].into(),
        row: OfDirection { direction: row.direction, nearest: row.nearest, similarity: row.similarity },
    };
    let unmatched: Vec<Alone> = found.unmatched.iter().map(alone).collect();
    let [one, other] = names;
    let what = match alike {
        Alike::Decoder => "the cosine of the decoder rows",
        Alike::Activations => "the correlation of the activations",
    };
    let caption = format!(
        "Directions of {one} (in first) and {other} (in second), matched one to one so that the sum of similarities ({what}) is the largest there \
         is over all one-to-one matchings of pairs above {least}; the most alike first"
    );
    let alone = format!(
        "Directions of {one} and {other} without a partner, and what each is nearest to in the other, by {what}"
    );
    Ok((Table::of("matched-directions", &caption, &pairs), Table::of("unmatched-directions", &alone, &unmatched)))
}

#[derive(Serialize)]
struct AtToken {
    prompt: usize,
    position: usize,
    token: u32,
    token_text: String,
    first: usize,
    second: usize,
    activation: f32,
    ablated: f32,
    difference: f32,
}

fn nothing(options: CooccurrenceOptions, first: &str, second: &str) -> Failure {
    Failure::argument(format!(
        "at no position from {} on is a direction of {first} above {} together with one of {second}; take longer prompts, or lower \
         `first_position` or `above`",
        options.first_position, options.above
    ))
}

#[pyfunction]
fn cooccurrence(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    prompts: &Prompts,
    first_position: usize,
    above: f32,
) -> Result<Table> {
    let (first, second, prompts) = (first.of(model)?, second.of(model)?, some(prompts)?);
    let options = CooccurrenceOptions { first_position, above };
    let (one, two) = (first.short_name(), second.short_name());
    let mut found =
        watched(py, |watch| circuits::cooccurrence(&model.model, &first, &second, prompts, options, watch))?;
    if found.is_empty() {
        return Err(nothing(options, one, two));
    }
    found.reverse();
    let row = |row: &Cooccurrence| {
        let token = prompts.get(row.prompt)[row.position];
        AtToken {
            prompt: row.prompt,
            position: row.position,
            token,
            token_text: model.token(token),
            first: row.first,
            second: row.second,
            activation: row.activation,
            ablated: row.ablated,
            difference: row.difference,
        }
    };
    let rows: Vec<AtToken> = found.iter().map(row).collect();
    let caption = format!(
        "The most active direction of {two} at a position, and its activation with one of {one} ablated there; the largest decreases first"
    );
    Ok(Table::of("cooccurrence", &caption, &rows))
}

#[pyfunction]
#[pyo3(signature = (model, first, second, prompts, first_position, above, index = None, number = None))]
fn cooccurrence_pairs(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    prompts: &Prompts,
    first_position: usize,
    above: f32,
    index: Option<&Index>,
    number: Option<usize>,
) -> Result<Table> {
    let (first, second, prompts) = (first.of(model)?, second.of(model)?, some(prompts)?);
    let options = CooccurrenceOptions { first_position, above };
    let indexed = index.map(|index| part(index, model, &first, number)).transpose()?;
    let rows = watched(py, |watch| {
        let found = circuits::cooccurrence(&model.model, &first, &second, prompts, options, watch)?;
        let pairs = circuits::cooccurrence_pairs(&found);
        // Pairs with an interval come first, and they alone have controls.
        let (mut tested, once): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| pair.change.estimate.clusters > 1);
        if let Some(indexed) = indexed {
            let matched = Matched::of(indexed);
            circuits::control_pairs(&model.model, [&first, &second], prompts, &found, &mut tested, &matched, watch)?;
        }
        Ok::<_, circuits::Error>([tested, once].concat())
    })?;
    if rows.is_empty() {
        return Err(nothing(options, first.short_name(), second.short_name()));
    }
    let caption = "Each pair over its n positions: the second direction's activation, and its difference with the first ablated there, with half \
                   widths of 95 % intervals clustered by prompt, p and q, its false-discovery rate over all pairs. Pairs found in several prompts \
                   come first, the most negative first; random rows and random directions: controls of these, at the same positions";
    Ok(Table::of("cooccurrence-pairs", caption, &rows))
}
