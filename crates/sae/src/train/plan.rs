//! What a training takes, from some of its steps.

use std::time::{Duration, Instant};

use directrix_corpus::{Event, Ranks, Watch, peak_memory};
use serde::Serialize;

use super::buffer::{Buffer, RUN};
use super::member;
use super::over::{Over, Split};
use super::trainer::StepOptions;
use super::training::{Training, end_of, hooks_of, open_stream, rows_of};
use crate::{Error, Result};

/// The first steps of a process are slower by what is made once.
const COLD: u64 = 1;
/// How often the exchange between ranks is tried.
const TRIES: usize = 5;
const NUMBER: u64 = size_of::<f32>() as u64;

/// What is to be sized.
#[derive(Debug, Clone)]
pub struct Sizing {
    /// Numbers of ranks.
    pub ranks: Vec<usize>,
    /// Seconds that the probe takes at least, where the training has as many steps.
    pub seconds: f64,
}

/// What a training takes, of one process and of several ranks. Evaluations and checkpoints are not in its times.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Steps of the training.
    pub steps: u64,
    /// Positions of a step.
    pub batch: usize,
    /// Steps that were measured.
    pub probe_steps: u64,
    /// Seconds of these, and of the activations they were fed.
    pub probe_seconds: f64,
    /// Seconds of making a position's activations by the model.
    pub position_seconds: f64,
    /// Seconds of a step, all activations of it being made and all SAEs improved by it.
    pub step_seconds: f64,
    /// Seconds of the training.
    pub seconds: f64,
    /// The SAEs.
    pub saes: Vec<SaePlan>,
    /// Bytes of memory that a process has at most; none where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Bytes of the SAEs that it leaves.
    pub sae_bytes: u64,
    /// Bytes of a checkpoint; while one is written the last one is still there.
    pub checkpoint_bytes: u64,
    /// The same work over ranks.
    pub ranks: Vec<OverRanks>,
    /// Bytes that a rank is given in a second by the other ranks of this job, in exchanges as large as a step's. None where there are no others.
    pub link: Option<f64>,
}

/// What one SAE takes.
#[derive(Debug, Clone, Serialize)]
pub struct SaePlan {
    /// The name of its folder.
    pub name: String,
    /// Its directions.
    pub directions: usize,
    /// Directions that were active at a position of the last step measured.
    pub active: f64,
    /// FLOP for each position: two for each weight of the encoder, and eight for each input of an active direction, which is decoded,
    /// multiplied with the error, and has a gradient on either side. Adam's are not counted.
    pub flop: f64,
    /// Seconds of finding a step's gradient.
    pub gradient_seconds: f64,
    /// Seconds of applying it.
    pub apply_seconds: f64,
}

/// The training over so many ranks, each a process on a machine like this one.
#[derive(Debug, Clone, Serialize)]
pub struct OverRanks {
    /// How many.
    pub ranks: usize,
    /// What they divide.
    pub split: Split,
    /// Bytes that each is given by the others in a step.
    pub given_bytes: u64,
    /// Seconds of a step, without the exchanges.
    pub step_seconds: f64,
    /// Bytes of memory of each rank at most.
    pub memory_bytes: Option<u64>,
}

impl OverRanks {
    /// The share of the time that exchanges are, where each rank is given so many bytes in a second.
    pub fn share(&self, link: f64) -> f64 {
        let exchanged = self.given_bytes as f64 / link;
        exchanged / (exchanged + self.step_seconds)
    }
}

