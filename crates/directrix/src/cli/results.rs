//! A table of results: shown with bars, printed as JSON, written to files.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use directrix::circuits::{Cells, Claim, Estimate, Table};
use directrix::corpus::durable::Lock;
use directrix::study::write_table;
use serde::Serialize;
use serde_json::json;

use super::terminal::{self, bar, one_line, stdout, table};

const BAR_WIDTH: usize = 20;

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
    /// What holds over all rows.
    pub(crate) overall: Option<Claim>,
}

impl ResultArgs {
    /// The right to write the results; to be taken before the work.
    pub(crate) fn lock(&self) -> anyhow::Result<Option<Lock>> {
        Ok(self.out.as_deref().map(Lock::take).transpose()?)
    }

    pub(crate) fn show<R: Serialize>(&self, found: &Found<'_, R>) -> anyhow::Result<()> {
        let rows = Table::from_rows(found.name, found.caption, found.rows);
        if let Some(folder) = &self.out {
            write_table(folder, &rows)?;
        }
        if self.json {
            return terminal::json(&json!({ "caption": found.caption, "rows": found.rows, "overall": found.overall }));
        }
        let mut out = stdout();
        writeln!(out, "{}\n\n{}", found.caption, with_bars(&rows, found.bars))?;
        if let Some(Claim { about, estimate, controls, .. }) = found.overall {
            let mean = |Estimate { n, mean, half_width, .. }| match n {
                1 => format!("{mean:+.4}"),
                _ => format!("{mean:+.4} ± {half_width:.4} (95 % interval)"),
            };
            let control = controls.rows.map_or_else(String::new, |rows| format!("; along random rows {}", mean(rows)));
            let name = about.measure.replace('_', " ");
            writeln!(out, "\nmean {name} {}{control}, n = {}", mean(estimate), estimate.n)?;
        }
        Ok(out.flush()?)
    }
}

/// The table as text; bars are shares of the largest absolute value, `-` before those of negative ones.
fn with_bars(rows: &Table, bars: &str) -> String {
    let texts = rows.columns.iter().take_while(|column| matches!(column.cells, Cells::Text(_))).count();
    let header: Vec<&str> = rows.columns.iter().map(|column| column.name.as_str()).chain([""]).collect();
    let mut shown = table(&header, texts);
    if let Some(column) = shown.column_mut(header.len() - 1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    let values: Vec<f64> = rows
        .columns
        .iter()
        .find_map(|column| match &column.cells {
            Cells::Real(values) if column.name == bars => Some(values.clone()),
            _ => None,
        })
        .unwrap_or_default();
    let largest = values.iter().filter(|value| value.is_finite()).fold(0.0, |most: f64, value| most.max(value.abs()));
    for row in 0..rows.len() {
        let cells = rows.columns.iter().map(|column| match &column.cells {
            Cells::Integer(values) => values[row].to_string(),
            Cells::Real(values) if values[row].is_nan() => String::new(),
            Cells::Real(values) => format!("{:.4}", values[row]),
            Cells::Text(values) => one_line(&values[row]),
        });
        let value = values.get(row).copied().unwrap_or(f64::NAN);
        let length = bar(value.abs() / largest, BAR_WIDTH);
        let sign = if value < 0.0 && !length.is_empty() { "-" } else { "" };
        shown.add_row(cells.chain([format!("{sign}{length}")]));
    }
    shown.trim_fmt()
}
