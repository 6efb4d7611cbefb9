//! The model, SAEs and stories that are part of the program.

/// The embedded model.
pub const MODEL: &str = "tinystories-2l";
/// The embedded SAEs of the embedded model, the earlier one first.
pub(crate) const SAES: [&str; 2] = ["tinystories-2l/sae-l0", "tinystories-2l/sae-l1"];
/// The embedded corpus: stories that the embedded model wrote.
pub const CORPUS: &str = "tinystories-2l/stories.txt";
/// What has to be known of the embedded corpus by who reads a number measured on it.
pub(crate) const CORPUS_ORIGIN: &str = "These stories were sampled from the shipped model itself: its loss on them is 1.37 nats a token, on real TinyStories that it was not trained on 2.14, so that numbers are better here than on text it did not write.";

/// One embedded file.
pub(crate) struct File {
    pub(crate) folder: &'static str,
    pub(crate) name: &'static str,
    pub(crate) bytes: &'static [u8],
}

macro_rules! embedded {
    ($($folder:literal: $($name:literal),+;)+) => {
        &[$($(File {
            folder: $folder,
            name: $name,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/", $folder, "/", $name)),
        }),+),+]
    };
}

/// Sorted by folder and name.
pub(crate) static FILES: &[File] = embedded! {
    "tinystories-2l": "config.json", "model.safetensors", "stories.txt", "tokenizer.json", "tokenizer_config.json";
    "tinystories-2l/sae-l0": "cfg.json", "sae_weights.safetensors";
    "tinystories-2l/sae-l1": "cfg.json", "sae_weights.safetensors";
};
