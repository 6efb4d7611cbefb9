//! Every head, attention and MLP replaced by its mean.

use directrix_circuits::{Claim, DirectionWithout, MeanAblation, PartMeans, mean_ablations};

use super::{Body, SectionKind, claim_bars, count, figure, list, quoted, table, within};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Result, Shape};

options! {
    /// Mean-ablation of every part of the model.
    ComponentAblation {
        /// Prompts.
        prompts: usize = 100 => 1.0..,
        /// Prompts of the corpus over which means are taken.
        mean_prompts: usize = 100 => 1.0..,
        /// Parts drawn, those with the largest effects.
        bars: usize = 30 => 1.0..,
    }
}

impl SectionKind for ComponentAblation {
    const KIND: &str = "component_ablation";
    const TITLE: &str = "Each component replaced by its mean";
    const BY_DEFAULT: bool = false;

    fn make(&self, found: &Findings) -> Result<Body> {
        let (model, watch, prompts) = (&found.opened.model, found.watch, found.behaviour_prompts(self.prompts));
        let means = PartMeans::of(model, &found.corpus_prompts(self.mean_prompts)?, watch)?;
        let ablated = mean_ablations(model, &prompts, &means, found.sae(), &found.top, found.top_chosen(), watch)?;
        let mut prose = vec![losses(&ablated.losses, &quoted(&found.answer()))];
        let mut blocks = vec![self.bars_of(&ablated.losses)];
        if ablated.activations.is_empty() {
            prose.push(format!(
                "No component comes before what {} reads, so that its directions depend on none of them.",
                found.sae().short_name()
            ));
        } else {
            prose.extend(drivers(&ablated.activations, |direction| found.link(direction)));
            blocks.push(by_direction(&ablated.activations));
        }
        blocks.push(table(
            "component-ablation",
            "Each component replaced by its mean (over the positions of a prompt, then over prompts of the corpus) at every position before the answer: mean increase of the answer's loss in nats over n prompts, with standard error and half width of the 95 % interval, p and q, its false-discovery rate in this list; random rows: the component changed by as much along random rows.",
            &ablated.losses,
        ));
        if !ablated.activations.is_empty() {
            blocks.push(table(
                "component-directions",
                "The activation of each top direction at the position that predicts the answer, and how it changes if a component that comes before it is replaced by its mean; columns as above.",
                &ablated.activations,
            ));
        }
        Ok(Body { prose, blocks })
    }
}

impl ComponentAblation {
    fn bars_of(&self, rows: &[MeanAblation]) -> Block {
        let mut largest: Vec<usize> = (0..rows.len()).collect();
        let size = |row: &usize| rows[*row].loss_increase.mean().abs();
        largest.sort_by(|a, b| size(b).total_cmp(&size(a)));
        largest.truncate(self.bars);
        largest.sort_unstable();
        let claims: Vec<Claim> = largest.iter().map(|row| rows[*row].loss_increase).collect();
        let left_out = match rows.len() - largest.len() {
            0 => String::new(),
            n => format!(" The {} with the smallest effects are left out.", count(n, "component")),
        };
        figure(
            "component-ablation",
            "Loss of the answer with a component replaced by its mean",
            ("component", "loss increase, nats"),
            &format!(
                "Mean over prompts, with 95 % intervals; shaded: the component changed by as much along random rows.{left_out}"
            ),
            claim_bars(largest.iter().map(|row| rows[*row].component.clone()).collect(), &claims),
        )
    }
}

/// What each direction loses with each component.
fn by_direction(rows: &[DirectionWithout]) -> Block {
    let mut directions: Vec<usize> = rows.iter().map(|row| row.direction).collect();
    directions.dedup();
    let of_first = rows.iter().take_while(|row| row.direction == rows[0].direction);
    figure(
        "component-directions",
        "Activation of the top directions with a component replaced by its mean",
        ("component", "direction"),
        "Mean change of the activation at the position that predicts the answer, over prompts; components behind what the SAE reads change nothing and are left out.",
        Shape::Heatmap {
            columns: of_first.map(|row| row.component.clone()).collect(),
            rows: directions.iter().map(usize::to_string).collect(),
            values: rows.iter().map(|row| row.activation_change.mean()).collect(),
            diverging: true,
        },
    )
}

