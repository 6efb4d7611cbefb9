//! What do directions fire on? Index a few stories, then ask without the model.
//!
//!     cargo run --release --example query

use directrix::corpus::Watch;
use directrix::index::Options;
use directrix::lab::{OtherIndex, Wanted};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let saes = vec!["embedded:tinystories-2l/sae-l0".into()];
    let opened = Wanted { saes, limit: Some(100), ..Wanted::default() }.open()?;
    let folder = std::env::temp_dir().join("directrix-example-index");
    let index = opened.index(&folder, Options::default(), OtherIndex::Replace, &Watch::nobody())?;

    let sae = index.sae(0);
    let mut directions: Vec<usize> = (0..sae.directions()).collect();
    directions.sort_by(|a, b| sae.maxima()[*b].total_cmp(&sae.maxima()[*a]));
    for &direction in &directions[..5] {
        let summary = sae.direction(direction);
        println!("direction {direction}: maximum {:.2}, density {:.2} %", summary.maximum, 100.0 * summary.density);
        for example in sae.top_examples(direction, 2)? {
            let tokens = &index.prompt(example.prompt)?[example.position.saturating_sub(8)..=example.position];
            let text: String = tokens.iter().map(|token| opened.token(*token)).collect();
            println!("  {:.2}  …{}", example.activation, text.replace('\n', "⏎"));
        }
    }
    Ok(())
}
