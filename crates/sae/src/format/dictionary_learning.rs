//! dictionary_learning's folders: `config.json` and `ae.pt`.

use std::path::Path;

use directrix_corpus::{Settings, durable};
use directrix_kernels::{Matrix, dot};
use directrix_model::{BlockHook, Folder, HookPoint, Leaf, Numbers, Processing, Tensors, torch_file};
use serde_json::json;

use super::{Hook, Place, Stored, module, scaling, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result, Sae, Site};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "ae.pt";
const CLASSES: [&str; 7] = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
];
/// Hook points by the names that training scripts give, `resid_post_layer_3`.
const NAMES: [(&str, BlockHook); 5] = [
    ("resid_post", BlockHook::ResidPost),
    ("resid_pre", BlockHook::ResidPre),
    ("mlp_out", BlockHook::MlpOut),
    ("attn_out", BlockHook::AttnOut),
    ("attention_out", BlockHook::AttnOut),
];

/// The dictionary in a folder, as `load_dictionary` makes it; `ae.pt` is its state, or that of an unfinished run around it.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    let trainer = settings.get("trainer")?.object()?;
    let class = trainer.get("dict_class")?.choice(&CLASSES)?;
    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let is_unfinished = tensors.names().any(|name| name.starts_with("ae."));
    let state = State { folder, tensors: &tensors, prefix: if is_unfinished { "ae." } else { "" } };
    let mut parameters = match class {
        "JumpReluAutoEncoder" | "MatryoshkaBatchTopKSAE" => state.by_parameters(class)?,
        _ => state.by_layers(class, &trainer)?,
    };
    if is_unfinished {
        let factor = match tensors.leaf("norm_factor") {
            Some(Leaf::Float(factor)) => *factor as f32,
            Some(Leaf::Int(factor)) => *factor as f32,
            _ => 1.0,
        };
        scale_biases(&mut parameters, factor);
    }
    // Of an unfinished run, the optimizer's are no part of the dictionary.
    if let Some(name) = tensors.unread().iter().find(|name| name.starts_with(state.prefix)) {
        return Err(unknown_tensor(folder, name, &format!("a dictionary of class `{class}`")));
    }
    Ok(Stored { place: place(&settings, &trainer)?, parameters, trained_on: Some(Processing::none()) })
}

/// The tensors of a dictionary.
struct State<'a> {
    folder: &'a Folder,
    tensors: &'a Tensors,
    prefix: &'static str,
}

