//! `directrix evaluate`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use directrix::circuits::Table;
use directrix::corpus::durable::Lock;
use directrix::corpus::{self, Chunk};
use directrix::lab::Opened;
use directrix::sae::{self, AtPositions, DensityBin, DirectionEvaluation, Evaluation, EvaluationOptions};
use directrix::study::{Figure, Series, Shape, write_figure, write_table};
use serde::Serialize;
use serde_json::json;

use super::inputs::{CorpusArgs, CountedArgs, Saes, SubjectArgs, note_cut};
use super::layout::{Table as Shown, paragraph};
use super::numbers::real;
use super::terminal::{self, stdout, thousands};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix evaluate
  directrix evaluate --corpus held-out.txt --limit 500 --out out/evaluation
  directrix evaluate --model pythia-70m --sae saes/layer-3 --sae saes/layer-4 \\
      --corpus pile.parquet";

/// Measure how good SAEs are: what they reconstruct, and what the model loses by it.
///
/// Runs the model over a corpus, once as it is, and from each SAE's hook point on with the values there replaced by their
/// reconstruction and by zero. All SAEs are evaluated in the same pass.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub; give it once for each SAE [default: all of the model,
    /// tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    #[command(flatten)]
    corpus: CorpusArgs,
    #[command(flatten)]
    counted: CountedArgs,
    /// Call a direction dense that is active at more than this share of positions
    #[arg(long, value_name = "SHARE", default_value_t = EvaluationOptions::default().dense_above, value_parser = real::<f64>(0.0..=1.0))]
    dense_above: f64,
    /// Call a direction rare that is active at less than this share of positions
    #[arg(long, value_name = "SHARE", default_value_t = EvaluationOptions::default().rare_below, value_parser = real::<f64>(0.0..=1.0))]
    rare_below: f64,
    /// Also write tables (CSV, Parquet) and pictures (SVG) to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print everything but the single directions as JSON
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let lock = self.out.as_deref().map(Lock::take).transpose()?;
        if let (Some(lock), Some(folder)) = (&lock, &self.out) {
            lock.clean(folder)?;
        }
        let opened = self.subject.open(Saes::All(&self.sae), self.corpus.wanted())?;
        let Chunk { prompts, cut } = opened.prompts()?;
        let options = EvaluationOptions {
            counted: self.counted.meant(&opened)?,
            dense_above: self.dense_above,
            rare_below: self.rare_below,
            ..EvaluationOptions::default()
        };
        let evaluations = match sae::evaluate(&opened.model, &opened.saes, &prompts, &options, &watch) {
            Err(sae::Error::Stopped) => return Err(corpus::Error::Stopped.into()),
            evaluations => evaluations?,
        };
        drop(watch);
        note_cut(cut, opened.model.config());
        if let Some(folder) = &self.out {
            write(folder, &evaluations, &opened)?;
        }
        if self.json {
            return terminal::json(&json!({
                "model": opened.wanted.model,
                "corpus": opened.wanted.corpus,
                "cut": cut,
                "counted": options.counted,
                "saes": evaluations,
            }));
        }
        let left_out = options.counted.left_out(|token| format!("{:?}", opened.token(token)));
        self.print(&evaluations, &left_out)
    }

    fn print(&self, evaluations: &[Evaluation], left_out: &str) -> anyhow::Result<()> {
        let Some(first) = evaluations.first() else { return Ok(()) };
        let mut out = stdout();
        let about = format!(
            "{} prompts, {} positions, left out {left_out}; loss {:.4} nats (mean over the {} predicted tokens)",
            thousands(first.prompts as u64),
            thousands(first.positions),
            first.token_mean.clean,
            thousands(first.predicted_tokens),
        );
        writeln!(out, "{}", paragraph(&about, 0))?;
        let sections = [
            ("Reconstruction, over positions", reconstruction(evaluations)),
            ("Predictions with the site replaced at these positions", predictions(evaluations)),
            ("Explained variance from each position up to the next", by_position(evaluations)),
            (&self.classes(), directions(evaluations)),
        ];
        for (caption, shown) in sections {
            writeln!(out, "\n{}\n{}", paragraph(caption, 0), shown.shown())?;
        }
        Ok(out.flush()?)
    }

    fn classes(&self) -> String {
        format!(
            "Directions: dense at over {} of positions, rare at under {}; the next three are of the rare",
            self.dense_above, self.rare_below
        )
    }
}

