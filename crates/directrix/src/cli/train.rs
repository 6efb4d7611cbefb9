//! `directrix train`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use directrix::corpus::durable::tidy;
use directrix::corpus::{self, Chunk, Exchanges, Measured, Prompts, Ranks, Tokenising};
use directrix::lab::{self, Opened, Wanted};
use directrix::model::Processing;
use directrix::sae::train::{Feed, Metrics, Notice, Recipe, Split, Training};
use directrix::sae::{self, train};
use serde::{Deserialize, Serialize};
use serde_json::json;
use toml::{Table, Value};

use super::failure::usage;
use super::inputs::{BosArgs, ProcessingArgs, ThreadArgs, note_model};
use super::layout::Table as Shown;
use super::numbers::{count, real, whole};
use super::ranks;
use super::terminal::{self, note, remark, stdout, thousands};
use super::training_plan;
use super::watch::{sources, watch};

const EXAMPLES: &str = "\
Examples:
  directrix train --objective batch_topk --tokens 2M
  directrix train --corpus stories.txt --site blocks.1.mlp.hook_post \\
      --objective combined_hoyer_sqrt --coefficient 1e-4,1.5e-4 --tokens 50M --out saes/l1
  directrix train --config train.toml --sweep 'objective=topk;batch_topk' \\
      --sweep 'k=16;32' --out saes/sweep
  directrix train --config train.toml --plan

Of a flag given twice the last counts: with `--tokens 50k --buffer 16k` behind it, each of these is
a first try of a minute.";

/// Train sparse autoencoders.
///
/// Runs the model over a corpus, up to the site, and trains one SAE or, with --sweep, several on the same activations. Leaves
/// folders that SAELens and every other command read, with metrics.jsonl and TensorBoard events beside. A run that was stopped
/// or killed goes on from its last checkpoint when the same command is run again, and gives the same bits as one that was
/// not. What is read and written and every option of the SAE and the run can also stand in a TOML file, under its name.
#[derive(Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Train {
    /// TOML file with options under their names; flags go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Values of one option to train an SAE with each, as NAME=VALUE;VALUE; several sweeps are combined
    #[arg(long, value_name = "NAME=VALUES")]
    sweep: Vec<String>,
    /// Fill the I-th of N parts of the --cache with the activations that this command would train on, and train nothing, so that
    /// others can fill theirs at the same time (docs/cluster.md)
    #[arg(long, value_name = "I/N", value_parser = ranks::shard)]
    fill: Option<[usize; 2]>,
    /// Take some steps, show what all of the training takes and what ranks would exchange, for these numbers of ranks [default: 1,2,8,64],
    /// and train nothing
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1,2,8,64",
        conflicts_with = "fill",
        value_parser = whole::<usize>(1..=1_000_000)
    )]
    plan: Option<Vec<usize>>,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    feed: FeedArgs,
    #[command(flatten)]
    bos: BosArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    processing: ProcessingArgs,
}

/// What is read and written.
#[derive(Args, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Given {
    /// Model: a Hugging Face folder, a .bin of llama2.c, owner/name on the hub, a name of TransformerLens, or the shipped one [default: tinystories-2l]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Corpus: a .txt, .jsonl or .parquet file, a folder of them, or owner/name:split on the hub [default: the shipped stories]
    #[arg(long, value_name = "CORPUS")]
    corpus: Option<String>,
    /// Column that holds the text or the token ids [default: text, or else tokens]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Do not train on positions that hold this token, given by its id or its text; give it once for each
    #[arg(long, value_name = "ID|TOKEN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    /// Corpus to evaluate on [default: the beginning of the corpus]
    #[arg(long, value_name = "CORPUS")]
    evaluation_corpus: Option<String>,
    /// Keep activations in this folder, and use those that are there: the model then runs over the corpus once. Other runs may
    /// use it at the same time
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Folder of the SAE, or with --sweep of the SAEs' folders [default: out/sae]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// What several processes divide: the positions of each batch, or the directions of each SAE, which none of them then holds
    /// whole: positions or directions [default: positions]
    #[arg(long, value_name = "WHAT", value_parser = split)]
    split: Option<Split>,
}

