//! Edges between the directions of two SAEs: which of the first influence which of the second.
//!
//! Four kinds of [`Measure`] rank all pairs: what the weights say ([`Weights`]), what fires together ([`Between::coactivation`]),
//! what gradients say ([`Between::attribution`]) and what ablating does ([`Between::causal`]). A ranking is found on the prompts of the index
//! that have an even number; [`verify`](Between::verify) measures its edges on those that have an odd one, beside controls, and
//! [`agreement`](Between::agreement) says how far the rankings agree. [`conjunctions`](Between::conjunctions) says which directions another needs
//! together, and of which each is enough. [`keep`] measures the edges of all directions once, and [`Kept`] answers from them.
//!
//! An effect within a prompt is summed over its positions, and a mean is over prompts, as Marks et al. 2024 (*Sparse feature circuits*,
//! 3.1) sum over positions and average over examples.

mod agreement;
mod attribution;
mod causal;
mod coactivation;
mod conjunctions;
mod kept;
mod ranking;
mod verify;
mod weights;

use std::ops::Range;

use directrix_corpus::{Prompts, Watch};
use directrix_index::{Example, Index, SaeIndex};
use directrix_model::{BlockHook, HookPoint, Model};
use directrix_sae::Sae;
use serde::Serialize;

pub use agreement::{Agreement, AgreementRow, Compared};
pub use attribution::Gradient;
pub use conjunctions::{Conjunction, Conjunctions, JointStep, Upstream, Verdict};
pub use kept::{Kept, Swept, Way, keep};
pub use ranking::{Measure, Ranked, Ranking};
pub use verify::{VerifiedEdge, Verify};
pub use weights::{Path, Weights};

use crate::cosine::check_order;
use crate::shared::{foreign, from_bytes, to_bytes};
use crate::{Error, Result};

/// Directions whose edges are a unit of work where several processes share them.
const SHARED: usize = 128;

/// Two directions: an influence of the first on the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Edge {
    /// Direction of the first SAE.
    pub first: usize,
    /// Direction of the second SAE.
    pub second: usize,
}

/// Two SAEs of a model, the first of which can reach the second, and what an index knows of both.
#[derive(Clone, Copy)]
pub struct Between<'a> {
    model: &'a Model,
    first: &'a Sae,
    second: &'a Sae,
    index: &'a Index,
    of_first: &'a SaeIndex,
    of_second: &'a SaeIndex,
}

/// Which prompts a ranking by effects looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Prompts of each direction, at most, spread evenly over those in which it fires.
    pub prompts: usize,
    /// Prompts in which both directions of an edge must fire for it to be ranked.
    pub least: usize,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { prompts: 16, least: 4 }
    }
}

/// Half of the prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Those with an even number, which rank.
    Ranks,
    /// Those with an odd number, which verify.
    Verifies,
}

impl Half {
    fn has(self, prompt: usize) -> bool {
        prompt.is_multiple_of(2) == (self == Half::Ranks)
    }
}

/// Where a direction fires in a prompt.
#[derive(Debug, Clone, Copy)]
struct Span {
    prompt: usize,
    first: usize,
    last: usize,
    /// Where it fires most strongly.
    most: usize,
}

