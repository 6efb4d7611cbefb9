//! The names that TransformerLens has for models of the hub.

/// What the hub calls the model that TransformerLens calls `name`, in upper or lower case.
pub(crate) fn repository(name: &str) -> Option<&'static str> {
    let is_alias = |aliases: &&str| aliases.split(' ').any(|alias| alias.eq_ignore_ascii_case(name));
    ALIASES.iter().find(|(_, aliases)| is_alias(aliases)).map(|(repository, _)| *repository)
}

/// The repository and its aliases, of the families that are read here: the table `MODEL_ALIASES` of TransformerLens 3.9.
#[rustfmt::skip]
const ALIASES: &[(&str, &str)] = &[
    ("01-ai/Yi-34B", "yi-34b"),
    ("01-ai/Yi-34B-Chat", "yi-34b-chat"),
    ("01-ai/Yi-6B", "yi-6b"),
    ("01-ai/Yi-6B-Chat", "yi-6b-chat"),
    ("codellama/CodeLlama-7b-hf", "CodeLlamallama-2-7b"),
    ("codellama/CodeLlama-7b-Instruct-hf", "CodeLlama-7b-instruct"),
    ("codellama/CodeLlama-7b-Python-hf", "CodeLlama-7b-python"),
    ("distilgpt2", "distillgpt2 distill-gpt2 distil-gpt2 gpt2-xs"),
    ("EleutherAI/gpt-neo-1.3B", "gpt-neo-1.3B gpt-neo-medium neo-medium"),
    ("EleutherAI/gpt-neo-125M", "gpt-neo-125M gpt-neo-small neo-small neo"),
    ("EleutherAI/gpt-neo-2.7B", "gpt-neo-2.7B gpt-neo-large neo-large"),
    ("EleutherAI/gpt-neox-20b", "gpt-neox-20b gpt-neox neox"),
    ("EleutherAI/pythia-1.4b", "pythia-1.4b EleutherAI/pythia-1.3b pythia-1.3b"),
    ("EleutherAI/pythia-1.4b-deduped", "pythia-1.4b-deduped EleutherAI/pythia-1.3b-deduped pythia-1.3b-deduped"),
    ("EleutherAI/pythia-1.4b-deduped-v0", "pythia-1.4b-deduped-v0 EleutherAI/pythia-1.3b-deduped-v0 pythia-1.3b-deduped-v0"),
    ("EleutherAI/pythia-1.4b-v0", "pythia-1.4b-v0 EleutherAI/pythia-1.3b-v0 pythia-1.3b-v0"),
    ("EleutherAI/pythia-12b", "pythia-12b EleutherAI/pythia-13b pythia-13b"),
    ("EleutherAI/pythia-12b-deduped", "pythia-12b-deduped EleutherAI/pythia-13b-deduped pythia-13b-deduped"),
    ("EleutherAI/pythia-12b-deduped-v0", "pythia-12b-deduped-v0 EleutherAI/pythia-13b-deduped-v0 pythia-13b-deduped-v0"),
    ("EleutherAI/pythia-12b-v0", "pythia-12b-v0 EleutherAI/pythia-13b-v0 pythia-13b-v0"),
    ("EleutherAI/pythia-14m", "pythia-14m"),
    ("EleutherAI/pythia-160m", "pythia-160m EleutherAI/pythia-125m pythia-125m"),
    ("EleutherAI/pythia-160m-deduped", "pythia-160m-deduped EleutherAI/pythia-125m-deduped pythia-125m-deduped"),
    ("EleutherAI/pythia-160m-deduped-v0", "pythia-160m-deduped-v0 EleutherAI/pythia-125m-deduped-v0 pythia-125m-deduped-v0"),
    ("EleutherAI/pythia-160m-seed1", "pythia-160m-seed1 EleutherAI/pythia-125m-seed1 pythia-125m-seed1"),
    ("EleutherAI/pythia-160m-seed2", "pythia-160m-seed2 EleutherAI/pythia-125m-seed2 pythia-125m-seed2"),
    ("EleutherAI/pythia-160m-seed3", "pythia-160m-seed3 EleutherAI/pythia-125m-seed3 pythia-125m-seed3"),
    ("EleutherAI/pythia-160m-v0", "pythia-160m-v0 EleutherAI/pythia-125m-v0 pythia-125m-v0"),
    ("EleutherAI/pythia-1b", "pythia-1b EleutherAI/pythia-800m pythia-800m"),
    ("EleutherAI/pythia-1b-deduped", "pythia-1b-deduped EleutherAI/pythia-800m-deduped pythia-800m-deduped"),
    ("EleutherAI/pythia-1b-deduped-v0", "pythia-1b-deduped-v0 EleutherAI/pythia-800m-deduped-v0 pythia-800m-deduped-v0"),
    ("EleutherAI/pythia-1b-v0", "pythia-1b-v0 EleutherAI/pythia-800m-v0 pythia-800m-v0"),
    ("EleutherAI/pythia-2.8b", "pythia-2.8b EleutherAI/pythia-2.7b pythia-2.7b"),
    ("EleutherAI/pythia-2.8b-deduped", "pythia-2.8b-deduped EleutherAI/pythia-2.7b-deduped pythia-2.7b-deduped"),
    ("EleutherAI/pythia-2.8b-deduped-v0", "pythia-2.8b-deduped-v0 EleutherAI/pythia-2.7b-deduped-v0 pythia-2.7b-deduped-v0"),
    ("EleutherAI/pythia-2.8b-v0", "pythia-2.8b-v0 EleutherAI/pythia-2.7b-v0 pythia-2.7b-v0"),
    ("EleutherAI/pythia-31m", "pythia-31m"),
    ("EleutherAI/pythia-410m", "pythia-410m EleutherAI/pythia-350m pythia-350m"),
    ("EleutherAI/pythia-410m-deduped", "pythia-410m-deduped EleutherAI/pythia-350m-deduped pythia-350m-deduped"),
    ("EleutherAI/pythia-410m-deduped-v0", "pythia-410m-deduped-v0 EleutherAI/pythia-350m-deduped-v0 pythia-350m-deduped-v0"),
    ("EleutherAI/pythia-410m-v0", "pythia-410m-v0 EleutherAI/pythia-350m-v0 pythia-350m-v0"),
    ("EleutherAI/pythia-6.9b", "pythia-6.9b EleutherAI/pythia-6.7b pythia-6.7b"),
    ("EleutherAI/pythia-6.9b-deduped", "pythia-6.9b-deduped EleutherAI/pythia-6.7b-deduped pythia-6.7b-deduped"),
    ("EleutherAI/pythia-6.9b-deduped-v0", "pythia-6.9b-deduped-v0 EleutherAI/pythia-6.7b-deduped-v0 pythia-6.7b-deduped-v0"),
    ("EleutherAI/pythia-6.9b-v0", "pythia-6.9b-v0 EleutherAI/pythia-6.7b-v0 pythia-6.7b-v0"),
    ("EleutherAI/pythia-70m", "pythia-70m pythia EleutherAI/pythia-19m pythia-19m"),
    ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped EleutherAI/pythia-19m-deduped pythia-19m-deduped"),
    ("EleutherAI/pythia-70m-deduped-v0", "pythia-70m-deduped-v0 EleutherAI/pythia-19m-deduped-v0 pythia-19m-deduped-v0"),
    ("EleutherAI/pythia-70m-v0", "pythia-70m-v0 pythia-v0 EleutherAI/pythia-19m-v0 pythia-19m-v0"),
    ("google/gemma-2-27b", "gemma-2-27b"),
    ("google/gemma-2-27b-it", "gemma-2-27b-it"),
    ("google/gemma-2-2b", "gemma-2-2b"),
    ("google/gemma-2-2b-it", "gemma-2-2b-it"),
    ("google/gemma-2-9b", "gemma-2-9b"),
    ("google/gemma-2-9b-it", "gemma-2-9b-it"),
    ("google/gemma-3-12b-it", "gemma-3-12b-it"),
    ("google/gemma-3-12b-pt", "gemma-3-12b-pt"),
    ("google/gemma-3-1b-it", "gemma-3-1b-it"),
    ("google/gemma-3-1b-pt", "gemma-3-1b-pt"),
    ("google/gemma-3-270m", "gemma-3-270m"),
    ("google/gemma-3-270m-it", "gemma-3-270m-it"),
    ("google/gemma-3-27b-it", "gemma-3-27b-it"),
    ("google/gemma-3-27b-pt", "gemma-3-27b-pt"),
    ("google/gemma-3-4b-it", "gemma-3-4b-it"),
    ("google/gemma-3-4b-pt", "gemma-3-4b-pt"),
    ("gpt2", "gpt2-small"),
    ("meta-llama/Llama-2-13b-chat-hf", "Llama-2-13b-chat"),
    ("meta-llama/Llama-2-13b-hf", "Llama-2-13b"),
    ("meta-llama/Llama-2-70b-chat-hf", "Llama-2-70b-chat meta-llama-2-70b-chat-hf"),
    ("meta-llama/Llama-2-7b-chat-hf", "Llama-2-7b-chat"),
    ("meta-llama/Llama-2-7b-hf", "Llama-2-7b"),
    ("mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b-instruct"),
    ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
    ("mistralai/Mistral-Nemo-Base-2407", "mistral-nemo-base-2407"),
    ("Qwen/Qwen1.5-0.5B", "qwen1.5-0.5b"),
    ("Qwen/Qwen1.5-0.5B-Chat", "qwen1.5-0.5b-chat"),
    ("Qwen/Qwen1.5-1.8B", "qwen1.5-1.8b"),
    ("Qwen/Qwen1.5-1.8B-Chat", "qwen1.5-1.8b-chat"),
    ("Qwen/Qwen1.5-14B", "qwen1.5-14b"),
    ("Qwen/Qwen1.5-14B-Chat", "qwen1.5-14b-chat"),
    ("Qwen/Qwen1.5-4B", "qwen1.5-4b"),
    ("Qwen/Qwen1.5-4B-Chat", "qwen1.5-4b-chat"),
    ("Qwen/Qwen1.5-7B", "qwen1.5-7b"),
    ("Qwen/Qwen1.5-7B-Chat", "qwen1.5-7b-chat"),
    ("Qwen/Qwen2-0.5B", "qwen2-0.5b"),
    ("Qwen/Qwen2-0.5B-Instruct", "qwen2-0.5b-instruct"),
    ("Qwen/Qwen2-1.5B", "qwen2-1.5b"),
    ("Qwen/Qwen2-1.5B-Instruct", "qwen2-1.5b-instruct"),
    ("Qwen/Qwen2-7B", "qwen2-7b"),
    ("Qwen/Qwen2-7B-Instruct", "qwen2-7b-instruct"),
    ("Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b"),
    ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct"),
    ("Qwen/Qwen2.5-1.5B", "qwen2.5-1.5b"),
    ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b-instruct"),
    ("Qwen/Qwen2.5-14B", "qwen2.5-14b"),
    ("Qwen/Qwen2.5-14B-Instruct", "qwen2.5-14b-instruct"),
    ("Qwen/Qwen2.5-32B", "qwen2.5-32b"),
    ("Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b-instruct"),
    ("Qwen/Qwen2.5-3B", "qwen2.5-3b"),
    ("Qwen/Qwen2.5-3B-Instruct", "qwen2.5-3b-instruct"),
    ("Qwen/Qwen2.5-72B", "qwen2.5-72b"),
    ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b-instruct"),
    ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
    ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
    ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
    ("Qwen/Qwen3-0.6B-Base", "qwen3-0.6b-base"),
    ("Qwen/Qwen3-1.7B", "qwen3-1.7b"),
    ("Qwen/Qwen3-14B", "qwen3-14b"),
    ("Qwen/Qwen3-4B", "qwen3-4b"),
    ("Qwen/Qwen3-8B", "qwen3-8b"),
    ("Qwen/QwQ-32B-Preview", "qwen-32b-preview"),
    ("roneneldan/TinyStories-1Layer-21M", "tiny-stories-1L-21M"),
    ("roneneldan/TinyStories-1M", "tiny-stories-1M"),
    ("roneneldan/TinyStories-28M", "tiny-stories-28M"),
    ("roneneldan/TinyStories-2Layers-33M", "tiny-stories-2L-33M"),
    ("roneneldan/TinyStories-33M", "tiny-stories-33M"),
    ("roneneldan/TinyStories-3M", "tiny-stories-3M"),
    ("roneneldan/TinyStories-8M", "tiny-stories-8M"),
    ("roneneldan/TinyStories-Instruct-1M", "tiny-stories-instruct-1M"),
    ("roneneldan/TinyStories-Instruct-28M", "tiny-stories-instruct-28M"),
    ("roneneldan/TinyStories-Instruct-2Layers-33M", "tiny-stories-instruct-2L-33M"),
    ("roneneldan/TinyStories-Instruct-33M", "tiny-stories-instruct-33M"),
    ("roneneldan/TinyStories-Instruct-3M", "tiny-stories-instruct-3M"),
    ("roneneldan/TinyStories-Instruct-8M", "tiny-stories-instruct-8M"),
    ("roneneldan/TinyStories-Instuct-1Layer-21M", "tiny-stories-instruct-1L-21M"),
    ("stabilityai/stablelm-base-alpha-3b", "stablelm-base-alpha-3b stablelm-base-3b"),
    ("stabilityai/stablelm-base-alpha-7b", "stablelm-base-alpha-7b stablelm-base-7b"),
    ("stabilityai/stablelm-tuned-alpha-3b", "stablelm-tuned-alpha-3b stablelm-tuned-3b"),
    ("stabilityai/stablelm-tuned-alpha-7b", "stablelm-tuned-alpha-7b stablelm-tuned-7b"),
    ("stanford-crfm/alias-gpt2-small-x21", "stanford-gpt2-small-a alias-gpt2-small-x21 gpt2-mistral-small-a gpt2-stanford-small-a"),
    ("stanford-crfm/arwen-gpt2-medium-x21", "stanford-gpt2-medium-a arwen-gpt2-medium-x21 gpt2-medium-small-a gpt2-stanford-medium-a"),
    ("stanford-crfm/battlestar-gpt2-small-x49", "stanford-gpt2-small-b battlestar-gpt2-small-x49 gpt2-mistral-small-b"),
    ("stanford-crfm/beren-gpt2-medium-x49", "stanford-gpt2-medium-b beren-gpt2-medium-x49 gpt2-medium-small-b gpt2-stanford-medium-b"),
    ("stanford-crfm/caprica-gpt2-small-x81", "stanford-gpt2-small-c caprica-gpt2-small-x81 gpt2-mistral-small-c gpt2-stanford-small-c"),
    ("stanford-crfm/celebrimbor-gpt2-medium-x81", "stanford-gpt2-medium-c celebrimbor-gpt2-medium-x81 gpt2-medium-small-c"),
    ("stanford-crfm/darkmatter-gpt2-small-x343", "stanford-gpt2-small-d darkmatter-gpt2-small-x343 gpt2-mistral-small-d"),
    ("stanford-crfm/durin-gpt2-medium-x343", "stanford-gpt2-medium-d durin-gpt2-medium-x343 gpt2-medium-small-d gpt2-stanford-medium-d"),
    ("stanford-crfm/eowyn-gpt2-medium-x777", "stanford-gpt2-medium-e eowyn-gpt2-medium-x777 gpt2-medium-small-e gpt2-stanford-medium-e"),
    ("stanford-crfm/expanse-gpt2-small-x777", "stanford-gpt2-small-e expanse-gpt2-small-x777 gpt2-mistral-small-e"),
];

#[cfg(test)]
mod tests {
    use super::{ALIASES, repository};

    #[test]
    fn aliases_are_those_of_transformer_lens() {
        for (alias, expected) in [
            ("tiny-stories-2L-33M", "roneneldan/TinyStories-2Layers-33M"),
            ("gpt2-small", "gpt2"),
            ("GPT2-Small", "gpt2"),
            ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
            ("pythia", "EleutherAI/pythia-70m"),
            ("EleutherAI/pythia-125m", "EleutherAI/pythia-160m"),
            ("gemma-2-2b", "google/gemma-2-2b"),
        ] {
            assert_eq!(repository(alias), Some(expected), "{alias}");
        }
        assert_eq!(repository("no-such-model"), None);
        assert_eq!(repository(""), None);
    }

    #[test]
    fn an_alias_stands_for_one_model() {
        let mut all: Vec<String> =
            ALIASES.iter().flat_map(|(_, aliases)| aliases.split(' ')).map(str::to_ascii_lowercase).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
