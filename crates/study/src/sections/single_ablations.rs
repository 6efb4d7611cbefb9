//! Ablation of each active direction alone.

use directrix_circuits::SingleAblation;
use serde::Serialize;

use super::{Body, SectionKind, figure, list, quoted, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Ablation of each active direction.
    SingleAblations {
        /// Prompts per direction.
        prompts: usize = 200,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1,
    }
}

impl SectionKind for SingleAblations {
    const KIND: &str = "single_ablations";
    const TITLE: &str = "Ablating one direction at a time";

    fn make(&self, found: &Findings) -> Result<Body> {
        let rows: Vec<SingleRow> = found
            .singles
            .iter()
            .filter_map(|&single| {
                let active = found.active.iter().find(|row| row.direction == single.direction)?;
                Some(SingleRow { single, mean_activation: active.mean_activation, share: active.share })
            })
            .collect();
        let effect = |row: &SingleRow| row.single.loss_increase;
        let raising = rows.iter().filter(|row| effect(row).estimate.low() > 0.0).count();
        let best = rows.first();
        let prose = vec![
            format!(
                "Of {} active directions, {raising} raise the loss of {} when ablated alone with an interval above zero; the most important is {}, with {:.3} nats ({}).",
                rows.len(),
                quoted(&found.answer()),
                best.map_or_else(|| "none".into(), |row| row.single.direction.to_string()),
                best.map_or(f64::NAN, |row| effect(row).mean()),
                best.map_or("", |row| effect(row).verdict()),
            ),
            format!(
                "Each mean is over up to {} prompts on which the direction is active; the directions taken further are {}.",
                self.prompts,
                list(&found.top)
            ),
        ];
        let shown = &rows[..rows.len().min(25)];
        let blocks = vec![
            figure(
                "single-ablations",
                "Loss increase from ablating one direction",
                ("direction", "loss increase, nats"),
                "Mean over prompts on which the direction is active; bars are 95 % intervals.",
                Shape::Bars {
                    labels: shown.iter().map(|row| row.single.direction.to_string()).collect(),
                    values: shown.iter().map(|row| effect(row).mean()).collect(),
                    half_widths: shown.iter().map(|row| effect(row).estimate.half_width).collect(),
                },
            ),
            table(
                "single-ablations",
                &format!(
                    "{} Mean activation and share of prompts as in the section before.",
                    best.map_or_else(String::new, |row| effect(row).about.sentence())
                ),
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct SingleRow {
    #[serde(flatten)]
    single: SingleAblation,
    mean_activation: f64,
    share: f64,
}
