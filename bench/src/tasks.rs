//! The tasks: what each does, what it gives, and the arithmetic that it cannot avoid.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use clap::ValueEnum;
use directrix::circuits::{self, AnswerLosses, Change, CooccurrenceOptions, Inactive, Look, PromptEffect, Trial};
use directrix::corpus::{Chunk, Prompts, Watch};
use directrix::index::{self, Identity, Input, Options};
use directrix::kernels::{self, Matrix};
use directrix::model::{Ask, BlockHook, Frozen, HookPoint, Quantity, Scalar, Term};
use directrix::sae::Counted;
use rayon::prelude::*;

use crate::inputs::{Inputs, Loaded, Sizes};

/// Something an interpretability researcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Task {
    /// f32 products of the encoder's shapes by number of rows; the last is the rate
    Product,
    /// Maxima of every direction of both SAEs over stories
    Index,
    /// The same with token counts, histograms and top examples
    Tables,
    /// Each of 16 directions of the last SAE ablated before the answer
    AblateLast,
    /// The same for the first SAE
    AblateFirst,
    /// Each of 4 directions of the first SAE ablated at every position
    AblateEverywhere,
    /// Five directions of the last SAE ablated together; log-probability, logit and rank of the answer
    Joint,
    /// Every active direction of the first SAE ablated at every position, for the strongest of the last
    Cooccurrence,
    /// Who writes the answer's logit
    LogitAttribution,
    /// Who drives a direction of the last SAE
    FeatureAttribution,
    /// Five losses of the answer: unchanged, mean, zero, directions ablated, reconstruction
    LossRecovered,
    /// The derivative of the answer's log-probability by the first block's neurons, at every position
    Gradient,
    /// What ablating each of 4 directions of the first SAE at every position does to all directions of the last
    EdgesCausal,
    /// What gradients say all directions of the first SAE add to each of 4 of the last
    EdgesAttribution,
    /// The pairs of directions with the highest cosine
    Cosine,
}

/// One result: name, shape, numbers.
pub(super) type Output = (String, Vec<usize>, Vec<f32>);

/// Units done, and what was found.
type Found = (usize, Vec<Output>);

/// What a task did.
pub(super) struct Done {
    /// Units and their seconds; several of a task that is done in several sizes.
    pub(super) timed: Vec<(usize, f64)>,
    pub(super) outputs: Vec<Output>,
}

/// Single directions of the ablation tables, and of the one at every position.
const SINGLE: usize = 16;
const EVERYWHERE: usize = 4;
const COSINE_PAIRS: usize = 10;
/// Rows of the products; the rate is measured on the last.
const PRODUCT_ROWS: [usize; 6] = [1, 4, 16, 64, 256, 2048];

