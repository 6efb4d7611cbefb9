//! Times what an interpretability notebook waits for: tasks on a model and SAEs of random weights, each beside its floor.

// Documentation of flags is what `--help` shows: without markup.
#![allow(clippy::doc_markdown)]

mod inputs;
mod tasks;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde_json::{Value, json};

use self::inputs::{Inputs, Sizes};
use self::tasks::{Done, Task};

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p directrix-bench
  cargo run --release -p directrix-bench -- --task index --task joint --threads 2
  cargo run --release -p directrix-bench -- --sizes toy --inputs out/bench-toy
  cargo run --release -p directrix-bench -- --sizes origin,directions=4096 --inputs out/bench-4096 --task index";

/// Time what an interpretability notebook waits for, on this machine.
///
/// Makes a GPT-Neo model and two SAEs of random weights in the sizes of the original notebook (2 layers, d_model 1024, d_mlp
/// 4096, 16,384 directions of which about 50 fire at a position), and times each task on them. The floor is the time that the
/// arithmetic no way of doing the task avoids would take at the rate of one f32 matrix product, measured first. The inputs
/// take 1.4 GB on disk.
#[derive(Parser)]
#[command(max_term_width = 100, after_help = EXAMPLES)]
struct Bench {
    /// Task to time; give it once for each [default: all]
    #[arg(long, value_name = "TASK", value_enum)]
    task: Vec<Task>,
    /// Sizes: `origin` or `toy`; then, after commas, what differs: directions=N, layers=N, stories=N, prompts=N
    #[arg(long, value_name = "SIZES", default_value = "origin")]
    sizes: Sizes,
    /// Folder of the inputs; they are made if it holds none
    #[arg(long, value_name = "FOLDER", default_value = "out/bench")]
    inputs: PathBuf,
    /// Seed of the inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Make the inputs and time nothing
    #[arg(long, conflicts_with = "task")]
    only_inputs: bool,
    /// Also write what each task found to this folder, as TASK.safetensors
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print the times as JSON
    #[arg(long)]
    json: bool,
}

/// One task's time.
struct Timed {
    task: Task,
    units: usize,
    seconds: f64,
    flop: f64,
    /// The most memory that the process has held so far, in bytes.
    peak: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    directrix::keep_freed_memory();
    Bench::parse().run()
}

impl Bench {
    fn run(self) -> anyhow::Result<()> {
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global().context("--threads")?;
        }
        if !self.inputs.join("inputs.json").exists() {
            eprintln!("making inputs in `{}`", self.inputs.display());
        }
        let inputs = Inputs::find(&self.inputs, self.sizes, self.seed)?;
        if self.only_inputs {
            return Ok(());
        }
        let mut tasks = if self.task.is_empty() { Task::ALL.to_vec() } else { self.task.clone() };
        // The rate comes first: the other tasks' floors need it.
        tasks.sort_by_key(|task| *task != Task::Product);
        let mut timed = Vec::new();
        for task in tasks {
            eprintln!("timing {}", task.name());
            timed.extend(self.time(task, &inputs)?);
        }
        if self.json {
            return print_json(&timed);
        }
        print(&timed);
        Ok(())
    }

    fn time(&self, task: Task, inputs: &Inputs) -> anyhow::Result<Vec<Timed>> {
        let scratch = inputs.folder().join(format!("scratch-{}", std::process::id()));
        let Done { timed, outputs } = task.run(inputs, &scratch)?;
        if let Some(folder) = &self.out {
            fs::create_dir_all(folder)?;
            let outputs: Vec<_> = outputs.iter().map(|(n, s, x)| (n.as_str(), s.as_slice(), x.as_slice())).collect();
            inputs::write(&folder.join(format!("{}.safetensors", task.name())), &outputs)?;
        }
        let peak = peak_memory();
        let of = |(units, seconds)| Timed { task, units, seconds, flop: task.flop(inputs, units), peak };
        Ok(timed.into_iter().map(of).collect())
    }
}

fn print(timed: &[Timed]) {
    let rate = timed.iter().rfind(|t| t.task == Task::Product).map(|t| t.flop / t.seconds);
    let mut rows = Table::new();
    rows.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    rows.set_header(["task", "unit", "units", "ms each", "floor, ms", "of floor", "GFLOP/s", "peak, MB"]);
    rows.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for Timed { task, units, seconds, flop, peak } in timed {
        let floor = rate.map(|rate| flop / rate);
        let milliseconds = |s: f64| format!("{:.3}", s * 1e3 / *units as f64);
        rows.add_row([
            task.name(),
            task.unit().to_owned(),
            units.to_string(),
            milliseconds(*seconds),
            floor.map_or_else(String::new, milliseconds),
            floor.map_or_else(String::new, |floor| format!("{:.2}", floor / seconds)),
            format!("{:.0}", flop / seconds / 1e9),
            peak.map_or_else(String::new, |bytes| (bytes / 1_000_000).to_string()),
        ]);
    }
    println!("{}\n", rows.trim_fmt());
    println!(
        "Floor: arithmetic that cannot be avoided, at the rate of the last `product`; of floor: its share of the time."
    );
    if rate.is_none() {
        eprintln!("note: floors need the task `product`");
    }
}

fn print_json(timed: &[Timed]) -> anyhow::Result<()> {
    let row = |t: &Timed| -> Value {
        json!({
            "task": t.task.name(),
            "unit": t.task.unit(),
            "units": t.units,
            "seconds": t.seconds,
            "flop": t.flop,
            "peak_bytes": t.peak,
        })
    };
    println!("{}", serde_json::to_string_pretty(&timed.iter().map(row).collect::<Vec<_>>())?);
    Ok(())
}

/// The most memory that this process has held, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
