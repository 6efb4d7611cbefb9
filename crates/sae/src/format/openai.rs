//! OpenAI's sparse autoencoders: one `.pt` file, in a folder named after the place.

use directrix_model::{BlockHook, Folder, HookPoint, Leaf, Processing, Tensors};

use super::{Place, Stored, unknown_tensor};
use crate::{Architecture, Error, Normalisation, Parameters, Result};

/// Names of places in OpenAI's folders.
const PLACES: [(&str, BlockHook); 5] = [
    ("mlp_post_act", BlockHook::MlpPost),
    ("resid_delta_attn", BlockHook::AttnOut),
    ("resid_delta_mlp", BlockHook::MlpOut),
    ("resid_post_attn", BlockHook::ResidMid),
    ("resid_post_mlp", BlockHook::ResidPost),
];

/// The SAE of the file `name.pt`: `TopK` on rows that LayerNorm makes, or ReLU on the rows as they are.
pub(super) fn read(folder: &Folder, tensors: &Tensors, name: &str) -> Result<Stored> {
    let refused = |problem: String| Error::Parameters { sae: folder.to_string(), problem };
    let (directions, d_in) =
        (tensors.shape("latent_bias")?.iter().product(), tensors.shape("pre_bias")?.iter().product());
    let (architecture, normalisation) = match tensors.leaf("activation") {
        None => (Architecture::Relu, Normalisation::None),
        Some(Leaf::Text(name)) if name == "ReLU" => (Architecture::Relu, Normalisation::None),
        Some(Leaf::Text(name)) if name == "TopK" => {
            let post = tensors.leaf("activation_state_dict.postact_fn");
            if post.is_some_and(|post| *post != Leaf::Text("ReLU".into())) {
                return Err(refused(format!("`activation_state_dict.postact_fn` is {post:?}, expected `ReLU`")));
            }
            let k = match tensors.leaf("activation_state_dict.k") {
                Some(Leaf::Int(k)) => usize::try_from(*k).ok().filter(|k| (1..=directions).contains(k)),
                _ => None,
            };
            let k =
                k.ok_or_else(|| refused(format!("`activation_state_dict.k` is no number from 1 to {directions}")))?;
            (Architecture::TopK { k }, Normalisation::LayerNorm)
        }
        Some(other) => return Err(refused(format!("`activation` is {other:?}, expected `ReLU` or `TopK`"))),
    };
    let parameters = Parameters {
        architecture,
        encoder: tensors.matrix("encoder.weight", directions, d_in)?,
        w_dec: tensors.matrix("decoder.weight", d_in, directions)?.transposed(),
        b_enc: tensors.get("latent_bias", &[directions])?,
        b_dec: tensors.get("pre_bias", &[d_in])?,
        subtract_b_dec: true,
        normalisation,
        w_skip: None,
    };
    // Counts of training.
    if let Some(name) = tensors.unread().iter().find(|name| *name != "stats_last_nonzero") {
        return Err(unknown_tensor(folder, name, "an autoencoder of OpenAI"));
    }
    let parts = folder.path();
    let hook = PLACES.iter().find(|(place, _)| parts.iter().any(|part| part == place)).map(|(_, hook)| *hook);
    let place = hook.zip(name.parse().ok()).map(|(hook, layer)| Place::at(HookPoint::Block(layer, hook)));
    let why =
        || "OpenAI names the place by a folder such as `resid_post_mlp`, and the layer by the file, `8.pt`".to_owned();
    Ok(Stored { place: place.ok_or_else(why), parameters, trained_on: Some(Processing::none()) })
}
