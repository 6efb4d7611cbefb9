//! A table of results: shown with bars, printed as JSON, written to files.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use directrix::circuits::{Cells, Claim, Estimate, Table};
use directrix::corpus::durable::Lock;
use directrix::corpus::one_line;
use directrix::lab::Opened;
use directrix::study::write_table;
use serde::Serialize;
use serde_json::json;

use super::layout::{Table as Shown, paragraph};
use super::terminal::{self, stdout};

#[derive(Args)]
pub(crate) struct ResultArgs {
    /// Also write the table to this folder, as CSV and Parquet
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// What an analysis found.
pub(crate) struct Found<'a, R> {
    /// File name of the table.
    pub(crate) name: &'a str,
    /// What a row is and what means are over.
    pub(crate) caption: &'a str,
    pub(crate) rows: &'a [R],
    /// Column that bars are drawn of.
    pub(crate) bars: &'a str,
    /// What stands in it where there is no value.
    pub(crate) missing: &'a str,
    /// What holds over all rows.
    pub(crate) overall: Option<Claim>,
}

impl ResultArgs {
    /// The right to write the results; to be taken before the work.
    pub(crate) fn lock(&self) -> anyhow::Result<Option<Lock>> {
        let Some(folder) = &self.out else { return Ok(None) };
        let lock = Lock::take(folder)?;
        lock.clean(folder)?;
        Ok(Some(lock))
    }

    /// The folder that results are written to.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes and prints the table.
    pub(crate) fn show<R: Serialize>(&self, found: &Found<'_, R>, opened: &Opened) -> anyhow::Result<()> {
        self.show_first(found, found.rows.len(), opened)
    }

    /// As [`show`](ResultArgs::show), with no more than `n` rows on the terminal.
    pub(crate) fn show_first<R: Serialize>(
        &self,
        found: &Found<'_, R>,
        n: usize,
        opened: &Opened,
    ) -> anyhow::Result<()> {
        if let Some(folder) = &self.out {
            write_table(folder, &Table::from_rows(found.name, found.caption, found.rows))?;
        }
        self.print_first(found, n, opened)
    }

    /// Prints the table.
    pub(crate) fn print<R: Serialize>(&self, found: &Found<'_, R>, opened: &Opened) -> anyhow::Result<()> {
        self.print_first(found, found.rows.len(), opened)
    }

    fn print_first<R: Serialize>(&self, found: &Found<'_, R>, n: usize, opened: &Opened) -> anyhow::Result<()> {
        if self.json {
            let wanted = &opened.wanted;
            return terminal::json(&json!({
                "model": wanted.model,
                "saes": wanted.saes,
                "caption": found.caption,
                "rows": found.rows,
                "overall": found.overall,
            }));
        }
        let mut out = stdout();
        let shown = Table::from_rows(found.name, found.caption, &found.rows[..n.min(found.rows.len())]);
        // Without rows there are no columns either.
        let table = if shown.is_empty() { "none".into() } else { with_bars(&shown, found.bars, found.missing).shown() };
        writeln!(out, "{}\n\n{table}", paragraph(found.caption, 0))?;
        if let Some(Claim { about, estimate, controls, .. }) = found.overall {
            let mean = |Estimate { n, mean, half_width, .. }| match n {
                0 => "none".into(),
                1 => format!("{mean:+.4}"),
                _ => format!("{mean:+.4} ± {half_width:.4} (95 % interval)"),
            };
            // Random directions of few prompts may be active in none of them.
            let of_control = |c: Estimate| if c.is_nothing() { "inactive there".into() } else { mean(c) };
            let said = |what: &str, control: Option<Estimate>| control.map(|c| format!("; {what} {}", of_control(c)));
            let of_controls = [
                said("along random rows", controls.rows),
                said("random directions of matched density", controls.directions),
            ];
            let control: String = of_controls.into_iter().flatten().collect();
            let name = about.measure.replace('_', " ");
            let sentence = match estimate.n {
                0 => format!(
                    "no direction is active in any of the {}: nothing was ablated",
                    about.over.split(' ').next().unwrap_or_default()
                ),
                n => format!("mean {name} {}{control}, n = {n} ({})", mean(estimate), about.over),
            };
            writeln!(out, "\n{}", paragraph(&sentence, 0))?;
        }
        Ok(out.flush()?)
    }
}

/// The table as text; bars are shares of the largest absolute value.
fn with_bars(rows: &Table, bars: &str, missing: &str) -> Shown {
    let header: Vec<&str> = rows.columns.iter().map(|column| column.name.as_str()).collect();
    let place = |name: &str| header.iter().position(|found| *found == name);
    let texts: Vec<bool> = rows.columns.iter().map(|column| matches!(column.cells, Cells::Text(_))).collect();
    let kept: Vec<usize> = [Some(0), place(bars), place("answer"), place("component"), place("n"), place("half width")]
        .into_iter()
        .flatten()
        .collect();
    let mut shown = Shown::new(&header, 0).texts(|i| texts[i]).keep(&kept);
    let values: Vec<f64> = match place(bars).map(|column| &rows.columns[column].cells) {
        Some(Cells::Real(values)) => values.clone(),
        _ => Vec::new(),
    };
    let largest = values.iter().filter(|value| value.is_finite()).fold(0.0, |most: f64, value| most.max(value.abs()));
    let whole =
        |values: &[f64]| values.iter().all(|value| value.is_nan() || (value.fract() == 0.0 && value.abs() < 1e15));
    for row in 0..rows.len() {
        shown.row(rows.columns.iter().map(|column| match &column.cells {
            Cells::Integer(values) => values[row].to_string(),
            Cells::Real(values) if values[row].is_nan() && column.name == bars => missing.into(),
            Cells::Real(values) if values[row].is_nan() => String::new(),
            // Counts and ranks that some rows do not have.
            Cells::Real(values) if column.name.contains("rank") && whole(values) => format!("{}", values[row]),
            Cells::Real(values) => format!("{:.4}", values[row]),
            Cells::Text(values) => one_line(&values[row]),
        }));
        if largest > 0.0 {
            let value = values.get(row).copied().filter(|value| value.is_finite());
            shown.bar(value.unwrap_or(0.0) / largest);
        }
    }
    shown
}
