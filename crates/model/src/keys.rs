//! The keys of `config.json` that no family reads.

use directrix_corpus::{Field, Settings};

use crate::Result;
use crate::family::Family;

/// Keys of every configuration of transformers that change nothing that is computed here: names, types, training, generation.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Keys of every configuration of transformers that change what is computed when they say something, and what they say.
const REFUSED: &[(&str, &str)] = &[
    ("add_cross_attention", "models that read another one"),
    ("is_encoder_decoder", "models that read another one"),
    ("per_layer_config", "blocks with configurations of their own"),
    ("pruned_heads", "heads that are removed on loading"),
    ("quantization_config", "quantised weights"),
    ("use_bidirectional_attention", "positions that see later ones"),
];

/// Refuses what a configuration says beyond what was read of it and changes the model; what is to be said of keys that nobody
/// knows.
pub(crate) fn check_unread(settings: &Settings, family: &Family, file: &str) -> Result<Option<String>> {
    for (key, what) in REFUSED {
        if let Some(field) = settings.find_some(key).filter(says_something) {
            return Err(field.wrong(&format!("none: {what} are not supported")).into());
        }
    }
    let is_known = |key: &String| HARMLESS.contains(&key.as_str()) || family.harmless.contains(&key.as_str());
    let unknown: Vec<String> =
        settings.unread().into_iter().filter(|key| !is_known(key)).map(|key| format!("`{key}`")).collect();
    if unknown.is_empty() {
        return Ok(None);
    }
    let (listed, are) = (unknown.join(", "), if unknown.len() == 1 { "is" } else { "are" });
    Ok(Some(format!(
        "{file}: {listed} {are} not used; transformers does not use such keys for a {} either",
        family.architecture
    )))
}

/// Whether a field is neither false nor an empty list or object.
fn says_something(field: &Field) -> bool {
    let is_false = field.flag().is_ok_and(|flag| !flag);
    let is_empty = field.list().is_ok_and(|list| list.is_empty());
    let has_no_fields = field.object().is_ok_and(|object| object.names().next().is_none());
    !(is_false || is_empty || has_no_fields)
}
