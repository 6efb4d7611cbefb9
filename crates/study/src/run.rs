//! Running a study: analyses in order, then everything to disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::lab::{Clock, Event, Lab};
use crate::output::{write_atomically, write_figure, write_table};
use crate::report::{Block, Report, Section};
use crate::sections::quoted;
use crate::study::{SectionKind, Study};
use crate::{Error, Result, sections};

/// What a study left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The report.
    pub report: PathBuf,
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
    directions: &'a [u32],
    /// Nothing in a study is drawn at random.
    seed: Option<u64>,
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
    /// If an input is bad, an analysis fails, a file cannot be written, or `stop` was set.
    pub fn run(&self, name: &str, out: &Path, stop: &AtomicBool, progress: &mut dyn FnMut(Event)) -> Result<Finished> {
        std::fs::create_dir_all(out).map_err(|source| Error::Folder { path: out.into(), source })?;
        let mut lab = Lab::open(self, name, out, stop, progress)?;
        let kinds = if self.sections.is_empty() { SectionKind::all(self.saes.len()) } else { self.sections.clone() };
        let mut clock = Clock::start();
        let mut made: Vec<Section> = Vec::new();
        for (i, kind) in kinds.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let title = sections::title(kind);
            progress(Event::Section { number: i + 1, of: kinds.len(), title });
            let mut section = sections::make(&lab, kind)?;
            rename_repeated(&mut section, &made);
            made.push(section);
            clock.lap(title);
        }
        for block in made.iter().flat_map(|section| &section.blocks) {
            match block {
                Block::Table(table) => write_table(&out.join("tables"), table)?,
                Block::Figure(figure) => write_figure(&out.join("figures"), figure)?,
                Block::Texts(_) => {}
            }
        }
        clock.lap("tables and figures");
        let report = report(&lab, made);
        write_atomically(&out.join("study.json"), &json(&report))?;
        let path = out.join("report.html");
        write_atomically(&path, report.to_html()?.as_bytes())?;
        clock.lap("report");
        lab.timings.append(&mut clock.laps);
        write_atomically(&out.join("manifest.json"), &json(&manifest(&lab)))?;
        Ok(Finished { report: path, timings: lab.timings })
    }
}

/// A section made twice, with other options, gets names of its own.
fn rename_repeated(section: &mut Section, made: &[Section]) {
    let repeats = made.iter().filter(|other| other.title == section.title).count();
    if repeats == 0 {
        return;
    }
    let rename = |name: &mut String| name.push_str(&format!("-{}", repeats + 1));
    rename(&mut section.name);
    for block in &mut section.blocks {
        match block {
            Block::Table(table) => rename(&mut table.name),
            Block::Figure(figure) => rename(&mut figure.name),
            Block::Texts(texts) => rename(&mut texts.name),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data serialises")
}

fn manifest(lab: &Lab) -> Manifest<'_> {
    let bytes = serde_json::to_vec(&lab.study).expect("plain data serialises");
    let meta = lab.index.meta();
    Manifest {
        directrix: env!("CARGO_PKG_VERSION"),
        study: &lab.study,
        study_sha256: Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        inputs: &meta.identity,
        prompts: meta.prompts,
        positions: meta.positions,
        prompts_cut_to_the_context: meta.cut,
        behaviour_prompts: lab.behaviour.prompts.len(),
        directions: &lab.top,
        seed: None,
        seconds: lab.timings.iter().map(|(step, seconds)| Seconds { step, seconds: *seconds }).collect(),
    }
}

fn report(lab: &Lab, sections: Vec<Section>) -> Report {
    let (meta, sae) = (lab.index.meta(), lab.sae());
    let best = lab.singles.first();
    let top: Vec<String> = lab.top.iter().map(u32::to_string).collect();
    let mut facts = vec![
        ("stories".into(), meta.prompts.to_string()),
        ("behaviour prompts".into(), lab.behaviour.prompts.len().to_string()),
        ("active directions".into(), format!("{} of {}", lab.active.len(), sae.directions())),
        ("top directions".into(), top.join(", ")),
    ];
    if let Some(best) = best {
        let value = format!("{:+.3} ± {:.3}", best.loss_increase, best.half_width);
        facts.push((format!("loss increase without {}", best.direction), value));
    }
    for index in lab.index.saes() {
        facts.push((format!("mean L0, {}", index.name()), format!("{:.1}", index.l0())));
    }
    let lead = format!(
        "What makes {} follow {}? The behaviour is taken apart on {} prompts from {}, through the {} directions that {} finds in {} of {}. Every mean comes with a 95 % interval; losses are in nats.",
        quoted(&lab.answer()),
        quoted(&lab.study.behaviour.contains),
        lab.behaviour.prompts.len(),
        lab.study.corpus,
        sae.directions(),
        sae.short_name(),
        sae.site().reads.hook,
        lab.study.model,
    );
    let footer = format!(
        "Directrix {}; model {} ({}…), corpus {} ({}…). Full hashes, options and timings: manifest.json; all numbers: study.json.",
        env!("CARGO_PKG_VERSION"),
        lab.study.model,
        &meta.identity.model.hash[..12],
        lab.study.corpus,
        &meta.identity.corpus.hash[..12]
    );
    Report { title: lab.study.title.clone(), lead, facts, sections, footer }
}
