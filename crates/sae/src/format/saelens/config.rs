//! `cfg.json` in the spellings of SAELens 0 to 6.

use directrix_corpus::{Field, Settings};
use directrix_model::{HookPoint, Processing};

use crate::format::{Hook, Place};
use crate::{Normalisation, Result};

/// No SAE has more directions or is wider, so that a wrong number asks for no memory.
const MOST: usize = 1 << 28;

/// SAELens's architectures; the last two are those of checkpoints of training, whose SAEs are saved as `jumprelu`.
const ARCHITECTURES: [&str; 10] = [
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "batchtopk",
    "matryoshka_batchtopk",
];

/// What `cfg.json` says of an SAE.
pub(super) struct Config {
    /// SAELens's name of the architecture.
    pub(super) name: String,
    pub(super) architecture: Architecture,
    pub(super) place: Place,
    pub(super) d_in: usize,
    pub(super) d_out: usize,
    pub(super) directions: usize,
    pub(super) subtract_b_dec: bool,
    pub(super) normalisation: Normalisation,
    /// Whether what is read was scaled in training by a factor that is not in the weights.
    pub(super) scaled: bool,
    /// Whether pre-activations are multiplied by their decoder row's length and activations divided by it.
    pub(super) rescaled: bool,
    /// How the weights it was trained on were processed, if that is said.
    pub(super) trained_on: Option<Processing>,
    /// Whether there is a skip connection.
    pub(super) skip: bool,
    /// Whether each direction's decoder row has a factor of its own, of fine-tuning; `None` if the version knows none.
    pub(super) finetuned: Option<bool>,
}

/// The tensors and the activation that an SAE has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Relu,
    TopK {
        k: usize,
    },
    JumpRelu,
    /// One threshold for all directions, which training left.
    BatchTopK,
    Gated,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Config> {
        // SAELens 6 keeps hook points under `metadata`, earlier versions at the top.
        let metadata = settings.find_some("metadata").map(|field| field.object()).transpose()?;
        let spelled = Spelled { settings, metadata: metadata.as_ref() };
        let is_old = spelled.is_before_6()?;
        let name = if is_old {
            settings.or("architecture", "standard", |field| field.choice(&ARCHITECTURES))?
        } else {
            settings.get("architecture")?.choice(&ARCHITECTURES)?
        };
        let is_transcoder = name.ends_with("transcoder");
        let d_in = settings.get("d_in")?.count(MOST)?;
        let directions = directions(settings, d_in)?;
        let (normalisation, scaled) = normalisation(settings, is_old)?;

        let reads = spelled.hook(&["hook_name", "hook_point"], &["hook_head_index", "hook_point_head_index"])?;
        let reshaped = settings.or("reshape_activations", "none", |field| field.choice(&["none", "hook_z"]))?;
        if reshaped == "hook_z" && !reads.hook.to_string().ends_with("_z") {
            let problem = format!("`reshape_activations` is \"hook_z\", but the hook point is {}", reads.hook);
            return Err(settings.problem(problem).into());
        }
        let (writes, d_out) = if is_transcoder {
            let d_out = settings.get("d_out")?.count(MOST)?;
            (spelled.hook(&["hook_name_out"], &["hook_head_index_out"])?, d_out)
        } else {
            (reads, d_in)
        };
        let subtract_b_dec = settings.or("apply_b_dec_to_input", !is_transcoder, |field| field.flag())?;
        if is_transcoder && subtract_b_dec {
            let problem =
                "`apply_b_dec_to_input` is true, but what a transcoder reads is not what its `b_dec` is added to";
            return Err(settings.problem(problem).into());
        }
        let architecture = if is_old {
            older_architecture(settings, &spelled, name, directions)?
        } else {
            match name {
                "topk" => Architecture::TopK { k: settings.get("k")?.count(directions)? },
                _ => by_name(name),
            }
        };
        // The key counts for these alone.
        let rescaled = match architecture {
            Architecture::TopK { .. } => settings.or("rescale_acts_by_decoder_norm", false, |field| field.flag())?,
            Architecture::BatchTopK => settings.or("rescale_acts_by_decoder_norm", true, |field| field.flag())?,
            _ => false,
        };
        let finetuned =
            is_old.then(|| settings.or("finetuning_scaling_factor", false, |field| field.flag())).transpose()?;
        let trained_on = spelled.trained_on()?;
        let (place, skip) = (Place { reads, writes }, name.contains("skip"));
        Ok(Config {
            name: name.into(),
            architecture,
            place,
            d_in,
            d_out,
            directions,
            subtract_b_dec,
            normalisation,
            scaled,
            rescaled,
            trained_on,
            skip,
            finetuned,
        })
    }
}

