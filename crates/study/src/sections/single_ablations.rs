//! Ablation of each active direction alone.

use serde::Serialize;

use super::{Body, SectionKind, excludes_zero, figure, list, quoted, table};
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
            .filter_map(|single| {
                let active = found.active.iter().find(|row| row.direction == single.direction)?;
                Some(SingleRow {
                    direction: single.direction,
                    loss_increase: single.loss_increase,
                    half_width: single.half_width,
                    se: single.se,
                    n: single.n,
                    mean_activation: active.mean_activation,
                    share: active.share,
                })
            })
            .collect();
        let raising = rows.iter().filter(|r| r.loss_increase - r.half_width > 0.0).count();
        let best = rows.first();
        let prose = vec![
            format!(
                "Of {} active directions, {raising} raise the loss of {} when ablated alone with an interval above zero; the most important is {}, with {:.3} nats ({}).",
                rows.len(),
                quoted(&found.answer()),
                best.map_or_else(|| "none".into(), |r| r.direction.to_string()),
                best.map_or(f64::NAN, |r| r.loss_increase),
                best.map_or("", |r| excludes_zero(r.loss_increase, r.half_width)),
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
                    labels: shown.iter().map(|r| r.direction.to_string()).collect(),
                    values: shown.iter().map(|r| r.loss_increase).collect(),
                    half_widths: shown.iter().map(|r| r.half_width).collect(),
                },
            ),
            table(
                "single-ablations",
                "Mean increase of the answer's loss over n prompts on which the direction is active, with the half width of its 95 % interval; mean activation and share of prompts as in the section before.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct SingleRow {
    direction: usize,
    loss_increase: f64,
    half_width: f64,
    se: f64,
    n: usize,
    mean_activation: f64,
    share: f64,
}
