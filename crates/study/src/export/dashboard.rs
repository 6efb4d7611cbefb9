//! What SAEDashboard shows of a direction, computed from an index. Names and numbers are those of SAEDashboard 0.8, whose
//! readers expect them: `docs/exports.md` has the formula of each field.

use std::cmp::Ordering;

use directrix_corpus::{Event, Tokenizer, Watch, token_text};
use directrix_index::{Example, Index, SaeIndex};
use directrix_kernels::{Matrix, product};
use directrix_model::Model;
use directrix_sae::{Architecture, Sae};
use rayon::prelude::*;
use serde::Serialize;

use super::correlations::{Correlated, Correlations};
use super::without_commit;
use crate::{Error, Result};

/// Bars of both histograms.
const BARS: usize = 50;
/// Rows of the tables of neurons and directions.
pub(super) const ROWS: usize = 3;
/// Tokens raised most, and lowered most.
const LOGITS: usize = 10;
/// Examples of the highest activations.
pub(super) const TOP: usize = 20;
/// Parts of 0 to the maximum, and examples of each.
pub(super) const INTERVALS: usize = 5;
pub(super) const OF_INTERVAL: usize = 5;
/// Tokens of an example, at most: SAEDashboard's prompts have as many.
const SHOWN: usize = 128;
/// Directions computed together and written to one file: SAEDashboard's `n_features_at_a_time`.
pub(super) const BATCH: usize = 128;

/// What is shown: an SAE's part of an index, with the SAE and the model it is of.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The index.
    pub index: &'a Index,
    /// The SAE's part of it.
    pub fires: &'a SaeIndex,
    /// The SAE.
    pub sae: &'a Sae,
    /// The model.
    pub model: &'a Model,
    /// What gives the tokens' text; `[id]` without.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// A direction's panels, as SAEDashboard's converter writes them.
#[derive(Debug, Serialize)]
pub(super) struct Dashboard<'a> {
    pub(super) feature_index: usize,
    #[serde(flatten)]
    pub(super) panels: Panels<'a>,
    pub(super) n_prompts_total: usize,
    pub(super) n_tokens_in_prompt: usize,
    pub(super) dataset: &'a str,
    pub(super) activations: Vec<Shown<'a>>,
    /// SAEDashboard's is empty for SAEs.
    pub(super) vector: [f64; 0],
}

/// Tables and histograms.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Panels<'a> {
    neuron_alignment_indices: Vec<usize>,
    neuron_alignment_values: Vec<f64>,
    neuron_alignment_l1: Vec<f64>,
    correlated_neurons_indices: Vec<usize>,
    /// Cosines, whatever they are called.
    correlated_neurons_l1: Vec<f64>,
    correlated_neurons_pearson: Vec<f64>,
    correlated_features_indices: Vec<usize>,
    /// Cosines, too.
    correlated_features_l1: Vec<f64>,
    correlated_features_pearson: Vec<f64>,
    neg_str: Vec<&'a str>,
    neg_values: Vec<f64>,
    pos_str: Vec<&'a str>,
    pos_values: Vec<f64>,
    frac_nonzero: f64,
    freq_hist_data_bar_values: Vec<f64>,
    freq_hist_data_bar_heights: Vec<u64>,
    logits_hist_data_bar_heights: Vec<u64>,
    logits_hist_data_bar_values: Vec<f64>,
    /// SAEDashboard's, too, is empty where it does not attribute to heads.
    decoder_weights_dist: [f64; 0],
}

/// An example: tokens of a prompt and the activation at each.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    pub(super) bin_min: f64,
    pub(super) bin_max: f64,
    pub(super) bin_contains: f64,
    pub(super) tokens: Vec<&'a str>,
    pub(super) values: Vec<f64>,
    pub(super) qualifying_token_index: usize,
}

/// Makes dashboards of a subject.
pub(super) struct Dashboards<'a> {
    subject: Subject<'a>,
    texts: &'a [String],
    correlations: Correlations<'a>,
    /// The directions that have one, each with the neurons that are correlated with it most.
    directions: Vec<(usize, Vec<Correlated>)>,
    longest: usize,
}

