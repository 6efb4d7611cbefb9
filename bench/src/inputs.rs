//! What the benchmark runs on: a model and SAEs of random weights in the sizes asked for, and prompts.
//!
//! They are made of a seed, as files that other tools read too: a Hugging Face folder, two SAELens folders, `inputs.json`.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use directrix::corpus::{self, Prompts, Tokenising};
use directrix::kernels::{self, Matrix};
use directrix::lab;
use directrix::model::{Ask, BlockHook, Folder, HookPoint, Model, Processing, batches};
use directrix::sae::Sae;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::tasks::Task;

const INPUTS: &str = "inputs.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// SAEs: on the neurons of the first and of the last block.
const SAES: usize = 2;
/// Positions that the encoders' biases are chosen on.
const SAMPLE: usize = 4096;
/// Directions that are active nearly everywhere, so that ablating them does something.
const ALWAYS: usize = 16;
/// The model's context.
const CONTEXT: usize = 512;
/// Numbers drawn from one seed.
const DRAWN: usize = 1 << 16;

/// Dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes {
    pub(super) d_model: usize,
    pub(super) d_mlp: usize,
    pub(super) heads: usize,
    pub(super) vocabulary: usize,
    pub(super) directions: usize,
    /// Active directions per position, about.
    pub(super) l0: usize,
    /// Tokens of a prompt, the answer included.
    pub(super) prompt: usize,
    pub(super) prompts: usize,
    pub(super) stories: usize,
    pub(super) layers: usize,
}

impl Sizes {
    /// The original notebook's.
    const ORIGIN: Sizes = Sizes {
        d_model: 1024,
        d_mlp: 4096,
        heads: 16,
        vocabulary: 50_257,
        directions: 16_384,
        l0: 50,
        prompt: 101,
        prompts: 200,
        stories: 32,
        layers: 2,
    };
    /// For checking that tools agree.
    const TOY: Sizes = Sizes {
        d_model: 64,
        d_mlp: 256,
        heads: 4,
        vocabulary: 500,
        directions: 512,
        l0: 24,
        prompt: 24,
        prompts: 8,
        stories: 12,
        layers: 2,
    };
}

impl FromStr for Sizes {
    type Err = String;

    /// `origin` or `toy`, and what differs from it: `origin,directions=8192`.
    fn from_str(text: &str) -> Result<Sizes, String> {
        let mut parts = text.split(',');
        let mut sizes = match parts.next() {
            Some("origin") => Sizes::ORIGIN,
            Some("toy") => Sizes::TOY,
            _ => return Err("begin with `origin` or `toy`".into()),
        };
        for part in parts {
            let (name, number) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=NUMBER"))?;
            let number: usize = number.parse().map_err(|_| format!("`{number}` is not a whole number"))?;
            let (place, least) = match name {
                "directions" => (&mut sizes.directions, 256),
                "stories" => (&mut sizes.stories, 1),
                "prompts" => (&mut sizes.prompts, 1),
                "layers" => (&mut sizes.layers, 2),
                _ => return Err(format!("`{name}` is none of directions, stories, prompts and layers")),
            };
            if number < least {
                return Err(format!("{name} must be at least {least}"));
            }
            *place = number;
        }
        Ok(sizes)
    }
}

/// Thresholds of the tables of an index.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Tables {
    pub(super) bins: usize,
    /// Top examples of a direction.
    pub(super) top: usize,
    /// Tokens are counted above this share of a direction's maximum.
    pub(super) share: f32,
    pub(super) first_position: usize,
}

/// What `inputs.json` holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Inputs {
    #[serde(skip)]
    folder: PathBuf,
    #[serde(skip)]
    loaded: OnceCell<Loaded>,
    pub(super) sizes: Sizes,
    pub(super) seed: u64,
    /// Whole stories, of the shipped stories' lengths.
    pub(super) stories: Vec<Vec<u32>>,
    /// Prompts of one length; the last token is the answer.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Directions active nearly everywhere, in both SAEs.
    pub(super) directions: Vec<u32>,
    /// Those ablated together.
    pub(super) joint: Vec<u32>,
    /// Co-occurrence looks at first directions above this.
    pub(super) above: f32,
    pub(super) tables: Tables,
    /// Per task and tool, how many units it does.
    pub(super) units: BTreeMap<String, BTreeMap<String, usize>>,
}