/// Takes steps of the training for some seconds, in memory alone, and sizes it by them. Where the training is over ranks, each does so, and the exchange
/// between them is measured.
///
/// # Errors
/// As [`train`](super::train), but nothing is written.
pub fn plan(training: &Training, sizing: &Sizing, watch: &Watch) -> Result<Plan> {
    let feed = training.feed;
    feed.check()?;
    let (steps, alone) = (feed.steps(), Training { over: Over::One, cache: None, ..*training });
    let mut ends = Vec::new();
    for (_, recipe) in training.recipes {
        recipe.check(steps)?;
        ends.push(end_of(recipe, training.model)?);
    }
    let (hooks, widths) = hooks_of(&ends, training.model);
    let mut stream = open_stream(&alone, &hooks, &widths, [0, 1], watch)?;
    // Smaller than the training's, so that filling it is not what takes the seconds.
    let capacity = feed.buffer.min((2 * feed.batch).max(2 * RUN));
    let mut buffer = Buffer::new(capacity, &widths, feed.shuffle_seed);

    let begun = Instant::now();
    let first = buffer.batch(feed.batch, &mut stream)?;
    let mut feeding = begun.elapsed();
    let mut trainers = Vec::new();
    for ((_, recipe), end) in training.recipes.iter().zip(&ends) {
        trainers.push(member::begin(recipe, end, training.from, &rows_of(&first, &hooks, end), Over::One)?);
    }
    let mut taken = vec![[Duration::ZERO; 2]; trainers.len()];
    let (mut active, mut step) = (vec![0.0; trainers.len()], 0);
    while step < steps && (step <= COLD || begun.elapsed().as_secs_f64() < sizing.seconds) {
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        let started = Instant::now();
        let batch = buffer.batch(feed.batch, &mut stream)?;
        feeding += started.elapsed();
        for (number, (trainer, (name, recipe))) in trainers.iter_mut().zip(training.recipes).enumerate() {
            let coefficient_scale = recipe.coefficient_share(step);
            let options = StepOptions {
                rate: recipe.rate(step, steps),
                betas: recipe.betas,
                eps: member::EPS,
                coefficient_scale,
            };
            let rows = rows_of(&batch, &hooks, &ends[number]);
            let started = Instant::now();
            let gradient = trainer.gradient(&rows, coefficient_scale).map_err(|e| e.of_sae(name))?;
            let found = Instant::now();
            trainer.apply(&gradient, &options);
            if step >= COLD || steps <= COLD {
                taken[number][0] += found.duration_since(started);
                taken[number][1] += found.elapsed();
            }
            active[number] = gradient.report.l0;
        }
        step += 1;
        watch.tell(Event::new("probe", step, "steps"));
    }
    let measured = if step > COLD { step - COLD } else { step };
    let made = (step + 1) * feed.batch as u64 + buffer.left() as u64;
    let position_seconds = feeding.as_secs_f64() / made as f64;
    let mut plan = Plan {
        steps,
        batch: feed.batch,
        probe_steps: step,
        probe_seconds: begun.elapsed().as_secs_f64(),
        position_seconds,
        step_seconds: position_seconds * feed.batch as f64,
        seconds: 0.0,
        saes: Vec::new(),
        memory_bytes: None,
        sae_bytes: 0,
        checkpoint_bytes: 0,
        ranks: Vec::new(),
        link: None,
    };
    for (number, (trainer, (name, _))) in trainers.iter().zip(training.recipes).enumerate() {
        let [gradient_seconds, apply_seconds] = taken[number].map(|all| all.as_secs_f64() / measured as f64);
        let (directions, d_in) = (trainer.directions(), trainer.d_in() as f64);
        plan.step_seconds += gradient_seconds + apply_seconds;
        let numbers: usize = trainer.stored().iter().map(|(_, [value, ..])| value.len()).sum();
        plan.sae_bytes += NUMBER * (numbers + directions) as u64;
        plan.checkpoint_bytes += 3 * NUMBER * numbers as u64 + 2 * size_of::<u64>() as u64 * directions as u64;
        plan.saes.push(SaePlan {
            name: name.clone(),
            directions,
            active: active[number],
            flop: 2.0 * d_in * directions as f64 + 8.0 * d_in * active[number],
            gradient_seconds,
            apply_seconds,
        });
    }
    // Beside the SAEs a checkpoint has where each row of the buffer came from, as text.
    let origins = serde_json::to_vec(buffer.state()).map_or(0, |text| text.len());
    plan.checkpoint_bytes += (origins as f64 * feed.buffer as f64 / capacity as f64) as u64;
    let row = NUMBER * widths.iter().sum::<usize>() as u64;
    plan.seconds = steps as f64 * plan.step_seconds + feed.buffer as f64 * position_seconds;
    plan.memory_bytes = peak_memory().map(|bytes| bytes + (row + Buffer::ROW_STATE) * (feed.buffer - capacity) as u64);
    for ranks in &sizing.ranks {
        for split in [Split::Positions, Split::Directions] {
            plan.ranks.push(plan.over(training, (*ranks).max(1), split, row)?);
        }
    }
    if let Some(ranks) = training.over.ranks().filter(|ranks| ranks.size() > 1) {
        let of = plan.over(training, ranks.size(), Split::Positions, row)?;
        plan.link = Some(link(ranks, of.given_bytes)?);
    }
    Ok(plan)
}

impl Plan {
    /// The plan over so many ranks, where the activations of a position are `row` bytes.
    fn over(&self, training: &Training, ranks: usize, split: Split, row: u64) -> Result<OverRanks> {
        let (n, positions) = (ranks as f64, self.batch as f64);
        let mut given = positions * row as f64 * (n - 1.0) / n;
        let mut step_seconds = self.position_seconds * positions / n;
        let mut elsewhere = 0.0;
        for (sae, (_, recipe)) in self.saes.iter().zip(training.recipes) {
            let d_in = end_of(recipe, training.model)?.width;
            given += split.bytes(recipe, self.batch, d_in, sae.active, ranks)?;
            // Where all hold all of it, each takes the whole of Adam's step.
            let (applied, held) = match split {
                Split::Positions => (sae.apply_seconds, 1.0),
                Split::Directions => (sae.apply_seconds / n, 1.0 / n),
            };
            step_seconds += sae.gradient_seconds / n + applied;
            elsewhere += (1.0 - held) * super::training::weights_bytes(sae.directions, d_in) as f64;
        }
        let memory_bytes = self.memory_bytes.map(|bytes| bytes.saturating_sub(elsewhere as u64));
        Ok(OverRanks { ranks, split, given_bytes: given as u64, step_seconds, memory_bytes })
    }
}

/// Bytes that a rank is given in a second, in exchanges of which it is given so many.
fn link(ranks: &dyn Ranks, given: u64) -> Result<f64> {
    let mine = vec![1_u8; (given / (ranks.size() as u64 - 1)) as usize];
    let mut seconds = Vec::new();
    for _ in 0..TRIES {
        ranks.gather(&[])?;
        let started = Instant::now();
        ranks.gather(&mine)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(given as f64 / seconds[TRIES / 2].max(f64::MIN_POSITIVE))
}
