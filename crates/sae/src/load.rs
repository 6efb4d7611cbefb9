//! The SAELens folder form: `cfg.json` and `sae_weights.safetensors`.

use directrix_kernels::Matrix;
use directrix_model::{BlockHook, Folder, HookPoint, Model, Tensors};
use serde_json::Value;

use crate::sae::{Architecture, Parameters};
use crate::{Error, Result, Sae, Site};

pub(crate) const CONFIG: &str = "cfg.json";
pub(crate) const WEIGHTS: &str = "sae_weights.safetensors";

impl Sae {
    /// Loads an SAE of architecture `standard`, `topk`, `jumprelu` or `gated` and checks it against `model`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the architecture or a normalisation is not supported, the model has no such hook
    /// point or another width there, or a tensor has another shape or is not finite.
    pub fn load(folder: &Folder, model: &Model) -> Result<Sae> {
        let file = folder.describe(CONFIG);
        let problem = |problem: String| Error::Config { file: file.clone(), problem };
        let json: Value =
            serde_json::from_slice(&folder.read(CONFIG)?).map_err(|e| problem(format!("not JSON ({e})")))?;
        let size = |key: &str| {
            let value = json.get(key).and_then(Value::as_u64).filter(|n| *n > 0 && *n < 1 << 32);
            value
                .map(|n| n as usize)
                .ok_or_else(|| problem(format!("`{key}` is missing or not a whole number above 0")))
        };
        let text = |key: &str, default: &str| json.get(key).and_then(Value::as_str).unwrap_or(default).to_owned();
        for (key, default, supported) in [
            ("architecture", "standard", &["standard", "topk", "jumprelu", "gated"][..]),
            ("normalize_activations", "none", &["none"]),
            ("reshape_activations", "none", &["none", "hook_z"]),
        ] {
            let found = text(key, default);
            if !supported.contains(&found.as_str()) {
                return Err(problem(format!("`{key}` is \"{found}\"; supported: {}", supported.join(", "))));
            }
        }
        // SAELens 6 keeps the hook point under `metadata`, earlier versions at the top.
        let metadata = |key: &str| json.pointer(&format!("/metadata/{key}")).or_else(|| json.get(key));
        let hook = metadata("hook_name")
            .and_then(Value::as_str)
            .ok_or_else(|| problem("`metadata.hook_name` is missing, so it is not known what the SAE reads".into()))?;
        let head = metadata("hook_head_index").and_then(Value::as_u64).map(|head| head as usize);
        let (d_in, d_sae) = (size("d_in")?, size("d_sae")?);
        let site = site(hook.parse()?, head, model, problem)?;
        if d_in != site.columns.len() {
            return Err(Error::Width { file, hook: hook.into(), expected: site.columns.len(), found: d_in });
        }
        let tensors = Tensors::open(folder, Some(WEIGHTS))?;
        let mut encoder = tensors.matrix("W_enc", d_in, d_sae)?.transposed();
        let mut w_dec = tensors.matrix("W_dec", d_sae, d_in)?;
        let numbers = |name: &str| tensors.get(name, &[d_sae]);
        let (architecture, bias) = match text("architecture", "standard").as_str() {
            "topk" => (Architecture::TopK { k: size("k")? }, "b_enc"),
            "jumprelu" => {
                // SAELens compares with relu(threshold).
                let threshold = numbers("threshold")?.into_iter().map(|t| t.max(0.0)).collect();
                (Architecture::JumpRelu { threshold }, "b_enc")
            }
            "gated" => (Architecture::Gated { r_mag: numbers("r_mag")?, b_mag: numbers("b_mag")? }, "b_gate"),
            _ => (Architecture::Relu, "b_enc"),
        };
        let mut b_enc = numbers(bias)?;
        if json.get("rescale_acts_by_decoder_norm").and_then(Value::as_bool).unwrap_or(false) {
            scale_by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
        }
        Ok(Sae::new(
            folder.to_string(),
            site,
            Parameters {
                architecture,
                encoder,
                w_dec,
                b_enc,
                b_dec: tensors.get("b_dec", &[d_in])?,
                subtract_b_dec: json.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true),
            },
        ))
    }
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

pub(crate) fn site(
    hook: HookPoint,
    head: Option<usize>,
    model: &Model,
    problem: impl Fn(String) -> Error,
) -> Result<Site> {
    let config = model.config();
    if !HookPoint::all(config).contains(&hook) {
        return Err(problem(format!("the SAE reads {hook}, which the model does not have")));
    }
    let by_head = matches!(
        hook,
        HookPoint::Block(_, BlockHook::Z | BlockHook::Q | BlockHook::K | BlockHook::V | BlockHook::Result)
    );
    if matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern)) {
        return Err(problem(format!("{hook} has as many numbers as positions; an SAE cannot read it")));
    }
    let shape = hook.shape(config, 0);
    let width: usize = shape.iter().product();
    let columns = match head {
        Some(head) if !by_head || head >= config.attention.query_heads => {
            return Err(problem(format!("the SAE reads head {head} of {hook}, which the model does not have")));
        }
        Some(head) => head * shape[1]..(head + 1) * shape[1],
        None => 0..width,
    };
    Ok(Site { hook, head, columns })
}
