//! Takes a training case of `bench/peers/sae_training.py`, runs its steps, and writes what every step found and took.
//!
//! `cargo run --release -p directrix-sae --example train_steps -- CASE_FOLDER OUT.json`

#[path = "../tests/training_case/mod.rs"]
mod training_case;

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use training_case::{Case, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out] = arguments.as_slice() else { return Err("usage: train_steps CASE_FOLDER OUT.json".into()) };
    let Case { mut trainer, batches, steps, options } = Case::open(Path::new(folder))?;
    let (mut reports, mut seconds) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let start = Instant::now();
        reports.push(trainer.step(&batches[step % batches.len()], &options)?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let column = |f: fn(&directrix_sae::train::StepReport) -> f64| reports.iter().map(f).collect::<Vec<_>>();
    let found = json!({
        "loss": column(|r| r.loss),
        "mse": column(|r| r.mse),
        "penalty": column(|r| r.penalty),
        "aux": column(|r| r.aux),
        "l0": column(|r| r.l0),
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
    });
    std::fs::write(out, serde_json::to_vec(&found)?)?;
    Ok(())
}

/// Most memory this process has held, where Linux tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
