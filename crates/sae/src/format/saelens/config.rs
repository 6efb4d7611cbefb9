//! `cfg.json` in the spellings of SAELens 0 to 6.

use directrix_corpus::{Field, Settings};

use crate::{End, Result, Site};

/// No SAE has more directions or is wider, so that a wrong number asks for no memory.
const MOST: usize = 1 << 28;

/// SAELens's architectures.
const ARCHITECTURES: [&str; 6] = ["standard", "topk", "jumprelu", "gated", "transcoder", "jumprelu_transcoder"];

/// What `cfg.json` says of an SAE.
pub(super) struct Config {
    pub(super) architecture: Architecture,
    pub(super) site: Site,
    pub(super) directions: usize,
    pub(super) subtract_b_dec: bool,
    /// Whether pre-activations are multiplied by their decoder row's length and activations divided by it.
    pub(super) rescaled: bool,
    /// Whether each direction's decoder row has a factor of its own, of fine-tuning.
    pub(super) finetuned: bool,
}

/// The tensors and the activation that an SAE has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Relu,
    TopK { k: usize },
    JumpRelu,
    Gated,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Config> {
        // SAELens 6 keeps hook points under `metadata`, earlier versions at the top.
        let metadata = settings.find_some("metadata").map(|field| field.object()).transpose()?;
        let spelled = Spelled { settings, metadata: metadata.as_ref() };
        let name = settings.or("architecture", "standard", |field| field.choice(&ARCHITECTURES))?;
        let is_transcoder = name.ends_with("transcoder");
        let d_in = settings.get("d_in")?.count(MOST)?;
        let directions = directions(settings, d_in)?;
        check_normalisation(settings)?;
        settings.or("reshape_activations", "none", |field| field.choice(&["none", "hook_z"]))?;

        let reads = spelled.end(&["hook_name", "hook_point"], &["hook_head_index", "hook_point_head_index"], d_in)?;
        let site = if is_transcoder {
            let d_out = settings.get("d_out")?.count(MOST)?;
            Site { writes: spelled.end(&["hook_name_out"], &["hook_head_index_out"], d_out)?, reads }
        } else {
            Site::at(reads)
        };
        let subtract_b_dec = settings.or("apply_b_dec_to_input", !is_transcoder, |field| field.flag())?;
        if is_transcoder && subtract_b_dec {
            let problem =
                "`apply_b_dec_to_input` is true, but what a transcoder reads is not what its `b_dec` is added to";
            return Err(settings.problem(problem).into());
        }
        let architecture = architecture(settings, &spelled, name, directions)?;
        let rescaled = settings.or("rescale_acts_by_decoder_norm", false, |field| field.flag())?;
        if rescaled && !matches!(architecture, Architecture::TopK { .. }) {
            return Err(settings.problem(format!("`rescale_acts_by_decoder_norm` is for topk, not for {name}")).into());
        }
        let finetuned = settings.or("finetuning_scaling_factor", false, |field| field.flag())?;
        Ok(Config { architecture, site, directions, subtract_b_dec, rescaled, finetuned })
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

/// That activations are read as they are. Early versions say so by `false`.
fn check_normalisation(settings: &Settings) -> Result<()> {
    let Some(field) = settings.find_some("normalize_activations") else { return Ok(()) };
    let is_none = if field.is_flag() { !field.flag()? } else { field.text()? == "none" };
    if is_none {
        Ok(())
    } else {
        Err(field.wrong("\"none\"; SAEs that normalise what they read are not supported").into())
    }
}

/// The architecture with the activation, which versions before 6 name apart and by several names.
fn architecture(settings: &Settings, spelled: &Spelled, name: &str, directions: usize) -> Result<Architecture> {
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
    Ok(match name {
        _ if is_topk => Architecture::TopK { k: k(settings, spelled, directions)? },
        "jumprelu" | "jumprelu_transcoder" => Architecture::JumpRelu,
        "gated" => Architecture::Gated,
        _ => Architecture::Relu,
    })
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

    /// The hook point named by one of `hooks`, or its head that is numbered by one of `heads`.
    fn end(&self, hooks: &[&str], heads: &[&str], width: usize) -> Result<End> {
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
        let parsed = name.parse();
        let wrong = |error: directrix_model::Error| self.settings.problem(format!("`{}`: {error}", hook.name()));
        Ok(End { hook: parsed.map_err(wrong)?, head, width })
    }
}
