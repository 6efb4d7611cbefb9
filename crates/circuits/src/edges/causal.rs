//! What ablating each direction of the first SAE does to all directions of the second.

use directrix_corpus::Watch;

use super::{Between, Edge, Measure, Ranked, Sample, Span, once, sampled};
use crate::plan::each_effect;
use crate::{Change, Effect, Estimate, Look, Result, Trial};

/// Pairs whose sums are held together.
const PAIRS: usize = 1 << 23;

/// Sums over prompts of the values of every pair of some directions with all of the other SAE.
pub(super) struct Sums {
    across: usize,
    of: Vec<Sum>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    n: u32,
    values: f64,
    squares: f64,
}

impl Sums {
    /// How many directions may have their pairs with `across` others held.
    pub(super) fn block(across: usize) -> usize {
        (PAIRS / across.max(1)).max(1)
    }

    pub(super) fn new(directions: usize, across: usize) -> Sums {
        Sums { across, of: vec![Sum::default(); directions * across] }
    }

    pub(super) fn add(&mut self, direction: usize, other: usize, value: f64) {
        let Sum { n, values, squares } = &mut self.of[direction * self.across + other];
        *n += 1;
        *values += value;
        *squares += value * value;
    }

    /// The means over at least `least` values: direction, other, mean.
    pub(super) fn means(&self, least: usize) -> impl Iterator<Item = (usize, usize, Estimate)> + '_ {
        let enough = self.of.iter().enumerate().filter(move |(_, sum)| sum.n as usize >= least.max(1));
        enough.map(|(at, &Sum { n, values, squares })| {
            (at / self.across, at % self.across, Estimate::of_sums(n as usize, values, squares))
        })
    }
}

impl Between<'_> {
    /// How ablating each direction of the first SAE, at every position of a prompt at which it fires, changes the activation of every
    /// direction of the second, summed over the positions at which that fires: of each pair the mean over the sampled prompts of the
    /// first in which the second fires there or later. `see` is shown every pair that has enough.
    ///
    /// One resumed pass for each direction and prompt gives its effects on all others at once.
    ///
    /// # Errors
    /// As [`effects`](crate::effects), or if the index is damaged.
    pub fn causal(&self, sample: Sample, watch: &Watch, see: impl FnMut(Ranked)) -> Result<()> {
        self.causal_from(&(0..self.first.directions()).collect::<Vec<_>>(), sample, watch, see)
    }

    /// As [`causal`](Between::causal), of some directions of the first SAE.
    ///
    /// # Errors
    /// As [`causal`](Between::causal), or if there is no such direction.
    pub fn causal_from(
        &self,
        firsts: &[usize],
        sample: Sample,
        watch: &Watch,
        mut see: impl FnMut(Ranked),
    ) -> Result<()> {
        let seconds = self.second.directions();
        for directions in firsts.chunks(Sums::block(seconds)) {
            let spans: Vec<Vec<Span>> = directions
                .iter()
                .map(|direction| sampled(self.of_first, *direction, sample.prompts))
                .collect::<Result<_>>()?;
            let numbers = once(spans.iter().flatten().map(|span| span.prompt));
            let (prompts, counted) = self.prompts(&numbers)?;
            let (mut trials, mut places) = (Vec::new(), Vec::new());
            for (place, (&direction, spans)) in directions.iter().zip(&spans).enumerate() {
                for span in spans {
                    places.push(place);
                    let prompt = numbers.partition_point(|number| *number < span.prompt);
                    trials.push(Trial {
                        prompt,
                        sae: self.first,
                        positions: span.first..counted[prompt].end,
                        change: Change::Ablate(vec![direction as u32]),
                        look: Look::Activations { sae: self.second },
                    });
                }
            }
            let mut sums = Sums::new(directions.len(), seconds);
            each_effect(self.model, &prompts, &trials, watch, |trial, Effect { before, after }| {
                for ((second, before), (_, after)) in before.activations()?.iter().zip(after.activations()?) {
                    sums.add(places[trial], *second as usize, after - before);
                }
                Ok(())
            })?;
            for (place, second, mean) in sums.means(sample.least) {
                see(Ranked::mean(Edge { first: directions[place], second }, Measure::Causal, mean));
            }
        }
        Ok(())
    }
}
