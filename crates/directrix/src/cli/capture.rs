//! `directrix capture`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args};
use directrix::corpus::durable::Lock;
use directrix::corpus::{self, Chunk, Event, Prompts, Watch};
use directrix::kernels::{Matrix, SparseActivations};
use directrix::lab::Opened;
use directrix::model::{Ask, BlockHook, Config, HookPoint, Model, Positions, Run, batches};
use directrix::sae::Sae;
use safetensors::Dtype;
use serde_json::json;

use super::inputs::{PromptArgs, Saes, SubjectArgs, note_cut};
use super::layout::{Table, paragraph};
use super::tensor_file::{Tensor, TensorFile};
use super::terminal::{self, stdout, thousands};
use super::watch::watch;

/// Most positions of a model pass, fewer where what is captured of each is much.
const BATCH: usize = 4096;
/// Numbers that a model pass may capture.
const BATCH_NUMBERS: usize = 1 << 26;

const AFTER_HELP: &str = "\
The file (safetensors, positions of all prompts one after another):
  tokens          i64 [positions]
  offsets         i64 [prompts + 1]; prompt i is positions offsets[i] to offsets[i + 1]
  HOOK            f32 [positions, ...], named as the hook point; attn.hook_attn_scores and
                  attn.hook_pattern are [positions, heads, longest prompt], with -inf and 0
                  where nothing is seen
  logits          f32 [positions, vocabulary]
  losses          f32 [positions], of predicting the next token; NaN at the last of a prompt
  SAE.indptr      i64 [positions + 1], and
  SAE.directions  i32 [active], and
  SAE.values      f32 [active]: activations as compressed sparse rows (scipy's csr_matrix),
                  named by the SAE's folder

Examples:
  directrix capture --text 'Once upon a time' --hook blocks.1.mlp.hook_post --out a.safetensors
  directrix capture --prompts stories.txt --hook 'blocks.*.hook_resid_post' --out b.safetensors
  directrix capture --text 'Tim said' --sae tinystories-2l/sae-l1 --losses --out c.safetensors";

/// Write hook points, SAE activations, logits and losses to a file.
///
/// Runs the model on prompts and writes what is asked for to one safetensors file, for use elsewhere. Hook points have
/// TransformerLens's names; `*` stands for any characters, `all` for every hook point of the model.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("wanted").args(["hook", "logits", "losses", "sae"]).required(true).multiple(true))]
pub(crate) struct Capture {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE whose activations to write: a folder, or owner/name:folder on the hub; give it once for each SAE [default: none]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Hook points to write
    #[arg(long, value_name = "NAME", num_args = 1..)]
    hook: Vec<String>,
    /// Write the logits
    #[arg(long)]
    logits: bool,
    /// Write the loss of predicting each next token
    #[arg(long)]
    losses: bool,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

impl Capture {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let opened = self.subject.open(Saes::Named(&self.sae), self.prompts.wanted())?;
        let hooks = choose_hooks(&self.hook, opened.model.config())?;
        let chunk = self.prompts.load(&opened)?;

        let _lock = Lock::take(&self.out)?;
        let asked = Asked { model: &opened.model, saes: &opened.saes, hooks, logits: self.logits, losses: self.losses };
        let mut writer = Writer::create(&asked, &chunk.prompts, &self.out)?;
        for batch in batches(&chunk.prompts, asked.batch_positions(&chunk.prompts)) {
            if watch.is_stopped() {
                return Err(corpus::Error::Stopped.into());
            }
            let prompts = chunk.prompts.range(batch.clone());
            writer.write(&asked, &prompts, &watch)?;
            watch.tell(Event::new("capturing", batch.end as u64, "prompts").of(chunk.prompts.len() as u64));
        }
        let tensors = writer.finish(&asked)?;
        drop(watch);
        self.print(&tensors, &chunk, &opened)
    }

    fn print(&self, tensors: &[Tensor], chunk: &Chunk, opened: &Opened) -> anyhow::Result<()> {
        let Chunk { prompts, cut } = chunk;
        note_cut(*cut, opened.model.config());
        if self.json {
            return terminal::json(&json!({
                "file": self.out,
                "model": opened.wanted.model,
                "saes": opened.wanted.saes,
                "prompts": prompts.len(),
                "positions": prompts.positions(),
                "cut": cut,
                "tensors": tensors,
            }));
        }
        let mut written = Table::new(&["tensor", "type", "shape", "MB"], 3);
        for tensor in tensors {
            written.row([
                tensor.name.clone(),
                format!("{:?}", tensor.dtype).to_lowercase(),
                format!("{:?}", tensor.shape),
                format!("{:.2}", tensor.bytes as f64 / 1e6),
            ]);
        }
        let (count, positions) = (thousands(prompts.len() as u64), thousands(prompts.positions() as u64));
        let mut out = stdout();
        let about = format!("{}: {count} prompts, {positions} positions", self.out.display());
        writeln!(out, "{}\n{}", paragraph(&about, 0), written.shown())?;
        Ok(out.flush()?)
    }
}

/// What is captured.
struct Asked<'a> {
    model: &'a Model,
    saes: &'a [Sae],
    hooks: Vec<HookPoint>,
    logits: bool,
    losses: bool,
}

