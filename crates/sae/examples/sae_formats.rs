//! What an SAE makes of the rows of a file, and the SAE in every form that is written: `sae_formats FOLDER ROWS OUT [READS WRITES]`.

use std::error::Error;
use std::path::Path;

use directrix_kernels::Matrix;
use directrix_model::{Folder, Tensors};
use directrix_sae::{Hook, Place, Sae, agree};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rows, out, place @ ..] = &arguments[..] else { return Err("usage: FOLDER ROWS OUT".into()) };
    let (folder, rows, out) = (Folder::open(folder)?, Path::new(rows), Path::new(out));
    let sae = match place {
        [reads, writes] => {
            let hook = |name: &String| name.parse().map(|hook| Hook { hook, head: None });
            Sae::load_at(&folder, Place { reads: hook(reads)?, writes: hook(writes)? })?
        }
        _ => Sae::load(&folder)?,
    };
    let beside = Folder::open(rows.parent().ok_or("no folder")?)?;
    let tensors = Tensors::open(&beside, rows.file_name().and_then(|name| name.to_str()))?;
    let shape = tensors.shape("x")?;
    let x = tensors.matrix("x", shape[0], shape[1])?;
    let acts = sae.encode(&x)?;
    let recon = sae.decode(&acts, &x);
    let acts = Matrix::new(acts.to_dense(sae.directions()), x.rows(), sae.directions());
    let bytes = [&acts, &recon].map(|matrix| matrix.data().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let view = |matrix: &Matrix, bytes| TensorView::new(Dtype::F32, vec![matrix.rows(), matrix.columns()], bytes);
    let views = [("acts", view(&acts, &bytes[0])?), ("recon", view(&recon, &bytes[1])?)];
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("found.safetensors"), safetensors::serialize(views, None)?)?;

    for (name, save) in [("sae_lens", true), ("dictionary_learning", false)] {
        let to = out.join(name);
        let saved = if save { sae.save(&to, &Value::Null, None) } else { sae.save_dictionary_learning(&to, "m") };
        match saved {
            Ok(()) => agree(&sae, &Sae::load(&Folder::open(&to)?)?)?,
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}
