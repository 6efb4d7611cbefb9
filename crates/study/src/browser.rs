//! Every direction of every SAE, for the report's browser: what it fires on, how, and which tokens it raises.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use directrix_circuits::{TopToken, logit_boost_ends, top_tokens};
use directrix_corpus::one_line;
use directrix_index::{Example, SaeIndex};
use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde::Serialize;

use crate::findings::Findings;
use crate::sections::check_written;
use crate::{Error, Result};

/// All directions, to be looked through in the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Browser {
    /// Identifier, used as anchor: lower case words joined by `-`.
    pub name: String,
    /// What is shown of each direction.
    pub caption: String,
    /// The directions, as the page reads them: JSON, gzip, base64. The tables hold its numbers.
    #[serde(skip)]
    pub(crate) packed: String,
}

/// How much of each direction is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Prompts with its highest activations.
    pub(crate) examples: usize,
    /// Prompts of each third of its range.
    pub(crate) spread: usize,
    /// Tokens raised most and lowered most.
    pub(crate) tokens: usize,
    /// Tokens that occur at most this often are ignored.
    pub(crate) min_count: u64,
    /// The size of it all in the report, at most, in megabytes: there are fewer examples if need be.
    pub(crate) megabytes: f64,
}

/// Thirds of a direction's range, as parts of its maximum.
const THIRDS: [(f32, f32); 3] = [(2.0 / 3.0, 0.999), (1.0 / 3.0, 2.0 / 3.0), (0.0, 1.0 / 3.0)];

#[derive(Serialize)]
struct Directions<'a> {
    /// The tokens that occur below, by their place in this list.
    vocabulary: Vec<Word>,
    /// The prompts that occur below: their number in the corpus and their tokens.
    prompts: Vec<(usize, Vec<usize>)>,
    saes: &'a [OfSae],
}

/// What a token is of a text: a text, or bytes of which some are only part of a character.
#[derive(Serialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Part(Vec<u8>),
}

/// Columns with one entry for each direction.
#[derive(Serialize)]
struct OfSae {
    name: String,
    hook: String,
    maximum: Vec<f32>,
    density: Vec<f64>,
    mean: Vec<f64>,
    prompts: Vec<u64>,
    /// The top token and its share among strong activations; `null` and 0 if there is none.
    top_token: Vec<Option<usize>>,
    share: Vec<f64>,
    histogram: Vec<Vec<u64>>,
    raised: Vec<Vec<usize>>,
    lowered: Vec<Vec<usize>>,
    /// Each: kind (0 highest, 1 to 3 thirds from above), prompt, position of its highest activation there; then pairs of a
    /// position at which it fires and its activation, in thousandths of the maximum.
    examples: Vec<Vec<Vec<usize>>>,
    /// Of those ablated alone: direction, loss increase, half width, n.
    effects: Vec<(usize, f64, f64, usize)>,
}

/// An example as it is found, its prompt still as the index numbers it.
#[derive(Clone)]
struct Shown {
    kind: usize,
    example: Example,
    fires: Vec<(usize, usize)>,
}

