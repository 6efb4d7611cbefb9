//! Files of torch with nothing beside them: whose they are, their tensors say.

use directrix_model::{Folder, Tensors};

use super::{Stored, goodfire, openai};
use crate::{Error, Result};

/// The names of `.pt` and `.pth` files.
pub(super) fn names(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).filter(|file| stem(file).is_some()).collect()
}

/// The SAE in the one such file of a folder.
pub(super) fn read(folder: &Folder) -> Result<Stored> {
    let files = folder.names()?;
    let refused = |problem: String| Error::Parameters { sae: folder.to_string(), problem };
    let [file] = names(&files)[..] else {
        return Err(refused("the folder holds several `.pt` files; name one of them, or keep each in a folder".into()));
    };
    let (tensors, name) = (Tensors::open(folder, Some(file))?, stem(file).unwrap_or(file));
    if tensors.contains("pre_bias") && tensors.contains("latent_bias") {
        return openai::read(folder, &tensors, name);
    }
    if tensors.contains("encoder_linear.weight") {
        return goodfire::read(folder, &tensors, name);
    }
    let found = tensors.names().take(6).collect::<Vec<_>>().join(", ");
    Err(refused(format!(
        "`{file}` is of no form that is known without a file beside it: OpenAI's has `pre_bias` and `latent_bias`, Goodfire's \
         `encoder_linear.weight`, this has {found}; is its `.json` missing?"
    )))
}

fn stem(file: &str) -> Option<&str> {
    file.strip_suffix(".pt").or_else(|| file.strip_suffix(".pth"))
}