/// A [`Split`] by its name.
fn split(name: &str) -> Result<Split, String> {
    serde_json::from_value(name.into()).map_err(|_| "give positions or directions".into())
}

#[derive(Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "SAE")]
struct RecipeArgs {
    /// Hook point it reads [default: blocks.0.mlp.hook_post]
    #[arg(long, value_name = "HOOK")]
    site: Option<String>,
    /// The one head it reads, at hook points that have heads
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    head: Option<usize>,
    /// Directions per input [default: 4]
    #[arg(long, value_name = "N", value_parser = real::<f64>(..))]
    expansion: Option<f64>,
    /// l1, sqrt, pure_sqrt, hoyer_square, combined_hoyer_l1, combined_hoyer_sqrt, combined_hoyer_pure_sqrt, hoyer_d,
    /// hoyer_d_scaled_l1, topk, batch_topk, matryoshka, jumprelu or gated [default: combined_hoyer_sqrt]
    #[arg(long, value_name = "NAME")]
    objective: Option<String>,
    /// Coefficients of the objective's penalty, as many as it takes
    #[arg(long, value_name = "C,…", value_delimiter = ',', value_parser = real::<f64>(..))]
    coefficient: Option<Vec<f64>>,
    /// Whether a penalty is a sum over the batch, as in the origin, or a mean over it: sum or mean [default: sum]
    #[arg(long, value_name = "HOW")]
    penalty_over: Option<String>,
    /// Active directions per position, of topk, batch_topk and matryoshka [default: 32]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    k: Option<usize>,
    /// Prefixes of matryoshka in directions, the last all of them [default: 1/16, 1/8, 1/4, 1/2 and all]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = whole::<usize>(..))]
    widths: Option<Vec<usize>>,
    /// Width of the kernel around the thresholds of jumprelu [default: 0.05]
    #[arg(long, value_name = "X", value_parser = real::<f64>(..))]
    bandwidth: Option<f64>,
    /// First thresholds of jumprelu [default: 0.01]
    #[arg(long, value_name = "X", value_parser = real::<f64>(..))]
    threshold: Option<f64>,
    /// Weight of the auxiliary loss for dead directions of topk, batch_topk and matryoshka [default: 1/32]
    #[arg(long, value_name = "X", value_parser = real::<f64>(..))]
    aux_coefficient: Option<f64>,
    /// Dead directions the auxiliary loss may use per position [default: half the inputs]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    aux_k: Option<usize>,
    /// Adjust the coefficients until so many directions are active per position
    #[arg(long, value_name = "L0", value_parser = real::<f64>(..))]
    target_l0: Option<f64>,
    /// Learning rate [default: 0.0003]
    #[arg(long, value_name = "X", value_parser = real::<f64>(..))]
    learning_rate: Option<f64>,
    /// Adam's betas [default: 0.9,0.99]
    #[arg(long, value_name = "B,B", value_delimiter = ',', value_parser = real::<f64>(..))]
    betas: Option<Vec<f64>>,
    /// Steps over which the learning rate rises [default: 200, or the whole run if shorter]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    warm_up: Option<u64>,
    /// Steps at the end over which the learning rate falls to 0 [default: 0]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    decay: Option<u64>,
    /// Steps over which the coefficients rise [default: 0]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    coefficient_warm_up: Option<u64>,
    /// A direction is dead that fires at a smaller share of the positions [default: 0.00001]
    #[arg(long, value_name = "SHARE", value_parser = real::<f64>(..))]
    dead_below: Option<f64>,
    /// Steps at which dead directions are resampled [default: none]
    #[arg(long, value_name = "STEP,…", value_delimiter = ',', value_parser = whole::<u64>(..))]
    resample: Option<Vec<u64>>,
    /// Seed of the first weights [default: 47]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(..))]
    seed: Option<u64>,
    /// SAE to go on from instead of random weights
    #[arg(long, value_name = "SAE")]
    from: Option<String>,
}