fn by_name(name: &str) -> Architecture {
    match name {
        "gated" => Architecture::Gated,
        "batchtopk" | "matryoshka_batchtopk" => Architecture::BatchTopK,
        _ if name.starts_with("jumprelu") => Architecture::JumpRelu,
        _ => Architecture::Relu,
    }
}

/// The number of directions; where an early version names none, that of its expansion of the input.
fn directions(settings: &Settings, d_in: usize) -> Result<usize> {
    if let Some(d_sae) = settings.find_some("d_sae") {
        return Ok(d_sae.count(MOST)?);
    }
    let Some(factor) = settings.find("expansion_factor") else { return Ok(settings.get("d_sae")?.count(MOST)?) };
    let width = factor.number(1e-6..=1e6)? * d_in as f64;
    if width.fract() != 0.0 || !(1.0..=MOST as f64).contains(&width) {
        return Err(factor.wrong(&format!("a factor that makes whole directions of {d_in} numbers")).into());
    }
    Ok(width as usize)
}

/// How activations are normalised, and whether they were scaled in training by a factor that `cfg.json` does not hold. Versions
/// before 6 say so by true or false.
fn normalisation(settings: &Settings, is_old: bool) -> Result<(Normalisation, bool)> {
    let Some(field) = settings.find_some("normalize_activations") else { return Ok((Normalisation::None, false)) };
    if is_old && field.is_flag() {
        return Ok((Normalisation::None, field.flag()?));
    }
    Ok(match field.choice(&["none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"])? {
        "constant_norm_rescale" => (Normalisation::ConstantNorm, false),
        "layer_norm" => (Normalisation::LayerNorm, false),
        name => (Normalisation::None, name != "none"),
    })
}

/// The architecture with the activation, which versions before 6 name apart and by several names.
fn older_architecture(settings: &Settings, spelled: &Spelled, name: &str, directions: usize) -> Result<Architecture> {
    let function = spelled.one_of(&["activation_fn_str", "activation_fn"])?;
    let is_topk = match &function {
        None => name == "topk",
        Some(function) => {
            let is_topk = function.choice(&["relu", "topk"])? == "topk";
            let fits = if is_topk { name == "topk" || name == "standard" } else { name != "topk" };
            if !fits {
                let problem = format!("`{}` does not go with the architecture `{name}`", function.name());
                return Err(settings.problem(problem).into());
            }
            is_topk
        }
    };
    Ok(if is_topk { Architecture::TopK { k: k(settings, spelled, directions)? } } else { by_name(name) })
}

/// The `k` of a TopK SAE, by itself or, before 6, among the activation's arguments.
fn k(settings: &Settings, spelled: &Spelled, directions: usize) -> Result<usize> {
    let arguments = spelled.one_of(&["activation_fn_kwargs"])?.map(|field| field.object()).transpose()?;
    if let Some(other) = arguments.as_ref().and_then(|arguments| arguments.names().find(|name| *name != "k")) {
        let problem = format!("`activation_fn_kwargs` has `{other}`, which is not supported; `k` alone is");
        return Err(settings.problem(problem).into());
    }
    let inner = arguments.as_ref().and_then(|arguments| arguments.find("k"));
    match (settings.find("k"), inner) {
        (Some(k), Some(inner)) if k.count(directions)? != inner.count(directions)? => {
            Err(inner.wrong(&format!("the same as `k`, {}", k.count(directions)?)).into())
        }
        (Some(k), _) | (None, Some(k)) => Ok(k.count(directions)?),
        (None, None) => Ok(settings.get("k")?.count(directions)?),
    }
}

