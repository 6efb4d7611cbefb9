//! Goodfire's sparse autoencoders: one `.pt` or `.pth` file, whose name ends in the layer.

use directrix_model::{BlockHook, Folder, HookPoint, Processing, Tensors};

use super::{Place, Stored, unknown_tensor};
use crate::{Architecture, Normalisation, Parameters, Result};

/// The SAE of a file called `name`, as SAELens 6.54 reads it: ReLU, `b_dec` not taken from the input.
pub(super) fn read(folder: &Folder, tensors: &Tensors, name: &str) -> Result<Stored> {
    let directions = tensors.shape("encoder_linear.bias")?.iter().product();
    let d_in = tensors.shape("decoder_linear.bias")?.iter().product();
    let parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: tensors.matrix("encoder_linear.weight", directions, d_in)?,
        w_dec: tensors.matrix("decoder_linear.weight", d_in, directions)?.transposed(),
        b_enc: tensors.get("encoder_linear.bias", &[directions])?,
        b_dec: tensors.get("decoder_linear.bias", &[d_in])?,
        subtract_b_dec: false,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    if let Some(name) = tensors.unread().first() {
        return Err(unknown_tensor(folder, name, "an autoencoder of Goodfire"));
    }
    let layer = name.rsplit_once("-l").and_then(|(_, layer)| layer.parse().ok());
    let place = layer.map(|layer| Place::at(HookPoint::Block(layer, BlockHook::ResidPost)));
    let why = || "Goodfire names the layer at the end of the file's name, `…-SAE-l19.pth`".to_owned();
    Ok(Stored { place: place.ok_or_else(why), parameters, trained_on: Some(Processing::none()) })
}
