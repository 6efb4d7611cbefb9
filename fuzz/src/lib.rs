//! What is done with the bytes of a fuzzer, here and in `crates/sae/tests/fuzzed.rs`: they are read, or refused by an error.

use std::path::{Path, PathBuf};

use directrix_kernels::Matrix;
use directrix_model::{Folder, HookPoint, Model, Processing, Tensors};
use directrix_sae::{Place, Sae};

/// What folders are called: where some SAEs say which hook point they read.
const FOLDERS: [&str; 6] = [
    "layers.10",
    "resid_post_mlp",
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
    "transcoder/layer_9_width_16k_l0_small_affine",
    "x",
];
/// Files that models and SAEs are looked for in.
const FILES: [&str; 20] = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "a.safetensors",
    "a.bin",
    "tokenizer_config.json",
    "cfg.json",
    "sae_weights.safetensors",
    "activation_scaler.json",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "8.pt",
    "8.json",
    "hyperparams.json",
    "checkpoints/final.safetensors",
    "a-SAE-l3.pth",
];

/// A file of tensors, whichever form its content has.
pub fn tensors(name: &str, bytes: &[u8]) {
    let folder = Folder::in_memory("x", [(name.to_owned(), bytes.to_vec())]);
    let Ok(tensors) = Tensors::open(&folder, Some(name)) else { return };
    for name in tensors.names() {
        let _ = tensors.leaf(name);
        let _ = tensors.shape(name).and_then(|shape| tensors.get(name, &shape));
        let _ = tensors.integers(name);
    }
}

/// A model's folder.
pub fn model(bytes: &[u8]) {
    let folder = unpacked(bytes);
    for processing in [Processing::default(), Processing::none()] {
        let _ = Model::load(&folder, processing);
    }
}

/// A checkpoint of llama2.c and its tokenizer, one behind the other: the length of the first in three bytes.
pub fn llama2c(bytes: &[u8]) {
    let Some(([a, b, c], rest)) = bytes.split_first_chunk::<3>() else { return };
    let (checkpoint, tokenizer) = rest.split_at(rest.len().min(u32::from_le_bytes([*a, *b, *c, 0]) as usize));
    let folder = std::env::temp_dir().join(format!("directrix-fuzz-{}", std::process::id()));
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("the folder takes files");
    std::fs::create_dir_all(&folder).expect("a folder for files");
    write("a.bin", checkpoint);
    write("tokenizer.bin", tokenizer);
    let opened = Folder::of_file(folder.join("a.bin")).expect("the file was written");
    let _ = opened.tokenizer();
    let _ = Model::load(&opened, Processing::default());
    let _ = std::fs::remove_dir_all(folder);
}

/// An SAE's folder; a row is encoded and decoded.
pub fn sae(bytes: &[u8]) {
    let folder = unpacked(bytes);
    let hook: HookPoint = "blocks.0.hook_resid_post".parse().expect("a hook point");
    let Ok(sae) = Sae::load(&folder).or_else(|_| Sae::load_at(&folder, Place::at(hook))) else { return };
    let width = sae.d_in();
    let rows = Matrix::new((0..width).map(|i| (i as f32).sin()).collect(), 1, width);
    if let Ok(acts) = sae.encode(&rows) {
        sae.decode(&acts, &rows);
    }
}

/// The folder that bytes stand for: the number of its name, then for each file the number of its name, its length in three bytes,
/// and its bytes, as far as there are so many.
fn unpacked(bytes: &[u8]) -> Folder {
    let (folder, mut rest) = bytes.split_first().map_or((0, bytes), |(folder, rest)| (*folder, rest));
    let mut files = Vec::new();
    while let [file, a, b, c, after @ ..] = rest {
        let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let (content, further) = after.split_at(len.min(after.len()));
        files.push((FILES[*file as usize % FILES.len()].to_owned(), content.to_vec()));
        rest = further;
    }
    Folder::in_memory(FOLDERS[folder as usize % FOLDERS.len()], files)
}

/// The bytes that stand for a folder on disk, of the files that are known here.
pub fn packed(folder: &Path) -> Vec<u8> {
    let path = folder.display().to_string();
    let named = FOLDERS.iter().position(|name| path.ends_with(name));
    let mut bytes = vec![named.unwrap_or(FOLDERS.len() - 1) as u8];
    for (number, file) in FILES.iter().enumerate() {
        let Ok(content) = std::fs::read(found(folder, file)) else { continue };
        bytes.push(number as u8);
        bytes.extend(&(content.len() as u32).to_le_bytes()[..3]);
        bytes.extend(content);
    }
    bytes
}

/// A file of a folder; those whose names are any are known by their end.
fn found(folder: &Path, file: &str) -> PathBuf {
    let end = match file {
        "8.pt" => ".pt",
        "8.json" => ".json",
        "a-SAE-l3.pth" => ".pth",
        _ => return folder.join(file),
    };
    let known = |name: &str| FILES.contains(&name) && name != file;
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(end) && !known(name))
    };
    names.into_iter().find(is_it).unwrap_or_else(|| folder.join(file))
}