/// Settings that versions spell and place in several ways.
struct Spelled<'a> {
    settings: &'a Settings,
    metadata: Option<&'a Settings>,
}

impl<'a> Spelled<'a> {
    /// The one field of several names, in `metadata` or at the top; null is none. Where there are several, they must be the same.
    fn one_of(&self, names: &[&str]) -> Result<Option<Field<'a>>> {
        let places = self.metadata.into_iter().chain([self.settings]);
        let mut found = places.flat_map(|place| names.iter().filter_map(|name| place.find_some(name)));
        let Some(first) = found.next() else { return Ok(None) };
        match found.find(|other| !other.is_same(&first)) {
            Some(other) => {
                Err(self.settings.problem(format!("`{}` and `{}` differ", first.name(), other.name())).into())
            }
            None => Ok(Some(first)),
        }
    }

    /// Whether a version before 6 wrote the file, which spelled it otherwise; as SAELens tells it.
    fn is_before_6(&self) -> Result<bool> {
        let named = |settings: &'a Settings| {
            settings.find_some("sae_lens_version").filter(|field| field.text().is_ok_and(|text| !text.is_empty()))
        };
        let Some(version) = named(self.settings).or_else(|| named(self.metadata?)) else { return Ok(true) };
        let text = version.text()?;
        let (major, rest) = text.split_once('.').unwrap_or((text, ""));
        let Ok(major) = major.parse::<u32>() else {
            return Err(version.wrong("a version such as \"6.0.0\"").into());
        };
        // What came before the release candidates of 6.0.0 was of the older form.
        let is_early = rest.strip_prefix("0.0").is_some_and(|rest| {
            ["a", "b", "dev"].iter().any(|mark| rest.trim_start_matches(['.', '-', '_']).starts_with(mark))
        });
        Ok(major < 6 || major == 6 && is_early)
    }

    /// The processing that the model was loaded with: what TransformerLens was told, else does by default; none where the
    /// model was not one of TransformerLens.
    fn trained_on(&self) -> Result<Option<Processing>> {
        let class = self.one_of(&["model_class_name"])?.map(|class| class.text()).transpose()?;
        if class.is_some_and(|class| class != "HookedTransformer") {
            return Ok(Some(Processing::none()));
        }
        let Some(told) = self.one_of(&["model_from_pretrained_kwargs"])? else { return Ok(None) };
        let told = told.object()?;
        let step = |name: &str| told.find_some(name).map_or(Ok(true), |step| step.flag());
        Ok(Some(Processing {
            fold_ln: step("fold_ln")?,
            center_writing_weights: step("center_writing_weights")?,
            center_unembed: step("center_unembed")?,
            fold_value_biases: step("fold_value_biases")?,
        }))
    }

    /// The hook point named by one of `hooks`, or its head that is numbered by one of `heads`.
    fn hook(&self, hooks: &[&str], heads: &[&str]) -> Result<Hook> {
        let Some(hook) = self.one_of(hooks)? else {
            let problem = format!("key `metadata.{}` is missing or null, which names the hook point", hooks[0]);
            return Err(self.settings.problem(problem).into());
        };
        let mut name = hook.text()?.to_owned();
        if name.contains("{layer}") {
            let Some(layer) = self.one_of(&["hook_point_layer", "hook_layer"])? else {
                return Err(hook.wrong("a hook point's name, or `hook_point_layer` for its {layer}").into());
            };
            name = name.replace("{layer}", &layer.index(1 << 12)?.to_string());
        }
        let head = self.one_of(heads)?.map(|head| head.index(1 << 14)).transpose()?;
        let parsed: Result<HookPoint, _> = name.parse();
        let wrong = |error: directrix_model::Error| self.settings.problem(format!("`{}`: {error}", hook.name()));
        Ok(Hook { hook: parsed.map_err(wrong)?, head })
    }
}