fn said(claim: &Claim, decimals: usize) -> String {
    format!("{:+.decimals$}{}", claim.mean(), within(claim.estimate.half_width, decimals))
}

/// How many components the answer depends on, and on which most.
fn losses(rows: &[MeanAblation], answer: &str) -> String {
    let mut sure: Vec<&MeanAblation> =
        rows.iter().filter(|row| row.loss_increase.q < 0.05 && row.loss_increase.is_beyond_controls()).collect();
    sure.sort_by(|a, b| b.loss_increase.mean().total_cmp(&a.loss_increase.mean()));
    let raising = sure.iter().filter(|row| row.loss_increase.mean() > 0.0).count();
    let most: Vec<String> = sure[..raising.min(3)]
        .iter()
        .map(|row| format!("{} ({} nats)", row.component, said(&row.loss_increase, 3)))
        .collect();
    let most = if most.is_empty() { String::new() } else { format!(", most by {}", list(&most)) };
    format!(
        "Of {}, the mean in place of {raising} raises the loss of {answer}{most}, and in place of {} lowers it, at a false-discovery rate of 5 % over them all and beyond the control.",
        count(rows.len(), "component"),
        sure.len() - raising
    )
}

/// For each direction, the component that it depends on most.
fn drivers(rows: &[DirectionWithout], link: impl Fn(usize) -> String) -> Vec<String> {
    let by_direction = rows.chunk_by(|a, b| a.direction == b.direction);
    let sentence = |rows: &[DirectionWithout]| {
        let sure =
            rows.iter().filter(|row| row.activation_change.q < 0.05 && row.activation_change.is_beyond_controls());
        let most = sure.min_by(|a, b| a.activation_change.mean().total_cmp(&b.activation_change.mean()));
        let direction = link(rows[0].direction);
        match most.filter(|row| row.activation_change.mean() < 0.0) {
            Some(row) => format!(
                "{direction} needs {} most: without it, its activation of {:.2} changes by {}.",
                row.component,
                row.activation,
                said(&row.activation_change, 2)
            ),
            None => format!("{direction} needs none of them alone, beyond what as much along random rows does."),
        }
    };
    vec![by_direction.map(sentence).collect::<Vec<_>>().join(" ")]
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, Controls, Estimate};

    use super::*;

    fn claims(means: &[f64]) -> Vec<Claim> {
        let about = About { chosen: Chosen::Given, change: "replaced", measure: "x", unit: "nats", over: "prompts" };
        let of = |mean: f64| {
            let controls = Controls { rows: Some(Estimate::of([0.0, 0.01, -0.01])), directions: None };
            (about, Estimate::of([mean - 0.01, mean, mean + 0.01]), controls)
        };
        Claim::list(means.iter().map(|mean| of(*mean)))
    }

    #[test]
    fn components_are_counted_in_both_directions_and_the_largest_named() {
        let names = ["a", "b", "c", "d"];
        let rows: Vec<MeanAblation> = claims(&[1.0, -1.0, 0.0, 2.0])
            .into_iter()
            .zip(names)
            .map(|(loss_increase, name)| MeanAblation { component: name.into(), loss_increase })
            .collect();
        let said = losses(&rows, "‘x’");
        assert!(
            said.contains("Of 4 components, the mean in place of 2 raises the loss of ‘x’, most by d (+2.000"),
            "{said}"
        );
        assert!(said.contains("in place of 1 lowers it"));
        assert!(losses(&rows[2..3], "‘x’").contains("in place of 0 raises the loss of ‘x’, and in place of 0"));
    }

    #[test]
    fn a_direction_needs_the_component_that_lowers_it_most() {
        let rows: Vec<DirectionWithout> = claims(&[-1.0, -2.0, 3.0, 0.0])
            .into_iter()
            .zip([(7, "a"), (7, "b"), (7, "c"), (9, "a")])
            .map(|(activation_change, (direction, name))| DirectionWithout {
                direction,
                component: name.into(),
                activation: 2.5,
                activation_half_width: 0.1,
                activation_change,
            })
            .collect();
        let said = drivers(&rows, |direction| direction.to_string()).remove(0);
        assert!(said.starts_with("7 needs b most: without it, its activation of 2.50 changes by -2.00"), "{said}");
        assert!(said.contains("9 needs none of them alone"));
    }
}
