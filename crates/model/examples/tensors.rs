//! Writes what a file of tensors holds as a safetensors file of f32: `tensors FILE OUT`.

use std::error::Error;
use std::path::Path;

use directrix_model::{Folder, Tensors};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn main() -> Result<(), Box<dyn Error>> {
    let [file, out] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else { return Err("usage: FILE OUT".into()) };
    let file = Path::new(file);
    let folder = Folder::open(file.parent().ok_or("no folder")?)?;
    let name = file.file_name().and_then(|name| name.to_str()).ok_or("no file")?;
    let tensors = Tensors::open(&folder, Some(name))?;
    let mut found = Vec::new();
    for name in tensors.names() {
        let shape = tensors.shape(name)?;
        let numbers = match tensors.get(name, &shape) {
            Ok(numbers) => numbers,
            Err(_) => tensors.integers(name)?.into_iter().map(|n| n as f32).collect(),
        };
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        found.push((name, shape, bytes));
    }
    let views = found.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(std::fs::write(out, safetensors::serialize(views, None)?)?)
}