impl Subject<'_> {
    /// The text of every token: `[vocabulary]`.
    pub(super) fn texts(&self) -> Vec<String> {
        (0..self.index.meta().vocabulary as u32).map(|token| token_text(self.tokenizer, token)).collect()
    }

    /// The last part of the model's name, without the commit it was found at.
    pub(super) fn model_id(&self) -> &str {
        let name = without_commit(&self.index.meta().identity.model.name);
        name.rsplit(['/', '\\', ':']).find(|part| !part.is_empty()).unwrap_or(name)
    }

    /// The block whose activations the SAE reads.
    pub(super) fn layer(&self) -> usize {
        self.sae.site().reads.layer()
    }

    /// What the activations of `direction` are multiplied with so that its decoder row has length 1, as SAEDashboard does before
    /// anything else. It cannot where the activation is one of the largest: neither is it done here.
    fn scale(&self, direction: usize) -> f32 {
        if let Architecture::TopK { .. } = self.sae.architecture() {
            return 1.0;
        }
        let squares: f64 = self.sae.w_dec().row(direction).iter().map(|w| f64::from(*w).powi(2)).sum();
        squares.sqrt().max(1e-8) as f32
    }
}

impl<'a> Dashboards<'a> {
    /// Of a subject and its [texts](Subject::texts), for those directions for which `wanted` is true. The model runs once over
    /// the index's prompts. Memory: 8 bytes for each of these directions and neuron, and a batch's run.
    pub(super) fn of(
        subject: Subject<'a>,
        texts: &'a [String],
        wanted: &[bool],
        watch: &Watch,
    ) -> Result<Dashboards<'a>> {
        let directions: Vec<usize> = (0..wanted.len()).filter(|direction| wanted[*direction]).collect();
        let correlations = Correlations::of(subject)?;
        let neurons = correlations.with_neurons(&directions, watch)?;
        let directions = directions.into_iter().zip(neurons).collect();
        let longest = subject.index.lengths().max().unwrap_or(0);
        Ok(Dashboards { subject, texts, correlations, directions, longest })
    }

    /// Tokens of the longest prompt.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Makes the dashboards batch by batch and hands each batch on, with its number. Gives the number of batches.
    pub(super) fn each_batch(
        &self,
        watch: &Watch,
        mut write: impl FnMut(usize, Vec<Dashboard<'a>>) -> Result<()>,
    ) -> Result<usize> {
        for (number, batch) in self.directions.chunks(BATCH).enumerate() {
            write(number, self.batch(batch, watch)?)?;
            let done = number * BATCH + batch.len();
            watch.tell(Event::new("export", done as u64, "directions").of(self.directions.len() as u64));
        }
        Ok(self.directions.len().div_ceil(BATCH))
    }

    /// The dashboards of a batch of directions. Memory: a batch's logits (`[directions, vocabulary]`), and per thread the
    /// positions at which one direction fires.
    fn batch(&self, directions: &[(usize, Vec<Correlated>)], watch: &Watch) -> Result<Vec<Dashboard<'a>>> {
        let mut rows = Matrix::zeros(directions.len(), self.subject.sae.d_out());
        for (row, (direction, _)) in directions.iter().enumerate() {
            let scale = self.subject.scale(*direction);
            let decoder = self.subject.sae.w_dec().row(*direction);
            rows.row_mut(row).iter_mut().zip(decoder).for_each(|(scaled, w)| *scaled = w / scale);
        }
        let logits = self.logits(&rows);
        let dashboard = |row: usize| {
            if watch.is_stopped() {
                return Err(Error::Stopped);
            }
            let logits = logits.as_ref().map_or(&[][..], |logits| logits.row(row));
            let (direction, neurons) = &directions[row];
            self.dashboard(*direction, neurons, rows.row(row), logits)
        };
        (0..directions.len()).into_par_iter().map(dashboard).collect()
    }

    /// What a unit of each row adds to every token's logit, LayerNorm's scale not applied: `[rows, d_vocab]`; none where the SAE
    /// does not write to the residual stream.
    fn logits(&self, rows: &Matrix) -> Option<Matrix> {
        let Subject { model, sae, .. } = self.subject;
        let written = sae.to_residual(model, rows).ok()?;
        let w_u = &model.weights().w_u;
        let mut logits = Matrix::zeros(rows.rows(), w_u.columns());
        product(written.view(), w_u.view(), &mut logits, false);
        Some(logits)
    }

    fn dashboard(
        &self,
        direction: usize,
        neurons: &[Correlated],
        decoder: &[f32],
        logits: &[f32],
    ) -> Result<Dashboard<'a>> {
        let Subject { index, fires, .. } = self.subject;
        let meta = index.meta();
        let mut active = fires.fires(direction)?;
        let scale = self.subject.scale(direction);
        active.iter_mut().for_each(|fires| fires.activation *= scale);
        let aligned = ends(decoder, ROWS, 1.0);
        let l1: f64 = decoder.iter().map(|w| f64::from(w.abs())).sum();
        let (raised, lowered) = (ends(logits, LOGITS, 1.0), ends(logits, LOGITS, -1.0));
        let others = self.correlations.with_directions(direction)?;
        let numbers = |of: &[Correlated]| of.iter().map(|of| of.number).collect();
        let cosines = |of: &[Correlated]| of.iter().map(|of| round(of.cosine, 3)).collect();
        let pearsons = |of: &[Correlated]| of.iter().map(|of| round(of.pearson, 3)).collect();
        let texts = |tokens: &[usize]| tokens.iter().map(|token| self.texts[*token].as_str()).collect();
        let values = |of: &[f32], places: &[usize]| places.iter().map(|place| rounded(of[*place])).collect();
        let (freq_heights, freq_values) = histogram(active.iter().map(|fires| fires.activation));
        let (logits_heights, logits_values) = histogram(logits.iter().copied());
        let panels = Panels {
            neuron_alignment_values: values(decoder, &aligned),
            neuron_alignment_l1: aligned.iter().map(|i| round(f64::from(decoder[*i].abs()) / l1, 3)).collect(),
            neuron_alignment_indices: aligned,
            correlated_neurons_indices: numbers(neurons),
            correlated_neurons_l1: cosines(neurons),
            correlated_neurons_pearson: pearsons(neurons),
            correlated_features_indices: numbers(&others),
            correlated_features_l1: cosines(&others),
            correlated_features_pearson: pearsons(&others),
            neg_values: values(logits, &lowered),
            neg_str: texts(&lowered),
            pos_values: values(logits, &raised),
            pos_str: texts(&raised),
            frac_nonzero: round(active.len() as f64 / meta.positions.max(1) as f64, 5),
            freq_hist_data_bar_values: freq_values,
            freq_hist_data_bar_heights: freq_heights,
            logits_hist_data_bar_heights: logits_heights,
            logits_hist_data_bar_values: logits_values,
            decoder_weights_dist: [],
        };
        Ok(Dashboard {
            feature_index: direction,
            panels,
            n_prompts_total: meta.prompts,
            n_tokens_in_prompt: self.longest,
            dataset: &meta.identity.corpus.name,
            activations: self.examples(&active)?,
            vector: [],
        })
    }

    /// The positions with the highest activations, then some of each part of 0 to the maximum, from above.
    fn examples(&self, active: &[Example]) -> Result<Vec<Shown<'a>>> {
        let positions = self.subject.index.meta().positions;
        let mut order: Vec<&Example> = active.iter().collect();
        order.sort_by(|a, b| strongest(a, b));
        let Some(maximum) = order.first().map(|fires| fires.activation) else { return Ok(Vec::new()) };
        let top = Bin { min: -1.0, max: rounded(maximum), contains: -1.0 };
        let mut shown: Vec<Shown> =
            order.iter().take(TOP).map(|fires| self.shown(active, fires, top)).collect::<Result<_>>()?;
        for interval in (0..INTERVALS).rev() {
            let (low, high) = (edge(maximum, interval), edge(maximum, interval + 1));
            let from = order.partition_point(|fires| fires.activation > high);
            let inside = &order[from..order.partition_point(|fires| fires.activation >= low)];
            let silent = if interval == 0 { positions - order.len() as u64 } else { 0 };
            let contains = round((inside.len() as u64 + silent) as f64 / positions as f64, 5);
            let bin = Bin { min: rounded(low), max: rounded(high), contains };
            let some = inside.len().min(OF_INTERVAL);
            for i in 0..some {
                shown.push(self.shown(active, inside[i * inside.len() / some], bin)?);
            }
        }
        Ok(shown)
    }

    /// The tokens around a position, of a direction that fires at `active`. The first token of a prompt is left out, as
    /// SAEDashboard does, unless it is the one.
    fn shown(&self, active: &[Example], fires: &Example, bin: Bin) -> Result<Shown<'a>> {
        let Example { prompt, position, .. } = *fires;
        let tokens = self.subject.index.prompt(prompt)?;
        let first = usize::from(position > 0);
        let start = position.saturating_sub(SHOWN / 2).min(tokens.len().saturating_sub(SHOWN)).max(first);
        let end = tokens.len().min(start + SHOWN);
        let mut values = vec![0.0; end - start];
        let own = &active[active.partition_point(|fires| fires.prompt < prompt)..];
        for fires in own.iter().take_while(|fires| fires.prompt == prompt) {
            if (start..end).contains(&fires.position) {
                values[fires.position - start] = rounded(fires.activation);
            }
        }
        Ok(Shown {
            bin_min: bin.min,
            bin_max: bin.max,
            bin_contains: bin.contains,
            tokens: tokens[start..end].iter().map(|token| self.texts[*token as usize].as_str()).collect(),
            values,
            qualifying_token_index: position - start,
        })
    }
}

