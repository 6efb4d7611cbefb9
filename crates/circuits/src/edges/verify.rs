//! The causal effect of each edge of a list, on prompts that did not choose it, beside controls.

use std::collections::{BTreeMap, HashMap};

use directrix_corpus::Watch;
use rayon::prelude::*;
use serde::Serialize;

use super::{Between, Edge, Half, Ranked, Span, once, spans_in};
use crate::plan::each_effect;
use crate::shared::{foreign, from_bytes, to_bytes};
use crate::statistics::{Interval, false_discovery_rates, sign_test, signed_rank_test};
use crate::{Change, Effect, Error, Look, Matched, Result, Trial};

/// How edges are verified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verify {
    /// Prompts of each edge, at most.
    pub prompts: usize,
    /// False-discovery rate up to which an edge counts as verified.
    pub rate: f64,
}

impl Default for Verify {
    fn default() -> Verify {
        Verify { prompts: 24, rate: 0.05 }
    }
}

/// What ablating the first direction of an edge does, on prompts in which both fire and that did not rank it. Values are of a prompt,
/// summed over its positions; means are over prompts, with 95 % intervals by bootstrap over prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifiedEdge {
    /// The edge and why it is in the list.
    #[serde(flatten)]
    pub ranked: Ranked,
    /// Prompts it was verified on.
    pub prompts: usize,
    /// Whether its false-discovery rate is low enough.
    pub verified: bool,
    /// How much the activation of the second direction changes when the first is ablated.
    pub change: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The activation, unchanged.
    pub activation: f64,
    /// The change as a share of it.
    pub share: f64,
    /// The change when as much is taken out along a random row, where the first fires: of the same norm, and with the same part along the
    /// residual stream, so that norms change as much.
    pub random_rows: f64,
    /// Lower end of the interval.
    pub random_rows_low: f64,
    /// Upper end.
    pub random_rows_high: f64,
    /// The change when another direction that fires in the prompt, of matched density, is ablated instead.
    pub random_directions: f64,
    /// Lower end of the interval.
    pub random_directions_low: f64,
    /// Upper end.
    pub random_directions_high: f64,
    /// How much the loss rises where the second is most active when the first is ablated, nats.
    pub loss_increase: f64,
    /// Lower end of the interval.
    pub loss_increase_low: f64,
    /// Upper end.
    pub loss_increase_high: f64,
    /// p of a sign test of the change: in how many prompts it rises or falls.
    pub sign_p: f64,
    /// The greatest p of three signed-rank tests: of the change against zero, and against each control in the same prompts.
    pub p: f64,
    /// Its false-discovery rate in the list (Benjamini and Hochberg 1995).
    pub q: f64,
}

/// What was seen of an edge in its prompts.
#[derive(Default, Clone)]
struct Seen {
    activation: Vec<f64>,
    change: Vec<f64>,
    rows: Vec<f64>,
    directions: Vec<f64>,
    loss: Vec<f64>,
}

/// What is measured of an edge in a prompt, as [`Seen`] has it.
const MEASURED: usize = 5;
const ACTIVATION: usize = 0;
const CHANGE: usize = 1;
const ROWS: usize = 2;
const DIRECTIONS: usize = 3;
const LOSS: usize = 4;
/// Ablations that are a unit of work where several processes share them.
const SHARED: usize = 256;

/// An ablation of a first direction in a prompt, and the edges that are looked at there.
struct Ablation {
    first: usize,
    span: Span,
    edges: Vec<LookedAt>,
}

/// An edge that is looked at in a prompt.
struct LookedAt {
    edge: usize,
    /// Number of the prompt among the edge's.
    at: usize,
    /// Where the second direction fires last, and most.
    last: usize,
    most: usize,
}

