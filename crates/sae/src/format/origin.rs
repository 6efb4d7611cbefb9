//! The files of the superposition project: `NAME.pt` and `NAME.json`.

use directrix_corpus::Settings;
use directrix_model::{Folder, Processing, Tensors};

use super::{Hook, Place, Stored, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result};

/// No SAE has more directions or is wider.
const MOST: usize = 1 << 28;

/// The names that a `.pt` and a `.json` file share.
pub(super) fn names(files: &[String]) -> Vec<&str> {
    let stems = files.iter().filter_map(|file| file.strip_suffix(".pt"));
    stems.filter(|stem| files.iter().any(|file| file.strip_suffix(".json") == Some(stem))).collect()
}

/// The SAE in a folder: ReLU, `b_dec` taken from the input.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let files = folder.names()?;
    let [name] = names(&files)[..] else {
        let problem =
            "the folder holds several SAEs, each a `.pt` and a `.json` file; move the two of each into a folder";
        return Err(Error::Parameters { sae: folder.to_string(), problem: problem.into() });
    };
    let (config, weights) = (format!("{name}.json"), format!("{name}.pt"));
    let settings = Settings::parse(&folder.describe(&config), &folder.read(&config)?)?;
    let d_in = settings.get("d_in")?.count(MOST)?;
    let tensors = Tensors::open(folder, Some(&weights))?;
    let directions = tensors.shape("b_enc")?.first().copied().unwrap_or(0);
    let parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: tensors.matrix("W_enc", d_in, directions)?.transposed(),
        w_dec: tensors.matrix("W_dec", directions, d_in)?,
        b_enc: tensors.get("b_enc", &[directions])?,
        b_dec: tensors.get("b_dec", &[d_in])?,
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "an SAE of the superposition project"));
    }
    let (layer, act) = (settings.get("layer")?.index(1 << 12)?, settings.get("act")?);
    let hook = format!("blocks.{layer}.{}", act.text()?).parse();
    let hook = hook.map_err(|error: directrix_model::Error| settings.problem(format!("`act`: {error}")))?;
    let head = settings.find_some("head_idx").map(|field| field.index(1 << 14)).transpose()?;
    let hook = Hook { hook, head };
    Ok(Stored { place: Ok(Place { reads: hook, writes: hook }), parameters, trained_on: Some(Processing::default()) })
}