/// A group of examples: its part of 0 to the maximum, and the share of positions there.
#[derive(Clone, Copy)]
struct Bin {
    min: f64,
    max: f64,
    contains: f64,
}

/// The order of activations from the highest; of equal ones, that of the corpus.
fn strongest(a: &Example, b: &Example) -> Ordering {
    b.activation.total_cmp(&a.activation).then((a.prompt, a.position).cmp(&(b.prompt, b.position)))
}

/// Where part `i` of 0 to `maximum` begins: `torch.linspace`, which counts from the nearer end.
fn edge(maximum: f32, i: usize) -> f32 {
    let step = maximum / INTERVALS as f32;
    if i < INTERVALS.div_ceil(2) { step * i as f32 } else { maximum - step * (INTERVALS - i) as f32 }
}

/// The places of the `k` values that are largest when multiplied with `sign`, largest first; ties by place.
fn ends(values: &[f32], k: usize, sign: f32) -> Vec<usize> {
    let by = |a: &usize, b: &usize| (sign * values[*b]).total_cmp(&(sign * values[*a])).then(a.cmp(b));
    first((0..values.len()).collect(), k, by)
}

/// The first `k` in the order that `by` gives.
pub(super) fn first<T>(mut all: Vec<T>, k: usize, by: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if all.len() > k {
        all.select_nth_unstable_by(k, &by);
        all.truncate(k);
    }
    all.sort_unstable_by(by);
    all
}

