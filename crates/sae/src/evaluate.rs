//! How good an SAE is: what it reconstructs, what the model loses by it, and what its directions are like.

mod directions;
mod predictions;
mod reconstruction;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use directrix_corpus::{Event, Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{Ask, Case, Columns, Edit, HookPoint, Intervention, Model, Positions, Rows, batches};
use serde::Serialize;

use crate::statistics::{Distribution, Ratio};
use crate::{Counted, End, Error, Result, Sae};
use directions::Firing;
use predictions::{Changed, compare};
use reconstruction::{Moments, Reconstruction, bucket, bucket_range};

/// How [`evaluate`] is to go about it, and the thresholds of its classes.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationOptions {
    /// Which positions count. At those that do not, the site stays as it is.
    pub counted: Counted,
    /// Positions in one model pass. Results do not depend on it.
    pub batch_positions: usize,
    /// A direction is dense if it is active at more than this share of positions.
    pub dense_above: f64,
    /// A direction is rare if it is active somewhere, but at less than this share of positions.
    pub rare_below: f64,
    /// A rare direction is aligned if the cosine of its encoder column with the mean of the other rare directions'
    /// normalised encoder columns is at least this. By chance it is about `1/√d_in`.
    pub aligned_from: f64,
    /// Number of a direction's top prompts: those with its highest activations.
    pub top_prompts: usize,
    /// A rare direction shares its prompts if at least this share of its top prompts is among the top prompts of one
    /// other rare direction.
    pub shared_from: f64,
    /// A rare direction is of a single token if at least this share of the positions it is active at hold the same token.
    pub single_token_from: f64,
}

impl Default for EvaluationOptions {
    fn default() -> EvaluationOptions {
        EvaluationOptions {
            counted: Counted::default(),
            batch_positions: 2048,
            dense_above: 0.1,
            rare_below: 1e-4,
            aligned_from: 0.5,
            top_prompts: 10,
            shared_from: 0.5,
            single_token_from: 0.9,
        }
    }
}

/// What [`evaluate`] finds of an SAE. `x` is a position's row at the end of its site that it writes, `x̂` its
/// reconstruction; positions are those that [count](EvaluationOptions::counted), and a *predicted token* is one that follows
/// such a position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The SAE's [short name](Sae::short_name).
    pub name: String,
    /// The hook point it writes, of a transcoder not the one it reads.
    pub hook: HookPoint,
    /// The one head it writes, if it does.
    pub head: Option<usize>,
    /// Its number of directions.
    pub directions: usize,
    /// Prompts it was evaluated on.
    pub prompts: usize,
    /// Their positions that count.
    pub positions: u64,
    /// Their predicted tokens.
    pub predicted_tokens: u64,
    /// Active directions per position, mean over positions.
    pub l0: f64,
    /// `‖x − x̂‖²`, summed over the site's width, mean over positions.
    pub mse: f64,
    /// `1 − Σ‖x − x̂‖² / Σ‖x − mean‖²`, sums over positions, the mean of `x` over all of them.
    pub explained_variance: f64,
    /// `x·x̂ / (‖x‖ ‖x̂‖)`, mean over positions; 0 where `x` or `x̂` is zero.
    pub cosine: f64,
    /// `Σ‖x̂‖ / Σ‖x‖`, sums over positions: below 1 if the SAE shrinks.
    pub norm_ratio: f64,
    /// Losses as means over predicted tokens, and what is recovered of them.
    pub token_mean: LossMeans,
    /// Losses as means over each prompt's predicted tokens, then over prompts, and what is recovered of them.
    pub prompt_mean: LossMeans,
    /// `KL(clean ‖ reconstructed)` of the next-token distributions, nats, mean over predicted tokens.
    pub kl_reconstructed: f64,
    /// `KL(clean ‖ zeroed)`, likewise.
    pub kl_zeroed: f64,
    /// Directions that are active nowhere.
    pub dead: usize,
    /// Directions that are active at a share of positions above [`dense_above`](EvaluationOptions::dense_above).
    pub dense: usize,
    /// Directions that are active somewhere, at a share of positions below
    /// [`rare_below`](EvaluationOptions::rare_below).
    pub rare: usize,
    /// Rare directions whose encoder columns point the same way ([`aligned_from`](EvaluationOptions::aligned_from)).
    pub rare_aligned: usize,
    /// Rare directions that share their top prompts ([`shared_from`](EvaluationOptions::shared_from)).
    pub rare_shared_prompts: usize,
    /// Rare directions active on one token ([`single_token_from`](EvaluationOptions::single_token_from)).
    pub rare_single_token: usize,
    /// Number of directions by density, the dead left out.
    pub densities: Vec<DensityBin>,
    /// `W_enc[:, i]·W_dec[i] / (‖W_enc[:, i]‖ ‖W_dec[i]‖)`, over directions `i`; of none for a transcoder.
    pub encoder_decoder_cosine: Distribution,
    /// Excess kurtosis (`m₄/m₂² − 3`, moments over the vocabulary) of what each direction writes to the logits by its weights
    /// alone (`W_dec W_U`, through `W_out` or `W_O` where the site is before one), over directions. `None` where the site
    /// does not write to the residual stream, or no direction writes anything.
    pub logit_kurtosis: Option<Distribution>,
    /// L0 and explained variance by position in the prompt.
    pub by_position: Vec<AtPositions>,
    /// Every direction, by number.
    #[serde(skip)]
    pub by_direction: Vec<DirectionEvaluation>,
}