impl Asked<'_> {
    /// What is captured, to be written or encoded.
    fn captured(&self) -> BTreeSet<HookPoint> {
        let sites = self.saes.iter().map(|sae| sae.site().reads.hook);
        self.hooks.iter().copied().chain(sites).collect()
    }

    fn ask(&self, watch: &Watch) -> Ask {
        let ask = Ask::capture(self.captured()).watched(watch);
        let ask = if self.logits { ask.with_logits(Positions::All) } else { ask };
        if self.losses { ask.with_losses() } else { ask }
    }

    fn batch_positions(&self, prompts: &Prompts) -> usize {
        let config = self.model.config();
        let width = |hook: &HookPoint| hook.shape(config, prompts.longest()).iter().product::<usize>();
        let logits = if self.logits { config.d_vocab } else { 0 };
        let numbers = self.captured().iter().map(width).sum::<usize>() + logits;
        BATCH.min(BATCH_NUMBERS / numbers.max(1)).max(1)
    }
}

/// The file with what of it is known only at the end.
struct Writer {
    file: TensorFile,
    longest: usize,
    /// Per SAE, what is written last.
    acts: Vec<SparseActivations>,
    /// Number of the first SAE's `indptr`, and of the first hook point's tensor.
    first_sae: usize,
    first_hook: usize,
}

impl Writer {
    fn create(asked: &Asked, prompts: &Prompts, path: &std::path::Path) -> anyhow::Result<Writer> {
        let (positions, longest) = (prompts.positions(), prompts.longest());
        // Tensors of 64 bits come first, so that each begins at a multiple of its size.
        let mut tensors = vec![
            Tensor::new("tokens", Dtype::I64, vec![positions]),
            Tensor::new("offsets", Dtype::I64, vec![prompts.len() + 1]),
        ];
        let first_sae = tensors.len();
        let indptr = |sae: &Sae| Tensor::new(format!("{}.indptr", sae.short_name()), Dtype::I64, vec![positions + 1]);
        tensors.extend(asked.saes.iter().map(indptr));
        let first_hook = tensors.len();
        for hook in &asked.hooks {
            let shape = [vec![positions], hook.shape(asked.model.config(), longest)].concat();
            tensors.push(Tensor::new(hook.to_string(), Dtype::F32, shape));
        }
        if asked.logits {
            tensors.push(Tensor::new("logits", Dtype::F32, vec![positions, asked.model.config().d_vocab]));
        }
        if asked.losses {
            tensors.push(Tensor::new("losses", Dtype::F32, vec![positions]));
        }
        let later = |sae: &Sae| ["directions", "values"].map(|part| format!("{}.{part}", sae.short_name()));
        let later: Vec<String> = asked.saes.iter().flat_map(later).collect();
        let mut file = TensorFile::create(path, tensors, &later)?;
        file.append(0, &integers(prompts.tokens().iter().map(|token| *token as i64)))?;
        file.append(1, &integers(prompts.offsets().iter().map(|offset| *offset as i64)))?;
        Ok(Writer { file, longest, acts: vec![SparseActivations::default(); asked.saes.len()], first_sae, first_hook })
    }

