//! dictionary_learning's folders: `config.json` and `ae.pt`.

use directrix_corpus::Settings;
use directrix_kernels::Matrix;
use directrix_model::{BlockHook, Folder, HookPoint, Leaf, Tensors};

use super::saelens::scale_by_decoder;
use super::{Hook, Place, Stored, module, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result};

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
    Ok(Stored { place: place(&settings, &trainer)?, parameters })
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
        let is_unit = |row: &[f32]| (row.iter().map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt() - 1.0).abs() <= 1e-5;
        if class == "AutoEncoder" && !w_dec.iter_rows().all(is_unit) {
            scale_by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
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
            let hook = named.or_else(|| module::output(name));
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