impl State<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.tensors.get(&format!("{}{name}", self.prefix), shape)?)
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix::new(self.get(name, &[rows, columns])?, rows, columns))
    }

    /// Rows and columns of a tensor.
    fn shape(&self, name: &str) -> Result<(usize, usize)> {
        let name = format!("{}{name}", self.prefix);
        match self.tensors.shape(&name)?[..] {
            [rows, columns] => Ok((rows, columns)),
            ref other => Err(self.problem(format!("tensor `{name}` has shape {other:?}, expected rows and columns"))),
        }
    }

    fn integers(&self, name: &str) -> Result<Option<Vec<i64>>> {
        let name = format!("{}{name}", self.prefix);
        Ok(self.tensors.contains(&name).then(|| self.tensors.integers(&name)).transpose()?)
    }

    fn problem(&self, problem: String) -> Error {
        Error::Parameters { sae: self.folder.to_string(), problem }
    }

    /// Thresholds as they are compared with: those below 0 (-1 is one that training has not set) let every positive number through.
    fn threshold(&self, shape: &[usize], directions: usize) -> Result<Architecture> {
        let found = self.get("threshold", shape)?;
        let threshold = (0..directions).map(|d| found[d.min(found.len() - 1)].max(0.0)).collect();
        Ok(Architecture::JumpRelu { threshold })
    }

    /// Classes of plain parameters, `W_enc` and `W_dec`.
    fn by_parameters(&self, class: &str) -> Result<Parameters> {
        let (d_in, directions) = self.shape("W_enc")?;
        let is_matryoshka = class == "MatryoshkaBatchTopKSAE";
        if is_matryoshka {
            self.integers("k")?;
            self.integers("group_sizes")?;
        }
        let shape: &[usize] = if is_matryoshka { &[] } else { &[directions] };
        Ok(Parameters {
            architecture: self.threshold(shape, directions)?,
            encoder: self.matrix("W_enc", d_in, directions)?.transposed(),
            w_dec: self.matrix("W_dec", directions, d_in)?,
            b_enc: self.get("b_enc", &[directions])?,
            b_dec: self.get("b_dec", &[d_in])?,
            subtract_b_dec: is_matryoshka,
            normalisation: Normalisation::None,
            w_skip: None,
        })
    }

    /// Classes of linear layers, `encoder.weight` and `decoder.weight`.
    fn by_layers(&self, class: &str, trainer: &Settings) -> Result<Parameters> {
        let (directions, d_in) = self.shape("encoder.weight")?;
        let numbers = |name: &str| self.get(name, &[directions]);
        let (architecture, b_enc, b_dec) = match class {
            "AutoEncoder" => (Architecture::Relu, "encoder.bias", "bias"),
            "AutoEncoderNew" => (Architecture::Relu, "encoder.bias", "decoder.bias"),
            "GatedAutoEncoder" => {
                let gated = Architecture::Gated { r_mag: numbers("r_mag")?, b_mag: numbers("mag_bias")? };
                (gated, "gate_bias", "decoder_bias")
            }
            "AutoEncoderTopK" => (Architecture::TopK { k: self.k(trainer, directions)? }, "encoder.bias", "b_dec"),
            _ => {
                self.k(trainer, directions)?;
                (self.threshold(&[], directions)?, "encoder.bias", "b_dec")
            }
        };
        // Left by training, and not what activations are compared with.
        if class == "AutoEncoderTopK" && self.tensors.contains(&format!("{}threshold", self.prefix)) {
            self.get("threshold", &[])?;
        }
        let mut encoder = self.matrix("encoder.weight", directions, d_in)?;
        let mut w_dec = self.matrix("decoder.weight", d_in, directions)?.transposed();
        let mut b_enc = numbers(b_enc)?;
        // `AutoEncoder.from_pretrained` makes decoder rows of length 1, unless they nearly are.
        if class == "AutoEncoder" && !w_dec.iter_rows().all(is_unit) {
            scaling::by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
        }
        Ok(Parameters {
            architecture,
            encoder,
            w_dec,
            b_enc,
            b_dec: self.get(b_dec, &[d_in])?,
            subtract_b_dec: class != "AutoEncoderNew",
            normalisation: Normalisation::None,
            w_skip: None,
        })
    }

    /// The `k` of the configuration, which that of the tensors must be where there is one.
    fn k(&self, trainer: &Settings, directions: usize) -> Result<usize> {
        let k = trainer.get("k")?;
        match self.integers("k")?.as_deref() {
            Some(found) if *found != [k.count(directions)? as i64] => {
                Err(k.wrong(&format!("the same as tensor `k`, {found:?}")).into())
            }
            _ => Ok(k.count(directions)?),
        }
    }
}

/// What was trained on activations divided by `factor`, as it is on the activations themselves: `scale_biases`.
fn scale_biases(parameters: &mut Parameters, factor: f32) {
    let Parameters { architecture, b_enc, b_dec, .. } = parameters;
    b_enc.iter_mut().chain(b_dec).for_each(|b| *b *= factor);
    match architecture {
        Architecture::JumpRelu { threshold: numbers } | Architecture::Gated { b_mag: numbers, .. } => {
            numbers.iter_mut().for_each(|number| *number *= factor);
        }
        Architecture::Relu | Architecture::TopK { .. } => {}
    }
}