#[derive(Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Run")]
struct FeedArgs {
    /// Positions to train on, as 500k or 50M; the corpus is read again when it ends [default: 10M]
    #[arg(long, value_name = "N", value_parser = count)]
    tokens: Option<u64>,
    /// Positions per step [default: 4096]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    batch: Option<usize>,
    /// Positions per window, BOS included; cover what will be studied [default: 256, or the model's context if shorter]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    context: Option<usize>,
    /// documents: each begins a window; packed: documents joined and cut, as in the origin [default: documents]
    #[arg(long, value_name = "HOW")]
    windows: Option<String>,
    /// Positions of shuffled activations in memory, as 128k [default: 131072]
    #[arg(long, value_name = "N", value_parser = count)]
    buffer: Option<u64>,
    /// Seed of the shuffling [default: 47]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(..))]
    shuffle_seed: Option<u64>,
    /// Steps between lines of metrics [default: 50]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    log_every: Option<u64>,
    /// Steps between evaluations; 0 for none [default: 1000]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    evaluate_every: Option<u64>,
    /// Prompts to evaluate on [default: 100]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(..))]
    evaluation_prompts: Option<usize>,
    /// Steps between checkpoints; 0 for none but when stopped [default: 1000]
    #[arg(long, value_name = "STEPS", value_parser = whole::<u64>(..))]
    checkpoint_every: Option<u64>,
}

/// Options as meant: flags before the file, the file before defaults.
struct Options {
    given: Given,
    feed: Feed,
    /// Whether the windows' length was given; else the model's context may shorten it.
    context_given: bool,
    /// Whether it was said how often to evaluate; no rank can while directions are divided.
    evaluation_given: bool,
    recipes: Vec<(String, Recipe)>,
}

