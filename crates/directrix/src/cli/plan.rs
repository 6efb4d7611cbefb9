//! `directrix plan`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use directrix::lab::{OverRanks, Plan as Planned, Probe, Sizing};
use serde_json::json;

use super::inputs::{CorpusArgs, Saes, SubjectArgs};
use super::layout::{Table, paragraph};
use super::numbers::{count, real, whole};
use super::terminal::{self, duration, stdout, thousands};
use super::watch::watch;

/// The most documents of a probe.
const DOCUMENTS: usize = 2048;

const EXAMPLES: &str = "\
Examples:
  directrix plan
  directrix plan --tokens 1B --ranks 1,8,64
  directrix plan --model pythia-70m --sae saes/layer-3 --corpus pile.parquet \\
      --column text --json";

/// See what an index takes before it is made: disk, memory, time, over any ranks.
///
/// Reads the corpus twice, and for some seconds indexes documents that are spread over it, in pieces which it then merges as ranks do. Sizes follow
/// from what was counted there, times from what was measured; nothing is left behind (docs/cluster.md). Of a training `directrix train --plan`
/// says the same.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Plan {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub; give it once for each SAE [default: all of the model,
    /// tinystories-2l/sae-l0 and tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Vec<String>,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Positions of a corpus that is like this one and longer or shorter, as 500M or 1B [default: as many as it has]
    #[arg(long, value_name = "N", value_parser = count)]
    tokens: Option<u64>,
    /// Numbers of ranks, each a process on a machine like this one, with a disk that all share
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,8,64", value_parser = whole::<usize>(1..=1_000_000))]
    ranks: Vec<usize>,
    /// Seconds that the longest piece of the probe takes at least, where the corpus has as much
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = real::<f64>(0.0..=3600.0))]
    probe: f64,
    /// Folder to make the probe in, on the disk that the index is to be on [default: the system's for temporary files]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let opened = self.subject.open(Saes::All(&self.sae), self.corpus.wanted())?;
        let sizing = Sizing {
            positions: self.tokens,
            ranks: self.ranks,
            documents: DOCUMENTS,
            seconds: self.probe,
            scratch: self.scratch.unwrap_or_else(std::env::temp_dir),
        };
        let watch = watch();
        let plan = opened.plan(&sizing, &watch)?;
        drop(watch);
        let threads = rayon::current_num_threads();
        let (model, corpus) = (opened.model_name(), opened.corpus.name());
        if self.json {
            return terminal::json(&json!({ "model": model, "corpus": corpus, "threads": threads, "plan": plan }));
        }
        print(&plan, &format!("{model} on {corpus}"), threads)
    }
}

fn print(plan: &Planned, about: &str, threads: usize) -> anyhow::Result<()> {
    let Probe { documents, positions, seconds, .. } = plan.probe;
    let mut out = stdout();
    let corpus = format!(
        "{about}: {} documents, {} prompts, {} positions",
        thousands(plan.documents),
        thousands(plan.prompts),
        thousands(plan.positions)
    );
    writeln!(out, "{}", paragraph(&corpus, 0))?;
    let probed = format!(
        "counted and measured in {seconds:.1} s on {} positions of {} documents, with {threads} threads",
        thousands(positions),
        thousands(documents)
    );
    writeln!(out, "{}", paragraph(&probed, 0))?;

    let n = plan.positions.max(1) as f64;
    let mut all = Table::new(&["index", "each position", "in all"], 1);
    let each = |number: u64| format!("{:.0} B", number as f64 / n);
    all.row(["model, up to the deepest site".into(), flop(plan.model_flop), flop(plan.model_flop * n)]);
    all.row(["encoders".into(), flop(plan.encoder_flop), flop(plan.encoder_flop * n)]);
    all.row(["files".into(), each(plan.index_bytes), bytes(plan.index_bytes)]);
    all.row(["disk at the peak".into(), each(plan.disk_bytes), bytes(plan.disk_bytes)]);
    all.row(["memory".into(), String::new(), plan.memory_bytes.map_or_else(|| "unknown".into(), bytes)]);
    all.row(["time".into(), format!("{:.3} ms", 1e3 * plan.seconds / n), time(plan.seconds)]);
    writeln!(out, "{}\n", all.shown())?;

    let mut saes = Table::new(&["SAE", "hook point", "directions", "active per position", "files"], 2);
    for sae in &plan.saes {
        saes.row([
            sae.name.clone(),
            sae.hook.to_string(),
            thousands(sae.directions as u64),
            format!("{:.1}", sae.active),
            bytes(sae.bytes),
        ]);
    }
    writeln!(out, "{}\n", saes.shown())?;

    let header =
        ["ranks", "time", "of it merges", "× one", "pieces", "written", "read", "busiest link", "disk", "memory"];
    let mut ranks = Table::new(&header, 0).keep(&[0, 1, 2, 5, 7, 8]);
    for over in &plan.ranks {
        let OverRanks { merges_seconds, speedup, pieces, .. } = *over;
        ranks.row([
            thousands(over.ranks as u64),
            time(over.seconds),
            time(merges_seconds),
            format!("{speedup:.1}"),
            thousands(pieces as u64),
            bytes(over.written_bytes),
            bytes(over.read_bytes),
            bytes(over.busiest_bytes),
            bytes(over.disk_bytes),
            over.memory_bytes.map_or_else(|| "unknown".into(), bytes),
        ]);
    }
    writeln!(out, "{}", ranks.shown())?;
    Ok(out.flush()?)
}

/// A number of three digits or more with the prefix of its unit.
fn prefixed(number: f64, unit: &str) -> String {
    let (mut number, mut prefix) = (number, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if number < 999.5 {
            break;
        }
        (number, prefix) = (number / 1e3, next);
    }
    let digits = usize::from(!prefix.is_empty() && number < 99.95);
    format!("{number:.digits$} {prefix}{unit}")
}

pub(super) fn bytes(bytes: u64) -> String {
    prefixed(bytes as f64, "B")
}

pub(super) fn flop(flop: f64) -> String {
    prefixed(flop, "FLOP")
}

/// Seconds below a minute, a clock below a hundred hours, else days.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        _ if seconds < 360_000.0 => duration(seconds),
        _ => format!("{} days", thousands((seconds / 86_400.0).round() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_their_units() {
        assert_eq!([bytes(0), bytes(999), bytes(999_700)].join(", "), "0 B, 999 B, 1.0 MB");
        assert_eq!([bytes(12_345), bytes(123_456_789_012)].join(", "), "12.3 kB, 123 GB");
        assert_eq!([time(4.25), time(60.0), time(7384.0), time(8.64e6)].join(", "), "4.2 s, 1:00, 2:03:04, 100 days");
    }
}
