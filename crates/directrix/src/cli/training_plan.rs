//! What `directrix train --plan` says.

use std::io::Write;

use directrix::corpus::Ranks;
use directrix::lab::{Opened, model_flop};
use directrix::sae::train::{OverRanks, Plan, Sizing, Split, Training, plan};
use serde_json::json;

use super::layout::{Table, paragraph};
use super::plan::{bytes, flop, time};
use super::terminal::{self, stdout, thousands};
use super::watch::watch;

/// Seconds of the probe.
const SECONDS: f64 = 10.0;
/// Links that the exchanges are shown for, by name, and the bytes that they carry in a second.
const LINKS: [(&str, f64); 3] = [("at 1 Gbit/s", 0.125e9), ("at 10 Gbit/s", 1.25e9), ("at 100 Gbit/s", 12.5e9)];

/// Takes some steps of the training and prints what all of it takes, over so many ranks.
pub(super) fn show(training: &Training, opened: &Opened, ranks: &[usize], as_json: bool) -> anyhow::Result<()> {
    let mut ranks = ranks.to_vec();
    let here = training.over.ranks().map(Ranks::size);
    ranks.extend(here.filter(|size| !ranks.contains(size)));
    let watch = watch();
    let plan = plan(training, &Sizing { ranks, seconds: SECONDS }, &watch)?;
    drop(watch);
    if !super::ranks::is_first() {
        return Ok(());
    }
    let hooks = training.recipes.iter().map(|(_, recipe)| recipe.site.parse());
    let deepest = hooks.collect::<Result<Vec<_>, _>>()?.into_iter().max();
    let model = deepest.map_or(0.0, |deepest| model_flop(opened.model.config(), deepest, &[training.feed.context]));
    let threads = rayon::current_num_threads();
    let (name, corpus) = (opened.model_name(), opened.corpus.name());
    if as_json {
        let all = json!({ "model": name, "corpus": corpus, "threads": threads, "model_flop": model, "plan": plan });
        return terminal::json(&all);
    }
    print(&plan, model, &format!("{name} on {corpus}"), threads, here)
}

fn print(plan: &Plan, model: f64, about: &str, threads: usize, here: Option<usize>) -> anyhow::Result<()> {
    let mut out = stdout();
    let batch = plan.batch as f64;
    let positions = batch * plan.steps as f64;
    let steps = format!("{about}: {} steps of {} positions", thousands(plan.steps), thousands(plan.batch as u64));
    writeln!(out, "{}", paragraph(&steps, 0))?;
    let (probed, seconds) = (thousands(plan.probe_steps), plan.probe_seconds);
    let probed = format!("measured in {seconds:.1} s on {probed} steps, with {threads} threads");
    writeln!(out, "{}", paragraph(&probed, 0))?;

    let saes: f64 = plan.saes.iter().map(|sae| sae.flop).sum();
    let mut all = Table::new(&["training", "each step", "in all"], 1);
    all.row(["model, to its last site".into(), flop(model * batch), flop(model * positions)]);
    all.row(["SAEs".into(), flop(saes * batch), flop(saes * positions)]);
    all.row(["time".into(), format!("{:.0} ms", 1e3 * plan.step_seconds), time(plan.seconds)]);
    let of_model = plan.position_seconds * batch;
    let share = 100.0 * of_model / plan.step_seconds;
    all.row(["of it the model's".into(), format!("{:.0} ms", 1e3 * of_model), format!("{share:.0} %")]);
    all.row(["SAEs on disk".into(), String::new(), bytes(plan.sae_bytes)]);
    all.row(["checkpoints, two".into(), String::new(), bytes(2 * plan.checkpoint_bytes)]);
    all.row(["memory".into(), String::new(), plan.memory_bytes.map_or_else(|| "unknown".into(), bytes)]);
    writeln!(out, "{}\n", all.shown())?;

    let header = ["SAE", "directions", "active per position", "gradient", "Adam"];
    let mut saes = Table::new(&header, 1);
    for sae in &plan.saes {
        let name = if sae.name.is_empty() { "the only one" } else { &sae.name };
        let milliseconds = |seconds: f64| format!("{:.0} ms", 1e3 * seconds);
        saes.row([
            name.into(),
            thousands(sae.directions as u64),
            format!("{:.1}", sae.active),
            milliseconds(sae.gradient_seconds),
            milliseconds(sae.apply_seconds),
        ]);
    }
    writeln!(out, "{}\n", saes.shown())?;

    let own = plan.link.map(|link| ("here", link));
    let links: Vec<(&str, f64)> = LINKS.into_iter().chain(own).collect();
    let header: Vec<&str> = ["dividing", "ranks", "given to each in a step", "step without", "memory"]
        .into_iter()
        .chain(links.iter().map(|(name, _)| *name))
        .collect();
    let mut ranks = Table::new(&header, 1).keep(&[0, 1, 2, 3, 6, 7]);
    for over in plan.ranks.iter().filter(|over| over.ranks > 1) {
        let OverRanks { split, given_bytes, step_seconds, memory_bytes, .. } = *over;
        let split = if split == Split::Positions { "positions" } else { "directions" };
        let fixed = [
            split.into(),
            thousands(over.ranks as u64),
            bytes(given_bytes),
            format!("{:.0} ms", 1e3 * step_seconds),
            memory_bytes.map_or_else(|| "unknown".into(), bytes),
        ];
        let is_here = here == Some(over.ranks);
        let shares = links.iter().map(|(name, link)| match *name {
            "here" if !is_here => String::new(),
            _ => format!("{:.0} %", 100.0 * over.share(*link)),
        });
        ranks.row(fixed.into_iter().chain(shares));
    }
    writeln!(out, "{}", ranks.shown())?;
    let own = match (plan.link, here) {
        (Some(link), Some(here)) => format!(" These {here} ranks give each {} in a second.", bytes(link as u64)),
        _ => String::new(),
    };
    let beneath = "The percentages are the share of the time that ranks exchange numbers, over links that carry so much to each rank.";
    writeln!(out, "{}", paragraph(&format!("{beneath}{own}"), 0))?;
    Ok(out.flush()?)
}