impl Train {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.threads.apply()?;
        let watch = watch();
        let ranks = ranks::join()?;
        let mut options = self.options()?;
        options.feed.check()?;
        let given = &options.given;
        let opened = self.wanted(given).open_from(&sources())?;
        note_model(&opened);
        let model = &opened.model;
        if !options.context_given {
            options.feed.context = options.feed.context.min(model.config().n_ctx);
        }
        let split = given.split.unwrap_or_default();
        if ranks.is_some() && split == Split::Directions && !options.evaluation_given {
            options.feed.evaluate_every = 0;
        }
        options.feed.exclude = opened.excluded(&given.exclude)?;
        let out = given.out.clone().unwrap_or_else(|| "out/sae".into());
        check_folder(&out)?;
        // Windows cut documents, so that tokenising must not.
        let tokenising = Tokenising { max_len: usize::MAX, ..opened.tokenising() };
        let evaluation = evaluation_prompts(given, &options.feed, &opened)?;
        let documents = || -> corpus::Result<Box<dyn Iterator<Item = corpus::Result<Chunk>>>> {
            let documents = opened.corpus.documents()?;
            Ok(Box::new(corpus::prompts(opened.corpus.name(), documents, opened.tokenizer.as_ref(), tokenising)))
        };
        let Processing { fold_ln, center_writing_weights, center_unembed, fold_value_biases } = model.processing();
        let source = opened.model_source();
        let identity = json!({
            "model": source.hash,
            "processing": [fold_ln, center_writing_weights, center_unembed, fold_value_biases],
            "corpus": opened.corpus.hash()?,
            "column": given.column,
            "bos": opened.bos,
            "evaluation": evaluation_hash(given)?,
        });
        if self.fill.is_some() && ranks.is_some() {
            return Err(usage("--fill is for what mpirun did not start: its ranks fill the cache as they train"));
        }
        let trains = self.fill.is_none() && self.plan.is_none();
        if trains && train::is_complete(&out, &options.feed, &options.recipes, &identity)? {
            tidy(&out);
            note(&format!("`{}` holds trained SAEs already; nothing was done", out.display()));
            return Ok(());
        }
        let (mut latest, sources) = (Latest::new(), sources());
        let named = options.recipes.iter().filter_map(|(_, recipe)| recipe.from.clone());
        let from = named.map(|name| Ok((name.clone(), sources.sae(&name, model)?)));
        let from = from.collect::<lab::Result<BTreeMap<_, _>>>()?;
        for (name, sae) in &from {
            if let Some(step) = lab::other_weights(sae, model.processing()).first() {
                bail!(
                    "cannot go on from `{name}`: of `{step}`, the weights it was trained on and these differ; \
                     give or leave out `--no-{}`",
                    step.replace('_', "-")
                );
            }
        }
        let measured = ranks.as_deref().map(Measured::new);
        let training = Training {
            model,
            documents: &documents,
            bos: opened.bos,
            evaluation: &evaluation,
            feed: &options.feed,
            recipes: &options.recipes,
            from: &from,
            cache: given.cache.as_deref(),
            out: &out,
            model_name: opened.model_name(),
            identity: &identity,
            over: split.over(measured.as_ref().map(|ranks| ranks as &dyn Ranks)),
        };
        if let Some(shard) = self.fill {
            return Ok(train::fill(&training, shard, &watch)?);
        }
        if let Some(ranks) = &self.plan {
            drop(watch);
            return training_plan::show(&training, &opened, ranks, self.json);
        }
        let begun = Instant::now();
        train::train(&training, &watch, |notice| show(notice, &mut latest)).map_err(|error| match error {
            stopped @ sae::Error::Stopped => {
                anyhow::Error::from(stopped).context("stopped; run the same command again to go on")
            }
            error => error.into(),
        })?;
        drop(watch);
        if let Some(ranks) = &measured {
            note_exchanges(ranks, begun.elapsed());
        }
        if !ranks::is_first() {
            return Ok(());
        }
        if self.json {
            let site = |name: &str| options.recipes.iter().find(|(of, _)| of == name).map(|(_, recipe)| &recipe.site);
            let latest = latest.iter().map(|(name, (_, metrics))| (out.join(name), site(name), metrics));
            let row = |(folder, site, metrics)| json!({ "sae": folder, "model": source.name, "site": site, "metrics": metrics });
            return terminal::json(&latest.map(row).collect::<Vec<_>>());
        }
        print(&out, &options.recipes, &latest)
    }

    fn wanted(&self, given: &Given) -> Wanted {
        let Given { model, corpus, column, .. } = given.clone();
        let (processing, bos, others) = (self.processing.meant(), self.bos.meant(), Wanted::default());
        let (model, corpus) = (model.unwrap_or(others.model), corpus.unwrap_or(others.corpus));
        Wanted { model, processing, saes: Vec::new(), corpus, column, limit: None, bos }
    }

    fn options(&self) -> anyhow::Result<Options> {
        let mut all = match &self.config {
            Some(file) => {
                let text =
                    std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
                text.parse::<Table>().with_context(|| format!("`{}` is not TOML", file.display()))?
            }
            None => Table::new(),
        };
        let mut sweep = match all.remove("sweep") {
            Some(Value::Table(sweep)) => sweep,
            Some(_) => return Err(usage("sweep: give a table of option names with a list of values for each")),
            None => Table::new(),
        };
        for part in [Table::try_from(&self.given)?, Table::try_from(&self.recipe)?, Table::try_from(&self.feed)?] {
            all.extend(part);
        }
        for name in ["tokens", "buffer"] {
            if let Some(Value::String(given)) = all.get(name) {
                let number = count(given).map_err(|instead| usage(format!("{name}: it is {given}; {instead}")))?;
                all.insert(name.into(), Value::Integer(number as i64));
            }
        }
        for text in &self.sweep {
            let (name, values) =
                text.split_once('=').ok_or_else(|| usage(format!("--sweep {text}: give NAME=VALUE;VALUE")))?;
            sweep.insert(name.into(), Value::Array(values.split(';').map(|value| parse(name, value)).collect()));
        }
        let (feed_names, given_names) = (names(&Feed::default())?, GIVEN);
        let (mut given, mut feed, mut recipe) = (Table::new(), Table::new(), Table::new());
        for (name, value) in all {
            let part = match name.as_str() {
                known if given_names.contains(&known) => &mut given,
                known if feed_names.iter().any(|name| name == known) => &mut feed,
                _ => &mut recipe,
            };
            part.insert(name, value);
        }
        if let Some(name) = sweep.keys().find(|name| given_names.contains(&name.as_str()) || feed_names.contains(name))
        {
            return Err(usage(format!("sweep: `{name}` is shared by all SAEs of a run; sweep an option of the SAE")));
        }
        let (context_given, evaluation_given) = (feed.contains_key("context"), feed.contains_key("evaluate-every"));
        let feed = Feed::deserialize(Value::Table(feed)).map_err(bad_option)?;
        let mut recipes = Vec::new();
        for (name, values) in combinations(&sweep)? {
            let mut recipe = recipe.clone();
            recipe.extend(values);
            let warm_up_given = recipe.contains_key("warm-up");
            let mut recipe = Recipe::deserialize(Value::Table(recipe)).map_err(bad_option)?;
            if !warm_up_given {
                recipe.warm_up = recipe.warm_up.min(feed.steps().saturating_sub(recipe.decay));
            }
            recipes.push((name, recipe));
        }
        let mut unique: Vec<_> = recipes.iter().map(|(name, _)| name).collect();
        unique.sort_unstable();
        if unique.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(usage("sweep: two of its SAEs would have the same folder; give each value once"));
        }
        Ok(Options {
            given: Given::deserialize(Value::Table(given)).map_err(bad_option)?,
            feed,
            context_given,
            evaluation_given,
            recipes,
        })
    }
}

