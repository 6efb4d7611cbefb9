//! sparsify's folders: `cfg.json` and `sae.safetensors`, in a folder named after the module.

use directrix_corpus::Settings;
use directrix_model::{Folder, Processing, Tensors};

use super::{Hook, Place, Stored, module, unknown_tensor};
use crate::{Architecture, Normalisation, Parameters, Result};

pub(super) const CONFIG: &str = "cfg.json";
pub(super) const WEIGHTS: &str = "sae.safetensors";
/// No SAE has more directions or is wider.
const MOST: usize = 1 << 28;

/// The SAE in a folder, as sparsify 1.3 reads it: keys of `cfg.json` that it does not know count for nothing.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let settings = Settings::parse(&folder.describe(CONFIG), &folder.read(CONFIG)?)?;
    settings.or("activation", "topk", |field| field.choice(&["topk"]))?;
    if settings.or("signed", false, |field| field.flag())? {
        return Err(settings.problem("`signed` is true: activations below 0 are not supported").into());
    }
    let d_in = settings.get("d_in")?.count(MOST)?;
    let directions = match settings.or("num_latents", 0, |field| field.index(MOST))? {
        0 => d_in * settings.or("expansion_factor", 32, |field| field.count(1 << 20))?,
        directions => directions,
    };
    let k = settings.or("k", 32, |field| field.count(directions))?;
    let transcodes = settings.or("transcode", false, |field| field.flag())?;
    let skips = settings.or("skip_connection", false, |field| field.flag())?;

    let tensors = Tensors::open(folder, Some(WEIGHTS))?;
    let parameters = Parameters {
        architecture: Architecture::TopK { k },
        encoder: tensors.matrix("encoder.weight", directions, d_in)?,
        w_dec: tensors.matrix("W_dec", directions, d_in)?,
        b_enc: tensors.get("encoder.bias", &[directions])?,
        b_dec: tensors.get("b_dec", &[d_in])?,
        subtract_b_dec: !transcodes,
        normalisation: Normalisation::None,
        w_skip: skips.then(|| tensors.matrix("W_skip", d_in, d_in)).transpose()?,
    };
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "a sparse coder of sparsify with this `cfg.json`"));
    }
    Ok(Stored { place: place(folder, transcodes), parameters, trained_on: Some(Processing::none()) })
}

/// The module that the folder is named after: its output, or for a transcoder from its input to its output.
fn place(folder: &Folder, transcodes: bool) -> Result<Place, String> {
    let names = folder.path();
    let name = names.first().map_or("", String::as_str);
    let Some(writes) = module::output(name) else {
        return Err(format!("sparsify names the module by the folder, and `{name}` is none, as `layers.3.mlp` is"));
    };
    if !transcodes {
        return Ok(Place::at(writes));
    }
    let Some(reads) = module::input(name) else {
        return Err(format!(
            "it reads what `{name}` reads, a norm's output with its weights applied, which is no hook point; \
             `ln2.hook_normalized` is the same only where the model's norm has no weights of its own"
        ));
    };
    let hook = |hook| Hook { hook, head: None };
    Ok(Place { reads: hook(reads), writes: hook(writes) })
}