/// Heights and middles of equal bars from the lowest value to the highest, as `torch.histc` counts: where all values are one,
/// it is in the bar after the middle.
fn histogram(values: impl Iterator<Item = f32> + Clone) -> (Vec<u64>, Vec<f64>) {
    let ends = values.clone().fold(None, |ends: Option<(f32, f32)>, value| {
        Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    });
    let Some((low, high)) = ends else { return (Vec::new(), Vec::new()) };
    let (from, to) = if low == high { (low - 1.0, high + 1.0) } else { (low, high) };
    let mut heights = vec![0; BARS];
    for value in values {
        let bar = ((value - from) * BARS as f32 / (to - from)) as usize;
        heights[bar.min(BARS - 1)] += 1;
    }
    let width = f64::from(high - low) / BARS as f64;
    let middles = (0..BARS).map(|bar| round(f64::from(low) + (bar as f64 + 0.5) * width, 3)).collect();
    (heights, middles)
}

/// A number as SAEDashboard rounds nearly all.
fn rounded(value: f32) -> f64 {
    round(f64::from(value), 3)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    // Adding 0 makes 0 of -0.
    (value * scale).round_ties_even() / scale + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_range_end_where_the_next_begins() {
        let edges: Vec<f32> = (0..=INTERVALS).map(|i| edge(3.3, i)).collect();
        assert!(edges.is_sorted() && edges[0] == 0.0 && edges[5] == 3.3);
        assert!(edges.windows(2).all(|pair| (pair[1] - pair[0] - 0.66).abs() < 1e-6), "{edges:?}");
    }

    #[test]
    fn a_histogram_counts_every_value_once() {
        let values = [0.1_f32, 0.5, 0.5, 1.1];
        let (heights, middles) = histogram(values.into_iter());
        assert_eq!((heights[0], heights[20], heights[49]), (1, 2, 1));
        assert_eq!((heights.iter().sum::<u64>(), middles[0], middles[49]), (4, 0.11, 1.09));
        let (heights, middles) = histogram([2.0_f32; 3].into_iter());
        assert_eq!((heights[25], middles[0], middles[49]), (3, 2.0, 2.0));
        assert_eq!(histogram(std::iter::empty()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn the_ends_are_those_of_a_whole_sort() {
        let values = [0.5_f32, -1.0, 2.0, 0.5, -0.0];
        assert_eq!(ends(&values, 3, 1.0), [2, 0, 3]);
        assert_eq!(ends(&values, 2, -1.0), [1, 4]);
        assert_eq!(ends(&values[..2], 3, 1.0), [0, 1]);
    }
}