/// The loss of predicting the next token, nats, and how much of what the site does for it a reconstruction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LossMeans {
    /// Unchanged.
    pub clean: f64,
    /// The site replaced by its reconstruction at every position that counts.
    pub reconstructed: f64,
    /// The site replaced by zero at every position that counts.
    pub zeroed: f64,
    /// `(zeroed − reconstructed) / (zeroed − clean)`, of the mean losses.
    pub recovered: Ratio,
}

/// Directions whose density has a logarithm (base 10) in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DensityBin {
    /// Lower bound; the first bin holds everything below it too.
    pub log10_from: f64,
    /// Upper bound, not included; the last bin includes it.
    pub log10_to: f64,
    /// Number of directions.
    pub directions: u64,
}

/// L0 and explained variance over an interval of positions in the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AtPositions {
    /// First position.
    pub first: usize,
    /// Last position, included.
    pub last: usize,
    /// Number of positions, over all prompts.
    pub positions: u64,
    /// Active directions per position, mean over these positions.
    pub l0: f64,
    /// `‖x − x̂‖²`, mean over these positions.
    pub mse: f64,
    /// `1 − Σ‖x − x̂‖² / Σ‖x − mean‖²`, sums over these positions. The mean is of `x` over *all* positions of all prompts,
    /// so that numerators and denominators of the intervals add up to those of [`Evaluation::explained_variance`], and an
    /// interval in which `x` does not vary (BOS) has a value.
    pub explained_variance: f64,
}

/// What [`evaluate`] finds of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DirectionEvaluation {
    /// The direction.
    pub direction: usize,
    /// Share of positions at which it is active.
    pub density: f64,
    /// Cosine of its encoder column with its decoder row; `NaN` if one is zero, and for a transcoder.
    pub encoder_decoder_cosine: f64,
    /// Excess kurtosis over the vocabulary of what it writes to the logits; `NaN` where there is none.
    pub logit_kurtosis: f64,
    /// The token it is active on most often; `None` if it is active nowhere.
    pub top_token: Option<u32>,
    /// Share of the positions it is active at that hold this token. Exact for directions active on at most 64 different
    /// tokens; else at most 1/65 too low (Misra and Gries 1982).
    pub top_token_share: f64,
    /// Cosine of its encoder column with the mean of the other rare directions' normalised ones; `NaN` if it is not rare.
    pub rare_cosine: f64,
    /// The largest share of top prompts that it has in common with another rare direction, of the longer of the two lists;
    /// `NaN` if it is not rare.
    pub shared_prompts_share: f64,
    /// Active somewhere, at a share of positions below [`rare_below`](EvaluationOptions::rare_below).
    pub rare: bool,
    /// Rare, and `rare_cosine` is at least [`aligned_from`](EvaluationOptions::aligned_from).
    pub aligned: bool,
    /// Rare, and `shared_prompts_share` is at least [`shared_from`](EvaluationOptions::shared_from).
    pub shared_prompts: bool,
    /// Rare, and `top_token_share` is at least [`single_token_from`](EvaluationOptions::single_token_from).
    pub single_token: bool,
}

