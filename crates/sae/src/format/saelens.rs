//! SAELens's folders: `cfg.json` and `sae_weights.safetensors`.

mod config;

use std::path::Path;

use directrix_corpus::{Settings, durable};
use directrix_kernels::Matrix;
use directrix_model::{Folder, Tensors};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use self::config::Config;
use crate::sae::Parameters;
use crate::{Architecture, Error, Result, Sae, Site};

pub(crate) const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// Factors of fine-tuning, by the names that versions give them.
const FACTORS: [&str; 2] = ["scaling_factor", "finetuning_scaling_factor"];
/// The version of SAELens whose form is written; without one, its readers take a folder for an older form.
const SAE_LENS_VERSION: &str = "6.54.12";

/// SAELens's name of an architecture with two ends.
fn of_transcoder(architecture: &Architecture) -> Option<&'static str> {
    match architecture {
        Architecture::Relu => Some("transcoder"),
        Architecture::JumpRelu { .. } => Some("jumprelu_transcoder"),
        _ => None,
    }
}

/// Site and parameters of the SAE in a folder.
///
/// # Errors
/// If a file is missing or damaged, the architecture, the activation or a normalisation is not supported, or a tensor has another
/// shape, is not finite or is not one of the architecture's.
pub(crate) fn read(folder: &Folder) -> Result<(Site, Parameters)> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    let Config { architecture, site, directions, subtract_b_dec, rescaled, finetuned } = Config::read(&settings)?;
    let (d_in, d_out) = (site.reads.width, site.writes.width);

    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let numbers = |name: &str| tensors.get(name, &[directions]);
    let mut encoder = tensors.matrix("W_enc", d_in, directions)?.transposed();
    let mut w_dec = tensors.matrix("W_dec", directions, d_out)?;
    let (activation, bias) = match architecture {
        config::Architecture::Relu => (Architecture::Relu, "b_enc"),
        config::Architecture::TopK { k } => (Architecture::TopK { k }, "b_enc"),
        config::Architecture::JumpRelu => {
            (Architecture::JumpRelu { threshold: threshold(&tensors, directions)? }, "b_enc")
        }
        config::Architecture::Gated => {
            (Architecture::Gated { r_mag: numbers("r_mag")?, b_mag: numbers("b_mag")? }, "b_gate")
        }
    };
    let mut b_enc = numbers(bias)?;
    let b_dec = tensors.get("b_dec", &[d_out])?;
    if rescaled {
        scale_by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
    }
    for name in FACTORS.into_iter().filter(|name| tensors.contains(name)) {
        let factors = numbers(name)?;
        if finetuned {
            factors.iter().enumerate().for_each(|(d, factor)| w_dec.row_mut(d).iter_mut().for_each(|w| *w *= factor));
        } else if factors.iter().any(|factor| *factor != 1.0) {
            let problem =
                format!("tensor `{name}` is not all ones, and `finetuning_scaling_factor` is not true in `{CONFIG}`");
            return Err(Error::Parameters { sae: folder.to_string(), problem });
        }
    }
    if let Some(name) = tensors.unread().first() {
        let problem = format!(
            "tensor `{name}` is not one of an SAE of architecture `{}`; correct `{CONFIG}`, or remove the tensor",
            activation.name()
        );
        return Err(Error::Parameters { sae: folder.to_string(), problem });
    }
    let parameters = Parameters { architecture: activation, encoder, w_dec, b_enc, b_dec, subtract_b_dec };
    Ok((site, parameters))
}

/// The thresholds of a JumpReLU SAE, with whose positive part SAELens compares; checkpoints of its training may hold logarithms.
fn threshold(tensors: &Tensors, directions: usize) -> Result<Vec<f32>> {
    if !tensors.contains("threshold") && tensors.contains("log_threshold") {
        return Ok(tensors.get("log_threshold", &[directions])?.into_iter().map(f32::exp).collect());
    }
    Ok(tensors.get("threshold", &[directions])?.into_iter().map(|threshold| threshold.max(0.0)).collect())
}