impl<'a> Between<'a> {
    /// The two SAEs with their parts of `index`.
    ///
    /// # Errors
    /// [`Error::Order`] if what the first writes cannot reach the second, [`Error::Lengths`] if a part of the index is of an SAE with
    /// another number of directions.
    pub fn new(
        model: &'a Model,
        [first, second]: [&'a Sae; 2],
        index: &'a Index,
        [of_first, of_second]: [&'a SaeIndex; 2],
    ) -> Result<Between<'a>> {
        check_path(model, first, second)?;
        for (sae, indexed) in [(first, of_first), (second, of_second)] {
            let (wanted, given) = (sae.directions(), indexed.directions());
            if wanted != given {
                return Err(Error::Lengths { what: "directions in the index", given, wanted });
            }
        }
        Ok(Between { model, first, second, index, of_first, of_second })
    }

    /// The `k` strongest edges by a measure, strongest first; `steps` are those of integrated gradients. None where no two directions have
    /// enough in common to be ranked.
    ///
    /// # Errors
    /// As [`causal`](Self::causal), [`attribution`](Self::attribution), [`coactivation`](Self::coactivation) and [`Weights::new`].
    pub fn strongest(&self, by: Measure, steps: usize, sample: Sample, k: usize, watch: &Watch) -> Result<Vec<Ranked>> {
        let mut ranking = Ranking::new(k);
        let gradient = match by {
            Measure::Cosine | Measure::VirtualWeight => {
                return Weights::new(self.model, [self.first, self.second], Path::Residual, by)?.strongest(k, watch);
            }
            Measure::MutualInformation | Measure::Conditional | Measure::Correlation => {
                self.coactivation(watch, |all| {
                    all.into_iter().filter(|r| r.measure == by).for_each(|r| ranking.show(r));
                })?;
                return Ok(ranking.finish());
            }
            Measure::Attribution => Some(Gradient::Whole),
            Measure::FrozenAttribution => Some(Gradient::Frozen),
            Measure::IntegratedAttribution => Some(Gradient::Integrated { steps }),
            Measure::Causal => None,
        };
        let directions = if gradient.is_some() { self.second } else { self.first }.directions();
        let block = if watch.team().is_some() { SHARED } else { directions.max(1) };
        let made = watch.share("edges", directions.div_ceil(block), |unit, watch| {
            let own: Vec<usize> = (unit * block..directions.min((unit + 1) * block)).collect();
            let mut ranking = Ranking::new(k);
            match gradient {
                Some(gradient) => self.attribution_to(gradient, &own, sample, watch, |edge| ranking.show(edge))?,
                None => self.causal_from(&own, sample, watch, |edge| ranking.show(edge))?,
            }
            Ok::<_, Error>(to_bytes(&ranking.finish().iter().flat_map(Ranked::numbers).collect::<Vec<_>>()))
        })?;
        for bytes in made {
            for numbers in from_bytes(&bytes)?.chunks(Ranked::NUMBERS) {
                ranking.show(Ranked::of_numbers(by, numbers).ok_or_else(foreign)?);
            }
        }
        Ok(ranking.finish())
    }

    /// The tokens of some prompts of the index, and of each the positions that count.
    fn prompts(&self, numbers: &[usize]) -> Result<(Prompts, Vec<Range<usize>>)> {
        let rows = numbers.iter().map(|prompt| self.index.prompt(*prompt)).collect::<Result<Vec<_>, _>>()?;
        let counted = numbers.iter().map(|prompt| self.index.counted(*prompt)).collect::<Result<_, _>>()?;
        Ok((Prompts::from_rows(rows), counted))
    }
}

/// In which prompts of a half a direction fires, in order.
fn spans_in(indexed: &SaeIndex, direction: usize, half: Half) -> Result<Vec<Span>> {
    let (mut spans, mut highest) = (Vec::<Span>::new(), 0.0);
    for Example { prompt, position, activation } in indexed.fires(direction)? {
        match spans.last_mut().filter(|span| span.prompt == prompt) {
            Some(span) => {
                span.last = position;
                if activation > highest {
                    (span.most, highest) = (position, activation);
                }
            }
            None if half.has(prompt) => {
                spans.push(Span { prompt, first: position, last: position, most: position });
                highest = activation;
            }
            None => {}
        }
    }
    Ok(spans)
}

/// Up to `n` prompts of those that rank in which a direction fires, spread evenly over all there are.
fn sampled(indexed: &SaeIndex, direction: usize, n: usize) -> Result<Vec<Span>> {
    Ok(spread(&spans_in(indexed, direction, Half::Ranks)?, n).collect())
}

/// Up to `n` of `all`, spread evenly.
fn spread<T: Copy>(all: &[T], n: usize) -> impl Iterator<Item = T> + '_ {
    let n = n.min(all.len());
    (0..n).map(move |i| all[i * all.len() / n])
}

/// That what `first` writes can reach `second`.
///
/// # Errors
/// [`Error::Order`] or [`Error::Parallel`] if not.
pub fn check_path(model: &Model, first: &Sae, second: &Sae) -> Result<()> {
    check_order(first, second)?;
    let (writes, reads) = (first.site().writes.hook, second.site().reads.hook);
    let of_mlp = |hook| {
        use BlockHook as B;
        matches!(hook, B::MlpIn | B::Ln2Scale | B::Ln2Normalized | B::MlpPre | B::MlpPreLinear | B::MlpPost | B::MlpOut)
    };
    if let (HookPoint::Block(layer, of_first), HookPoint::Block(other, of_second)) = (writes, reads)
        && model.config().parallel
        && layer == other
        && of_mlp(of_second)
        && !of_mlp(of_first)
        && of_first != BlockHook::ResidPre
    {
        let [first, second] = [first, second].map(|sae| sae.name().into());
        return Err(Error::Parallel { first, second, layer });
    }
    Ok(())
}

/// `numbers`, each once and in order.
fn once(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
