//! Two dictionaries compared: which direction of one SAE is which of another of the same site.

use directrix_corpus::Watch;
use directrix_index::{Example, Index, SaeIndex};
use directrix_sae::{Counted, Sae};
use rayon::prelude::*;
use serde::Serialize;

use crate::assignment::{Edge, assign};
use crate::error::threshold;
use crate::similarity::{each_products, normalised};
use crate::{Error, Estimate, Result};

/// No more pairs of directions are held.
const MOST_PAIRS: usize = 1 << 24;

/// What makes two directions alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alike {
    /// The cosine between their rows of the decoders.
    Decoder,
    /// The correlation of their activations over the positions of an index that count.
    Activations,
}

/// An index that holds two SAEs, and the numbers of both in it.
#[derive(Debug, Clone, Copy)]
pub struct BothIndexed<'a> {
    /// The index.
    pub index: &'a Index,
    /// The numbers.
    pub saes: [usize; 2],
}

impl<'a> BothIndexed<'a> {
    fn both(&self) -> [&'a SaeIndex; 2] {
        self.saes.map(|number| self.index.sae(number))
    }
}

/// Two directions that were matched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MatchedPair {
    /// Direction of the first SAE.
    pub in_first: usize,
    /// Direction of the second.
    pub in_second: usize,
    /// Cosine of their rows of the decoders.
    pub decoder_cosine: f32,
    /// Cosine of their rows of the encoders.
    pub encoder_cosine: f32,
    /// How their activations correlate, if an index holds both.
    #[serde(flatten)]
    pub activations: Option<Correlated>,
}

/// How two directions' activations correlate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Correlated {
    /// Positions that count.
    pub n: usize,
    /// Pearson's correlation over them, zeros included; `NaN` if either fires at none.
    pub correlation: f64,
    /// Half width of its 95 % interval, clustered by prompt.
    pub correlation_half_width: f64,
}

/// A direction that was not matched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Unmatched {
    /// Which of the two SAEs it is of: 0 or 1.
    pub sae: usize,
    /// The direction.
    pub direction: usize,
    /// The direction of the other SAE that it is most like.
    pub nearest: usize,
    /// How alike the two are; `NaN` of activations where it fires at no position that counts.
    pub similarity: f64,
}

/// Directions of two SAEs, matched one to one.
#[derive(Debug, Clone, PartialEq)]
pub struct Matching {
    /// Those matched, the most alike first.
    pub pairs: Vec<MatchedPair>,
    /// How alike each pair is.
    pub similarities: Vec<f64>,
    /// All others, those of the first SAE first.
    pub unmatched: Vec<Unmatched>,
}