impl Task {
    pub(super) const ALL: [Task; 15] = [
        Task::Product,
        Task::Index,
        Task::Tables,
        Task::AblateLast,
        Task::AblateFirst,
        Task::AblateEverywhere,
        Task::Joint,
        Task::Cooccurrence,
        Task::LogitAttribution,
        Task::FeatureAttribution,
        Task::LossRecovered,
        Task::Gradient,
        Task::EdgesCausal,
        Task::EdgesAttribution,
        Task::Cosine,
    ];

    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What seconds are given per.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Task::Product => "row",
            Task::Index | Task::Tables => "token",
            Task::AblateLast
            | Task::AblateFirst
            | Task::AblateEverywhere
            | Task::EdgesCausal
            | Task::EdgesAttribution => "prompt × direction",
            Task::Cooccurrence => "position × direction",
            Task::Joint | Task::LogitAttribution | Task::FeatureAttribution | Task::LossRecovered | Task::Gradient => {
                "prompt"
            }
            Task::Cosine => "scan",
        }
    }

    /// How many stories, prompts or (co-occurrence in the notebook) pairs each tool takes: few where it is slow.
    pub(super) fn units(self, sizes: &Sizes) -> BTreeMap<String, usize> {
        let (stories, prompts) = (sizes.stories, sizes.prompts);
        let [notebook, batched, directrix] = match self {
            Task::Product | Task::Cosine => [1, 1, 1],
            Task::Index => [4, stories, stories],
            Task::Tables => [2, stories, stories],
            Task::AblateLast | Task::AblateFirst => [1, 20, prompts],
            Task::AblateEverywhere => [1, 2, 10],
            Task::EdgesCausal | Task::EdgesAttribution => [1, 4, 8],
            Task::Joint => [8, 64, prompts],
            // Means over prompts, which can be compared only over the same ones.
            Task::LogitAttribution | Task::FeatureAttribution => [8, prompts, prompts],
            Task::Cooccurrence => [16, 1, 8],
            Task::LossRecovered => [4, 32, prompts],
            Task::Gradient => [4, 32, 64],
        };
        let most = if matches!(self, Task::Index | Task::Tables) { stories } else { prompts.max(16) };
        let of = |(tool, n): (&str, usize)| (tool.to_owned(), n.min(most));
        [("notebook", notebook), ("batched", batched), ("directrix", directrix)].into_iter().map(of).collect()
    }

    /// Does the task; `scratch` is a folder that does not exist.
    pub(super) fn run(self, inputs: &Inputs, scratch: &Path) -> anyhow::Result<Done> {
        let units = inputs.units(self);
        let of = |rows: &[Vec<u32>]| Prompts::from_rows(&rows[..units.min(rows.len())]);
        let (stories, prompts) = (of(&inputs.stories), of(&inputs.prompts));
        let timed = |task: &dyn Fn(&Loaded) -> anyhow::Result<Found>| {
            let loaded = inputs.loaded()?;
            let start = Instant::now();
            let (units, outputs) = task(loaded)?;
            Ok(Done { timed: vec![(units, start.elapsed().as_secs_f64())], outputs })
        };
        match self {
            Task::Product => Ok(Done { timed: products(&inputs.sizes), outputs: Vec::new() }),
            Task::Index => timed(&|loaded| index(inputs, loaded, &stories, scratch, false)),
            Task::Tables => timed(&|loaded| index(inputs, loaded, &stories, scratch, true)),
            Task::AblateLast => timed(&|loaded| single(inputs, loaded, 1, &prompts)),
            Task::AblateFirst => timed(&|loaded| single(inputs, loaded, 0, &prompts)),
            Task::AblateEverywhere => timed(&|loaded| everywhere(inputs, loaded, &prompts)),
            Task::Joint => timed(&|loaded| joint(inputs, loaded, &prompts)),
            Task::Cooccurrence => timed(&|loaded| cooccurrence(inputs, loaded, &prompts)),
            Task::LogitAttribution => timed(&|loaded| logit_attribution(loaded, &prompts)),
            Task::FeatureAttribution => timed(&|loaded| feature_attribution(inputs, loaded, &prompts)),
            Task::LossRecovered => timed(&|loaded| loss_recovered(inputs, loaded, &prompts)),
            Task::Gradient => timed(&|loaded| gradient(loaded, &prompts)),
            Task::EdgesCausal => timed(&|loaded| edges_causal(inputs, loaded, &prompts)),
            Task::EdgesAttribution => timed(&|loaded| edges_attribution(inputs, loaded, &prompts)),
            Task::Cosine => timed(&cosine),
        }
    }

    /// The arithmetic that no way of doing `units` of the task avoids, in floating-point operations: two for each
    /// multiply-add. Attention's own products, LayerNorm, sparse decoding and other things below a hundredth of the rest
    /// are left out.
    pub(super) fn flop(self, inputs: &Inputs, units: usize) -> f64 {
        let (work, units) = (Work::of(&inputs.sizes), units as f64);
        let prompts = |directions: usize| units / directions as f64;
        match self {
            Task::Product => units * work.product,
            Task::Index | Task::Tables => units * work.index(),
            Task::AblateLast => prompts(SINGLE) * (work.answer() + work.unembed) + units * work.unembed,
            Task::AblateFirst => {
                prompts(SINGLE) * (work.answer() + work.unembed) + units * (work.later() + work.unembed)
            }
            Task::AblateEverywhere => {
                let unchanged = prompts(EVERYWHERE) * (work.layers * work.layer + work.unembed);
                work.before * (unchanged + units * (work.later() + work.unembed))
            }
            Task::Joint => units * (work.answer() + 2.0 * work.unembed),
            Task::Cooccurrence => {
                let prompts = inputs.units(self).min(inputs.prompts.len());
                let positions = prompts * inputs.sizes.prompt;
                positions as f64 * work.index() + units * (work.later() - work.mlp_out)
            }
            Task::LogitAttribution | Task::FeatureAttribution => units * (work.answer() + work.layers * work.heads),
            Task::LossRecovered => units * (work.answer() + work.encode + 5.0 * work.unembed),
            // The way back takes the products of the way there, but for those before the first block's neurons.
            Task::Gradient => {
                let there = work.answer() + work.unembed;
                let before = work.layer - work.mlp_out;
                units * (2.0 * there - work.before * before)
            }
            Task::EdgesCausal => {
                let positions = inputs.sizes.prompt as f64;
                positions * (prompts(EVERYWHERE) * work.index() + units * (work.later() - work.mlp_out))
            }
            // Of the first SAE all directions are wanted, of the last a few.
            Task::EdgesAttribution => {
                let positions = inputs.sizes.prompt as f64;
                let there = work.index() - work.encode;
                positions * (prompts(EVERYWHERE) * there + units * (work.later() - work.mlp_out))
            }
            Task::Cosine => units * work.cosine,
        }
    }
}