/// Evaluates SAEs on prompts, all in one pass: the model runs once unchanged, and from each site on once with it zeroed
/// and once per SAE with it reconstructed.
///
/// Beside the prompts, memory holds one batch, counts per direction and a few numbers per prompt.
///
/// # Errors
/// If there is no prompt, no position counts, a prompt does not suit the model, a number is not finite, or `watch` stopped it.
pub fn evaluate(
    model: &Model,
    saes: &[Sae],
    prompts: &Prompts,
    options: &EvaluationOptions,
    watch: &Watch,
) -> Result<Vec<Evaluation>> {
    if prompts.is_empty() {
        return Err(Error::NoPrompt);
    }
    if let Some(prompt) = prompts.iter().position(<[u32]>::is_empty) {
        let context = model.config().n_ctx;
        return Err(directrix_model::Error::Length { prompt, positions: 0, context }.into());
    }
    let mut pass = Pass::new(model, saes, prompts, options);
    if pass.positions() == 0 {
        return Err(Error::NoPosition { longest: prompts.longest() });
    }
    for batch in batches(prompts, options.batch_positions) {
        let end = prompts.offsets()[batch.end];
        pass.batch(batch, watch)?;
        watch.tell(Event::new("evaluate", end as u64, "positions").of(prompts.positions() as u64));
    }
    Ok((0..saes.len()).map(|sae| pass.evaluation(sae, options)).collect())
}

/// What the pass gathers of what is replaced, whichever SAEs write it.
struct AtSite {
    end: End,
    moments: Moments,
    zeroed: Changed,
}

/// What the pass gathers of an SAE.
struct OfSae {
    /// Number of its site.
    site: usize,
    reconstruction: Reconstruction,
    firing: Firing,
    reconstructed: Changed,
}

