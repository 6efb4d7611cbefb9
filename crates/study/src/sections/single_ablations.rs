//! Ablation of each active direction alone.

use directrix_circuits::{Claim, SingleAblation};
use serde::Serialize;

use super::{Body, SectionKind, claim_bars, figure, leading, of_controls, quoted, table, within};
use crate::Result;
use crate::findings::Findings;

/// Bars shown of either end.
const SHOWN: usize = 13;
/// Of the directions said to have an effect, so many may be there by chance.
const FALSE_DISCOVERIES: f64 = 0.05;

options! {
    /// Ablation of each active direction.
    SingleAblations {
        /// Prompts per direction.
        prompts: usize = 200 => 1.0..,
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1 => 0.0..,
    }
}

impl SectionKind for SingleAblations {
    const KIND: &str = "single_ablations";
    const TITLE: &str = "Ablating one direction at a time";

    fn make(&self, found: &Findings) -> Result<Body> {
        let row = |(&single, chosen): (&SingleAblation, &SingleAblation)| {
            let direction = single.direction as u32;
            let share_active =
                found.active_on(direction, self.active_above).len() as f64 / found.behaviour.prompts.len() as f64;
            let active = found.selection.active.iter().find(|row| row.direction == single.direction);
            SingleRow {
                single,
                share_active,
                overall: if share_active == 0.0 { 0.0 } else { single.loss_increase.mean() * share_active },
                increase_when_chosen: chosen.loss_increase.mean(),
                mean_activation: active.map_or(f64::NAN, |row| row.mean_activation),
            }
        };
        let rows: Vec<SingleRow> = found.singles.iter().zip(&found.selection.singles).map(row).collect();
        let blocks = vec![
            figure_of(&rows, |direction| found.anchor(direction)),
            table("single-ablations", &self.caption(found, &rows), &rows),
        ];
        Ok(Body { prose: self.prose(found, &rows), blocks })
    }
}

impl SingleAblations {
    fn prose(&self, found: &Findings, rows: &[SingleRow]) -> Vec<String> {
        let claims: Vec<Claim> = rows.iter().map(|row| row.single.loss_increase).collect();
        let counted = survivors(&claims, &quoted(&found.answer()));
        let most = rows.first().map_or_else(String::new, |row| first_choice(row, &found.link(row.single.direction)));
        let overall = rows.iter().max_by(|a, b| a.overall.total_cmp(&b.overall));
        let overall = match (overall, rows.first()) {
            (Some(row), Some(first)) if row.single.direction == first.single.direction => {
                "It has the largest effect over all prompts, too.".into()
            }
            (Some(row), _) => format!(
                "Over all prompts, those included on which a direction is not active, another has the largest effect: {}, {:+.3} nats.",
                found.link(row.single.direction),
                row.overall
            ),
            (None, _) => String::new(),
        };
        let ranked = format!(
            "Directions are ranked by their effect on the prompts that choose, where they are active; those taken further are {}. Each mean here is over up to {} prompts on which the direction is active, above {}.",
            found.linked(&found.top),
            self.prompts,
            self.active_above
        );
        let apart = if found.selection.apart {
            format!(
                "The {} prompts that choose and the {} on which effects are measured have none in common.",
                found.selection.prompts,
                found.behaviour.prompts.len()
            )
        } else {
            "The same prompts choose and measure: the largest effects here are too large.".into()
        };
        vec![counted, format!("{most} {overall}"), ranked, apart]
    }

    fn caption(&self, found: &Findings, rows: &[SingleRow]) -> String {
        format!(
            "{} Share active: of the {} prompts measured on, those with an activation above {}; overall: the product of loss increase and share. Increase when chosen: on the prompts that choose, as is the mean activation.",
            rows.first().map_or_else(String::new, |row| row.single.loss_increase.sentence()),
            found.behaviour.prompts.len(),
            self.active_above
        )
    }
}

/// What the direction that was chosen first does, against its controls.
fn first_choice(row: &SingleRow, name: &str) -> String {
    let claim = row.single.loss_increase;
    if claim.estimate.n == 0 {
        return format!("The first choice is {name}, which is active on none of the prompts measured on.");
    }
    let [rows, directions] = of_controls(&claim);
    format!(
        "The first choice is {name}: {:+.3}{} nats where it is active ({}); as much along random rows {rows}, random directions of matched density {directions}: {}. It is active on {:.1} % of the prompts, which makes {:+.3} nats over all of them.",
        claim.mean(),
        within(claim.estimate.half_width, 3),
        claim.verdict(),
        if claim.is_beyond_controls() {
            "its effect is beyond both"
        } else {
            "its effect is not told from what chance does"
        },
        100.0 * row.share_active,
        row.overall
    )
}

/// How many claims survive, in both directions, and how many of them are beyond their controls.
fn survivors(claims: &[Claim], answer: &str) -> String {
    let surviving = |sign: f64| claims.iter().filter(|c| c.q < FALSE_DISCOVERIES && c.mean() * sign > 0.0).count();
    let beyond = claims.iter().filter(|claim| claim.q < FALSE_DISCOVERIES && claim.is_beyond_controls()).count();
    let untested = claims.iter().filter(|claim| claim.q.is_nan()).count();
    let untested = if untested == 0 {
        String::new()
    } else {
        format!("; {untested} were active on fewer than two prompts and have no interval")
    };
    format!(
        "Of {} active directions, ablating {} alone raises the loss of {answer} and ablating {} lowers it, at a false-discovery rate of {:.0} % over them all (Benjamini–Hochberg){untested}; of these, the intervals of {beyond} meet none of their controls'.",
        claims.len(),
        surviving(1.0),
        surviving(-1.0),
        100.0 * FALSE_DISCOVERIES
    )
}

