//! Directions that a downstream one needs together, and of which each is enough.

use directrix_circuits::edges::{Between, Conjunction, Conjunctions as How, JointStep, Sample, Verdict};
use directrix_circuits::{Claim, answer_activations};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_directions, check_order, claim_bars, count, figure, list, table, within};
use crate::Result;
use crate::findings::Findings;

options! {
    /// What directions of the first SAE are together to one of the last.
    Conjunctions {
        /// The direction of the last SAE; if not said, the top one where that SAE is taken apart, else the most active before the answer.
        direction: Option<usize> = None,
        /// Directions of the first SAE looked at: those that take most alone.
        upstream: usize = 10 => 2.0..,
        /// Positions of each pair or set, at most.
        positions: usize = How::default().positions => 2.0..,
        /// Share of the activation that a joint set must take.
        enough: f64 = How::default().enough => 0.0..=1.0,
        /// Pairs drawn.
        bars: usize = 20 => 1.0..,
    }
}

impl SectionKind for Conjunctions {
    const KIND: &str = "conjunctions";
    const TITLE: &str = "Directions needed together";
    const SAES: usize = 2;
    const BY_DEFAULT: bool = false;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_order(opened)?;
        opened.saes.last().map_or(Ok(()), |last| check_directions(last, &self.direction))
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (saes, watch) = (&found.opened.saes, found.watch);
        let last = saes.len() - 1;
        let (first, second) = (&saes[0], &saes[last]);
        let parts = [found.index.sae(0), found.index.sae(last)];
        let between = Between::new(&found.opened.model, [first, second], found.index, parts)?;
        let how = How { positions: self.positions, enough: self.enough, ..How::default() };
        let direction = self.downstream(found)?;
        let (firsts, chosen) = between.most_upstream(direction, Sample::default(), &how, self.upstream, watch)?;
        let rows = between.conjunctions(direction, &firsts, chosen, &how, watch)?;
        let steps = between.joint_set(direction, &firsts, &how, watch)?;
        let about = format!(
            "Direction {direction} of {} and the {} of {} that take most of its activation when ablated alone where both fire, found on every other prompt of the corpus.",
            second.short_name(),
            count(firsts.len(), "direction"),
            first.short_name()
        );
        let Some(sentence) = rows.first().map(|row| row.interaction.sentence()) else {
            let none = "At no position of the others do two of them fire with it.".into();
            return Ok(Body { prose: vec![about, none], blocks: Vec::new() });
        };
        let prose = vec![about, pairs(&rows), together(&steps, self.enough)];
        let drawn = &rows[..self.bars.min(rows.len())];
        let claims: Vec<Claim> = drawn.iter().map(|row| row.interaction).collect();
        let labels = drawn.iter().map(|row| format!("{} and {}", row.first, row.other)).collect();
        let blocks = vec![
            figure(
                "conjunctions",
                "Two directions together: needed both, or each enough",
                ("pair", "interaction, shares of the activation"),
                "What both take of the activation less what each takes: −1 where both are needed, 1 where each is enough, 0 where they add up. Means over positions with 95 % intervals clustered by prompt; shaded: two other directions that fire there.",
                claim_bars(labels, &claims),
            ),
            table("conjunctions", &format!("{} {sentence}", Conjunction::SENTENCE), &rows),
            table(
                "joint-set",
                &format!(
                    "Each direction with those above it, ablated together; lost choosing: on the prompts that chose them. {}",
                    steps.first().map_or_else(String::new, |step| step.lost.sentence())
                ),
                &steps,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

impl Conjunctions {
    fn downstream(&self, found: &Findings) -> Result<usize> {
        let last = found.opened.saes.len() - 1;
        if let Some(direction) = self.direction {
            return Ok(direction);
        }
        if found.study.chosen() == last {
            return Ok(found.top[0] as usize);
        }
        let sae = &found.opened.saes[last];
        let acts = answer_activations(&found.opened.model, sae, &found.behaviour.prompts, found.watch)?;
        let mut sums = vec![0.0; sae.directions()];
        for (direction, value) in acts.directions().iter().zip(acts.values()) {
            sums[*direction as usize] += f64::from(*value);
        }
        let all = sums.iter().enumerate();
        Ok(all.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |(direction, _)| direction))
    }
}

/// How many pairs are what, and which.
fn pairs(rows: &[Conjunction]) -> String {
    let of = |verdict: Verdict, what: &str| {
        let own: Vec<&Conjunction> = rows.iter().filter(|row| row.verdict == verdict).collect();
        let named: Vec<String> = own.iter().take(3).map(|row| format!("{} and {}", row.first, row.other)).collect();
        match own.len() {
            0 => format!("none {what}"),
            n if n <= 3 => format!("{n} {what} ({})", named.join("; ")),
            n => format!("{n} {what} ({} first)", named.join("; ")),
        }
    };
    format!(
        "Of {}, {}, {} and {}; the others are none of these, or too little is known of them.",
        count(rows.len(), "pair"),
        of(Verdict::And, "are needed together"),
        of(Verdict::Or, "are each enough"),
        of(Verdict::Additive, "add up"),
    )
}

/// What the joint set takes.
fn together(steps: &[JointStep], enough: f64) -> String {
    let Some(last) = steps.last() else { return "None of them takes any of its activation.".into() };
    let directions = list(&steps.iter().map(|step| step.added).collect::<Vec<_>>());
    let reaches = if last.lost_choosing >= enough { "is the smallest set found" } else { "does not suffice" };
    format!(
        "To take {:.0} % of its activation where it fires, the set {directions} {reaches}; on other prompts it takes a share of {:.2}{}.",
        100.0 * enough,
        last.lost.mean(),
        within(last.lost.estimate.half_width, 2)
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, Controls, Estimate};

    use super::*;

    fn claims(means: &[f64]) -> Vec<Claim> {
        let about = About { chosen: Chosen::Given, change: "ablated", measure: "x", unit: "shares", over: "positions" };
        Claim::list(means.iter().map(|mean| (about, Estimate::of([*mean, mean + 0.02]), Controls::default())))
    }

    #[test]
    fn pairs_are_counted_by_what_they_are_and_the_first_named() {
        let verdicts = [Verdict::And, Verdict::Neither, Verdict::And, Verdict::And, Verdict::And, Verdict::Additive];
        let rows: Vec<Conjunction> = claims(&[0.0; 6])
            .into_iter()
            .zip(verdicts)
            .enumerate()
            .map(|(first, (interaction, verdict))| Conjunction {
                first,
                other: 9,
                second: 7,
                lost_first: 0.0,
                lost_first_half_width: 0.0,
                lost_other: 0.0,
                lost_other_half_width: 0.0,
                lost_both: 0.0,
                lost_both_half_width: 0.0,
                interaction,
                verdict,
            })
            .collect();
        let said = pairs(&rows);
        assert!(said.starts_with("Of 6 pairs, 4 are needed together (0 and 9; 2 and 9; 3 and 9 first), "), "{said}");
        assert!(said.contains("none are each enough and 1 add up (5 and 9);"), "{said}");
    }

    #[test]
    fn a_set_suffices_if_it_takes_enough_where_it_was_chosen() {
        let step = |lost_choosing| {
            let lost = claims(&[0.7]).remove(0);
            vec![JointStep { size: 1, added: 5, second: 7, lost_choosing, lost }]
        };
        assert!(
            together(&step(0.9), 0.8)
                .contains("the set 5 is the smallest set found; on other prompts it takes a share of 0.71")
        );
        assert!(together(&step(0.5), 0.8).contains("does not suffice"));
        assert!(together(&[], 0.8).starts_with("None"));
    }
}