/// The loaded model and SAEs.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) saes: [Sae; SAES],
    /// Mean of the last SAE's site.
    pub(super) site_mean: Vec<f32>,
}

impl Inputs {
    /// The inputs in `folder`; made there first if it holds none.
    pub(super) fn find(folder: &Path, sizes: Sizes, seed: u64) -> anyhow::Result<Inputs> {
        let path = folder.join(INPUTS);
        if !path.exists() {
            make(folder, sizes, seed).with_context(|| format!("cannot make inputs in `{}`", folder.display()))?;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let unknown = || format!("`{}` is not what this version makes; remove the folder", path.display());
        let inputs: Inputs = serde_json::from_slice(&bytes).with_context(unknown)?;
        anyhow::ensure!(inputs.are_whole(), unknown());
        anyhow::ensure!(
            (inputs.sizes, inputs.seed) == (sizes, seed),
            "`{}` holds inputs of other sizes or another seed; remove the folder, or name another with --inputs",
            folder.display()
        );
        Ok(Inputs { folder: folder.into(), ..inputs })
    }

    /// Whether everything that a task takes is there and within the sizes.
    fn are_whole(&self) -> bool {
        let Inputs { sizes, stories, prompts, directions, joint, .. } = self;
        let within = |directions: &[u32]| directions.iter().all(|d| (*d as usize) < sizes.directions);
        [sizes.stories, sizes.prompts] == [stories.len(), prompts.len()]
            && stories.iter().all(|story| !story.is_empty())
            && prompts.iter().all(|prompt| prompt.len() == sizes.prompt && prompt.len() > 2)
            && directions.len() == ALWAYS
            && within(directions)
            && within(joint)
            && Task::ALL.iter().all(|task| self.units.get(&task.name()) == Some(&task.units(sizes)))
    }

    /// The model and the SAEs, loaded when they are first asked for.
    pub(super) fn loaded(&self) -> anyhow::Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        eprintln!("loading the model and the SAEs");
        let loaded = self.load()?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        let model = load_model(&self.folder)?;
        let [first, last] = std::array::from_fn(|i| load_sae(&self.folder, i, &model));
        let mean = fs::read(self.folder.join("site_mean.safetensors"))?;
        let mean = safetensors::SafeTensors::deserialize(&mean)?.tensor("mean")?.data().to_vec();
        let site_mean = mean.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Loaded { model, saes: [first?, last?], site_mean })
    }

    /// How many units of a task are done.
    pub(super) fn units(&self, task: Task) -> usize {
        self.units[&task.name()]["directrix"]
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn load_model(folder: &Path) -> anyhow::Result<Model> {
    let folder = Folder::open(folder.join("model"))?;
    Ok(Model::load(&folder, Processing::default())?)
}

fn load_sae(folder: &Path, i: usize, model: &Model) -> anyhow::Result<Sae> {
    Ok(Sae::load(&Folder::open(folder.join(format!("sae-{i}")))?)?.fit(model.config())?)
}

fn make(folder: &Path, sizes: Sizes, seed: u64) -> anyhow::Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tokens = |n: usize| -> Vec<u32> {
        (0..n).map(|i| if i == 0 { 0 } else { random.random_range(1..sizes.vocabulary as u32) }).collect()
    };
    let stories: Vec<Vec<u32>> = lengths(sizes.stories)?.into_iter().map(&mut tokens).collect();
    let prompts: Vec<Vec<u32>> = (0..sizes.prompts).map(|_| tokens(sizes.prompt)).collect();

    make_model(&folder.join("model"), sizes, &mut random)?;
    let model = load_model(folder)?;
    let layers = [0, sizes.layers - 1];
    let sites = sample(&model, layers, &Prompts::from_rows(&stories), &Prompts::from_rows(&prompts))?;
    let mut made = |i: usize| make_sae(&folder.join(format!("sae-{i}")), layers[i], sizes, &sites[i], &mut random);
    let (above, _) = (made(0)?, made(1)?);
    let mean: Vec<f32> = column_means(&sites[1]);
    write(&folder.join("site_mean.safetensors"), &[("mean", &[mean.len()], &mean)])?;

    let inputs = Inputs {
        folder: folder.into(),
        loaded: OnceCell::new(),
        sizes,
        seed,
        units: Task::ALL.iter().map(|task| (task.name(), task.units(&sizes))).collect(),
        stories,
        prompts,
        directions: (0..ALWAYS as u32).collect(),
        joint: (0..5).collect(),
        above,
        tables: Tables { bins: 20, top: 10, share: 0.5, first_position: 10 },
    };
    // Written last: a folder with it is whole.
    let partial = folder.join(format!("{INPUTS}.partial"));
    fs::write(&partial, serde_json::to_vec(&inputs)?)?;
    Ok(fs::rename(partial, folder.join(INPUTS))?)
}