/// Both ends of the directions by effect.
fn figure_of(rows: &[SingleRow], anchor: impl Fn(usize) -> String) -> crate::report::Block {
    let mut order: Vec<&SingleRow> = rows.iter().filter(|row| row.single.loss_increase.estimate.n > 0).collect();
    order.sort_by(|a, b| b.single.loss_increase.mean().total_cmp(&a.single.loss_increase.mean()));
    let middle = SHOWN..order.len().saturating_sub(SHOWN).max(SHOWN);
    let left_out = middle.end.min(order.len()).saturating_sub(SHOWN);
    order.drain(SHOWN.min(order.len())..(SHOWN + left_out).min(order.len()));
    let caption = if left_out == 0 {
        "Mean over prompts on which the direction is active, with 95 % intervals; shaded: the intervals of its controls, on the same prompts.".to_owned()
    } else {
        format!(
            "The {SHOWN} largest and the {SHOWN} smallest, the {left_out} between them left out; mean over prompts on which the direction is active, with 95 % intervals; shaded: the intervals of its controls, on the same prompts."
        )
    };
    let claims: Vec<Claim> = order.iter().map(|row| row.single.loss_increase).collect();
    let links = order.iter().map(|row| anchor(row.single.direction)).collect();
    let block = figure(
        "single-ablations",
        "Loss increase from ablating one direction",
        ("direction", "loss increase, nats"),
        &caption,
        claim_bars(order.iter().map(|row| row.single.direction.to_string()).collect(), &claims),
    );
    leading(block, links)
}

#[derive(Serialize)]
struct SingleRow {
    #[serde(flatten)]
    single: SingleAblation,
    share_active: f64,
    overall: f64,
    increase_when_chosen: f64,
    mean_activation: f64,
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, Controls, Estimate};

    use super::*;
    use crate::Shape;

    fn claims(values: &[[f64; 3]]) -> Vec<Claim> {
        let about =
            About { chosen: Chosen::Given, change: "ablated", measure: "loss_increase", unit: "nats", over: "prompts" };
        Claim::list(values.iter().map(|values| (about, Estimate::of(*values), Controls::default())))
    }

    #[test]
    fn what_survives_is_counted_in_both_directions() {
        let [up, down, noise] = [[1.0, 1.01, 0.99], [-1.0, -1.01, -0.99], [1.0, -1.2, 0.1]];
        let said = |values: &[[f64; 3]]| survivors(&claims(values), "‘x’");
        assert!(
            said(&[up, down, down, noise])
                .contains("Of 4 active directions, ablating 1 alone raises the loss of ‘x’ and ablating 2 lowers it")
        );
        assert!(said(&[noise]).contains("ablating 0 alone raises the loss of ‘x’ and ablating 0 lowers it"));
        assert!(said(&[up, [f64::NAN; 3]]).contains("1 were active on fewer than two prompts"));
        assert!(said(&[]).contains("Of 0 active directions"));
        assert!(said(&[up, noise]).contains("the intervals of 1 meet none"));
    }

    #[test]
    fn what_the_first_choice_does_is_said_against_its_controls() {
        let said = |effect: &[f64], control: [f64; 3]| {
            let about = claims(&[[1.0, 2.0, 3.0]])[0].about;
            let controls = Controls { rows: Some(Estimate::of(control)), directions: Some(Estimate::of(control)) };
            let loss_increase = Claim::list([(about, Estimate::of(effect.iter().copied()), controls)]).remove(0);
            let single = SingleAblation { direction: 7, loss_increase };
            first_choice(
                &SingleRow { single, share_active: 0.5, overall: 0.5, increase_when_chosen: 1.0, mean_activation: 1.0 },
                "7",
            )
        };
        let small = [0.0, 0.01, -0.01];
        assert!(said(&[1.0, 1.1, 0.9], small).contains("excludes zero); as much along random rows +0.000 ± 0.025"));
        assert!(said(&[1.0, 1.1, 0.9], small).contains("its effect is beyond both. It is active on 50.0 %"));
        assert!(said(&[1.0, 1.1, 0.9], [1.0, 1.2, 0.8]).contains("not told from what chance does"));
        assert!(said(&[1.0, -1.1, 0.9], small).contains("includes zero, so this may be chance"));
        assert!(said(&[1.0], small).contains("one prompt gives no interval"));
        assert!(said(&[], small).contains("active on none of the prompts"));
    }

    #[test]
    fn the_figure_shows_both_ends() {
        let row = |(direction, claim)| SingleRow {
            single: SingleAblation { direction, loss_increase: claim },
            share_active: 0.5,
            overall: 0.0,
            increase_when_chosen: 0.0,
            mean_activation: 1.0,
        };
        for n in [0, 5, 26, 27, 88] {
            let values: Vec<[f64; 3]> =
                (0..n).map(|i| [f64::from(i), f64::from(i) + 0.1, f64::from(i) - 0.1]).collect();
            let rows: Vec<SingleRow> = claims(&values).into_iter().enumerate().map(row).collect();
            let crate::report::Block::Figure(figure) = figure_of(&rows, |direction| direction.to_string()) else {
                unreachable!("a figure was made")
            };
            let Shape::Bars { labels, .. } = figure.shape else { unreachable!("bars were made") };
            assert_eq!(labels, figure.links);
            assert_eq!(labels.len(), rows.len().min(2 * SHOWN), "{n}");
            assert_eq!(labels.first(), rows.last().map(|row| row.single.direction.to_string()).as_ref());
            assert_eq!(labels.last(), rows.first().map(|row| row.single.direction.to_string()).as_ref());
            assert_eq!(figure.caption.contains("left out"), rows.len() > 2 * SHOWN);
        }
    }
}