/// Names of the options in [`Given`].
const GIVEN: [&str; 8] = ["model", "corpus", "column", "exclude", "evaluation-corpus", "cache", "out", "split"];

fn names(of: &impl Serialize) -> anyhow::Result<Vec<String>> {
    Ok(Table::try_from(of)?.keys().cloned().collect())
}

fn bad_option(error: toml::de::Error) -> anyhow::Error {
    usage(format!("options: {}", error.to_string().trim().replace('\n', " ")))
}

/// A swept option's value as typed in a flag: a list for options that are lists, else a number or a name.
fn parse(name: &str, text: &str) -> Value {
    let text = text.trim();
    let list = matches!(name, "coefficient" | "widths" | "betas" | "resample");
    let toml = if list { format!("x = [{text}]") } else { format!("x = {text}") };
    let parsed = toml.parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    parsed.unwrap_or_else(|| Value::String(text.into()))
}

/// Every combination of the swept values, with a folder name that tells them apart.
fn combinations(sweep: &Table) -> anyhow::Result<Vec<(String, Table)>> {
    let mut all = vec![(String::new(), Table::new())];
    for (option, values) in sweep {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(usage(format!("sweep: give a list of values for `{option}`")));
        };
        let with = |(name, table): &(String, Table), value: &Value| {
            let text: String = value.to_string().chars().filter(|c| !matches!(c, '[' | ']' | '"' | ' ')).collect();
            let text: String =
                text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
            let part = format!("{option}-{text}");
            let name = if name.is_empty() { part } else { format!("{name}_{part}") };
            let mut table = table.clone();
            table.insert(option.clone(), value.clone());
            (name, table)
        };
        all = all.iter().flat_map(|one| values.iter().map(move |value| with(one, value))).collect();
    }
    Ok(all)
}

/// Says what ranks exchanged in so much time.
fn note_exchanges(ranks: &Measured, time: Duration) {
    let Exchanges { bytes, exchanging, waiting } = ranks.take();
    let (megabytes, seconds) = (bytes as f64 / 1e6, time.as_secs_f64());
    let [exchanging, waiting] = [exchanging, waiting].map(|part| 100.0 * part.as_secs_f64() / seconds);
    note(&format!(
        "the other ranks gave this one {megabytes:.1} MB; exchanges took {exchanging:.2} %, waiting for other ranks {waiting:.1} % of {seconds:.1} s"
    ));
}

fn check_folder(out: &Path) -> anyhow::Result<()> {
    if out.exists() && !out.is_dir() {
        bail!("`{}` is a file; name a folder with --out", out.display());
    }
    Ok(())
}

