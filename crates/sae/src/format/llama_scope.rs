//! Llama Scope's folders: `hyperparams.json` and `checkpoints/final.safetensors`.

use directrix_corpus::Settings;
use directrix_model::{Folder, Tensors};

use super::openmoss::{Hooks, refuse_others};
use super::{Stored, scaling, unknown_tensor};
use crate::{Architecture, Normalisation, Parameters, Result};

pub(super) const CONFIG: &str = "hyperparams.json";
const WEIGHTS: &str = "checkpoints/final.safetensors";
/// No SAE has more directions or is wider.
const MOST: usize = 1 << 28;
/// Keys of training, and what counts for TopK alone.
const OF_TRAINING: [&str; 21] = [
    "bias_init_method",
    "ddp_size",
    "decoder_exactly_fixed_norm",
    "device",
    "dtype",
    "expansion_factor",
    "init_decoder_norm",
    "init_encoder_norm",
    "init_encoder_with_decoder_transpose",
    "k_warmup_steps",
    "initial_k",
    "l1_coefficient",
    "l1_coefficient_warmup_steps",
    "lp",
    "seed",
    "sparsity_include_decoder_norm",
    "top_k",
    "tp_size",
    "use_batch_norm_mse",
    "use_ghost_grads",
    "sae_pretrained_name_or_path",
];

/// The SAE in a folder, as SAELens 6.54 reads it: activations are those of rows whose mean norm was made `√d`, and its one
/// threshold is for rows as they are.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    let d_in = settings.get("d_model")?.count(MOST)?;
    let directions = settings.get("d_sae")?.count(MOST)?;
    settings.get("act_fn")?.choice(&["jumprelu"])?;
    settings.get("norm_activation")?.choice(&["dataset-wise"])?;
    if !settings.or("use_decoder_bias", true, |field| field.flag())? {
        return Err(settings.problem("`use_decoder_bias` is false, which is not supported").into());
    }
    let threshold = settings.get("jump_relu_threshold")?.number(0.0..=1e30)?;
    let norms = settings.get("dataset_average_activation_norm")?.object()?;
    let factor = |end: &str| -> Result<f64> { Ok((d_in as f64).sqrt() / norms.get(end)?.number(1e-30..=1e30)?) };
    let (reads, writes) = (factor("in")?, factor("out")?);
    let hooks = Hooks::read(&settings)?;
    // Refused where it is left out as well: lm-saes takes it for true then.
    settings.get("apply_decoder_bias_to_pre_encoder")?;
    refuse_others(&settings, &["apply_decoder_bias_to_pre_encoder", "use_glu_encoder"], &OF_TRAINING)?;

    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let mut encoder = tensors.matrix("encoder.weight", directions, d_in)?;
    let mut w_dec = tensors.matrix("decoder.weight", d_in, directions)?.transposed();
    let mut b_dec = tensors.get("decoder.bias", &[d_in])?;
    let b_enc = tensors.get("encoder.bias", &[directions])?;
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "an SAE of Llama Scope"));
    }
    scaling::by_factors(&mut encoder, &mut w_dec, &mut b_dec, reads as f32, writes as f32);
    let parameters = Parameters {
        architecture: Architecture::JumpRelu { threshold: vec![(threshold * reads) as f32; directions] },
        encoder,
        w_dec,
        b_enc,
        b_dec,
        subtract_b_dec: false,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Ok(Stored { place: hooks.place(), parameters, trained_on: None })
}