impl Browser {
    /// Of all SAEs of the study. Also how many examples of the highest activations there are of each direction.
    pub(crate) fn of(found: &Findings, name: &str, extent: Extent) -> Result<(Browser, usize)> {
        let mut tokens = Tokens::default();
        let (mut saes, mut shown) = (Vec::new(), Vec::new());
        let common = found.common_tokens(extent.min_count)?;
        for (number, sae) in found.index.saes().iter().enumerate() {
            saes.push(of_sae(found, number, sae, &common, extent.tokens, &mut tokens)?);
            let examples_of = |direction: usize| -> Result<Vec<Shown>> {
                if found.watch.is_stopped() {
                    return Err(Error::Stopped);
                }
                examples(sae, direction, extent)
            };
            shown.push((0..sae.directions()).into_par_iter().map(examples_of).collect::<Result<Vec<_>>>()?);
        }
        let mut examples = extent.examples;
        let packed = loop {
            let prompts = keep(&shown, examples, &mut saes);
            let texts = |prompt: &usize| {
                Ok((*prompt, found.index.prompt(*prompt)?.iter().map(|token| tokens.place(*token)).collect()))
            };
            let prompts = prompts.iter().map(texts).collect::<Result<Vec<_>>>()?;
            let packed = packed(&Directions { vocabulary: tokens.texts(found), prompts, saes: &saes })?;
            if packed.len() as f64 <= extent.megabytes * 1e6 || examples <= 1 {
                break packed;
            }
            examples /= 2;
        };
        let caption = format!(
            "What the index holds of {} directions: up to {examples} prompts with the highest activations and {} of each third of the range; what ablating a direction before the answer does, where that was tested; and the {} tokens whose logits a unit of activation raises and lowers most (W_dec W_out W_U; tokens that occur at most {} times left out). {:.1} MB of this page.",
            found.index.saes().iter().map(SaeIndex::directions).sum::<usize>(),
            extent.spread,
            extent.tokens,
            extent.min_count,
            packed.len() as f64 / 1e6
        );
        Ok((Browser { name: name.into(), caption, packed }, examples))
    }
}

/// Gives each direction its examples, of those of its highest activations so many, and returns the prompts that these are in.
fn keep(shown: &[Vec<Vec<Shown>>], highest: usize, saes: &mut [OfSae]) -> Vec<usize> {
    let kept = |of: &[Shown]| -> Vec<Shown> {
        of.iter()
            .enumerate()
            .filter(|(i, shown)| shown.kind > 0 || *i < highest)
            .map(|(_, shown)| shown.clone())
            .collect()
    };
    let kept: Vec<Vec<Vec<Shown>>> = shown.iter().map(|sae| sae.iter().map(|of| kept(of)).collect()).collect();
    let used: BTreeSet<usize> = kept.iter().flatten().flatten().map(|shown| shown.example.prompt).collect();
    let prompts: Vec<usize> = used.into_iter().collect();
    let flat = |Shown { kind, example, fires }: Shown| -> Vec<usize> {
        let prompt = prompts.partition_point(|prompt| *prompt < example.prompt);
        let head = [kind, prompt, example.position];
        head.into_iter().chain(fires.into_iter().flat_map(|(position, value)| [position, value])).collect()
    };
    for (sae, kept) in saes.iter_mut().zip(kept) {
        sae.examples = kept.into_iter().map(|of| of.into_iter().map(flat).collect()).collect();
    }
    prompts
}

/// The prompts with the highest activations of a direction, then some of each third of its range.
fn examples(sae: &SaeIndex, direction: usize, extent: Extent) -> Result<Vec<Shown>> {
    let mut chosen: Vec<(usize, Example)> =
        sae.top_examples(direction, extent.examples)?.into_iter().map(|example| (0, example)).collect();
    for (third, (low, high)) in (1..).zip(THIRDS) {
        let known: BTreeSet<usize> = chosen.iter().map(|(_, example)| example.prompt).collect();
        let more = sae.interval_examples(direction, low, high, extent.spread)?;
        chosen.extend(more.into_iter().filter(|e| !known.contains(&e.prompt)).map(|e| (third, e)));
    }
    let maximum = sae.maxima()[direction];
    let shown = |(kind, example): (usize, Example)| {
        let values = sae.on_prompt(example.prompt, direction)?.into_iter().enumerate();
        let fires = values.filter(|(_, value)| *value > 0.0);
        // At least 1: where it fires it is seen to.
        let thousandths = |value: f32| ((1000.0 * value / maximum).round() as usize).max(1);
        Ok(Shown { kind, example, fires: fires.map(|(position, value)| (position, thousandths(value))).collect() })
    };
    chosen.into_iter().map(shown).collect()
}