/// The lengths of the first shipped stories, BOS included.
fn lengths(stories: usize) -> anyhow::Result<Vec<usize>> {
    let tokenizer = lab::folder(lab::MODEL)?.tokenizer()?.context("the embedded model has a tokenizer")?;
    let tokenising =
        Tokenising { bos: tokenizer.bos(), max_len: CONTEXT, vocab_size: usize::MAX, chunk_prompts: stories.max(1) };
    let documents = lab::corpus(lab::CORPUS, None)?.documents()?.take(stories);
    let chunk = corpus::join(corpus::prompts(lab::CORPUS, documents, Some(&tokenizer), tokenising))?;
    Ok(chunk.prompts.iter().map(<[u32]>::len).collect())
}

/// `n` numbers from a normal distribution (Box and Muller 1958), drawn by all threads; the same ones by any number.
fn normal(n: usize, std: f32, random: &mut ChaCha8Rng) -> Vec<f32> {
    let seed: u64 = random.random();
    let mut numbers = vec![0.0; n];
    numbers.par_chunks_mut(DRAWN).enumerate().for_each(|(stream, numbers)| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream as u64);
        for pair in numbers.chunks_mut(2) {
            let (u, v): (f32, f32) = (1.0 - random.random::<f32>(), random.random());
            let (sin, cos) = (std::f32::consts::TAU * v).sin_cos();
            let radius = std * (-2.0 * u.ln()).sqrt();
            pair.iter_mut().zip([sin, cos]).for_each(|(x, turn)| *x = radius * turn);
        }
    });
    numbers
}

/// A Hugging Face folder of a GPT-Neo model.
fn make_model(folder: &Path, sizes: Sizes, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let Sizes { d_model: d, d_mlp, heads, vocabulary, layers, .. } = sizes;
    fs::create_dir_all(folder)?;
    let config = json!({
        "architectures": ["GPTNeoForCausalLM"], "model_type": "gpt_neo", "activation_function": "gelu_new",
        "attention_types": [[["global"], layers]],
        "hidden_size": d, "intermediate_size": d_mlp, "num_heads": heads, "num_layers": layers, "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT, "window_size": 256, "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": true, "torch_dtype": "float32",
        "attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0, "initializer_range": 0.02,
    });
    fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, shape: &[usize], mean: f32| {
        let mut numbers = normal(shape.iter().product(), 0.02, random);
        numbers.iter_mut().for_each(|x| *x += mean);
        tensors.push((format!("transformer.{name}"), shape.to_vec(), numbers));
    };
    add("wte.weight".into(), &[vocabulary, d], 0.0);
    add("wpe.weight".into(), &[CONTEXT, d], 0.0);
    for layer in 0..layers {
        let name = |part: &str| format!("h.{layer}.{part}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(name(&format!("attn.attention.{part}.weight")), &[d, d], 0.0);
        }
        add(name("attn.attention.out_proj.bias"), &[d], 0.0);
        add(name("mlp.c_fc.weight"), &[d_mlp, d], 0.0);
        add(name("mlp.c_fc.bias"), &[d_mlp], 0.0);
        add(name("mlp.c_proj.weight"), &[d, d_mlp], 0.0);
        add(name("mlp.c_proj.bias"), &[d], 0.0);
        for ln in ["ln_1", "ln_2"] {
            add(name(&format!("{ln}.weight")), &[d], 1.0);
            add(name(&format!("{ln}.bias")), &[d], 0.0);
        }
    }
    add("ln_f.weight".into(), &[d], 1.0);
    add("ln_f.bias".into(), &[d], 0.0);
    let tensors: Vec<_> = tensors.iter().map(|(n, s, x)| (n.as_str(), s.as_slice(), x.as_slice())).collect();
    write(&folder.join("model.safetensors"), &tensors)
}