/// Matches the directions of two SAEs of one site, one to one, so that the sum of similarities is as large as can be over all
/// one-to-one matchings of pairs more alike than `least` (maximum-weight bipartite matching, exact). A pair less alike is none.
///
/// # Errors
/// If the SAEs read or write different places, `least` is below 0, activations are asked for without an index, a cosine is not finite,
/// too many pairs are alike, the index is damaged, or `watch` stopped it.
pub fn match_directions(
    [first, second]: [&Sae; 2],
    alike: Alike,
    indexed: Option<BothIndexed>,
    least: f64,
    watch: &Watch,
) -> Result<Matching> {
    check_site(first, second)?;
    threshold("least", least)?;
    let least = least.max(0.0);
    let found = match (alike, indexed) {
        (Alike::Decoder, _) => by_cosine(first.w_dec(), second.w_dec(), least, watch)?,
        (Alike::Activations, Some(indexed)) => by_activations(indexed, least)?,
        (Alike::Activations, None) => return Err(Error::NoIndex),
    };
    let column_of = assign(first.directions(), second.directions(), &found.edges);
    let mut row_of = vec![None; second.directions()];
    let mut pairs: Vec<(usize, usize, f64)> = Vec::new();
    for (row, column) in column_of.iter().enumerate() {
        let Some(column) = *column else { continue };
        row_of[column] = Some(row);
        let edge = found.edges.partition_point(|edge| (edge.row as usize, edge.column as usize) < (row, column));
        pairs.push((row, column, found.edges[edge].weight as f64));
    }
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2));
    let counts = indexed.map(|indexed| Counts::of(indexed.index)).transpose()?;
    let row = |&(one, other, _): &(usize, usize, f64)| {
        let cosine = |a: &[f32], b: &[f32]| {
            (directrix_kernels::dot(a, b) / (directrix_kernels::dot(a, a) * directrix_kernels::dot(b, b)).sqrt()) as f32
        };
        let activations = match (indexed, &counts) {
            (Some(indexed), Some(counts)) => Some(correlated(indexed.both(), [one, other], counts)?),
            _ => None,
        };
        Ok(MatchedPair {
            in_first: one,
            in_second: other,
            decoder_cosine: cosine(first.w_dec().row(one), second.w_dec().row(other)),
            encoder_cosine: cosine(first.encoder().row(one), second.encoder().row(other)),
            activations,
        })
    };
    let alone = |sae: usize, partners: &[Option<usize>]| {
        let nearest = found.nearest[sae].iter().enumerate().zip(partners).filter(|(_, partner)| partner.is_none());
        let of = |((direction, &(nearest, similarity)), _)| Unmatched { sae, direction, nearest, similarity };
        nearest.map(of).collect::<Vec<_>>()
    };
    Ok(Matching {
        similarities: pairs.iter().map(|pair| pair.2).collect(),
        unmatched: [alone(0, &column_of), alone(1, &row_of)].concat(),
        pairs: pairs.par_iter().map(row).collect::<Result<_>>()?,
    })
}

/// That two SAEs read and write the same places.
///
/// # Errors
/// [`Error::OtherSite`] if not.
pub fn check_site(first: &Sae, second: &Sae) -> Result<()> {
    if first.site() == second.site() {
        return Ok(());
    }
    let site = |sae: &Sae| {
        let site = sae.site();
        if site.is_one_place() { site.reads.to_string() } else { format!("{} to {}", site.reads, site.writes) }
    };
    Err(Error::OtherSite {
        first: first.short_name().into(),
        first_site: site(first),
        second: second.short_name().into(),
        second_site: site(second),
    })
}

/// The pairs that may be matched, by row and column, and what each direction of either SAE is most like.
struct Similar {
    edges: Vec<Edge>,
    nearest: [Vec<(usize, f64)>; 2],
}

const NOTHING: (usize, f64) = (0, f64::NAN);

/// Whether `similarity` is more than the best so far.
fn is_nearer(similarity: f64, best: f64) -> bool {
    best.is_nan() || similarity > best
}

fn hold(edges: &mut Vec<Edge>, own: impl IntoIterator<Item = Edge>, least: f64) -> Result<()> {
    edges.extend(own);
    if edges.len() > MOST_PAIRS { Err(Error::TooMany { most: MOST_PAIRS, least }) } else { Ok(()) }
}

fn by_cosine(
    first: &directrix_kernels::Matrix,
    second: &directrix_kernels::Matrix,
    least: f64,
    watch: &Watch,
) -> Result<Similar> {
    let mut nearest = [vec![NOTHING; first.rows()], vec![NOTHING; second.rows()]];
    let mut edges = Vec::new();
    each_products(&normalised(first), &normalised(second), watch, |row, cosines| {
        for (column, &cosine) in cosines.iter().enumerate() {
            let cosine = cosine as f64;
            if is_nearer(cosine, nearest[0][row].1) {
                nearest[0][row] = (column, cosine);
            }
            if is_nearer(cosine, nearest[1][column].1) {
                nearest[1][column] = (row, cosine);
            }
        }
        let alike = cosines.iter().enumerate().filter(|(_, cosine)| **cosine as f64 > least);
        hold(&mut edges, alike.map(|(column, &weight)| Edge { row: row as u32, column: column as u32, weight }), least)
    })?;
    Ok(Similar { edges, nearest })
}

