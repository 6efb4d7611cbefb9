//! SAELens's folders: `cfg.json` and `sae_weights.safetensors`.

mod config;

use std::path::Path;

use directrix_corpus::{Settings, durable};
use directrix_kernels::Matrix;
use directrix_model::{Folder, Processing, Tensors};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use self::config::Config;
use super::{Stored, scaling};
use crate::{Architecture, Error, Parameters, Result, Sae, Site};

pub(crate) const CONFIG: &str = "cfg.json";
pub(crate) const WEIGHTS: &str = "sae_weights.safetensors";
pub(crate) const SPARSITY: &str = "sparsity.safetensors";
/// Where checkpoints of training hold the factor of `expected_average_only_in`.
const SCALER: &str = "activation_scaler.json";
/// Factors of fine-tuning, by the names that versions give them.
const FACTORS: [&str; 2] = ["scaling_factor", "finetuning_scaling_factor"];
/// The version of SAELens whose form is written; without one, its readers take a folder for an older form.
const SAE_LENS_VERSION: &str = "6.54.12";

/// The SAE in a folder.
///
/// # Errors
/// If a file is missing or damaged, the architecture, the activation or a normalisation is not supported, or a tensor has another
/// shape, is not finite or is not one of the architecture's.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    let config = Config::read(&settings)?;
    let Config { d_in, d_out, directions, .. } = config;
    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let numbers = |name: &str| tensors.get(name, &[directions]);
    let mut encoder = tensors.matrix("W_enc", d_in, directions)?.transposed();
    let mut w_dec = tensors.matrix("W_dec", directions, d_out)?;
    let (mut architecture, bias) = match config.architecture {
        config::Architecture::Relu => (Architecture::Relu, "b_enc"),
        config::Architecture::TopK { k } => (Architecture::TopK { k }, "b_enc"),
        config::Architecture::JumpRelu => {
            (Architecture::JumpRelu { threshold: threshold(&tensors, directions)? }, "b_enc")
        }
        config::Architecture::BatchTopK => {
            let threshold = tensors.get("topk_threshold", &[])?[0].max(0.0);
            (Architecture::JumpRelu { threshold: vec![threshold; directions] }, "b_enc")
        }
        config::Architecture::Gated => {
            (Architecture::Gated { r_mag: numbers("r_mag")?, b_mag: numbers("b_mag")? }, "b_gate")
        }
    };
    let mut b_enc = numbers(bias)?;
    let mut b_dec = tensors.get("b_dec", &[d_out])?;
    let w_skip = config.skip.then(|| tensors.matrix("W_skip", d_out, d_in)).transpose()?;
    if config.scaled {
        let factor = factor(folder, &settings)?;
        scaling::by_factors(&mut encoder, &mut w_dec, &mut b_dec, factor, factor);
        if let (true, Architecture::JumpRelu { threshold }) = (config.rescaled, &mut architecture) {
            threshold.iter_mut().for_each(|threshold| *threshold /= factor);
        }
    }
    if config.rescaled {
        scaling::by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
    }
    finetuning(folder, &tensors, config.finetuned, &mut w_dec)?;
    if let Some(name) = tensors.unread().first() {
        let problem = format!(
            "tensor `{name}` is not one of an SAE of architecture `{}`; correct `{CONFIG}`, or remove the tensor",
            config.name
        );
        return Err(Error::Parameters { sae: folder.to_string(), problem });
    }
    let Config { subtract_b_dec, normalisation, place, trained_on, .. } = config;
    let parameters = Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec, normalisation, w_skip };
    Ok(Stored { place: Ok(place), parameters, trained_on })
}

/// The factor by which training scaled what it read; a checkpoint of it holds the factor beside the weights.
fn factor(folder: &Folder, settings: &Settings) -> Result<f32> {
    let Some(bytes) = folder.read_optional(SCALER)? else {
        let problem = format!(
            "`normalize_activations` says that the SAE was trained on scaled activations, and `{SCALER}`, which would hold \
             the factor, is not beside it; fold the factor in Python (sae.fold_activation_norm_scaling_factor(FACTOR)) and \
             save the SAE again"
        );
        return Err(settings.problem(problem).into());
    };
    let scaler = Settings::parse(&folder.describe(SCALER), &bytes)?;
    Ok(scaler.get("scaling_factor")?.number(1e-30..=1e30)? as f32)
}

/// The factors of fine-tuning, which SAELens applied to the decoder before version 6, and has refused since.
fn finetuning(folder: &Folder, tensors: &Tensors, finetuned: Option<bool>, w_dec: &mut Matrix) -> Result<()> {
    for name in FACTORS.into_iter().filter(|name| tensors.contains(name)) {
        let factors = tensors.get(name, &[w_dec.rows()])?;
        let are_ones = factors.iter().all(|factor| (factor - 1.0).abs() <= 1e-5);
        let problem = match finetuned {
            _ if are_ones && name == FACTORS[0] => continue,
            Some(true) => {
                let rows = factors.iter().enumerate();
                rows.for_each(|(d, factor)| w_dec.row_mut(d).iter_mut().for_each(|w| *w *= factor));
                continue;
            }
            Some(false) if are_ones => continue,
            Some(false) => {
                format!("tensor `{name}` is not all ones, and `finetuning_scaling_factor` is not true in `{CONFIG}`")
            }
            None => format!("tensor `{name}` is one of SAELens before version 6, which `{CONFIG}` is not of"),
        };
        return Err(Error::Parameters { sae: folder.to_string(), problem });
    }
    Ok(())
}