impl Between<'_> {
    /// The causal effect of each edge, as [`causal`](Between::causal) measures it, on the prompts with an odd number in which both
    /// directions fire, the first no later than the second.
    ///
    /// An edge counts as verified if the change exceeds zero and, in the same prompts, both controls, each by a signed-rank test: the
    /// greatest of the three p is that of all of it together (Berger 1982), and the false-discovery rate over the list is of these.
    ///
    /// # Errors
    /// As [`effects`](crate::effects()), or if the index is damaged.
    pub fn verify(&self, edges: &[Ranked], how: Verify, watch: &Watch) -> Result<Vec<VerifiedEdge>> {
        let (ablations, mut seen) = self.ablations(edges, how.prompts)?;
        let block = if watch.team().is_some() { SHARED } else { ablations.len().max(1) };
        let units: Vec<&[Ablation]> = ablations.chunks(block).collect();
        let made = watch.share("verified edges", units.len(), |unit, watch| {
            Ok::<_, Error>(to_bytes(self.measured(units[unit], edges, watch)?.as_flattened()))
        })?;
        let numbers = made.iter().map(|bytes| from_bytes(bytes)).collect::<Result<Vec<_>>>()?.concat();
        let looked_at: Vec<&LookedAt> = ablations.iter().flat_map(|ablation| &ablation.edges).collect();
        if numbers.len() != looked_at.len() * MEASURED {
            return Err(foreign());
        }
        for (measured, LookedAt { edge, at, .. }) in numbers.chunks(MEASURED).zip(looked_at) {
            let Seen { activation, change, rows, directions, loss } = &mut seen[*edge];
            for (values, value) in [activation, change, rows, directions, loss].into_iter().zip(measured) {
                values[*at] = *value;
            }
        }
        let mut rows: Vec<VerifiedEdge> =
            edges.par_iter().zip(&seen).map(|(ranked, seen)| seen.summed_up(*ranked)).collect();
        VerifiedEdge::as_one_list(rows.iter_mut(), how.rate);
        Ok(rows)
    }

    /// What is seen of each edge that some ablations look at, in their order: the activation of the second direction, how it changes, how
    /// along a random row and without another direction, and how much the loss rises.
    fn measured(&self, ablations: &[Ablation], edges: &[Ranked], watch: &Watch) -> Result<Vec<[f64; MEASURED]>> {
        let numbers = once(ablations.iter().map(|ablation| ablation.span.prompt));
        let (prompts, counted) = self.prompts(&numbers)?;
        let firing = self.firing(&numbers, &counted)?;
        let matched = Matched::of(self.of_first);

        let (mut own, mut controls, mut of) = (Vec::new(), Vec::new(), Vec::new());
        let mut starts = Vec::new();
        let mut looked_at = 0;
        for (number, Ablation { first, span, edges }) in ablations.iter().enumerate() {
            starts.push(looked_at);
            looked_at += edges.len();
            let prompt = numbers.partition_point(|number| *number < span.prompt);
            let last = edges.iter().map(|edge| edge.last).max().unwrap_or(span.last);
            let positions = span.first..last + 1;
            let trial = |change| Trial {
                prompt,
                sae: self.first,
                positions: positions.clone(),
                change,
                look: Look::Activations { sae: self.second },
            };
            let (direction, seed) = (*first as u32, span.prompt as u64);
            let fires = |direction: u32| firing[prompt].binary_search(&direction).is_ok();
            own.push(trial(Change::Ablate(vec![direction])));
            controls.push(trial(Change::AblateTurned {
                directions: vec![direction],
                seed: seed << 32 | u64::from(direction),
            }));
            of.push((number, ROWS));
            let drawn = matched.draw_among(&[direction], seed ^ direction as u64, fires);
            if !drawn.is_empty() {
                controls.push(trial(Change::Ablate(drawn)));
                of.push((number, DIRECTIONS));
            }
        }
        let mut measured = vec![[0.0; MEASURED]; looked_at];
        let of_ablation = |number: usize| (starts[number]..).zip(&ablations[number].edges);
        each_effect(self.model, &prompts, &own, watch, |number, effect| {
            for (place, LookedAt { edge, .. }) in of_ablation(number) {
                let (before, after) = of_second(&effect, edges[*edge].edge.second)?;
                (measured[place][ACTIVATION], measured[place][CHANGE]) = (before, after - before);
            }
            Ok(())
        })?;
        each_effect(self.model, &prompts, &controls, watch, |trial, effect| {
            let (number, control) = of[trial];
            for (place, LookedAt { edge, .. }) in of_ablation(number) {
                let (before, after) = of_second(&effect, edges[*edge].edge.second)?;
                measured[place][control] = after - before;
            }
            Ok(())
        })?;
        let (mut losses, mut places) = (Vec::new(), Vec::new());
        for (number, trial) in own.iter().enumerate() {
            for (place, LookedAt { most, .. }) in of_ablation(number) {
                // Where the prompt ends nothing is predicted.
                if let Some(&token) = prompts.get(trial.prompt).get(most + 1) {
                    let look = Look::Prediction { position: *most, token };
                    losses.push(Trial { positions: trial.positions.start..most + 1, look, ..trial.clone() });
                    places.push(place);
                }
            }
        }
        each_effect(self.model, &prompts, &losses, watch, |trial, effect| {
            measured[places[trial]][LOSS] = effect.loss_increase()?;
            Ok(())
        })?;
        Ok(measured)
    }

    /// The ablations that the edges need, each once, and room for what is seen of each edge.
    fn ablations(&self, edges: &[Ranked], most: usize) -> Result<(Vec<Ablation>, Vec<Seen>)> {
        let mut spans: HashMap<(bool, usize), Vec<Span>> = HashMap::new();
        let mut ablations: BTreeMap<(usize, usize), Ablation> = BTreeMap::new();
        let mut seen = Vec::new();
        for (number, Ranked { edge: Edge { first, second }, .. }) in edges.iter().enumerate() {
            for (is_first, indexed, direction) in [(true, self.of_first, *first), (false, self.of_second, *second)] {
                if let std::collections::hash_map::Entry::Vacant(new) = spans.entry((is_first, direction)) {
                    new.insert(spans_in(indexed, direction, Half::Verifies)?);
                }
            }
            let (of_first, of_second) = (&spans[&(true, *first)], &spans[&(false, *second)]);
            let both = of_first.iter().filter_map(|span| {
                let at = of_second.partition_point(|other| other.prompt < span.prompt);
                let other =
                    of_second.get(at).filter(|other| other.prompt == span.prompt && span.first <= other.last)?;
                Some((*span, *other))
            });
            let mut n = 0;
            for (at, (span, Span { last, most, .. })) in both.take(most).enumerate() {
                let new = || Ablation { first: *first, span, edges: Vec::new() };
                let looked_at = LookedAt { edge: number, at, last, most: most.max(span.first) };
                ablations.entry((span.prompt, *first)).or_insert_with(new).edges.push(looked_at);
                n += 1;
            }
            let room = || vec![0.0; n];
            seen.push(Seen { activation: room(), change: room(), rows: room(), directions: room(), loss: room() });
        }
        Ok((ablations.into_values().collect(), seen))
    }

    /// The directions of the first SAE that fire in each prompt, ascending.
    fn firing(&self, numbers: &[usize], counted: &[std::ops::Range<usize>]) -> Result<Vec<Vec<u32>>> {
        let of_prompt = |(number, counted): (&usize, &std::ops::Range<usize>)| {
            let mut firing = Vec::new();
            for position in counted.clone() {
                firing.extend_from_slice(self.of_first.at(*number, position)?.0);
            }
            firing.sort_unstable();
            firing.dedup();
            Ok(firing)
        };
        numbers.iter().zip(counted).map(of_prompt).collect()
    }
}