/// Where the dictionary is: the module that was trained on, its output unless the buffer says otherwise.
fn place(settings: &Settings, trainer: &Settings) -> Result<Result<Place, String>> {
    let Some(name) = trainer.find_some("submodule_name") else {
        let why = "`trainer.submodule_name` in `config.json` is missing or null, which would name the module";
        return Ok(Err(why.into()));
    };
    let name = name.text()?;
    let buffer = settings.find_some("buffer").map(|buffer| buffer.object()).transpose()?;
    let io = buffer.as_ref().and_then(|buffer| buffer.find_some("io"));
    let io = io.map_or(Ok("out"), |io| io.choice(&["in", "out", "in_and_out"]))?;
    let layer = trainer.find_some("layer").map(|layer| layer.index(1 << 12)).transpose()?;
    let (stem, of_name) = match name.rsplit_once("_layer_") {
        Some((stem, digits)) => (stem, digits.parse().ok()),
        None => (name, None),
    };
    if let (Some(layer), Some(other)) = (layer, of_name)
        && layer != other
    {
        let problem = format!("`trainer.layer` is {layer}, and `trainer.submodule_name` is \"{name}\"");
        return Err(settings.problem(problem).into());
    }
    let named = NAMES.iter().find(|(known, _)| *known == stem).zip(of_name.or(layer));
    let named = named.filter(|_| io == "out").map(|((_, hook), layer)| HookPoint::Block(layer, *hook));
    let (reads, writes) = match io {
        "out" => {
            let hook = named.or_else(|| module::output(name)).or_else(|| name.parse().ok());
            (hook, hook)
        }
        "in" => (module::input(name), module::input(name)),
        _ => (module::input(name), module::output(name)),
    };
    let hook = |hook| Hook { hook, head: None };
    let place = reads.zip(writes).map(|(reads, writes)| Place { reads: hook(reads), writes: hook(writes) });
    Ok(place.ok_or_else(|| {
        format!(
            "`trainer.submodule_name` in `config.json` is \"{name}\" and `buffer.io` \"{io}\", which name no hook point"
        )
    }))
}