    /// Runs the next prompts and writes what they give.
    fn write(&mut self, asked: &Asked, prompts: &Prompts, watch: &Watch) -> anyhow::Result<()> {
        let run = asked.model.run(prompts, &asked.ask(watch), &[])?;
        for (sae, acts) in asked.saes.iter().zip(&mut self.acts) {
            acts.extend(&sae.encode(run.captured(sae.site().reads.hook))?);
        }
        let mut tensor = self.first_hook;
        for &hook in &asked.hooks {
            self.write_hook(
                tensor,
                hook,
                run.captured(hook),
                asked.model.config().attention.query_heads,
                prompts.longest(),
            )?;
            tensor += 1;
        }
        if asked.logits {
            self.file.append(tensor, bytemuck::cast_slice(run.logits().data()))?;
            tensor += 1;
        }
        if asked.losses {
            self.file.append(tensor, bytemuck::cast_slice(&losses(&run, prompts)))?;
        }
        Ok(())
    }

    fn write_hook(
        &mut self,
        tensor: usize,
        hook: HookPoint,
        rows: &Matrix,
        heads: usize,
        keys: usize,
    ) -> anyhow::Result<()> {
        let unseen = match hook {
            HookPoint::Block(_, BlockHook::AttnScores) => f32::NEG_INFINITY,
            HookPoint::Block(_, BlockHook::Pattern) => 0.0,
            _ => return self.file.append(tensor, bytemuck::cast_slice(rows.data())),
        };
        // A batch has as many keys as its longest prompt, the file as many as the longest of all.
        let mut padded = vec![unseen; rows.rows() * heads * self.longest];
        for (to, from) in padded.chunks_mut(self.longest).zip(rows.data().chunks(keys)) {
            to[..keys].copy_from_slice(from);
        }
        self.file.append(tensor, bytemuck::cast_slice(&padded))
    }

    fn finish(mut self, asked: &Asked) -> anyhow::Result<Vec<Tensor>> {
        for (i, (sae, acts)) in asked.saes.iter().zip(&self.acts).enumerate() {
            self.file.append(self.first_sae + i, &integers(acts.indptr().iter().map(|offset| *offset as i64)))?;
            let (name, active) = (sae.short_name(), acts.active());
            let directions = Tensor::new(format!("{name}.directions"), Dtype::I32, vec![active]);
            self.file.append_last(directions, bytemuck::cast_slice(acts.directions()))?;
            let values = Tensor::new(format!("{name}.values"), Dtype::F32, vec![active]);
            self.file.append_last(values, bytemuck::cast_slice(acts.values()))?;
        }
        self.file.finish()
    }
}

fn integers(numbers: impl Iterator<Item = i64>) -> Vec<u8> {
    numbers.flat_map(i64::to_le_bytes).collect()
}

/// One loss per position: NaN where there is no next token.
fn losses(run: &Run, prompts: &Prompts) -> Vec<f32> {
    let mut found = run.losses().iter();
    let of_prompt = |prompt: &[u32]| {
        let mut losses: Vec<f32> = found.by_ref().take(prompt.len() - 1).copied().collect();
        losses.push(f32::NAN);
        losses
    };
    prompts.iter().flat_map(of_prompt).collect()
}

/// The hook points that match any of the patterns, in the order of the pass.
fn choose_hooks(patterns: &[String], config: &Config) -> anyhow::Result<Vec<HookPoint>> {
    let all = HookPoint::all(config);
    let matches = |pattern: &str, hook: &HookPoint| pattern == "all" || matches(pattern, &hook.to_string());
    for pattern in patterns {
        if !all.iter().any(|hook| matches(pattern, hook)) {
            let last = config.n_layers - 1;
            let names = all.iter().filter(|hook| hook.layer().is_none_or(|layer| layer == 0)).map(ToString::to_string);
            let names: Vec<String> =
                names.map(|name| name.replace("blocks.0.", &format!("blocks.0–{last}."))).collect();
            bail!("the model has no hook point `{pattern}`; it has {}", names.join(", "));
        }
    }
    Ok(all.into_iter().filter(|hook| patterns.iter().any(|pattern| matches(pattern, hook))).collect())
}

/// Whether `name` has the form of `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| (0..=name.len()).any(|i| name.is_char_boundary(i) && matches(rest, &name[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("blocks.*.mlp.hook_post", "blocks.11.mlp.hook_post"));
        assert!(matches("*hook_z", "blocks.0.attn.hook_z") && matches("*", ""));
        assert!(!matches("blocks.*.mlp", "blocks.0.mlp.hook_post") && !matches("", "a"));
    }
}