/// The activation of a second direction without a change and with it; 0 where it fires only before the change.
fn of_second(effect: &Effect, second: usize) -> Result<(f64, f64), Error> {
    let (before, after) = (effect.before.activations()?, effect.after.activations()?);
    let at = before.binary_search_by_key(&(second as u32), |(direction, _)| *direction);
    Ok(at.map_or((0.0, 0.0), |at| (before[at].1, after[at].1)))
}

impl VerifiedEdge {
    /// What its columns are, for captions.
    pub const SENTENCE: &'static str = "Each on other prompts in which both fire: change of the second's activation when the first is ablated where it fires, that activation, both summed over a prompt, the one as a share of the other, and the increase of the loss where the second is most active, in nats; random rows: as much taken out along a random row of the same norm and the same part along the residual stream, so that norms change as much; random directions: another direction of matched density that fires in the prompt ablated instead. Means over prompts with 95 % intervals by bootstrap over prompts; sign p: of the change, by a sign test; p: the greatest of three signed-rank tests, of the change against zero and against both controls in the same prompts; q: its false-discovery rate in this list (Benjamini–Hochberg).";

    /// Takes edges as one list of tests: what their false-discovery rates are over, and with that whether they count as verified.
    pub fn as_one_list<'a>(edges: impl Iterator<Item = &'a mut VerifiedEdge>, rate: f64) {
        let edges: Vec<&mut VerifiedEdge> = edges.collect();
        let q = false_discovery_rates(&edges.iter().map(|edge| edge.p).collect::<Vec<_>>());
        for (edge, q) in edges.into_iter().zip(q) {
            (edge.q, edge.verified) = (q, q <= rate);
        }
    }
}

impl Seen {
    fn summed_up(&self, ranked: Ranked) -> VerifiedEdge {
        let prompts = self.change.len();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let with_interval = |values: &[f64]| {
            let of = |drawn: &[usize]| drawn.iter().map(|i| values[*i]).sum::<f64>() / drawn.len() as f64;
            let Interval { low, high } = Interval::bootstrap(values.len(), of);
            [mean(values), low, high]
        };
        let [change, low, high] = with_interval(&self.change);
        let [random_rows, random_rows_low, random_rows_high] = with_interval(&self.rows);
        let [random_directions, random_directions_low, random_directions_high] = with_interval(&self.directions);
        let [loss_increase, loss_increase_low, loss_increase_high] = with_interval(&self.loss);
        // The change must exceed zero and both controls in its own direction.
        let exceeds = |than: &[f64]| {
            let (p, is_higher) =
                signed_rank_test(&self.change.iter().zip(than).map(|(x, y)| x - y).collect::<Vec<_>>());
            if is_higher == (change > 0.0) { p } else { 1.0 }
        };
        let zero = vec![0.0; prompts];
        let p = [&zero, &self.rows, &self.directions].map(|than| exceeds(than)).into_iter().fold(0.0, f64::max);
        let signs = [1.0, -1.0].map(|sign| self.change.iter().filter(|x| sign * **x > 0.0).count());
        VerifiedEdge {
            ranked,
            prompts,
            verified: false,
            change,
            low,
            high,
            activation: mean(&self.activation),
            share: change / mean(&self.activation),
            random_rows,
            random_rows_low,
            random_rows_high,
            random_directions,
            random_directions_low,
            random_directions_high,
            loss_increase,
            loss_increase_low,
            loss_increase_high,
            sign_p: sign_test(signs[0], signs[1]),
            p,
            q: f64::NAN,
        }
    }
}
