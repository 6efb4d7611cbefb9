//! Running a study: analyses in order, then everything to disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use directrix_corpus::durable::{self, Lock};
use directrix_corpus::{Event, Team, Watch, hexadecimal};
use directrix_index::Options;
use directrix_lab::{Opened, OtherIndex, Sources, Wanted};
use directrix_sae::Counted;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::findings::Findings;
use crate::output::{check_name, write_figure, write_graph, write_table};
use crate::report::{Block, Fact, Report, Section};
use crate::sections::{Analysis, list, quoted};
use crate::study::Study;
use crate::{Error, Result};

/// What made the results, and which files they are in.
const MANIFEST: &str = "manifest.json";

/// What a study left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The report.
    pub report: PathBuf,
    /// What is to be told of the model's files.
    pub notes: Vec<String>,
    /// Seconds per step.
    pub timings: Vec<(String, f64)>,
}

/// What made the results.
#[derive(Serialize)]
struct Manifest<'a> {
    directrix: &'static str,
    study: &'a Study,
    study_sha256: String,
    inputs: &'a directrix_index::Identity,
    prompts: usize,
    positions: u64,
    prompts_cut_to_the_context: usize,
    behaviour_prompts: usize,
    /// Those of them on which directions were chosen, and on which their effects were measured.
    chosen_on: usize,
    measured_on: usize,
    directions: &'a [u32],
    /// Tables and figures, by their path beside this file; a table is there as Parquet, too.
    files: Vec<&'a str>,
    seconds: Vec<Seconds<'a>>,
}

#[derive(Serialize)]
struct Seconds<'a> {
    step: &'a str,
    seconds: f64,
}

impl Study {
    /// Makes every analysis and writes `report.html`, `study.json`, `manifest.json`, `tables/` and `figures/` to `out`. The
    /// index is built in `out/index`, or reused if it is of the same inputs. `name` is what errors call the study.
    ///
    /// # Errors
    /// If an input is bad, an analysis fails, a file cannot be written, or the watch says stop.
    pub fn run(&self, name: &str, out: &Path, watch: &Watch) -> Result<Finished> {
        self.run_on(self.open(watch)?, name, out, watch)
    }

    /// Opens what the study is of.
    ///
    /// # Errors
    /// If something cannot be found or loaded.
    pub fn open(&self, watch: &Watch) -> Result<Opened> {
        Ok(self.wanted().open_from(&Sources::watched(watch))?)
    }

    /// As [`run`](Study::run), on what the study [opens](Study::open). Of processes that do it [together](Watch::share) one writes.
    ///
    /// # Errors
    /// As [`run`](Study::run).
    pub fn run_on(&self, opened: Opened, name: &str, out: &Path, watch: &Watch) -> Result<Finished> {
        let is_writer = watch.team().is_none_or(Team::is_writer);
        let lock = is_writer.then(|| Lock::take(out)).transpose()?;
        lock.iter().try_for_each(|lock| lock.clean(out))?;
        let mut clock = Clock::start();
        let sections = self.sections_of(name, &opened)?;
        let counted = Counted { exclude: opened.excluded(&self.exclude)?, ..Counted::default() };
        let options = Options { counted, ..Options::default() };
        let index = opened.index(&out.join("index"), options, OtherIndex::Replace, watch)?;
        clock.lap("index");
        let found = Findings::of(self, name, &opened, &index, &mut clock, watch)?;
        let mut made: Vec<Section> = Vec::new();
        for (i, analysis) in sections.iter().enumerate() {
            if watch.is_stopped() {
                return Err(Error::Stopped);
            }
            let title = analysis.title();
            watch.tell(Event::new("study", i as u64 + 1, "sections").of(sections.len() as u64).with_detail(title));
            let mut section = analysis.make(&found)?;
            rename_repeated(&mut section, &made);
            made.push(section);
            clock.lap(title);
        }
        let path = out.join("report.html");
        if !is_writer {
            return Ok(Finished { report: path, notes: opened.notes.clone(), timings: clock.laps });
        }
        let files = write_files(out, &made)?;
        remove_others(out, &files);
        clock.lap("tables and figures");
        let report = report(&found, made, files);
        durable::write(&out.join("study.json"), &json(&report))?;
        durable::write(&path, report.to_html()?.as_bytes())?;
        clock.lap("report");
        durable::write(&out.join(MANIFEST), &json(&manifest(&found, &report, &clock)))?;
        Ok(Finished { report: path, notes: opened.notes.clone(), timings: clock.laps })
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            model: self.model.clone(),
            processing: self.processing,
            saes: self.saes.clone(),
            corpus: self.corpus.clone(),
            column: self.column.clone(),
            limit: self.limit,
            bos: self.bos,
        }
    }

    /// The sections to make: those named, which must be possible, or else all of the usual ones that are. What else the study asks for must be
    /// there, too, before the long work begins.
    fn sections_of(&self, name: &str, opened: &Opened) -> Result<Vec<Analysis>> {
        let sae = &opened.saes[self.chosen()];
        for direction in self.directions.iter().flatten() {
            sae.check(*direction)?;
        }
        let tokenizer = opened.tokenizer.as_ref().ok_or(directrix_circuits::Error::NoText)?;
        tokenizer.single_token(&self.behaviour.ends_with)?;
        let check = |section: &Analysis| {
            let (needed, there) = (section.saes(), opened.saes.len());
            if there < needed {
                return Err(format!("needs {needed} SAEs under `saes`, which names {there}"));
            }
            section.check(self, opened, sae)
        };
        if self.sections.is_empty() {
            let all = Analysis::all().into_iter().filter(|section| section.by_default() && check(section).is_ok());
            return Ok(all.collect());
        }
        for section in &self.sections {
            check(section).map_err(|found| Error::Study {
                name: name.into(),
                problem: format!("section `{}`: {found}", section.kind()),
            })?;
        }
        Ok(self.sections.clone())
    }
}

