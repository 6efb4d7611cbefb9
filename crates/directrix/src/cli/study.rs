//! `directrix study` and `directrix demo`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use directrix::corpus::{Team, Watch};
use directrix::{lab, study};
use serde_json::{Map, json};

use super::inputs::ThreadArgs;
use super::ranks::ShardArgs;
use super::serve::{ListenArgs, serve};
use super::terminal::{self, note, remark, stdout};
use super::watch::watch;

const STUDY_EXAMPLES: &str = "\
Examples:
  directrix study studies/closing-quote.toml
  directrix study pronouns
  directrix study mine.toml --out reports/mine --json";

const DEMO_EXAMPLES: &str = "\
Examples:
  directrix demo
  directrix demo --serve
  directrix demo --out reports/demo";

/// Steps named in the summary of timings.
const SLOWEST: usize = 4;

/// Run a study file and write its report.
///
/// A study names a model, SAEs, a corpus, a behaviour and the analyses to make. Its report is one HTML page that works
/// offline; beside it are all tables as CSV and Parquet, figures as SVG, all numbers as JSON and a manifest. The last line
/// printed is the report's path. A second run reuses the index of the first.
#[derive(Args)]
#[command(after_help = STUDY_EXAMPLES)]
pub(crate) struct Study {
    /// Study file (TOML), or a shipped study: closing-quote, pronouns or circuits
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder to write to [default: out/ and the file's name]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    share: ShardArgs,
    #[command(flatten)]
    running: RunArgs,
}

/// Run the shipped study: how a small model closes a quotation.
///
/// Needs no file: the model, its two SAEs, the stories and the study are part of the command. The stories were sampled from
/// the model itself, which does better on them than on text it did not write. The last line printed is the path of the report,
/// to be opened in a browser.
#[derive(Args)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct Demo {
    /// Folder to write to
    #[arg(long, value_name = "FOLDER", default_value = "out/demo")]
    out: PathBuf,
    /// Open the workbench on what was found, as `directrix serve` does; its address is the last line printed
    #[arg(long, conflicts_with = "json")]
    serve: bool,
    #[command(flatten)]
    running: RunArgs,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print the report's path and the seconds of each step as JSON
    #[arg(long)]
    json: bool,
}

impl Study {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let study = study::Study::read(&self.file)?;
        let out = self.out.unwrap_or_else(|| Path::new("out").join(self.file.file_stem().unwrap_or_default()));
        self.running.run(&study, &self.file.display().to_string(), &out, &self.share, &watch())
    }
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = "closing-quote.toml";
        let (study, watch) = (study::Study::parse(study::Study::CLOSING_QUOTE, name)?, watch());
        self.running.run(&study, name, &self.out, &ShardArgs::default(), &watch)?;
        if !self.serve || watch.is_stopped() {
            return Ok(());
        }
        let studies = self.out.parent().unwrap_or(Path::new(""));
        serve(&self.out.join("index"), studies, false, &ListenArgs::default(), &watch)
    }
}

impl RunArgs {
    fn run(
        &self,
        study: &study::Study,
        name: &str,
        out: &Path,
        share: &ShardArgs,
        watch: &Watch,
    ) -> anyhow::Result<()> {
        self.threads.apply()?;
        let opened = study.open(watch)?;
        let about = json!({
            "study": study,
            "model": opened.model_source(),
            "saes": (0..opened.saes.len()).map(|sae| opened.sae_source(sae)).collect::<Vec<_>>(),
        });
        let watch = share.team(watch, &opened, Some(out), &about)?;
        let made = share.waits(study.run_on(opened, name, out, &watch).map_err(Into::into))?;
        let Some(finished) = made.filter(|_| share.shard().is_none()) else { return Ok(()) };
        watch.team().map_or(Ok(()), Team::finish)?;
        finished.notes.iter().for_each(|said| note(said));
        if self.json {
            let timings: Map<_, _> = finished.timings.iter().map(|(step, s)| (step.clone(), json!(s))).collect();
            return terminal::json(&json!({ "report": finished.report, "timings": timings }));
        }
        remark(&summary(&finished.timings));
        if let Some(origin) = lab::corpus_origin(&study.corpus) {
            remark(origin);
        }
        let mut out = stdout();
        writeln!(out, "{}", finished.report.display())?;
        Ok(out.flush()?)
    }
}

/// How long it took, and the slowest steps.
fn summary(timings: &[(String, f64)]) -> String {
    let total: f64 = timings.iter().map(|(_, seconds)| seconds).sum();
    let mut slowest: Vec<_> = timings.iter().collect();
    slowest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let steps: Vec<String> =
        slowest.iter().take(SLOWEST).map(|(step, seconds)| format!("{step} {seconds:.1} s")).collect();
    format!("{total:.1} s, most of it: {}", steps.join(", "))
}
