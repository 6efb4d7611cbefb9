//! Edges from the first SAE to the last by cosine, and what ablation makes of them.

use directrix_circuits::{cosine_pairs, pair_effects};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_order, check_written, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Pairs of directions by cosine.
    Cosine {
        /// Pairs.
        pairs: usize = 10,
        /// Prompts per pair.
        prompts: usize = 100,
        /// Leave out pairs above the diagonal, as the origin did.
        lower_triangle: bool = false,
    }
}

impl SectionKind for Cosine {
    const KIND: &str = "cosine";
    const TITLE: &str = "Pairs of directions by cosine";

    const SAES: usize = 2;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_order(opened)?;
        let (first, last) = (&opened.saes[0], &opened.saes[opened.saes.len() - 1]);
        check_written(opened, first)?;
        last.check_readable().map_err(|e| e.to_string())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (first, second) = (&found.opened.saes[0], &found.opened.saes[found.opened.saes.len() - 1]);
        let pairs = cosine_pairs(&found.opened.model, first, second, self.pairs, self.lower_triangle, found.watch)?;
        let rows = pair_effects(
            &found.opened.model,
            [first, second],
            found.index,
            found.index.sae(0),
            &pairs,
            self.prompts,
            found.watch,
        )?;
        let falls = rows.iter().filter(|row| row.activation_change.estimate.high() < 0.0).count();
        let prose = vec![
            format!(
                "The {} of {} × {} pairs with the highest cosine between what a direction of {} writes and what one of {} reads have cosines from {:.2} to {:.2}.",
                rows.len(),
                first.directions(),
                second.directions(),
                first.short_name(),
                second.short_name(),
                rows.last().map_or(f64::NAN, |r| r.pair.cosine as f64),
                rows.first().map_or(f64::NAN, |r| r.pair.cosine as f64)
            ),
            format!(
                "In {falls} of them, ablating the first direction where it is most active lowers the second one's activation with an interval that excludes zero: a pair that points the same way is a circuit only if the activation changes, too."
            ),
        ];
        let labels: Vec<String> = rows.iter().map(|r| format!("{} → {}", r.pair.first, r.pair.second)).collect();
        let blocks = vec![
            figure(
                "cosine-activation-change",
                "The second direction when the first is ablated",
                ("pair", "change of activation"),
                "Mean change of the second direction's activation at the position where the first is most active, over the prompts of the corpus with its highest activations; bars are 95 % intervals.",
                Shape::Bars {
                    labels,
                    values: rows.iter().map(|r| r.activation_change.mean()).collect(),
                    half_widths: rows.iter().map(|r| r.activation_change.estimate.half_width).collect(),
                },
            ),
            table(
                "cosine-pairs",
                "Per pair, means over n prompts at the position of the first direction's maximum: loss of the next token unchanged and with either direction ablated there, and the second direction's activation.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}