/// The thresholds of a JumpReLU SAE, with whose positive part SAELens compares; checkpoints of its training may hold logarithms.
fn threshold(tensors: &Tensors, directions: usize) -> Result<Vec<f32>> {
    if !tensors.contains("threshold") && tensors.contains("log_threshold") {
        return Ok(tensors.get("log_threshold", &[directions])?.into_iter().map(f32::exp).collect());
    }
    Ok(tensors.get("threshold", &[directions])?.into_iter().map(|threshold| threshold.max(0.0)).collect())
}

impl Sae {
    /// Writes it as a SAELens folder: `cfg.json`, `sae_weights.safetensors` and, when `density` (the share of positions
    /// that each direction fires at) is given, `sparsity.safetensors` with `log10(density + 1e-10)`. `metadata` goes into
    /// `cfg.json` beside the hook point. The configuration is written last, so a folder with one is whole.
    ///
    /// # Errors
    /// If SAELens has no such architecture, or a file cannot be written.
    pub fn save(&self, folder: &Path, metadata: &Value, density: Option<&[f64]>) -> Result<()> {
        let config = self.config(metadata, self.directions())?;
        let w_enc = self.encoder().transposed();
        write_tensors(&folder.join(WEIGHTS), self.tensors(&w_enc))?;
        if let Some(density) = density {
            let logarithms = logarithms(density);
            let sparsity = tensor(&logarithms, &[self.directions()]);
            write_tensors(&folder.join(SPARSITY), vec![("sparsity", sparsity)])?;
        }
        write_config(folder, &config)
    }

    /// The weights file's tensors by name; `w_enc` is the encoder's transpose.
    pub(crate) fn tensors<'a>(&'a self, w_enc: &'a Matrix) -> Vec<(&'static str, TensorView<'a>)> {
        let Parameters { architecture, w_dec, b_enc, b_dec, w_skip, .. } = self.parameters();
        let vector = |values| tensor(values, &[self.directions()]);
        let mut tensors = vec![
            ("W_enc", matrix(w_enc)),
            ("W_dec", matrix(w_dec)),
            ("b_dec", tensor(b_dec, &[self.d_out()])),
            (if matches!(architecture, Architecture::Gated { .. }) { "b_gate" } else { "b_enc" }, vector(b_enc)),
        ];
        match architecture {
            Architecture::Relu | Architecture::TopK { .. } => {}
            Architecture::JumpRelu { threshold } => tensors.push(("threshold", vector(threshold))),
            Architecture::Gated { r_mag, b_mag } => {
                tensors.extend([("r_mag", vector(r_mag)), ("b_mag", vector(b_mag))]);
            }
        }
        tensors.extend(w_skip.as_ref().map(|w| ("W_skip", matrix(w))));
        tensors
    }

    /// What `cfg.json` says of it, as of an SAE of so many directions.
    ///
    /// # Errors
    /// If SAELens has no such architecture.
    pub(crate) fn config(&self, metadata: &Value, directions: usize) -> Result<Value> {
        let Site { reads, writes } = self.site();
        let Parameters { architecture, subtract_b_dec, normalisation, w_skip, .. } = self.parameters();
        let is_transcoder = !self.site().is_one_place();
        let name = match (is_transcoder, architecture, w_skip) {
            (false, _, None) => architecture.name(),
            (true, Architecture::Relu, None) => "transcoder",
            (true, Architecture::Relu, Some(_)) => "skip_transcoder",
            (true, Architecture::JumpRelu { .. }, None) => "jumprelu_transcoder",
            (true, Architecture::JumpRelu { .. }, Some(_)) => "jumprelu_skip_transcoder",
            (false, _, Some(_)) => {
                let problem = "SAELens has no SAE with a skip connection that reads and writes one place".into();
                return Err(Error::Parameters { sae: self.name().into(), problem });
            }
            (true, ..) => {
                let problem = format!("SAELens has no transcoder of architecture `{}`", architecture.name());
                return Err(Error::Parameters { sae: self.name().into(), problem });
            }
        };
        let mut config = json!({
            "architecture": name,
            "d_in": self.d_in(),
            "d_sae": directions,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": subtract_b_dec,
            "normalize_activations": normalisation.name(),
            "reshape_activations": if reads.hook.to_string().ends_with("attn.hook_z") { "hook_z" } else { "none" },
        });
        if let Architecture::TopK { k } = architecture {
            config["k"] = json!(k);
            config["rescale_acts_by_decoder_norm"] = json!(false);
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
        if let Some(Processing { fold_ln, center_writing_weights, center_unembed, fold_value_biases }) =
            self.trained_on()
        {
            config["metadata"]["model_from_pretrained_kwargs"] = json!({
                "fold_ln": fold_ln,
                "center_writing_weights": center_writing_weights,
                "center_unembed": center_unembed,
                "fold_value_biases": fold_value_biases,
            });
        }
        for (key, value) in metadata.as_object().into_iter().flatten() {
            config["metadata"][key] = value.clone();
        }
        Ok(config)
    }
}

/// Writes `cfg.json`, after which a folder is whole.
pub(crate) fn write_config(folder: &Path, config: &Value) -> Result<()> {
    Ok(durable::write(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?)
}

/// `log10(density + 1e-10)`, as SAELens keeps how often directions fire.
pub(crate) fn logarithms(density: &[f64]) -> Vec<f32> {
    density.iter().map(|d| (d + 1e-10).log10() as f32).collect()
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