/// Sums over the positions that count of a direction's activations and of their squares.
#[derive(Clone, Copy, Default)]
struct Sums {
    sum: f64,
    squares: f64,
}

impl Sums {
    fn of(fires: &[Example]) -> Sums {
        let mut sums = Sums::default();
        for value in fires.iter().map(|example| example.activation as f64) {
            sums.sum += value;
            sums.squares += value * value;
        }
        sums
    }

    /// The mean and the standard deviation (divisor n) over `n` positions.
    fn moments(self, n: f64) -> (f64, f64) {
        let mean = self.sum / n;
        (mean, (self.squares / n - mean * mean).max(0.0).sqrt())
    }
}

/// Which positions of an index count, and how many there are in all and in each prompt.
struct Counts<'a> {
    index: &'a Index,
    counted: &'a Counted,
    n: usize,
    by_prompt: Vec<u32>,
}

impl<'a> Counts<'a> {
    fn of(index: &'a Index) -> Result<Counts<'a>> {
        let counted = &index.meta().identity.options.counted;
        let of_prompt = |prompt| {
            let tokens = index.prompt(prompt)?;
            let counts = tokens.iter().enumerate().filter(|(at, token)| counted.counts(*at, tokens.len(), **token));
            Ok(counts.count() as u32)
        };
        let by_prompt: Vec<u32> = (0..index.prompts()).map(of_prompt).collect::<Result<_>>()?;
        Ok(Counts { index, counted, n: by_prompt.iter().map(|n| *n as usize).sum(), by_prompt })
    }

    /// Where a direction fires among them, in the order of the corpus.
    fn fires(&self, sae: &SaeIndex, direction: usize) -> Result<Vec<Example>> {
        let (all, mut fires) = (sae.fires(direction)?, Vec::new());
        for in_prompt in all.chunk_by(|a, b| a.prompt == b.prompt) {
            let tokens = self.index.prompt(in_prompt[0].prompt)?;
            let counts = |of: &&Example| self.counted.counts(of.position, tokens.len(), tokens[of.position]);
            fires.extend(in_prompt.iter().filter(counts).copied());
        }
        Ok(fires)
    }
}

/// Correlations of all pairs that fire together anywhere: a product of two sparse matrices, direction by direction of the first.
fn by_activations(indexed: BothIndexed, least: f64) -> Result<Similar> {
    let (counts, [first, second]) = (Counts::of(indexed.index)?, indexed.both());
    let n = counts.n as f64;
    let moments: Vec<(f64, f64)> = (0..second.directions())
        .into_par_iter()
        .map(|direction| Ok(Sums::of(&counts.fires(second, direction)?).moments(n)))
        .collect::<Result<_>>()?;
    let of_row = |row: usize| {
        let fires = counts.fires(first, row)?;
        let (mean, sd) = Sums::of(&fires).moments(n);
        let mut products = vec![0.0_f64; second.directions()];
        for Example { prompt, position, activation } in fires {
            let (directions, values) = second.at(prompt, position)?;
            for (direction, value) in directions.iter().zip(values) {
                products[*direction as usize] += activation as f64 * *value as f64;
            }
        }
        let correlation = |(product, (other_mean, other_sd)): (&f64, &(f64, f64))| {
            (product / n - mean * other_mean) / (sd * other_sd)
        };
        let correlations: Vec<f64> = products.iter().zip(&moments).map(correlation).collect();
        Ok(correlations)
    };
    let mut nearest = [vec![NOTHING; first.directions()], vec![NOTHING; second.directions()]];
    let mut edges = Vec::new();
    let rows: Vec<usize> = (0..first.directions()).collect();
    for rows in rows.chunks(ROWS) {
        let found: Vec<Vec<f64>> = rows.par_iter().map(|row| of_row(*row)).collect::<Result<_>>()?;
        for (&row, correlations) in rows.iter().zip(&found) {
            // A direction that never fires, or does so everywhere alike, correlates with none.
            let finite = || correlations.iter().copied().enumerate().filter(|(_, r)| r.is_finite());
            for (column, r) in finite() {
                if is_nearer(r, nearest[0][row].1) {
                    nearest[0][row] = (column, r);
                }
                if is_nearer(r, nearest[1][column].1) {
                    nearest[1][column] = (row, r);
                }
            }
            let alike = finite().filter(|(_, r)| *r > least);
            let edge = |(column, r)| Edge { row: row as u32, column: column as u32, weight: r as f32 };
            hold(&mut edges, alike.map(edge), least)?;
        }
    }
    Ok(Similar { edges, nearest })
}

/// Directions of the first SAE whose correlations with all of the second are held at a time.
const ROWS: usize = 256;

/// The correlation of two directions' activations. Its standard error sums its influence function, `z₁z₂ − r (z₁² + z₂²) / 2` of
/// standardised activations, by prompt (Devlin, Gnanadesikan and Kettenring 1975).
fn correlated([first, second]: [&SaeIndex; 2], [one, other]: [usize; 2], counts: &Counts) -> Result<Correlated> {
    let (ones, others) = (counts.fires(first, one)?, counts.fires(second, other)?);
    let n = counts.n as f64;
    let [(mean, sd), (other_mean, other_sd)] = [&ones, &others].map(|fires| Sums::of(fires).moments(n));
    let standard = |value: f32| (value as f64 - mean) / sd;
    let other_standard = |value: f32| (value as f64 - other_mean) / other_sd;

    // Where either fires, both activations.
    let mut together: Vec<(usize, usize, f32, f32)> = Vec::with_capacity(ones.len() + others.len());
    let (mut ones, mut others) = (ones.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let place = |example: &Example| (example.prompt, example.position);
        let next = match (ones.peek().map(place), others.peek().map(place)) {
            (None, None) => break,
            (Some(place), None) | (None, Some(place)) => place,
            (Some(a), Some(b)) => a.min(b),
        };
        let value = |example: Example| example.activation;
        let one = ones.next_if(|example| place(example) == next).map_or(0.0, value);
        let other = others.next_if(|example| place(example) == next).map_or(0.0, value);
        together.push((next.0, next.1, one, other));
    }
    let (silent, other_silent) = (standard(0.0), other_standard(0.0));
    let fires = together.len() as f64;
    let products: f64 = together.iter().map(|&(_, _, one, other)| standard(one) * other_standard(other)).sum();
    let r = (products + (n - fires) * silent * other_silent) / n;

    let influence = |one: f64, other: f64| one * other - 0.5 * r * (one * one + other * other);
    let of_silence = influence(silent, other_silent);
    let alone = |prompt: usize| counts.by_prompt[prompt] as f64 * of_silence / n;
    let mut squares: f64 = counts.by_prompt.iter().map(|of| (*of as f64 * of_silence / n).powi(2)).sum();
    for prompt in together.chunk_by(|a, b| a.0 == b.0) {
        let own = |&(_, _, one, other): &(usize, usize, f32, f32)| influence(standard(one), other_standard(other));
        let more: f64 = prompt.iter().map(|at| own(at) - of_silence).sum::<f64>() / n;
        let before = alone(prompt[0].0);
        squares += (before + more).powi(2) - before * before;
    }
    let prompts = counts.by_prompt.iter().filter(|of| **of > 0).count();
    let Estimate { mean, half_width, .. } = Estimate::of_parts(counts.n, r, prompts, squares);
    Ok(Correlated { n: counts.n, correlation: mean, correlation_half_width: half_width })
}