/// Writes tables and figures; gives those that the page carries, each with its path.
fn write_files(out: &Path, sections: &[Section]) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for block in sections.iter().flat_map(|section| &section.blocks) {
        match block {
            Block::Table(table) => {
                files.push((format!("tables/{}.csv", table.name), write_table(&out.join("tables"), table)?));
            }
            Block::Figure(figure) => {
                files.push((format!("figures/{}.svg", figure.name), write_figure(&out.join("figures"), figure)?));
            }
            Block::Graph(graph) => {
                files.push((format!("figures/{}.svg", graph.name), write_graph(&out.join("figures"), graph)?));
            }
            Block::Texts(_) | Block::Browser(_) => {}
        }
    }
    Ok(files)
}

/// Removes the tables and figures of an earlier run with other options: those its manifest lists and `files` does not. What cannot
/// be read or removed stays.
fn remove_others(out: &Path, files: &[(String, String)]) {
    let Ok(bytes) = fs::read(out.join(MANIFEST)) else { return };
    let Ok(Value::Object(manifest)) = serde_json::from_slice(&bytes) else { return };
    for name in manifest.get("files").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let is_ours = name.split_once('/').is_some_and(|(folder, file)| {
            matches!(folder, "tables" | "figures")
                && check_name(file).is_ok()
                && !files.iter().any(|(new, _)| new == name)
        });
        if is_ours {
            drop(fs::remove_file(out.join(name)));
            drop(fs::remove_file(out.join(name).with_extension("parquet")));
        }
    }
}

/// A section made twice, with other options, gets names of its own.
fn rename_repeated(section: &mut Section, made: &[Section]) {
    let repeats = made.iter().filter(|other| other.title == section.title).count();
    if repeats == 0 {
        return;
    }
    let suffix = format!("-{}", repeats + 1);
    let rename = |name: &mut String| name.push_str(&suffix);
    rename(&mut section.name);
    for block in &mut section.blocks {
        match block {
            Block::Table(table) => rename(&mut table.name),
            Block::Figure(figure) => rename(&mut figure.name),
            Block::Texts(texts) => rename(&mut texts.name),
            Block::Browser(browser) => rename(&mut browser.name),
            Block::Graph(graph) => rename(&mut graph.name),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data serialises")
}

fn manifest<'a>(found: &'a Findings, report: &'a Report, clock: &'a Clock) -> Manifest<'a> {
    let bytes = serde_json::to_vec(found.study).expect("plain data serialises");
    let meta = found.index.meta();
    Manifest {
        directrix: env!("CARGO_PKG_VERSION"),
        study: found.study,
        study_sha256: hexadecimal(&Sha256::digest(bytes)),
        inputs: &meta.identity,
        prompts: meta.prompts,
        positions: meta.positions,
        prompts_cut_to_the_context: meta.cut,
        behaviour_prompts: found.all_prompts,
        chosen_on: found.selection.prompts,
        measured_on: found.behaviour.prompts.len(),
        directions: &found.top,
        files: report.files.iter().map(|(name, _)| name.as_str()).collect(),
        seconds: clock.laps.iter().map(|(step, seconds)| Seconds { step, seconds: *seconds }).collect(),
    }
}

