//! The numbers of a model card: loss of a model over a corpus, and what its SAEs explain of it.
//!
//! `cargo run --release -p directrix-circuits --example model_card -- MODEL CORPUS SAE…`

use std::sync::Arc;

use directrix_circuits::Estimate;
use directrix_corpus::{Corpus, Folder, Prompts, Tokenising, Tokenizer, load};
use directrix_kernels::Matrix;
use directrix_model::{Ask, Intervention, Kind, Model, Place, Positions, Processing, batches};
use directrix_sae::Sae;

type Changes<'a> = &'a dyn Fn(&Prompts) -> Result<Vec<Intervention>, Box<dyn std::error::Error>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, corpus, saes @ ..] = arguments.as_slice() else {
        return Err("usage: model_card MODEL CORPUS SAE…".into());
    };
    let folder = Folder::find(model)?;
    let model = Model::load(&folder, Processing::default())?;
    let tokenizer = Tokenizer::from_folder(&folder)?;
    let options = Tokenising {
        bos: tokenizer.bos(),
        max_len: model.config().n_ctx,
        vocab_size: model.config().d_vocab,
        chunk_prompts: 256,
    };
    let prompts = load(&Corpus::open(corpus, None)?, Some(&tokenizer), options)?.prompts;
    let losses = |changes: Changes| {
        let mut all = Vec::new();
        for batch in batches(&prompts, 4096) {
            let part = prompts.range(batch);
            let run = model.run(&part, &Ask::nothing().with_losses(), &changes(&part)?)?;
            all.extend(run.losses().iter().map(|l| *l as f64));
        }
        Ok::<f64, Box<dyn std::error::Error>>(Estimate::of(all).mean)
    };
    let original = losses(&|_| Ok(Vec::new()))?;
    println!("{} prompts, {} positions; loss {original:.5} (mean over tokens)", prompts.len(), prompts.positions());
    for name in saes {
        let sae = Sae::load(&Folder::find(name)?, &model)?;
        let hook = sae.site().hook;
        let zero = losses(&|_| Ok(vec![Intervention::new(hook, Positions::All, Kind::Zero)]))?;
        let (mut active, mut error, mut rows) = (0, 0.0_f64, 0_usize);
        let (mut sum, mut square) = (vec![0.0_f64; sae.d_in()], 0.0_f64);
        let mut fired = vec![false; sae.directions()];
        for batch in batches(&prompts, 4096) {
            let run = model.run(&prompts.range(batch), &Ask::capture([hook]), &[])?;
            let x = run.captured(hook);
            let acts = sae.encode(&model, x)?;
            let recon = sae.decode(&model, &acts);
            active += acts.active();
            acts.directions().iter().for_each(|d| fired[*d as usize] = true);
            rows += x.rows();
            for (x, r) in x.iter_rows().zip(recon.iter_rows()) {
                error += x.iter().zip(r).map(|(a, b)| ((a - b) as f64).powi(2)).sum::<f64>();
                square += x.iter().map(|a| (*a as f64).powi(2)).sum::<f64>();
                sum.iter_mut().zip(x).for_each(|(s, a)| *s += *a as f64);
            }
        }
        let variance = square - sum.iter().map(|s| s * s).sum::<f64>() / rows as f64;
        let replaced = losses(&|part| {
            let run = model.run(part, &Ask::capture([hook]), &[])?;
            let recon: Arc<Matrix> = Arc::new(sae.decode(&model, &sae.encode(&model, run.captured(hook))?));
            let offsets = part.offsets().to_vec();
            let put = move |place: Place, row: &mut [f32]| {
                row.copy_from_slice(recon.row(offsets[place.prompt] + place.position));
            };
            Ok(vec![Intervention::new(hook, Positions::All, Kind::Map(Arc::new(put)))])
        })?;
        println!(
            "{name}: L0 {:.2}, dead {}, explained variance {:.4}, zero-ablated loss {zero:.4}, reconstructed loss {replaced:.4}, loss recovered {:.4}",
            active as f64 / rows as f64,
            fired.iter().filter(|f| !**f).count(),
            1.0 - error / variance,
            (zero - replaced) / (zero - original)
        );
    }
    Ok(())
}