/// Floating-point operations of the parts.
struct Work {
    /// A row of the product that the rate is measured on.
    product: f64,
    layers: f64,
    /// A block at one position: queries, keys, values and output of attention; in and out of the MLP.
    layer: f64,
    /// Its keys and values alone.
    keys: f64,
    /// Its MLP's way out.
    mlp_out: f64,
    /// What every head writes at a position.
    heads: f64,
    unembed: f64,
    /// All directions of an SAE at one position.
    encode: f64,
    /// Positions of a prompt before the answer: what comes after them changes nothing.
    before: f64,
    cosine: f64,
}

impl Work {
    fn of(sizes: &Sizes) -> Work {
        let Sizes { d_model, d_mlp, vocabulary, directions, prompt, layers, .. } = *sizes;
        let [d, m, v, n] = [d_model, d_mlp, vocabulary, directions].map(|x| x as f64);
        Work {
            product: 2.0 * m * n,
            layers: layers as f64,
            layer: 8.0 * d * d + 4.0 * d * m,
            keys: 4.0 * d * d,
            mlp_out: 2.0 * d * m,
            heads: 2.0 * d * d,
            unembed: 2.0 * d * v,
            encode: 2.0 * m * n,
            before: prompt as f64 - 1.0,
            cosine: 4.0 * n * m * d + 2.0 * n * n * d,
        }
    }

    /// The blocks behind the first, at a position.
    fn later(&self) -> f64 {
        (self.layers - 1.0) * self.layer
    }

    /// A position up to the last block's neurons and both SAEs.
    fn index(&self) -> f64 {
        self.layers * self.layer - self.mlp_out + 2.0 * self.encode
    }

    /// A prompt up to what the unembedding reads at its last position but one: of the last block, the other positions
    /// need only keys and values.
    fn answer(&self) -> f64 {
        self.before * (self.later() + self.keys) + self.layer - self.keys
    }
}

/// Rows of each product, and the median of the seconds of five after a first.
fn products(sizes: &Sizes) -> Vec<(usize, f64)> {
    let numbers = |rows: usize, columns: usize| {
        Matrix::new((0..rows * columns).map(|i| (i % 613) as f32 / 613.0 - 0.5).collect(), rows, columns)
    };
    let a = numbers(PRODUCT_ROWS[PRODUCT_ROWS.len() - 1], sizes.d_mlp);
    let b = numbers(sizes.d_mlp, sizes.directions);
    let of_rows = |rows: usize| {
        let mut out = Matrix::zeros(rows, sizes.directions);
        let mut seconds = [0.0; 6].map(|_: f64| {
            let start = Instant::now();
            kernels::product(a.view().rows_of(0..rows), b.view(), &mut out, false);
            start.elapsed().as_secs_f64()
        });
        seconds[1..].sort_by(f64::total_cmp);
        (rows, seconds[3])
    };
    PRODUCT_ROWS.map(of_rows).to_vec()
}

