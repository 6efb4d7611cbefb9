//! Gemma Scope's folders: `params.npz`, and those of Gemma Scope 2: `params.safetensors`.

use directrix_corpus::Settings;
use directrix_model::{BlockHook, Folder, HookPoint, Processing, Tensors};

use super::{Hook, Place, Stored, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result};

pub(super) const FIRST: &str = "params.npz";
pub(super) const SECOND: &str = "params.safetensors";
const CONFIG: &str = "config.json";

/// The SAE or transcoder of Gemma Scope in a folder, whose path says where it is.
pub(super) fn first(folder: &Folder) -> Result<Stored> {
    let tensors = Tensors::open(folder, Some(FIRST))?;
    let mut parameters = jump_relu(&tensors)?;
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "Gemma Scope"));
    }
    let parts = folder.path();
    // Those of embeddings were trained on rows that the model multiplies by √d.
    if parts.iter().any(|part| part == "embedding") {
        let root = (parameters.encoder.columns() as f32).sqrt();
        parameters.encoder.data_mut().iter_mut().for_each(|w| *w /= root);
        parameters.w_dec.data_mut().iter_mut().for_each(|w| *w *= root);
        return Ok(Stored { place: Ok(Place::at(HookPoint::Embed)), parameters, trained_on: Some(Processing::none()) });
    }
    let repository = parts.iter().find(|part| part.contains("gemma-scope"));
    let kind =
        repository.and_then(|name| name.split('-').rfind(|word| ["res", "mlp", "att", "transcoders"].contains(word)));
    let block = |hook| layer(&parts).map(|layer| HookPoint::Block(layer, hook));
    let place = match kind {
        Some("res") => block(BlockHook::ResidPost).map(Place::at),
        Some("mlp") => block(BlockHook::MlpOut).map(Place::at),
        Some("att") => block(BlockHook::Z).map(Place::at),
        Some(_) => block(BlockHook::Ln2Normalized).zip(block(BlockHook::MlpOut)).map(|(reads, writes)| {
            let hook = |hook| Hook { hook, head: None };
            Place { reads: hook(reads), writes: hook(writes) }
        }),
        None => None,
    };
    let why = || {
        "Gemma Scope says it by the path, `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`: repository (res, mlp, \
         att or transcoders) and layer"
            .to_owned()
    };
    Ok(Stored { place: place.ok_or_else(why), parameters, trained_on: Some(Processing::none()) })
}

/// The SAE or transcoder of Gemma Scope 2 in a folder, whose path or `config.json` says where it is.
pub(super) fn second(folder: &Folder) -> Result<Stored> {
    let config = folder.read_optional(CONFIG)?;
    let config = config.map(|bytes| Settings::parse(&folder.describe(CONFIG), &bytes)).transpose()?;
    if let Some(settings) = &config {
        settings.get("architecture")?.choice(&["jump_relu"])?;
    }
    let tensors = Tensors::open(folder, Some(SECOND))?;
    if tensors.shape("w_dec")?.len() == 3 {
        let problem = "a cross-layer transcoder, which writes to several layers, is not supported".into();
        return Err(Error::Parameters { sae: folder.to_string(), problem });
    }
    let mut parameters = jump_relu(&tensors)?;
    if tensors.contains("affine_skip_connection") {
        let (d_in, d_out) = (parameters.encoder.columns(), parameters.w_dec.columns());
        parameters.w_skip = Some(tensors.matrix("affine_skip_connection", d_in, d_out)?.transposed());
    }
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "Gemma Scope 2"));
    }
    let parts = folder.path();
    let kinds = [
        ("resid_post", ".output", BlockHook::ResidPost),
        ("attn_out", ".self_attn.o_proj.input", BlockHook::Z),
        ("mlp_out", ".post_feedforward_layernorm.output", BlockHook::MlpOut),
    ];
    let text = |name: &str| config.as_ref().and_then(|c| c.find_some(name)).map(|field| field.text()).transpose();
    let place = match (text("hf_hook_point_in")?, text("hf_hook_point_out")?) {
        (Some(reads), None) => {
            let inside = reads.strip_prefix("model.layers.");
            let digits = inside.map_or(0, |inside| inside.bytes().take_while(u8::is_ascii_digit).count());
            inside.map(|inside| inside.split_at(digits)).and_then(|(layer, part)| {
                let (_, _, hook) = kinds.iter().find(|(_, module, _)| *module == part)?;
                Some(HookPoint::Block(layer.parse().ok()?, *hook))
            })
        }
        (None, None) => {
            let is_named = |kind: &str| parts.iter().any(|part| part == kind || part.starts_with(&format!("{kind}_")));
            kinds
                .iter()
                .find(|(kind, ..)| is_named(kind))
                .zip(layer(&parts))
                .map(|((.., hook), layer)| HookPoint::Block(layer, *hook))
        }
        _ => None,
    };
    let why = || {
        "the path or `config.json` of Gemma Scope 2 names no hook point (a transcoder reads a norm's output with its weights \
         applied, which is none: `ln2.hook_normalized` is the same only where the model's norm has no weights of its own)"
            .to_owned()
    };
    Ok(Stored { place: place.map(Place::at).ok_or_else(why), parameters, trained_on: Some(Processing::none()) })
}

/// What both have: JumpReLU without `b_dec` on the input. Names are written in capitals or not.
fn jump_relu(tensors: &Tensors) -> Result<Parameters> {
    let spelled = |name: &'static str, other: &'static str| if tensors.contains(other) { other } else { name };
    let (w_enc, w_dec) = (spelled("W_enc", "w_enc"), spelled("W_dec", "w_dec"));
    let directions = tensors.shape("b_enc")?.iter().product();
    let (d_in, d_out) = (tensors.shape(w_enc)?.first().copied().unwrap_or(0), tensors.shape("b_dec")?.iter().product());
    let threshold = tensors.get("threshold", &[directions])?.into_iter().map(|threshold| threshold.max(0.0)).collect();
    Ok(Parameters {
        architecture: Architecture::JumpRelu { threshold },
        encoder: tensors.matrix(w_enc, d_in, directions)?.transposed(),
        w_dec: tensors.matrix(w_dec, directions, d_out)?,
        b_enc: tensors.get("b_enc", &[directions])?,
        b_dec: tensors.get("b_dec", &[d_out])?,
        subtract_b_dec: false,
        normalisation: Normalisation::None,
        w_skip: None,
    })
}

/// The layer that the path names, `layer_20` or `layer_20_width_16k_l0_small`.
fn layer(parts: &[String]) -> Option<usize> {
    parts.iter().find_map(|part| part.strip_prefix("layer_")?.split('_').next()?.parse().ok())
}