impl Sae {
    /// Writes it as a folder of dictionary_learning, `config.json` and `ae.pt`, that `load_dictionary` reads: ReLU as `AutoEncoder`
    /// or, where decoder rows are not of length 1, `AutoEncoderNew`; TopK as `AutoEncoderTopK`; JumpReLU as `JumpReluAutoEncoder`;
    /// gated as `GatedAutoEncoder`. Whether these take `b_dec` from the input is theirs; the encoder's bias makes up for it.
    /// `model` is the name of the model. The configuration is written last, so a folder with one is whole.
    ///
    /// # Errors
    /// If dictionary_learning has no such dictionary (a transcoder, a skip connection, normalised input, one head), or a file
    /// cannot be written.
    pub fn save_dictionary_learning(&self, folder: &Path, model: &str) -> Result<()> {
        let Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec, normalisation, w_skip } =
            self.parameters();
        let Site { reads, .. } = self.site();
        let lacks = match (w_skip, normalisation) {
            _ if !self.site().is_one_place() => Some("transcoders"),
            _ if reads.head.is_some() => Some("SAEs of one head"),
            (Some(_), _) => Some("skip connections"),
            (_, Normalisation::ConstantNorm | Normalisation::LayerNorm) => Some("input that is normalised"),
            (None, Normalisation::None) => None,
        };
        if let Some(lacks) = lacks {
            let problem = format!("dictionary_learning has no {lacks}");
            return Err(Error::Parameters { sae: self.name().into(), problem });
        }
        let class = match architecture {
            Architecture::Relu if *subtract_b_dec && w_dec.iter_rows().all(is_unit) => "AutoEncoder",
            Architecture::Relu => "AutoEncoderNew",
            Architecture::TopK { .. } => "AutoEncoderTopK",
            Architecture::JumpRelu { .. } => "JumpReluAutoEncoder",
            Architecture::Gated { .. } => "GatedAutoEncoder",
        };
        // What the encoder makes of `b_dec`, to be added or taken where the class differs from the SAE.
        let subtracts = !matches!(class, "AutoEncoderNew" | "JumpReluAutoEncoder");
        let sign = subtracts as i32 - *subtract_b_dec as i32;
        let of_b_dec = |d: usize| if sign == 0 { 0.0 } else { sign as f64 * dot(b_dec, encoder.row(d)) };
        let b_enc: Vec<f32> = b_enc.iter().enumerate().map(|(d, b)| (*b as f64 + of_b_dec(d)) as f32).collect();
        let (directions, d_in) = (self.directions(), self.d_in());
        let (w_enc, by_columns) = (encoder.transposed(), w_dec.transposed());
        let (k, b_mag): (i32, Vec<f32>);
        let vector = |numbers| (vec![directions], Numbers::F32(numbers));
        let bias = (vec![d_in], Numbers::F32(b_dec));
        let linear = (vec![directions, d_in], Numbers::F32(encoder.data()));
        let decoder = (vec![d_in, directions], Numbers::F32(by_columns.data()));
        let mut tensors = vec![("encoder.weight", linear), ("decoder.weight", decoder)];
        match architecture {
            Architecture::Relu => {
                let name = if subtracts { "bias" } else { "decoder.bias" };
                tensors.extend([("encoder.bias", vector(&b_enc)), (name, bias)]);
            }
            Architecture::TopK { k: of } => {
                k = *of as i32;
                let numbers = [("k", Numbers::I32(std::slice::from_ref(&k))), ("threshold", Numbers::F32(&[-1.0]))];
                tensors.extend([("encoder.bias", vector(&b_enc)), ("b_dec", bias)]);
                tensors.extend(numbers.map(|(name, number)| (name, (Vec::new(), number))));
            }
            Architecture::JumpRelu { threshold } => {
                let (w_enc, w_dec) = (Numbers::F32(w_enc.data()), Numbers::F32(w_dec.data()));
                tensors = vec![("W_enc", (vec![d_in, directions], w_enc)), ("W_dec", (vec![directions, d_in], w_dec))];
                tensors.extend([("b_enc", vector(&b_enc)), ("b_dec", bias), ("threshold", vector(threshold))]);
            }
            Architecture::Gated { r_mag, b_mag: of } => {
                b_mag =
                    (0..directions).map(|d| (of[d] as f64 + of_b_dec(d) * (r_mag[d] as f64).exp()) as f32).collect();
                tensors.extend([("gate_bias", vector(&b_enc)), ("mag_bias", vector(&b_mag))]);
                tensors.extend([("r_mag", vector(r_mag)), ("decoder_bias", bias)]);
            }
        }
        let tensors: Vec<(&str, Vec<usize>, Numbers)> =
            tensors.into_iter().map(|(name, (shape, numbers))| (name, shape, numbers)).collect();
        let problem = || Error::Parameters { sae: self.name().into(), problem: "`ae.pt` would exceed 4 GiB".into() };
        durable::write(&folder.join(WEIGHTS), &torch_file(&tensors).ok_or_else(problem)?)?;
        let mut trainer = json!({
            "dict_class": class,
            "activation_dim": d_in,
            "dict_size": directions,
            "layer": reads.layer(),
            "lm_name": model,
            "submodule_name": module_name(reads.hook),
        });
        if let Architecture::TopK { k } = architecture {
            trainer["k"] = json!(k);
        }
        let config = json!({ "trainer": trainer, "buffer": { "d_submodule": d_in, "io": "out" } });
        Ok(durable::write(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?)
    }
}

/// Whether a decoder row is as long as `AutoEncoder.from_pretrained` makes it.
fn is_unit(row: &[f32]) -> bool {
    (row.iter().map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt() - 1.0).abs() <= 1e-5
}

/// A hook point as training scripts name it, or by its own name.
fn module_name(hook: HookPoint) -> String {
    match hook {
        HookPoint::Block(layer, inside) => match NAMES.iter().find(|(_, known)| *known == inside) {
            Some((name, _)) => format!("{name}_layer_{layer}"),
            None => hook.to_string(),
        },
        _ => hook.to_string(),
    }
}