fn index(inputs: &Inputs, loaded: &Loaded, stories: &Prompts, folder: &Path, tables: bool) -> anyhow::Result<Found> {
    let input = |name: &str| Input { name: name.into(), hash: name.into() };
    let identity = Identity {
        model: input("model"),
        processing: loaded.model.processing(),
        saes: vec![input("sae-0"), input("sae-1")],
        corpus: input("stories"),
        bos: true,
        column: None,
        limit: None,
        options: Options {
            count_above: inputs.tables.share,
            counted: Counted { skip_first: inputs.tables.first_position, ..Counted::default() },
            as_notebook: true,
        },
    };
    let chunk = Ok(Chunk { prompts: stories.clone(), cut: 0 });
    let chunks = std::iter::once(chunk);
    let index = index::build(&loaded.model, &loaded.saes, chunks, &identity, folder, &Watch::nobody())?;
    let mut outputs = Vec::new();
    for (i, sae) in index.saes().iter().enumerate() {
        let directions = 0..sae.directions();
        let maximum: Vec<f32> = sae.maxima().to_vec();
        outputs.push((format!("maximum.{i}"), vec![directions.len()], maximum));
        if !tables {
            continue;
        }
        let mut by_token = vec![0.0; inputs.sizes.vocabulary];
        let by_direction: Vec<f32> = directions
            .clone()
            .map(|d| {
                let counts = sae.token_counts(d)?;
                counts.iter().for_each(|of| by_token[of.token as usize] += of.count as f32);
                Ok(counts.iter().map(|of| of.count as f32).sum())
            })
            .collect::<index::Result<_>>()?;
        let bins: Vec<f32> = directions.clone().flat_map(|d| sae.histogram(d)).map(|n| *n as f32).collect();
        let k = inputs.tables.top;
        let top = |d: usize| {
            let examples = sae.top_examples(d, k)?.into_iter().map(|example| example.activation);
            Ok(examples.chain(std::iter::repeat(0.0)).take(k).collect::<Vec<_>>())
        };
        let top = directions.clone().map(top).collect::<index::Result<Vec<_>>>()?.concat();
        ensure!(bins.len() == directions.len() * inputs.tables.bins, "the histograms have other bins");
        outputs.extend([
            (format!("count_by_direction.{i}"), vec![directions.len()], by_direction),
            (format!("count_by_token.{i}"), vec![by_token.len()], by_token),
            (format!("histogram.{i}"), vec![directions.len(), inputs.tables.bins], bins),
            (format!("top.{i}"), vec![directions.len(), k], top),
        ]);
    }
    std::fs::remove_dir_all(folder)?;
    Ok((stories.positions(), outputs))
}

/// The losses before and after each trial.
fn losses(loaded: &Loaded, prompts: &Prompts, trials: &[Trial]) -> anyhow::Result<Vec<f32>> {
    let effects = circuits::effects(&loaded.model, prompts, trials, &Watch::nobody())?;
    let both = |e: &circuits::Effect| Ok([e.before.loss()? as f32, e.after.loss()? as f32]);
    Ok(effects.iter().map(both).collect::<circuits::Result<Vec<_>>>()?.concat())
}

fn single(inputs: &Inputs, loaded: &Loaded, sae: usize, prompts: &Prompts) -> anyhow::Result<Found> {
    let directions = &inputs.directions[..SINGLE];
    let sae = &loaded.saes[sae];
    let trial = |prompt, direction: &u32| Trial::answer(sae, prompts, prompt, Change::Ablate(vec![*direction]));
    let trials: Vec<Trial> = (0..prompts.len())
        .flat_map(|prompt| directions.iter().map(move |direction| trial(prompt, direction)))
        .collect::<Result<_, _>>()?;
    let losses = losses(loaded, prompts, &trials)?;
    let shape = vec![prompts.len(), SINGLE, 2];
    Ok((trials.len(), vec![("losses".into(), shape, losses)]))
}

fn everywhere(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let directions = &inputs.directions[..EVERYWHERE];
    let sae = &loaded.saes[0];
    let trial = |prompt, direction: &u32| Trial::everywhere(sae, prompts, prompt, Change::Ablate(vec![*direction]));
    let trials: Vec<Trial> = (0..prompts.len())
        .flat_map(|prompt| directions.iter().map(move |direction| trial(prompt, direction)))
        .collect::<Result<_, _>>()?;
    let losses = losses(loaded, prompts, &trials)?;
    let shape = vec![prompts.len(), EVERYWHERE, 2];
    Ok((trials.len(), vec![("losses".into(), shape, losses)]))
}