fn reconstruction(evaluations: &[Evaluation]) -> Shown {
    let header = ["SAE", "hook point", "L0", "MSE", "explained variance", "cosine", "norm ratio"];
    let mut shown = Shown::new(&header, 2);
    for e in evaluations {
        shown.row([
            e.name.clone(),
            e.head.map_or_else(|| e.hook.to_string(), |head| format!("{} {head}", e.hook)),
            format!("{:.1}", e.l0),
            format!("{:.4}", e.mse),
            format!("{:.3}", e.explained_variance),
            format!("{:.3}", e.cosine),
            format!("{:.3}", e.norm_ratio),
        ]);
    }
    shown
}

fn predictions(evaluations: &[Evaluation]) -> Shown {
    let header = ["SAE", "loss recovered", "by prompt", "loss", "loss zeroed", "KL", "KL zeroed"];
    let mut shown = Shown::new(&header, 1);
    for e in evaluations {
        let recovered = |ratio: sae::statistics::Ratio| {
            let interval = ratio.half_width.is_finite().then(|| format!(" ± {:.4}", ratio.half_width));
            format!("{:.4}{}", ratio.value, interval.unwrap_or_default())
        };
        shown.row([
            e.name.clone(),
            recovered(e.token_mean.recovered),
            recovered(e.prompt_mean.recovered),
            format!("{:.4}", e.token_mean.reconstructed),
            format!("{:.4}", e.token_mean.zeroed),
            format!("{:.4}", e.kl_reconstructed),
            format!("{:.4}", e.kl_zeroed),
        ]);
    }
    shown
}

fn by_position(evaluations: &[Evaluation]) -> Shown {
    let first = evaluations.iter().flat_map(|e| e.by_position.iter().map(|at| at.first.to_string()));
    let header: Vec<String> = ["SAE".into()].into_iter().chain(first.take(evaluations[0].by_position.len())).collect();
    let mut shown = Shown::new(&header.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    for e in evaluations {
        let explained = e.by_position.iter().map(|at| format!("{:.3}", at.explained_variance));
        shown.row([e.name.clone()].into_iter().chain(explained));
    }
    shown
}

fn directions(evaluations: &[Evaluation]) -> Shown {
    let header =
        ["SAE", "directions", "dead", "dense", "rare", "aligned", "shared", "one token", "enc·dec", "kurtosis"];
    let mut shown = Shown::new(&header, 1);
    for e in evaluations {
        let counts =
            [e.directions, e.dead, e.dense, e.rare, e.rare_aligned, e.rare_shared_prompts, e.rare_single_token]
                .map(|n| thousands(n as u64));
        let weights = [
            format!("{:.3}", e.encoder_decoder_cosine.mean),
            e.logit_kurtosis.map_or_else(String::new, |kurtosis| format!("{:.2}", kurtosis.mean)),
        ];
        shown.row([e.name.clone()].into_iter().chain(counts).chain(weights));
    }
    shown
}

/// A row with the SAE it is of.
#[derive(Serialize)]
struct Of<'a, R> {
    sae: &'a str,
    #[serde(flatten)]
    row: R,
}

/// The single numbers of an evaluation, in one row.
#[derive(Serialize)]
struct Summary {
    hook: String,
    head: Option<usize>,
    directions: usize,
    prompts: usize,
    positions: u64,
    predicted_tokens: u64,
    l0: f64,
    mse: f64,
    explained_variance: f64,
    cosine: f64,
    norm_ratio: f64,
    loss_clean: f64,
    loss_reconstructed: f64,
    loss_zeroed: f64,
    loss_recovered: f64,
    loss_recovered_half_width: f64,
    loss_clean_prompt_mean: f64,
    loss_reconstructed_prompt_mean: f64,
    loss_zeroed_prompt_mean: f64,
    loss_recovered_prompt_mean: f64,
    loss_recovered_prompt_mean_half_width: f64,
    kl_reconstructed: f64,
    kl_zeroed: f64,
    dead: usize,
    dense: usize,
    rare: usize,
    rare_aligned: usize,
    rare_shared_prompts: usize,
    rare_single_token: usize,
    encoder_decoder_cosine_mean: f64,
    logit_kurtosis_mean: Option<f64>,
}

