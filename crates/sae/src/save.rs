//! Writing the SAELens folder form.

use std::path::Path;

use directrix_kernels::Matrix;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::load::{CONFIG, WEIGHTS};
use crate::sae::Parameters;
use crate::train::write_beside;
use crate::{Architecture, Error, Result, Sae};

/// The version of SAELens whose folder form is written; without one, its readers take a folder for an older form.
const SAE_LENS_VERSION: &str = "6.54.12";

impl Sae {
    /// Writes it as a SAELens folder: `cfg.json`, `sae_weights.safetensors` and, when `density` (the share of positions
    /// that each direction fires at) is given, `sparsity.safetensors` with `log10(density + 1e-10)`. `metadata` goes into
    /// `cfg.json` beside the hook point. The configuration is written last, so a folder with one is whole.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path, metadata: &Value, density: Option<&[f64]>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { doing: "write", path: folder.into(), source })?;
        let Parameters { architecture, encoder, w_dec, b_enc, b_dec, subtract_b_dec } = self.parameters();
        let w_enc = encoder.transposed();
        let vector = |values| tensor(values, &[self.directions()]);
        let mut tensors = vec![
            ("W_enc", matrix(&w_enc)),
            ("W_dec", matrix(w_dec)),
            ("b_dec", tensor(b_dec, &[self.d_in()])),
            (if matches!(architecture, Architecture::Gated { .. }) { "b_gate" } else { "b_enc" }, vector(b_enc)),
        ];
        let mut config = json!({
            "architecture": architecture.name(),
            "d_in": self.d_in(),
            "d_sae": self.directions(),
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": subtract_b_dec,
            "normalize_activations": "none",
            "reshape_activations": if self.site().hook.to_string().ends_with("attn.hook_z") { "hook_z" } else { "none" },
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
        config["metadata"] = json!({ "sae_lens_version": SAE_LENS_VERSION, "hook_name": self.site().hook.to_string() });
        if let Some(head) = self.site().head {
            config["metadata"]["hook_head_index"] = json!(head);
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
        write_beside(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())
    }
}

fn matrix(matrix: &Matrix) -> TensorView<'_> {
    tensor(matrix.data(), &[matrix.rows(), matrix.columns()])
}

#[allow(clippy::expect_used)]
fn tensor<'a>(values: &'a [f32], shape: &[usize]) -> TensorView<'a> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values)).expect("the shape is that of the numbers")
}

fn write_tensors(path: &Path, tensors: Vec<(&str, TensorView)>) -> Result<()> {
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| Error::Stored { path: path.into(), problem: format!("cannot be written: {e}") })?;
    write_beside(path, &bytes)
}
