//! Train a small SAE on the shipped model, for a minute at most.
//!
//!     cargo run --release --example train

use std::collections::BTreeMap;

use directrix::corpus::{self, Tokenising, Watch};
use directrix::lab::Wanted;
use directrix::sae::train::{Feed, Notice, Over, Recipe, Training, train};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let opened = Wanted { limit: Some(300), ..Wanted::default() }.open()?;
    // Training cuts documents into windows of its own.
    let tokenising = Tokenising { max_len: usize::MAX, ..opened.tokenising() };
    let documents = || -> corpus::Result<Box<dyn Iterator<Item = corpus::Result<corpus::Chunk>>>> {
        let documents = opened.corpus.documents()?.take(300);
        Ok(Box::new(corpus::prompts(opened.corpus.name(), documents, opened.tokenizer.as_ref(), tokenising)))
    };
    let recipe = Recipe {
        site: "blocks.1.mlp.hook_post".into(),
        objective: "batch_topk".into(),
        k: 24,
        expansion: 1.0,
        warm_up: 20,
        ..Recipe::default()
    };
    let feed = Feed { tokens: 100_000, batch: 1024, buffer: 1 << 14, log_every: 20, ..Feed::default() };
    let out = std::env::temp_dir().join("directrix-example-sae");
    let training = Training {
        model: &opened.model,
        documents: &documents,
        bos: opened.bos,
        evaluation: &corpus::Prompts::new(),
        feed: &feed,
        recipes: &[(String::new(), recipe)],
        from: &BTreeMap::new(),
        cache: None,
        out: &out,
        model_name: &opened.model_source().name,
        identity: &json!({ "example": opened.model_source().hash }),
        over: Over::One,
    };
    train(&training, &Watch::nobody(), |notice| {
        if let Notice::Metrics { metrics, .. } = notice {
            println!("{}", serde_json::to_string(metrics).unwrap_or_default());
        }
    })?;
    println!("{}", out.display());
    Ok(())
}
