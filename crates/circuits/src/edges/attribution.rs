//! What gradients say of edges.

use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::{Event, Prompts, Watch};
use directrix_kernels::{Matrix, dot};
use directrix_model::{Edit, Frozen, HookPoint, Intervention, Positions, Quantity, Rows, Scalar, Term};
use directrix_sae::{Architecture, Normalisation};
use rayon::prelude::*;

use super::causal::Sums;
use super::{Between, Edge, Measure, Ranked, Sample, Span, once, sampled};
use crate::change::{Difference, Writer};
use crate::{Error, Result};

/// Positions of prompts that one pass back goes over, about.
const ROWS: usize = 8192;

/// What counts as constant in an attribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// Nothing.
    Whole,
    /// The divisors of norms and attention patterns.
    Frozen,
    /// Nothing, and the gradient is the mean of those at so many points on the straight way from none of the first SAE's contributions to all
    /// of them (integrated gradients, Sundararajan et al. 2017; of an SAE as Marks et al. 2024): what is added up to the whole difference that
    /// all of them make together.
    Integrated {
        /// How many.
        steps: usize,
    },
}

impl Gradient {
    fn frozen(self) -> Frozen {
        let frozen = self == Gradient::Frozen;
        Frozen { norms: frozen, patterns: frozen }
    }

    /// The shares of the first SAE's contributions at which it is taken; `None` for all of them.
    fn shares(self) -> Vec<Option<f32>> {
        match self {
            Gradient::Integrated { steps } => {
                (0..steps.max(1)).map(|step| Some((step as f32 + 0.5) / steps.max(1) as f32)).collect()
            }
            _ => vec![None],
        }
    }

    /// Its measure.
    pub fn measure(self) -> Measure {
        match self {
            Gradient::Whole => Measure::Attribution,
            Gradient::Frozen => Measure::FrozenAttribution,
            Gradient::Integrated { .. } => Measure::IntegratedAttribution,
        }
    }
}

/// A direction of the second SAE in a prompt, as a scalar.
struct Target {
    /// The direction.
    second: usize,
    /// Its place in its block.
    place: usize,
    /// Number of the prompt among those of the block.
    prompt: usize,
    /// Where the direction fires last.
    last: usize,
}

