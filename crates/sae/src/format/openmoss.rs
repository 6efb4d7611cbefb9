//! OpenMOSS's folders, those of Llamascopium and lm-saes: `config.json` and `sae_weights.safetensors`.

use directrix_corpus::Settings;
use directrix_model::{Folder, HookPoint, Tensors};

use super::{Hook, Place, Stored, scaling, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "sae_weights.safetensors";
/// No SAE has more directions or is wider.
const MOST: usize = 1 << 28;
/// Keys that say how an SAE was trained, stored or run, and not what it computes.
const OF_TRAINING: [&str; 8] = [
    "device",
    "dtype",
    "force_unit_decoder_norm",
    "jumprelu_threshold_window",
    "sae_pretrained_name_or_path",
    "sparsity_threshold_for_triton_spmm_kernel",
    "strict_loading",
    "use_triton_kernel",
];

/// The SAE or transcoder in a folder, as Llamascopium 2.0 reads it (`SparseDictionary.from_pretrained`).
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    settings.get("sae_type")?.choice(&["sae"])?;
    let d_in = settings.get("d_model")?.count(MOST)?;
    let directions = (d_in as f64 * settings.get("expansion_factor")?.number(1e-6..=1e6)?) as usize;
    if !(1..=MOST).contains(&directions) {
        return Err(settings.get("expansion_factor")?.wrong("a factor that makes directions of `d_model`").into());
    }
    let activation = settings.or("act_fn", "relu", |field| field.choice(&["relu", "jumprelu", "topk"]))?;
    let counts_decoder = settings.or("sparsity_include_decoder_norm", true, |field| field.flag())?;
    let k = settings.or("top_k", 50, |field| field.index(MOST))?;
    let has_bias = settings.or("use_decoder_bias", true, |field| field.flag())?;
    let norm = settings
        .or("norm_activation", "dataset-wise", |field| field.choice(&["token-wise", "dataset-wise", "inference"]))?;
    let hooks = Hooks::read(&settings)?;
    if norm == "token-wise" && hooks.reads != hooks.writes {
        let problem =
            "`norm_activation` is \"token-wise\": what a transcoder writes would be scaled by what it is to be";
        return Err(settings.problem(problem).into());
    }
    refuse_others(&settings, &["apply_decoder_bias_to_pre_encoder", "use_glu_encoder"], &OF_TRAINING)?;

    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let numbers = |name: &str| tensors.get(name, &[directions]);
    let mut encoder = tensors.matrix("W_E", d_in, directions)?.transposed();
    let mut w_dec = tensors.matrix("W_D", directions, d_in)?;
    let mut b_enc = numbers("b_E")?;
    let mut b_dec = if has_bias { tensors.get("b_D", &[d_in])? } else { vec![0.0; d_in] };
    let architecture = match activation {
        "jumprelu" => {
            let mut threshold = numbers("activation_function.log_jumprelu_threshold")?;
            threshold.iter_mut().for_each(|number| *number = number.exp());
            if counts_decoder {
                let lengths = scaling::lengths(&w_dec);
                // Where a row is zero, nothing passes.
                threshold.iter_mut().zip(lengths).for_each(|(number, length)| *number /= length);
            }
            threshold.iter_mut().for_each(|number| *number = number.min(f32::MAX));
            Architecture::JumpRelu { threshold }
        }
        "topk" if !(1..=directions).contains(&k) => {
            return Err(settings.problem(format!("`top_k` is {k}, expected a number from 1 to {directions}")).into());
        }
        "topk" => Architecture::TopK { k },
        _ => Architecture::Relu,
    };
    if counts_decoder && activation == "topk" {
        scaling::by_decoder(&mut encoder, &mut b_enc, &mut w_dec);
    }
    if norm == "dataset-wise" {
        let factor = |hook: &str| factor(folder, &tensors, hook, d_in);
        let (reads, writes) = (factor(&hooks.reads)?, factor(&hooks.writes)?);
        scaling::by_factors(&mut encoder, &mut w_dec, &mut b_dec, reads, writes);
    }
    // Stored whether or not they were ever set.
    let norms = [norm_of(&hooks.reads), norm_of(&hooks.writes)];
    if let Some(name) = tensors.unread().iter().find(|name| !norms.contains(name)) {
        return Err(unknown_tensor(folder, name, "an SAE of OpenMOSS with this `config.json`"));
    }
    let parameters = Parameters {
        architecture,
        encoder,
        w_dec,
        b_enc,
        b_dec,
        subtract_b_dec: false,
        normalisation: if norm == "token-wise" { Normalisation::ConstantNorm } else { Normalisation::None },
        w_skip: None,
    };
    Ok(Stored { place: hooks.place(), parameters, trained_on: None })
}

/// The hook points that a configuration names; those that transcoders read may be none that is known.
pub(super) struct Hooks {
    pub(super) reads: String,
    pub(super) writes: String,
}

impl Hooks {
    pub(super) fn read(settings: &Settings) -> Result<Hooks> {
        let name = |name: &str| settings.get(name)?.text().map(str::to_owned);
        Ok(Hooks { reads: name("hook_point_in")?, writes: name("hook_point_out")? })
    }

    pub(super) fn place(&self) -> Result<Place, String> {
        let hook = |name: &str| match name.parse::<HookPoint>() {
            Ok(hook) => Ok(Hook { hook, head: None }),
            Err(_) => Err(format!("`hook_point_in` and `hook_point_out` are `{}` and `{}`", self.reads, self.writes)),
        };
        Ok(Place { reads: hook(&self.reads)?, writes: hook(&self.writes)? })
    }
}

/// Refuses the settings in `off` where they are true, and those that nobody asked for and that are not `harmless`.
pub(super) fn refuse_others(settings: &Settings, off: &[&str], harmless: &[&str]) -> Result<()> {
    for name in off {
        if settings.or(name, false, |field| field.flag())? {
            return Err(settings.problem(format!("`{name}` is true, which is not supported")).into());
        }
    }
    match settings.unread().into_iter().find(|name| !harmless.contains(&&**name)) {
        None => Ok(()),
        Some(name) => {
            let problem =
                format!("`{name}` is not known and may change what the SAE computes; if it does not, remove it");
            Err(settings.problem(problem).into())
        }
    }
}

/// What activations at a hook point were multiplied with in training: `√d` by their mean norm.
fn factor(folder: &Folder, tensors: &Tensors, hook: &str, d: usize) -> Result<f32> {
    let name = norm_of(hook);
    let norm = tensors.get(&name, &[])?[0];
    if norm <= 0.0 {
        let problem = format!("tensor `{name}` is {norm}, which no mean norm is");
        return Err(Error::Parameters { sae: folder.to_string(), problem });
    }
    Ok(((d as f64).sqrt() / norm as f64) as f32)
}

fn norm_of(hook: &str) -> String {
    format!("dataset_average_activation_norm.{hook}")
}