fn joint(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let change = Change::Ablate(inputs.joint.clone());
    let effects = PromptEffect::of(&loaded.model, &loaded.saes[1], prompts, &change, &Watch::nobody())?;
    let row = |e: &PromptEffect| {
        let [rank, changed] = [e.rank, e.rank_changed].map(|rank| rank as f32);
        [e.log_prob as f32, e.logit, rank, e.log_prob_changed as f32, e.logit_changed, changed]
    };
    let ranks = effects.iter().flat_map(row).collect();
    Ok((prompts.len(), vec![("ranks".into(), vec![prompts.len(), 2, 3], ranks)]))
}

fn cooccurrence(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let [first, second] = &loaded.saes;
    let options = CooccurrenceOptions { first_position: inputs.tables.first_position, above: inputs.above };
    let found = circuits::cooccurrence(&loaded.model, first, second, prompts, options, &Watch::nobody())?;
    let row = |r: &circuits::Cooccurrence| {
        let [prompt, position, first, second] = [r.prompt, r.position, r.first, r.second].map(|n| n as f32);
        [prompt, position, first, second, r.ablated, r.activation]
    };
    let rows = found.iter().flat_map(row).collect();
    Ok((found.len(), vec![("rows".into(), vec![found.len(), 6], rows)]))
}

fn logit_attribution(loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    Ok(attributed(&circuits::logit_attribution(&loaded.model, prompts, &Watch::nobody())?, prompts))
}

fn feature_attribution(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let positions: Vec<usize> = prompts.iter().map(|prompt| prompt.len() - 2).collect();
    let ([_, sae], direction) = (&loaded.saes, inputs.directions[0]);
    let (inactive, watch) = (Inactive::Zero, Watch::nobody());
    let rows =
        circuits::attribution_to_direction(&loaded.model, sae, direction, prompts, &positions, inactive, &watch)?;
    Ok(attributed(&rows, prompts))
}

fn attributed(rows: &[circuits::Component], prompts: &Prompts) -> Found {
    let means: Vec<f32> = rows.iter().map(|row| row.mean as f32).collect();
    (prompts.len(), vec![("components".into(), vec![means.len()], means)])
}

fn loss_recovered(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let [_, sae] = &loaded.saes;
    let (mean, watch) = (&loaded.site_mean, Watch::nobody());
    let found = AnswerLosses::of(&loaded.model, sae, prompts, &inputs.joint, mean, &watch)?;
    let kinds = [&found.original, &found.mean, &found.zero, &found.directions, &found.sae];
    let losses = (0..prompts.len()).flat_map(|prompt| kinds.map(|losses| losses[prompt] as f32)).collect();
    let shape = vec![prompts.len(), kinds.len()];
    Ok((prompts.len(), vec![("losses".into(), shape, losses)]))
}

/// Prompts whose derivatives are held together.
const TOGETHER: usize = 16;

fn gradient(loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let hook = HookPoint::Block(0, BlockHook::MlpPost);
    let rows: Vec<&[u32]> = prompts.iter().collect();
    let mut sums = Vec::new();
    for part in rows.chunks(TOGETHER) {
        let answer = |(prompt, tokens): (usize, &&[u32])| {
            Scalar::of(prompt, tokens.len() - 2, Quantity::LogProb(tokens[tokens.len() - 1]))
        };
        let scalars: Vec<Scalar> = part.iter().enumerate().map(answer).collect();
        let (part, watch) = (Prompts::from_rows(part), Watch::nobody());
        let gradients = loaded.model.gradients(&part, &[hook], &scalars, Frozen::default(), &watch)?;
        for scalar in 0..scalars.len() {
            let rows = gradients.of(scalar, hook);
            let mut sum = vec![0.0_f32; rows.columns()];
            (0..rows.rows()).for_each(|row| sum.iter_mut().zip(rows.row(row)).for_each(|(sum, x)| *sum += x));
            sums.extend(sum);
        }
    }
    let width = sums.len() / prompts.len();
    Ok((prompts.len(), vec![("gradients".into(), vec![prompts.len(), width], sums)]))
}

