//! Edges from the first SAE to the last by cosine, and what ablation makes of them.

use directrix_circuits::{Claim, cosine_pairs, pair_effects};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_order, check_written, claim_bars, figure, table};
use crate::Result;
use crate::findings::Findings;

options! {
    /// Pairs of directions by cosine.
    Cosine {
        /// Pairs.
        pairs: usize = 10 => 1.0..,
        /// Prompts per pair.
        prompts: usize = 100 => 1.0..,
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
        last.check_readable(&opened.model).map_err(|e| e.to_string())
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
        let claims: Vec<Claim> = rows.iter().map(|row| row.activation_change).collect();
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
            changed(&claims),
        ];
        let labels: Vec<String> = rows.iter().map(|r| format!("{} → {}", r.pair.first, r.pair.second)).collect();
        let blocks = vec![
            figure(
                "cosine-activation-change",
                "The second direction when the first is ablated",
                ("pair", "change of activation"),
                "Mean change of the second direction's activation at the position where the first is most active, over the prompts of the corpus with its highest activations; bars are 95 % intervals, shades those of the controls: as much taken out along random rows, and random first directions of matched density.",
                claim_bars(labels, &claims),
            ),
            table(
                "cosine-pairs",
                "Per pair, means over n prompts at the position of the first direction's maximum: loss of the next token unchanged and with either direction ablated there, and the second direction's activation; half widths are of 95 % intervals over prompts; of the activation change also p, its false-discovery rate q in this list, and its controls.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

/// In how many pairs the second direction's activation changes.
fn changed(claims: &[Claim]) -> String {
    let surviving =
        |sign: f64| claims.iter().filter(|c| c.q < 0.05 && c.is_beyond_controls() && c.mean() * sign > 0.0).count();
    let (falls, rises) = (surviving(-1.0), surviving(1.0));
    let verdict = if falls + rises == 0 {
        "pointing the same way makes none of these pairs a circuit"
    } else if falls + rises == claims.len() {
        "all of these pairs are circuits here, not only in their weights"
    } else {
        "a pair that points the same way is a circuit only if the activation changes, too"
    };
    format!(
        "Ablating the first direction where it is most active lowers the second one's activation in {falls} of {} pairs and raises it in {rises}, at a false-discovery rate of 5 % over them all and beyond both controls: {verdict}.",
        claims.len()
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, Controls, Estimate};

    use super::*;

    #[test]
    fn pairs_that_change_are_counted_in_both_directions() {
        let said = |means: &[f64]| {
            let about = About {
                chosen: Chosen::Given,
                change: "ablated",
                measure: "change",
                unit: "activation",
                over: "prompts",
            };
            let of = |mean: f64| {
                let controls = Controls { rows: Some(Estimate::of([0.0, 0.1, -0.1])), directions: None };
                (about, Estimate::of([mean - 0.1, mean, mean + 0.1, mean]), controls)
            };
            changed(&Claim::list(means.iter().map(|mean| of(*mean))))
        };
        assert!(
            said(&[-2.0, -3.0]).contains("in 2 of 2 pairs and raises it in 0")
                && said(&[-2.0]).contains("all of these")
        );
        assert!(said(&[-2.0, 3.0, 0.01]).contains("in 1 of 3 pairs and raises it in 1"));
        assert!(said(&[0.01]).contains("none of these pairs"));
    }
}