/// All of an SAE's directions but for their examples.
fn of_sae(
    found: &Findings,
    number: usize,
    sae: &SaeIndex,
    common: &[usize],
    k: usize,
    tokens: &mut Tokens,
) -> Result<OfSae> {
    let own_sae = &found.opened.saes[number];
    let all: Vec<_> = (0..sae.directions()).map(|direction| sae.direction(direction)).collect();
    let mut top: Vec<Option<TopToken>> = vec![None; all.len()];
    for row in top_tokens(sae)? {
        top[row.direction] = Some(row);
    }
    // What an SAE writes elsewhere than to the residual stream has no logits of its own.
    let (raised, lowered) = match check_written(found.opened, own_sae) {
        Ok(()) => logit_boost_ends(&found.opened.model, own_sae, common, k, found.watch)?.into_iter().unzip(),
        Err(_) => (vec![Vec::new(); all.len()], vec![Vec::new(); all.len()]),
    };
    let mut placed = |ends: Vec<Vec<usize>>| -> Vec<Vec<usize>> {
        ends.iter().map(|ends| ends.iter().map(|token| tokens.place(*token as u32)).collect()).collect()
    };
    let (raised, lowered) = (placed(raised), placed(lowered));
    let effect = |row: &directrix_circuits::SingleAblation| {
        let estimate = row.loss_increase.estimate;
        (row.direction, rounded(estimate.mean), rounded(estimate.half_width), estimate.n)
    };
    let own = number == found.study.chosen();
    Ok(OfSae {
        name: sae.name().into(),
        hook: own_sae.site().reads.to_string(),
        maximum: all.iter().map(|of| of.maximum).collect(),
        density: all.iter().map(|of| rounded(of.density)).collect(),
        mean: all.iter().map(|of| rounded(of.mean)).collect(),
        prompts: all.iter().map(|of| of.prompts).collect(),
        top_token: top.iter().map(|top| top.map(|top| tokens.place(top.token))).collect(),
        share: top.iter().map(|top| top.map_or(0.0, |top| rounded(top.share))).collect(),
        histogram: (0..all.len()).map(|direction| sae.histogram(direction).to_vec()).collect(),
        raised,
        lowered,
        examples: Vec::new(),
        effects: if own {
            found.singles.iter().filter(|row| row.loss_increase.estimate.n > 0).map(effect).collect()
        } else {
            Vec::new()
        },
    })
}

/// Tokens by the order in which they first occur.
#[derive(Default)]
struct Tokens {
    places: BTreeMap<u32, usize>,
    order: Vec<u32>,
}

impl Tokens {
    fn place(&mut self, token: u32) -> usize {
        let next = self.order.len();
        let place = *self.places.entry(token).or_insert(next);
        if place == next {
            self.order.push(token);
        }
        place
    }

    fn texts(&self, found: &Findings) -> Vec<Word> {
        let part =
            |token| found.opened.tokenizer.as_ref().map(|t| t.bytes(token)).filter(|b| str::from_utf8(b).is_err());
        let word = |&token| part(token).map_or_else(|| Word::Text(one_line(&found.token(token))), Word::Part);
        self.order.iter().map(word).collect()
    }
}

/// Four significant digits: what the page shows.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// `data` as JSON, gzip, base64.
pub(crate) fn packed(data: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(data).map_err(std::io::Error::other);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let bytes = json.and_then(|json| gzip.write_all(&json)).and_then(|()| gzip.finish());
    bytes.map(|bytes| STANDARD.encode(bytes)).map_err(|source| Error::Pack { source })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_packed_is_the_json() {
        let packed = packed(&serde_json::json!({ "a": [1, 2.5, "</script>"] })).unwrap();
        assert!(packed.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')));
        let mut text = String::new();
        let bytes = STANDARD.decode(packed).unwrap();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, r#"{"a":[1,2.5,"</script>"]}"#);
    }

    #[test]
    fn numbers_have_four_digits() {
        for (value, expected) in [(0.012_345_67, 0.012_35), (-1234.56, -1235.0), (0.0, 0.0), (1e-9, 1e-9)] {
            assert!((rounded(value) - expected).abs() <= 1e-12 * expected.abs(), "{value}");
        }
    }
}