impl Summary {
    fn of(e: &Evaluation) -> Summary {
        Summary {
            hook: e.hook.to_string(),
            head: e.head,
            directions: e.directions,
            prompts: e.prompts,
            positions: e.positions,
            predicted_tokens: e.predicted_tokens,
            l0: e.l0,
            mse: e.mse,
            explained_variance: e.explained_variance,
            cosine: e.cosine,
            norm_ratio: e.norm_ratio,
            loss_clean: e.token_mean.clean,
            loss_reconstructed: e.token_mean.reconstructed,
            loss_zeroed: e.token_mean.zeroed,
            loss_recovered: e.token_mean.recovered.value,
            loss_recovered_half_width: e.token_mean.recovered.half_width,
            loss_clean_prompt_mean: e.prompt_mean.clean,
            loss_reconstructed_prompt_mean: e.prompt_mean.reconstructed,
            loss_zeroed_prompt_mean: e.prompt_mean.zeroed,
            loss_recovered_prompt_mean: e.prompt_mean.recovered.value,
            loss_recovered_prompt_mean_half_width: e.prompt_mean.recovered.half_width,
            kl_reconstructed: e.kl_reconstructed,
            kl_zeroed: e.kl_zeroed,
            dead: e.dead,
            dense: e.dense,
            rare: e.rare,
            rare_aligned: e.rare_aligned,
            rare_shared_prompts: e.rare_shared_prompts,
            rare_single_token: e.rare_single_token,
            encoder_decoder_cosine_mean: e.encoder_decoder_cosine.mean,
            logit_kurtosis_mean: e.logit_kurtosis.map(|kurtosis| kurtosis.mean),
        }
    }
}

/// A direction, its token as text.
#[derive(Serialize)]
struct Direction {
    #[serde(flatten)]
    found: DirectionEvaluation,
    top_token_text: String,
}

/// Writes tables, each over all SAEs, and pictures.
fn write(folder: &Path, evaluations: &[Evaluation], opened: &Opened) -> anyhow::Result<()> {
    let summary = rows(evaluations, |e| [Summary::of(e)]);
    let caption =
        "One row per SAE; losses and KL in nats, means over predicted tokens or, where so named, over prompts.";
    write_table(folder, &Table::from_rows("summary", caption, &summary))?;
    let direction = |found: &DirectionEvaluation| Direction {
        found: *found,
        top_token_text: found.top_token.map_or_else(String::new, |token| opened.token(token)),
    };
    let directions = rows(evaluations, |e| e.by_direction.iter().map(direction).collect::<Vec<_>>());
    let caption = "One row per SAE and direction; densities are shares of positions.";
    write_table(folder, &Table::from_rows("directions", caption, &directions))?;
    let positions: Vec<Of<'_, AtPositions>> = rows(evaluations, |e| e.by_position.clone());
    let caption = "One row per SAE and interval of positions in the prompt; means over its positions.";
    write_table(folder, &Table::from_rows("positions", caption, &positions))?;
    let densities: Vec<Of<'_, DensityBin>> = rows(evaluations, |e| e.densities.clone());
    let caption = "Number of directions by the logarithm (base 10) of their density, the dead left out.";
    write_table(folder, &Table::from_rows("densities", caption, &densities))?;
    write_figure(folder, &front(evaluations))?;
    write_figure(folder, &positions_figure(evaluations))?;
    Ok(())
}

/// The rows of every evaluation, each with its SAE.
fn rows<R, I: IntoIterator<Item = R>>(evaluations: &[Evaluation], of: impl Fn(&Evaluation) -> I) -> Vec<Of<'_, R>> {
    evaluations.iter().flat_map(|e| of(e).into_iter().map(|row| Of { sae: e.name.as_str(), row })).collect()
}

fn front(evaluations: &[Evaluation]) -> Figure {
    Figure {
        links: Vec::new(),
        name: "front".into(),
        title: "Sparsity and loss recovered".into(),
        x: "active directions per position (L0)".into(),
        y: "loss recovered".into(),
        caption: "One point per SAE: L0, mean over positions, and (zeroed − reconstructed) / (zeroed − clean) of the losses' means over predicted tokens.".into(),
        shape: Shape::Scatter {
            x: evaluations.iter().map(|e| e.l0).collect(),
            y: evaluations.iter().map(|e| e.token_mean.recovered.value).collect(),
            hover: evaluations.iter().map(|e| e.name.clone()).collect(),
        },
    }
}

fn positions_figure(evaluations: &[Evaluation]) -> Figure {
    let label = |at: &AtPositions| match (at.first, at.last) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}–{last}"),
    };
    let series = |e: &Evaluation| Series {
        name: e.name.clone(),
        values: e.by_position.iter().map(|at| at.explained_variance).collect(),
    };
    Figure {
        links: Vec::new(),
        name: "positions".into(),
        title: "Explained variance by position".into(),
        x: "position in the prompt".into(),
        y: "explained variance".into(),
        caption: "1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over the positions of each interval, the mean over all positions."
            .into(),
        shape: Shape::Lines {
            labels: evaluations.first().map(|e| e.by_position.iter().map(label).collect()).unwrap_or_default(),
            series: evaluations.iter().map(series).collect(),
        },
    }
}