fn report(found: &Findings, sections: Vec<Section>, files: Vec<(String, String)>) -> Report {
    let (meta, sae) = (found.index.meta(), found.sae());
    let fact = |name: &str, value: String, note: String| Fact { name: name.into(), value, note };
    let measured = found.behaviour.prompts.len();
    let mut facts = vec![
        fact(
            "behaviour prompts",
            found.all_prompts.to_string(),
            if found.selection.apart {
                format!("{} to choose directions, {measured} others to measure", found.selection.prompts)
            } else {
                "the same to choose and to measure: effects are too large".into()
            },
        ),
        fact(
            "active directions",
            format!("{} of {}", found.selection.active.len(), sae.directions()),
            "before the answer".into(),
        ),
        fact("top directions", list(&found.top), "by their effect on the prompts that choose".into()),
    ];
    // Where too few prompts have the behaviour, there may be no mean, or none with an interval.
    if let Some(best) = found.singles.first().filter(|best| !best.loss_increase.mean().is_nan()) {
        let claim = best.loss_increase;
        let width = claim.estimate.half_width;
        let within = if width.is_nan() { String::new() } else { format!(" ± {width:.3}") };
        let verdict = match (claim.excludes_zero(), claim.is_beyond_controls()) {
            (true, true) => "beyond its controls",
            (true, false) => "not beyond its controls",
            (false, _) => "may be chance",
        };
        facts.push(fact(
            &format!("loss increase without {}", best.direction),
            format!("{:+.3}{within}", claim.mean()),
            format!("nats, where it is active; n = {}; {verdict}", claim.estimate.n),
        ));
    }
    for index in found.index.saes() {
        facts.push(fact(
            &format!("L0 of {}", index.name()),
            format!("{:.1}", index.l0()),
            format!("directions active per position, of {}", index.directions()),
        ));
    }
    let lead = format!(
        "What makes {} follow {}? The behaviour is taken apart on {} prompts from {}: directions are chosen on {}, their effects measured on {}, through the {} directions that {} finds in {} of {}. Means over prompts come with their 95 % interval; losses are in nats.",
        quoted(&found.answer()),
        quoted(&found.study.behaviour.contains),
        found.all_prompts,
        found.study.corpus,
        found.selection.prompts,
        if found.selection.apart { format!("the other {}", found.behaviour.prompts.len()) } else { "the same".into() },
        sae.directions(),
        sae.short_name(),
        sae.site().reads,
        found.study.model,
    );
    let corpus = format!(
        "The corpus: {} prompts, {} positions, of which {} count in what is said of directions alone; left out: {}. {}",
        meta.prompts,
        meta.positions,
        meta.counted,
        meta.identity.options.left_out(|token| format!("{:?}", found.token(token))),
        directrix_lab::corpus_origin(&found.study.corpus).unwrap_or_default(),
    );
    let corpus = corpus.trim_end().to_owned();
    let footer = format!(
        "Directrix {}; model {} ({}…), corpus {} ({}…). Full hashes, options and timings: manifest.json; all numbers: study.json.",
        env!("CARGO_PKG_VERSION"),
        found.study.model,
        &meta.identity.model.hash[..12],
        found.study.corpus,
        &meta.identity.corpus.hash[..12]
    );
    let saes = (found.study.chosen(), found.opened.saes.len());
    Report { title: found.study.title.clone(), lead, corpus, facts, sections, footer, saes, files }
}

/// Seconds between laps.
pub(crate) struct Clock {
    last: Instant,
    pub(crate) laps: Vec<(String, f64)>,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { last: Instant::now(), laps: Vec::new() }
    }

    pub(crate) fn lap(&mut self, name: &str) {
        self.laps.push((name.into(), self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }
}