fn evaluation_prompts(given: &Given, feed: &Feed, opened: &Opened) -> anyhow::Result<Prompts> {
    let sources = sources();
    let other =
        given.evaluation_corpus.as_ref().map(|name| sources.corpus(name, given.column.as_deref())).transpose()?;
    let corpus = other.as_ref().unwrap_or(&opened.corpus);
    let documents = corpus.documents()?.take(feed.evaluation_prompts);
    if feed.evaluation_prompts == 0 || feed.evaluate_every == 0 {
        return Ok(Prompts::new());
    }
    let tokenising = Tokenising { max_len: feed.context, ..opened.tokenising() };
    Ok(corpus::join(corpus::prompts(corpus.name(), documents, opened.tokenizer.as_ref(), tokenising))?.prompts)
}

/// The hash of the corpus that is evaluated on, if it is one of its own.
fn evaluation_hash(given: &Given) -> anyhow::Result<Option<String>> {
    let corpus =
        given.evaluation_corpus.as_ref().map(|name| sources().corpus(name, given.column.as_deref())).transpose()?;
    Ok(corpus.map(|corpus| corpus.hash()).transpose()?)
}

/// Directions and latest numbers of each SAE.
type Latest = BTreeMap<String, (usize, Metrics)>;

fn show(notice: Notice, latest: &mut Latest) {
    match notice {
        Notice::Metrics { name, directions, metrics } => {
            latest.insert(name.to_owned(), (directions, metrics.clone()));
        }
        Notice::Alarm { name: "", message } => remark(&format!("alarm: {message}")),
        Notice::Alarm { name, message } => remark(&format!("alarm: {name}: {message}")),
        Notice::Resumed { step } => note(&format!("going on after step {}", thousands(step))),
        Notice::CheckpointFailed { error } => {
            remark(&format!("alarm: no checkpoint was written, the last one stays: {error}"));
        }
    }
}

fn print(out: &Path, recipes: &[(String, Recipe)], latest: &Latest) -> anyhow::Result<()> {
    let header = ["SAE", "site", "directions", "dead", "L0", "explained variance", "loss recovered"];
    let mut saes = Shown::new(&header, 2).keep(&[0, 4, 6, 5, 2]);
    for (name, (directions, metrics)) in latest {
        let or_batch =
            |evaluated: Option<f64>, batch: f64, digits: usize| format!("{:.digits$}", evaluated.unwrap_or(batch));
        let site = recipes.iter().find(|(of, _)| of == name).map(|(_, Recipe { site, head, .. })| match head {
            Some(head) => format!("head {head} of {site}"),
            None => site.clone(),
        });
        saes.row([
            folder_name(&out.join(name)),
            site.unwrap_or_default(),
            thousands(*directions as u64),
            thousands(metrics.dead as u64),
            or_batch(metrics.evaluation_l0, metrics.mean.l0, 1),
            or_batch(metrics.evaluation_explained_variance, metrics.mean.explained_variance, 3),
            metrics.loss_recovered.map_or_else(String::new, |recovered| format!("{recovered:.3}")),
        ]);
    }
    let mut stdout = stdout();
    writeln!(stdout, "{}\n{}", out.display(), saes.shown())?;
    Ok(stdout.flush()?)
}

fn folder_name(folder: &Path) -> String {
    folder.components().next_back().map_or_else(String::new, |name| name.as_os_str().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{combinations, parse};

    #[test]
    fn a_sweep_is_every_combination_each_with_a_folder() {
        let sweep = [("coefficient", "1e-4,2e-4;0.5"), ("objective", "topk;l1")].map(|(name, values)| {
            (name.to_owned(), toml::Value::Array(values.split(';').map(|v| parse(name, v)).collect()))
        });
        let all = combinations(&sweep.into_iter().collect()).unwrap();
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0], "coefficient-0.0001-0.0002_objective-topk");
        assert_eq!(all[3].1["coefficient"].as_array().unwrap()[0].as_float(), Some(0.5));
    }
}