fn edges_causal(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let [first, last] = &loaded.saes;
    let trial = |prompt: usize, direction: u32| Trial {
        prompt,
        sae: first,
        positions: 0..prompts.get(prompt).len(),
        change: Change::Ablate(vec![direction]),
        look: Look::Activations { sae: last },
    };
    let directions = &inputs.directions[..EVERYWHERE];
    let trials: Vec<Trial> = (0..prompts.len())
        .flat_map(|prompt| directions.iter().map(move |direction| trial(prompt, *direction)))
        .collect();
    let effects = circuits::effects(&loaded.model, prompts, &trials, &Watch::nobody())?;
    let mut changes = vec![0.0; trials.len() * last.directions()];
    for (effect, row) in effects.iter().zip(changes.chunks_mut(last.directions())) {
        for ((direction, before), (_, after)) in effect.before.activations()?.iter().zip(effect.after.activations()?) {
            row[*direction as usize] = (after - before) as f32;
        }
    }
    let shape = vec![prompts.len(), EVERYWHERE, last.directions()];
    Ok((trials.len(), vec![("changes".into(), shape, changes)]))
}

fn edges_attribution(inputs: &Inputs, loaded: &Loaded, prompts: &Prompts) -> anyhow::Result<Found> {
    let ([first, last], directions) = (&loaded.saes, &inputs.directions[..EVERYWHERE]);
    let (reads, written) = (last.site().reads.hook, HookPoint::Block(0, BlockHook::ResidPost));
    let watch = Watch::nobody();
    let run = loaded.model.run(prompts, &Ask::capture([first.site().reads.hook, reads]), &[])?;
    let (acts, site) = (first.encode(run.captured(first.site().reads.hook))?, run.captured(reads));
    let mut scalars = Vec::new();
    for (prompt, ends) in prompts.offsets().windows(2).enumerate() {
        for &direction in directions {
            let along: Arc<[f32]> = last.encoder().row(direction as usize).into();
            let fires = (ends[0]..ends[1]).filter_map(|row| match last.activation(site.row(row), direction) {
                Ok(activation) => (activation > 0.0).then_some(Ok(row - ends[0])),
                Err(error) => Some(Err(error)),
            });
            let term = |position| Term {
                position,
                weight: 1.0,
                quantity: Quantity::Along { hook: reads, direction: along.clone() },
            };
            scalars.push(Scalar { prompt, terms: fires.map(|at| at.map(term)).collect::<Result<_, _>>()? });
        }
    }
    let gradients = loaded.model.gradients(prompts, &[written], &scalars, Frozen::default(), &watch)?;
    // What the directions that fire write, each once.
    let mut writers: Vec<u32> = (0..acts.positions()).flat_map(|row| acts.at(row).0.iter().copied()).collect();
    writers.sort_unstable();
    writers.dedup();
    let rows = first.w_dec().gather(writers.iter().map(|direction| *direction as usize));
    let writes = first.to_residual(&loaded.model, &rows)?;
    let of_scalar = |number: usize| -> Vec<f32> {
        let (gradient, start) = (gradients.of(number, written), prompts.offsets()[scalars[number].prompt]);
        let mut row = vec![0.0; first.directions()];
        for position in 0..gradient.rows() {
            let (directions, values) = acts.at(start + position);
            for (direction, value) in directions.iter().zip(values) {
                let written = writes.row(writers.binary_search(direction).expect("all that fire are writers"));
                row[*direction as usize] += (f64::from(*value) * kernels::dot(gradient.row(position), written)) as f32;
            }
        }
        row
    };
    let attributions = (0..scalars.len()).into_par_iter().flat_map_iter(of_scalar).collect();
    let shape = vec![prompts.len(), EVERYWHERE, first.directions()];
    Ok((scalars.len(), vec![("attributions".into(), shape, attributions)]))
}

fn cosine(loaded: &Loaded) -> anyhow::Result<Found> {
    let [first, second] = &loaded.saes;
    let found = circuits::cosine_pairs(&loaded.model, first, second, COSINE_PAIRS, false, &Watch::nobody())?;
    let values = found.iter().map(|pair| pair.cosine).collect();
    let pairs = found.iter().flat_map(|pair| [pair.first as f32, pair.second as f32]).collect();
    let outputs = vec![("values".into(), vec![found.len()], values), ("pairs".into(), vec![found.len(), 2], pairs)];
    Ok((1, outputs))
}