struct Pass<'a> {
    model: &'a Model,
    saes: &'a [Sae],
    prompts: &'a Prompts,
    counted: &'a Counted,
    /// Loss of each prompt, summed over its predicted tokens.
    clean: Vec<f64>,
    /// In the order the pass reaches them.
    sites: Vec<AtSite>,
    of_saes: Vec<OfSae>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, saes: &'a [Sae], prompts: &'a Prompts, options: &'a EvaluationOptions) -> Pass<'a> {
        let buckets = bucket(prompts.longest() - 1) + 1;
        let mut ends: Vec<End> = saes.iter().map(|sae| sae.site().writes.clone()).collect();
        ends.sort_by_key(|end| (end.hook, end.columns().start, end.columns().end));
        ends.dedup();
        let number = |sae: &Sae| ends.iter().position(|end| *end == sae.site().writes).expect("it is among them");
        let of_saes = saes
            .iter()
            .map(|sae| OfSae {
                site: number(sae),
                reconstruction: Reconstruction::new(buckets),
                firing: Firing::new(sae.directions(), options.top_prompts),
                reconstructed: Changed::default(),
            })
            .collect();
        let at_site =
            |end: End| AtSite { moments: Moments::new(end.columns(), buckets), end, zeroed: Changed::default() };
        let (counted, sites) = (&options.counted, ends.into_iter().map(at_site).collect());
        Pass { model, saes, prompts, counted, clean: Vec::new(), sites, of_saes }
    }

    /// The positions of a prompt that count.
    fn counting<'p>(&'p self, prompt: &'p [u32]) -> impl Iterator<Item = usize> + 'p {
        (0..prompt.len()).filter(|&position| self.counted.counts(position, prompt.len(), prompt[position]))
    }

    fn positions(&self) -> usize {
        self.prompts.iter().map(|prompt| self.counting(prompt).count()).sum()
    }

    fn batch(&mut self, batch: Range<usize>, watch: &Watch) -> Result<()> {
        let part = self.prompts.range(batch.clone());
        // Of each prompt the positions that count, of all of them the rows in the batch and the intervals.
        let counting: Vec<Vec<usize>> = part.iter().map(|prompt| self.counting(prompt).collect()).collect();
        let starts = part.offsets().iter().zip(&counting);
        let rows: Vec<usize> = starts.flat_map(|(start, places)| places.iter().map(move |p| start + p)).collect();
        let buckets: Vec<usize> = counting.iter().flatten().map(|position| bucket(*position)).collect();
        // Logits are made of this, block by block: they never exist for a whole batch.
        let last = HookPoint::UnembedIn;
        let predicts = |(prompt, places): (&[u32], &Vec<usize>)| -> Vec<usize> {
            places.iter().copied().filter(|position| position + 1 < prompt.len()).collect()
        };
        let predicting: Vec<Vec<usize>> = part.iter().zip(&counting).map(predicts).collect();
        let next = part.iter().zip(&predicting).flat_map(|(prompt, places)| places.iter().map(|p| prompt[p + 1]));
        let targets: Vec<u32> = next.collect();
        let by_prompt = consecutive(&predicting);
        let predicting = Positions::Each(predicting);
        let ask = Ask::nothing().with_capture(last, predicting.clone()).watched(watch);

        let Some(first) = self.sites.first().map(|at| at.end.hook) else { return Ok(()) };
        let read = self.saes.iter().map(|sae| sae.site().reads.hook);
        let hooks: BTreeSet<HookPoint> = self.sites.iter().map(|at| at.end.hook).chain(read).collect();
        let all = hooks.iter().fold(ask.clone(), |ask, hook| ask.with_capture(*hook, Positions::All));
        let mut session = self.model.session(part.clone(), &all, first, Positions::All)?;

        // Per site the zeroed pass, per SAE the reconstructed one.
        let mut zeroed = Vec::new();
        let mut reconstructed: Vec<Matrix> = vec![Matrix::default(); self.saes.len()];
        for (number, at) in self.sites.iter_mut().enumerate() {
            let (hook, columns) = (at.end.hook, at.end.columns());
            session = session.advance(hook)?;
            let changed = |edit: &dyn Fn(Range<usize>) -> Edit| {
                let case =
                    |(prompt, rows)| exchanged(prompt, part.get(prompt).len(), &counting[prompt], &at.end, edit(rows));
                let cases: Vec<Case> = consecutive(&counting).into_iter().enumerate().map(case).collect();
                Ok::<Matrix, Error>(session.resume(&cases, &ask)?.captured(last).clone())
            };
            let x = session.run().captured(hook);
            let x = &x.gather(rows.iter().copied());
            at.moments.add(x, &buckets);
            zeroed.push(changed(&|_| Edit::Zero)?);
            for ((sae, of_sae), reconstructed) in self.saes.iter().zip(&mut self.of_saes).zip(&mut reconstructed) {
                if of_sae.site != number {
                    continue;
                }
                let read = &session.run().captured(sae.site().reads.hook).gather(rows.iter().copied());
                let acts = sae.encode(read)?;
                let recon = sae.decode(&acts, read);
                check(sae, &recon, &part, &rows, batch.start)?;
                of_sae.reconstruction.add(x, columns.clone(), &recon, &acts, &buckets);
                of_sae.firing.add(&acts, &part, &rows, batch.start);
                let recon = Arc::new(recon);
                *reconstructed = changed(&|rows| Edit::Set(Rows::each(&recon, rows)))?;
            }
        }

        let changed: Vec<&Matrix> = zeroed.iter().chain(&reconstructed).collect();
        let compared = compare(self.model, session.run().captured(last), &changed, &targets);
        for rows in &by_prompt {
            self.clean.push(compared.clean[rows.clone()].iter().sum());
        }
        let gathered = self.sites.iter_mut().map(|at| &mut at.zeroed);
        let gathered = gathered.chain(self.of_saes.iter_mut().map(|of_sae| &mut of_sae.reconstructed));
        for (gathered, compared) in gathered.zip(&compared.changed) {
            gathered.add(compared, &by_prompt);
        }
        Ok(())
    }

    fn evaluation(&self, number: usize, options: &EvaluationOptions) -> Evaluation {
        let (sae, of_sae) = (&self.saes[number], &self.of_saes[number]);
        let at = &self.sites[of_sae.site];
        let (zeroed, reconstructed) = (&at.zeroed, &of_sae.reconstructed);
        let positions = self.positions() as u64;
        let predicts = |prompt: &[u32]| self.counting(prompt).filter(|position| position + 1 < prompt.len()).count();
        let predicted: Vec<f64> = self.prompts.iter().map(|prompt| predicts(prompt) as f64).collect();
        let tokens: f64 = predicted.iter().sum();

        // The mean over tokens weighs each prompt by its predicted tokens, the mean over prompts all prompts alike.
        let recovered = |weight: &dyn Fn(f64) -> f64| {
            let mean = |sums: &[f64]| {
                let weighed =
                    sums.iter().zip(&predicted).filter(|(_, n)| **n > 0.0).map(|(sum, n)| sum / n * weight(*n));
                weighed.collect::<Vec<f64>>()
            };
            let (clean, reconstructed, zeroed) = (mean(&self.clean), mean(&reconstructed.losses), mean(&zeroed.losses));
            let weights: f64 = predicted.iter().filter(|n| **n > 0.0).map(|n| weight(*n)).sum();
            let over = |values: &[f64]| values.iter().sum::<f64>() / weights;
            let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
            LossMeans {
                clean: over(&clean),
                reconstructed: over(&reconstructed),
                zeroed: over(&zeroed),
                recovered: Ratio::of(&minus(&zeroed, &reconstructed), &minus(&zeroed, &clean)),
            }
        };

        let variances = at.moments.squares();
        let Reconstruction { errors, active, counts, cosines, norms } = &of_sae.reconstruction;
        let by_direction = of_sae.firing.directions(self.model, sae, positions, options);
        let count = |class: &dyn Fn(&DirectionEvaluation) -> bool| by_direction.iter().filter(|d| class(d)).count();
        let by_position = (0..counts.len()).filter(|bucket| counts[*bucket] > 0).map(|bucket| {
            let (first, last) = bucket_range(bucket);
            let n = counts[bucket];
            AtPositions {
                first: first.max(self.counted.skip_first),
                last: last.min(self.prompts.longest() - 1 - usize::from(self.counted.skip_last)),
                positions: n,
                l0: active[bucket] as f64 / n as f64,
                mse: errors[bucket] / n as f64,
                explained_variance: 1.0 - errors[bucket] / variances[bucket],
            }
        });
        let distribution = |of: &dyn Fn(&DirectionEvaluation) -> f64| Distribution::of(by_direction.iter().map(of));
        let logit_kurtosis = distribution(&|d| d.logit_kurtosis);
        Evaluation {
            name: sae.short_name().into(),
            hook: at.end.hook,
            head: at.end.head,
            directions: sae.directions(),
            prompts: self.prompts.len(),
            positions,
            predicted_tokens: tokens as u64,
            l0: active.iter().sum::<u64>() as f64 / positions as f64,
            mse: errors.iter().sum::<f64>() / positions as f64,
            explained_variance: 1.0 - errors.iter().sum::<f64>() / variances.iter().sum::<f64>(),
            cosine: cosines / positions as f64,
            norm_ratio: norms.1 / norms.0,
            token_mean: recovered(&|n| n),
            prompt_mean: recovered(&|_| 1.0),
            kl_reconstructed: reconstructed.kl.iter().sum::<f64>() / tokens,
            kl_zeroed: zeroed.kl.iter().sum::<f64>() / tokens,
            dead: count(&|d| d.density == 0.0),
            dense: count(&|d| d.density > options.dense_above),
            rare: count(&|d| d.rare),
            rare_aligned: count(&|d| d.aligned),
            rare_shared_prompts: count(&|d| d.shared_prompts),
            rare_single_token: count(&|d| d.single_token),
            densities: directions::densities(by_direction.iter().map(|d| d.density)),
            encoder_decoder_cosine: distribution(&|d| d.encoder_decoder_cosine),
            logit_kurtosis: (logit_kurtosis.n > 0).then_some(logit_kurtosis),
            by_position: by_position.collect(),
            by_direction,
        }
    }
}

/// Where the items of each list are, put one after another.
fn consecutive(lists: &[Vec<usize>]) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |list: &Vec<usize>| {
        end += list.len();
        end - list.len()..end
    };
    lists.iter().map(range).collect()
}

/// A prompt of `length` positions with a site's end changed at some of them.
fn exchanged(prompt: usize, length: usize, positions: &[usize], end: &End, edit: Edit) -> Case {
    let columns = Columns::Range(end.columns());
    let intervention = Intervention::new(end.hook, Positions::At(positions.into()), edit).in_columns(columns);
    Case { prompt, until: length - 1, interventions: vec![intervention] }
}

/// That the reconstructions of these rows of the batch are numbers.
fn check(sae: &Sae, recon: &Matrix, prompts: &Prompts, rows: &[usize], first_prompt: usize) -> Result<()> {
    let Some((row, _)) = recon.first_not_finite() else { return Ok(()) };
    let row = rows[row];
    let prompt = prompts.offsets().partition_point(|offset| *offset <= row) - 1;
    Err(directrix_model::Error::NotFinite {
        hook: format!("{}: the reconstruction of {}", sae.name(), sae.site().writes.hook),
        prompt: first_prompt + prompt,
        position: row - prompts.offsets()[prompt],
    }
    .into())
}