/// The neurons of two blocks at some positions of prompts and stories.
fn sample(
    model: &Model,
    layers: [usize; SAES],
    stories: &Prompts,
    prompts: &Prompts,
) -> anyhow::Result<[Matrix; SAES]> {
    let hooks = layers.map(|layer| HookPoint::Block(layer, BlockHook::MlpPost));
    let mut rows: [Vec<f32>; SAES] = Default::default();
    let mut positions = 0;
    for of in [prompts, stories] {
        for batch in batches(of, SAMPLE / 4) {
            if positions >= SAMPLE {
                break;
            }
            let run = model.run(&of.range(batch), &Ask::capture(hooks), &[])?;
            rows.iter_mut().zip(hooks).for_each(|(rows, hook)| rows.extend_from_slice(run.captured(hook).data()));
            positions += run.captured(hooks[0]).rows();
        }
    }
    let width = model.config().mlp.d_mlp;
    Ok(rows.map(|rows| Matrix::new(rows, positions, width)))
}

/// A SAELens folder of an SAE with unit columns and rows, whose biases make `l0` directions fire at a position on average.
/// Returns an activation that nine tenths of those in the sample exceed.
fn make_sae(folder: &Path, layer: usize, sizes: Sizes, site: &Matrix, random: &mut ChaCha8Rng) -> anyhow::Result<f32> {
    let Sizes { d_mlp, directions, l0, .. } = sizes;
    fs::create_dir_all(folder)?;
    let config = json!({
        "architecture": "standard", "d_in": d_mlp, "d_sae": directions, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": true, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": { "sae_lens_version": "6.54.12", "hook_name": format!("blocks.{layer}.mlp.hook_post") },
    });
    fs::write(folder.join("cfg.json"), format!("{config:#}\n"))?;
    let unit = (d_mlp as f32).sqrt().recip();
    let w_enc = Matrix::new(normal(d_mlp * directions, unit, random), d_mlp, directions);
    let mut w_dec = Matrix::new(normal(directions * d_mlp, 1.0, random), directions, d_mlp);
    kernels::normalise_rows(&mut w_dec);
    let b_dec = Matrix::new(normal(d_mlp, 0.02, random), 1, d_mlp);

    let fire = (l0 - ALWAYS) as f64 / (directions - ALWAYS) as f64 * site.rows() as f64;
    let mut b_enc = Matrix::zeros(1, directions);
    kernels::product(b_dec.view(), w_enc.view(), &mut b_enc, false);
    let mut active = Vec::new();
    for start in (0..directions).step_by(512) {
        let columns = start..(start + 512).min(directions);
        let mut pre = Matrix::zeros(site.rows(), columns.len());
        kernels::product(site.view(), w_enc.view().columns_of(columns.clone()), &mut pre, false);
        let found: Vec<(f32, Vec<f32>)> = (0..columns.len())
            .into_par_iter()
            .map(|column| {
                let mut values: Vec<f32> = (0..pre.rows()).map(|row| pre.row(row)[column]).collect();
                values.sort_unstable_by(|a, b| b.total_cmp(a));
                let always = columns.start + column < ALWAYS;
                // Between two of the sample's values, so that none lies at the threshold.
                let rank = if always { values.len() - 2 } else { fire as usize };
                let bias = -f32::midpoint(values[rank], values[rank + 1]);
                (bias, values.into_iter().map(|x| x + bias).take_while(|x| *x > 0.0).collect())
            })
            .collect();
        for (direction, (bias, values)) in columns.zip(found) {
            b_enc.row_mut(0)[direction] += bias;
            active.extend(values);
        }
    }
    active.sort_unstable_by(f32::total_cmp);
    write(
        &folder.join(WEIGHTS),
        &[
            ("W_enc", &[d_mlp, directions], w_enc.data()),
            ("W_dec", &[directions, d_mlp], w_dec.data()),
            ("b_enc", &[directions], b_enc.data()),
            ("b_dec", &[d_mlp], b_dec.data()),
        ],
    )?;
    Ok(active[active.len() / 10])
}

fn column_means(m: &Matrix) -> Vec<f32> {
    let mut sums = vec![0.0_f64; m.columns()];
    m.iter_rows().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, &x)| *s += x as f64));
    sums.into_iter().map(|s| (s / m.rows() as f64) as f32).collect()
}

/// Writes tensors of f32.
pub(super) fn write(path: &Path, tensors: &[(&str, &[usize], &[f32])]) -> anyhow::Result<()> {
    let mut views = Vec::new();
    for (name, shape, numbers) in tensors {
        views.push((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(numbers))?));
    }
    Ok(safetensors::serialize_to_file(views, None, path)?)
}
