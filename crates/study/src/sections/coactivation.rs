//! Whether the top directions are active together.

use directrix_circuits::{Interval, correlation};
use serde::Serialize;

use super::{Body, SectionKind, ends, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Whether the top directions are active together.
    Coactivation {
        /// A direction is active on a prompt above this.
        active_above: f32 = 0.1 => 0.0..,
    }
}

impl SectionKind for Coactivation {
    const KIND: &str = "coactivation";
    const TITLE: &str = "Are the top directions active together?";

    fn make(&self, found: &Findings) -> Result<Body> {
        let values = directrix_circuits::coactivation(&found.acts, &found.top, self.active_above)?;
        let n = found.top.len();
        let labels: Vec<String> = found.top.iter().map(u32::to_string).collect();
        let strongest = (0..n)
            .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
            .filter(|(i, j)| values[i * n + j].is_finite())
            .max_by(|a, b| values[a.0 * n + a.1].abs().total_cmp(&values[b.0 * n + b.1].abs()));
        let active = |direction: u32| -> Vec<f64> {
            let prompts = 0..found.acts.positions();
            prompts.map(|prompt| f64::from(u8::from(found.acts.get(prompt, direction) > self.active_above))).collect()
        };
        let actives: Vec<Vec<f64>> = found.top.iter().map(|direction| active(*direction)).collect();
        let interval = |i: usize, j: usize| {
            Interval::bootstrap(found.acts.positions(), |drawn| {
                let of = |values: &[f64]| drawn.iter().map(|prompt| values[*prompt]).collect::<Vec<_>>();
                correlation(&[of(&actives[i]), of(&actives[j])])[1]
            })
        };
        let pairs: Vec<Pair> = (0..n)
            .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
            .map(|(i, j)| {
                let Interval { low, high } = interval(i, j);
                let [one, other] = [found.top[i], found.top[j]];
                Pair { n: found.acts.positions(), one, other, correlation: values[i * n + j], low, high }
            })
            .collect();
        let sentence = strongest.map_or_else(
            || "No two of them vary over these prompts, so there is nothing to correlate.".into(),
            |(i, j)| together(&found.link(found.top[i]), &found.link(found.top[j]), values[i * n + j], interval(i, j)),
        );
        let prose = vec![
            sentence,
            format!(
                "The correlation is over {} prompts, of whether a direction is above {} before the answer.",
                found.acts.positions(),
                self.active_above
            ),
        ];
        let blocks = vec![
            figure(
                "coactivation",
                "Correlation of being active",
                ("direction", "direction"),
                "Pearson correlation over behaviour prompts; blank where a direction is active on all prompts or on none.",
                Shape::Heatmap { columns: labels.clone(), rows: labels, values, diverging: true },
            ),
            table(
                "coactivation",
                "Correlation of being active, of each two, over n prompts, with both ends of its 95 % interval (bootstrap over prompts).",
                &pairs,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct Pair {
    one: u32,
    other: u32,
    n: usize,
    correlation: f64,
    low: f64,
    high: f64,
}

/// What the strongest correlation says.
fn together(one: &str, other: &str, correlation: f64, interval: Interval) -> String {
    let verdict = if interval.low.is_nan() || interval.low * interval.high <= 0.0 {
        "it may be zero, so that they work on prompts of their own choosing"
    } else if correlation >= 0.7 {
        "they are active on the same prompts, so that both ablations may show one and the same thing"
    } else if correlation > 0.0 {
        "they are more often active together than apart"
    } else if correlation > -0.7 {
        "they are more often active apart than together"
    } else {
        "one stands in where the other is not active"
    };
    format!(
        "The strongest correlation is between {one} and {other}: {correlation:.2} ({}): {verdict}.",
        ends(interval, 2)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_are_one_are_said_to_be() {
        let said = |r, low, high| together("1", "2", r, Interval { low, high });
        assert!(said(0.8, 0.75, 0.85).ends_with("one and the same thing."));
        assert!(said(0.3, 0.1, 0.5).ends_with("together than apart."));
        assert!(said(0.1, -0.1, 0.3).contains("may be zero"));
        assert!(said(-0.3, -0.5, -0.1).ends_with("apart than together."));
        assert!(said(-0.9, -0.95, -0.8).contains("stands in"));
        assert!(said(0.9, f64::NAN, f64::NAN).contains("(no interval): it may be zero"));
    }
}
