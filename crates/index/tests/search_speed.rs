//! How long queries take on a corpus of 4.5 million tokens: the shipped stories, over and over.
//!
//!     cargo test --release -p directrix-index --test search_speed -- --ignored --nocapture

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use directrix_corpus::{Chunk, Corpus, Prompts, Tokenising, Watch, load};
use directrix_index::{Identity, Input, Options, Query, Search, build};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::Sae;

const TIMES: usize = 13;

/// Megabytes that the process holds of its own, the mapped files left out.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

#[test]
#[ignore = "makes an index of 3 GB first, which takes minutes"]
fn queries_on_four_million_tokens() {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tinystories-2l");
    let folder = Folder::open(assets).unwrap();
    let (model, tokenizer) =
        (Model::load(&folder, Processing::default()).unwrap(), folder.tokenizer().unwrap().unwrap());
    let sae = |name: &str| {
        Sae::load(&Folder::open(format!("{assets}/{name}")).unwrap()).unwrap().fit(model.config()).unwrap()
    };
    let saes = ["sae-l0", "sae-l1"].map(sae);
    let corpus = Corpus::open(&format!("{assets}/stories.txt"), None).unwrap();
    let tokenising = Tokenising {
        bos: tokenizer.bos(),
        max_len: model.config().n_ctx,
        vocab_size: model.config().d_vocab,
        chunk_prompts: 256,
    };
    let stories: Prompts = load(&corpus, Some(&tokenizer), tokenising).unwrap().prompts;
    let n = stories.len();
    let chunks = (0..TIMES * n).step_by(n / 8).map(|start| {
        let start = start % n;
        Ok(Chunk { prompts: stories.range(start..(start + n / 8).min(n)), cut: 0 })
    });
    let input = |name: &str| Input { name: name.into(), hash: name.into() };
    let identity = Identity {
        model: input("tinystories-2l"),
        processing: model.processing(),
        saes: vec![input("sae-l0"), input("sae-l1")],
        corpus: input("stories"),
        bos: true,
        column: None,
        limit: None,
        options: Options::default(),
    };
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("search-speed");
    let index = build(&model, &saes, chunks, &identity, &out, &Watch::nobody()).unwrap();
    drop((model, saes, stories));
    println!("{} prompts, {} positions; {:.0} MB held", index.prompts(), index.meta().positions, memory());
    let search = Search::new(Arc::new(index), Some(tokenizer));
    for query in [
        "\"said, \\\"\"",
        "\"said, \\\"\"",
        "\"e\"",
        "/\\b[Ss]?he said\\b/",
        "/(?i)once upon a time/",
        "/\\p{L}+ing\\b/",
        "/./",
        "[318]",
        "[13 272]",
        "sae-l1/429>0.5",
        "sae-l0/429 & !\"it\"",
        "sae-l1/429 within 5 of /[.!?]\"/",
        "!sae-l0/429",
    ] {
        let mut times = Vec::new();
        let mut time = |started: Instant| times.push(format!("{:6.0}", started.elapsed().as_secs_f64() * 1e3));
        let started = Instant::now();
        let query_of = Query::parse(query, search.index()).unwrap();
        let found = search.find(&query_of, &Watch::nobody()).unwrap();
        time(started);
        for sae in 0..2 {
            let started = Instant::now();
            search.firing(&found, sae, 10).unwrap();
            time(started);
        }
        let started = Instant::now();
        search.matches(&found, &query_of, 5).unwrap();
        time(started);
        println!(
            "{query:40} {:>8} matches; find, fire, fire, show: {} ms; {:.0} MB",
            found.matches,
            times.join(" "),
            memory()
        );
    }
}