/// Multiplies pre-activations by their decoder row's length and divides the row by it: `rescale_acts_by_decoder_norm`.
fn scale_by_decoder(encoder: &mut Matrix, b_enc: &mut [f32], w_dec: &mut Matrix) {
    let length = |row: &[f32]| row.iter().map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt() as f32;
    let lengths: Vec<f32> = w_dec.iter_rows().map(length).collect();
    for (direction, length) in lengths.iter().enumerate() {
        encoder.row_mut(direction).iter_mut().for_each(|w| *w *= length);
    }
    b_enc.iter_mut().zip(&lengths).for_each(|(b, length)| *b *= length);
    for (direction, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0.0) {
        w_dec.row_mut(direction).iter_mut().for_each(|w| *w /= length);
    }
}

impl Sae {
    /// Writes it as a SAELens folder: `cfg.json`, `sae_weights.safetensors` and, when `density` (the share of positions
    /// that each direction fires at) is given, `sparsity.safetensors` with `log10(density + 1e-10)`. `metadata` goes into
    /// `cfg.json` beside the hook point. The configuration is written last, so a folder with one is whole.
    ///
    /// # Errors
    /// If SAELens has no such transcoder, or a file cannot be written.
    pub fn save(&self, folder: &Path, metadata: &Value, density: Option<&[f64]>) -> Result<()> {
        let Site { reads, writes } = self.site();
        let Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec } = self.parameters();
        let is_transcoder = !self.site().is_one_place();
        let name = if is_transcoder { of_transcoder(architecture) } else { Some(architecture.name()) };
        let Some(name) = name else {
            let problem = format!("SAELens has no transcoder of architecture `{}`", architecture.name());
            return Err(Error::Parameters { sae: self.name().into(), problem });
        };
        let w_enc = encoder.transposed();
        let vector = |values| tensor(values, &[self.directions()]);
        let mut tensors = vec![
            ("W_enc", matrix(&w_enc)),
            ("W_dec", matrix(w_dec)),
            ("b_dec", tensor(b_dec, &[self.d_out()])),
            (if matches!(architecture, Architecture::Gated { .. }) { "b_gate" } else { "b_enc" }, vector(b_enc)),
        ];
        let mut config = json!({
            "architecture": name,
            "d_in": self.d_in(),
            "d_sae": self.directions(),
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": subtract_b_dec,
            "normalize_activations": "none",
            "reshape_activations": if reads.hook.to_string().ends_with("attn.hook_z") { "hook_z" } else { "none" },
        });
        match architecture {
            Architecture::Relu => {}
            Architecture::TopK { k } => {
                config["k"] = json!(k);
                config["rescale_acts_by_decoder_norm"] = json!(false);
            }
            Architecture::JumpRelu { threshold } => tensors.push(("threshold", vector(threshold))),
            Architecture::Gated { r_mag, b_mag } => {
                tensors.extend([("r_mag", vector(r_mag)), ("b_mag", vector(b_mag))]);
            }
        }
        config["metadata"] = json!({ "sae_lens_version": SAE_LENS_VERSION, "hook_name": reads.hook.to_string() });
        if let Some(head) = reads.head {
            config["metadata"]["hook_head_index"] = json!(head);
        }
        if is_transcoder {
            config["d_out"] = json!(self.d_out());
            config["metadata"]["hook_name_out"] = json!(writes.hook.to_string());
            if let Some(head) = writes.head {
                config["metadata"]["hook_head_index_out"] = json!(head);
            }
        }
        for (key, value) in metadata.as_object().into_iter().flatten() {
            config["metadata"][key] = value.clone();
        }
        write_tensors(&folder.join(WEIGHTS), tensors)?;
        if let Some(density) = density {
            let logarithms: Vec<f32> = density.iter().map(|d| (d + 1e-10).log10() as f32).collect();
            let sparsity = tensor(&logarithms, &[self.directions()]);
            write_tensors(&folder.join("sparsity.safetensors"), vec![("sparsity", sparsity)])?;
        }
        Ok(durable::write(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?)
    }
}

fn matrix(matrix: &Matrix) -> TensorView<'_> {
    tensor(matrix.data(), &[matrix.rows(), matrix.columns()])
}

fn tensor<'a>(values: &'a [f32], shape: &[usize]) -> TensorView<'a> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values)).expect("the shape is that of the numbers")
}

fn write_tensors(path: &Path, tensors: Vec<(&str, TensorView)>) -> Result<()> {
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| Error::Stored { path: path.into(), problem: format!("cannot be written: {e}") })?;
    Ok(durable::write(path, &bytes)?)
}