impl Between<'_> {
    /// How much each direction of the first SAE adds to the pre-activation of each of the second where that fires, to first order: the
    /// gradient of the sum of these pre-activations over a prompt, at what the first SAE writes, times what the direction writes there,
    /// summed over the positions at which it fires (attribution patching to zero; Syed et al. 2023, Marks et al. 2024). Of each pair the
    /// mean over the sampled prompts of the second in which the first fires there or before. `see` is shown every pair that has enough.
    ///
    /// # Errors
    /// As [`Model::gradients`](directrix_model::Model::gradients); if an SAE normalises what it reads, or the index is damaged.
    pub fn attribution(
        &self,
        gradient: Gradient,
        sample: Sample,
        watch: &Watch,
        see: impl FnMut(Ranked),
    ) -> Result<()> {
        let seconds: Vec<usize> = (0..self.second.directions()).collect();
        self.attribution_to(gradient, &seconds, sample, watch, see)
    }

    /// As [`attribution`](Between::attribution), to some directions of the second SAE.
    ///
    /// # Errors
    /// As [`attribution`](Between::attribution), or if there is no such direction.
    pub fn attribution_to(
        &self,
        gradient: Gradient,
        seconds: &[usize],
        sample: Sample,
        watch: &Watch,
        mut see: impl FnMut(Ranked),
    ) -> Result<()> {
        let firsts = self.first.directions();
        let (hook, written) = self.written()?;
        self.check_linear()?;
        let mut done = 0;
        for directions in seconds.chunks(Sums::block(firsts)) {
            let spans: Vec<Vec<Span>> = directions
                .iter()
                .map(|direction| sampled(self.of_second, *direction, sample.prompts))
                .collect::<Result<_>>()?;
            let numbers = once(spans.iter().flatten().map(|span| span.prompt));
            let (prompts, counted) = self.prompts(&numbers)?;
            let mut targets = Vec::new();
            for (place, spans) in spans.iter().enumerate() {
                targets.extend(spans.iter().map(|span| Target {
                    second: directions[place],
                    place,
                    prompt: numbers.partition_point(|number| *number < span.prompt),
                    last: span.last,
                }));
            }
            targets.sort_by_key(|target| target.prompt);
            let mut sums = Sums::new(directions.len(), firsts);
            for batch in by_rows(&targets) {
                let first_prompt = batch[0].prompt;
                let part = prompts.range(first_prompt..batch[batch.len() - 1].prompt + 1);
                let scalars = batch
                    .iter()
                    .map(|target| self.scalar(target, numbers[target.prompt], target.prompt - first_prompt))
                    .collect::<Result<Vec<_>>>()?;
                let shares = gradient.shares();
                let mut found: Vec<Vec<(usize, f64)>> = vec![Vec::new(); batch.len()];
                for share in &shares {
                    let gradients = match share {
                        None => self.model.gradients(&part, &[hook], &scalars, gradient.frozen(), watch)?,
                        Some(share) => {
                            let add = self.taken_out(
                                &part,
                                &numbers[first_prompt..],
                                &counted[first_prompt..],
                                &written,
                                1.0 - share,
                            )?;
                            let changed = [Intervention::new(hook, Positions::All, Edit::Add(add))];
                            let along = [self.second.site().reads.hook];
                            let tape = self.model.tape(&part, hook, &along, &changed, watch)?;
                            tape.gradients(&[hook], &scalars, gradient.frozen(), &[])?
                        }
                    };
                    let of_target = |(number, target): (usize, &Target)| {
                        let (rows, mut added) = (gradients.of(number, hook), vec![0.0; firsts]);
                        let mut fires = Vec::new();
                        for position in counted[target.prompt].start..=target.last {
                            let (directions, values) = self.of_first.at(numbers[target.prompt], position)?;
                            for (&first, &value) in directions.iter().zip(values) {
                                let row = written.row(first as usize);
                                added[first as usize] += f64::from(value) * dot(rows.row(position), row);
                                fires.push(first);
                            }
                        }
                        fires.sort_unstable();
                        fires.dedup();
                        Ok(fires.into_iter().map(|first| (first as usize, added[first as usize])).collect())
                    };
                    let here: Vec<Vec<(usize, f64)>> =
                        batch.par_iter().enumerate().map(of_target).collect::<Result<_>>()?;
                    // The same directions fire in every step.
                    for (sums, here) in found.iter_mut().zip(here) {
                        sums.resize(here.len(), (0, 0.0));
                        for (sum, (first, value)) in sums.iter_mut().zip(here) {
                            *sum = (first, sum.1 + value / shares.len() as f64);
                        }
                    }
                }
                for (target, found) in batch.iter().zip(found) {
                    found.into_iter().for_each(|(first, value)| sums.add(target.place, first, value));
                }
                done += batch.len();
                watch.tell(Event::new("attribution", done as u64, "gradients"));
            }
            for (place, first, mean) in sums.means(sample.least) {
                see(Ranked::mean(Edge { first, second: directions[place] }, gradient.measure(), mean));
            }
        }
        Ok(())
    }

    /// Rows that take a share of the first SAE's contributions out of the positions that count of some prompts, in their order.
    fn taken_out(
        &self,
        prompts: &Prompts,
        numbers: &[usize],
        counted: &[Range<usize>],
        written: &Matrix,
        share: f32,
    ) -> Result<Rows> {
        let mut rows = Matrix::zeros(prompts.positions(), written.columns());
        for (prompt, start) in prompts.offsets()[..prompts.len()].iter().enumerate() {
            for position in counted[prompt].clone().take_while(|position| *position < prompts.get(prompt).len()) {
                let (directions, values) = self.of_first.at(numbers[prompt], position)?;
                for (&first, &value) in directions.iter().zip(values) {
                    let row = written.row(first as usize);
                    rows.row_mut(start + position).iter_mut().zip(row).for_each(|(x, w)| *x -= share * value * w);
                }
            }
        }
        Ok(Rows::each(&Arc::new(rows), 0..prompts.positions()))
    }

    /// The sum of the pre-activations of a target's direction where it fires in its prompt, which has this number in the index and
    /// `prompt` in the batch.
    fn scalar(&self, target: &Target, number: usize, prompt: usize) -> Result<Scalar> {
        let second = target.second;
        let counted = self.index.counted(number)?;
        let parameters = self.second.parameters();
        let weight = match &parameters.architecture {
            Architecture::Gated { r_mag, .. } => r_mag[second].exp(),
            _ => 1.0,
        };
        let end = &self.second.site().reads;
        let width: usize = end.hook.shape(self.model.config(), 0).iter().product();
        let mut direction = vec![0.0; width];
        direction[end.columns()].copy_from_slice(parameters.encoder.row(second));
        let direction: Arc<[f32]> = direction.into();
        let activations = self.of_second.on_prompt(number, second)?;
        let fires = counted.filter(|position| activations[*position] > 0.0);
        let quantity = |direction| Quantity::Along { hook: end.hook, direction };
        let terms = fires.map(|position| Term { position, weight, quantity: quantity(direction.clone()) });
        Ok(Scalar { prompt, terms: terms.collect() })
    }

    /// Where what the first SAE writes is met on the way back, and what a unit of each direction's activation adds there.
    fn written(&self) -> Result<(HookPoint, Matrix)> {
        let hook = Writer::hook(self.model, self.first, self.second.site().reads.hook);
        let width = hook.shape(self.model.config(), 0).iter().product();
        let unit: Vec<Difference> = (0..self.first.directions())
            .map(|direction| Difference::Directions(vec![(direction as u32, 1.0)]))
            .collect();
        Ok((hook, Writer::new(self.model, self.first, hook, width).rows(&unit)?))
    }

    /// That gradients can be taken through both SAEs.
    pub(super) fn check_linear(&self) -> Result<()> {
        for sae in [self.first, self.second] {
            if sae.parameters().normalisation != Normalisation::None {
                return Err(Error::Normalises { sae: sae.name().into() });
            }
        }
        Ok(())
    }
}

/// Targets, sorted by prompt, in parts of about [`ROWS`] rows.
fn by_rows(targets: &[Target]) -> impl Iterator<Item = &[Target]> {
    let mut rest = targets;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |target: &&Target| {
            rows += target.last + 1;
            rows <= ROWS
        };
        let n = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (part, later) = rest.split_at(n);
        rest = later;
        (!part.is_empty()).then_some(part)
    })
}
