//! Activations before one token against those before another.

use directrix_circuits::{Before, BeforeTokens as Found, before_tokens};
use directrix_lab::Opened;

use super::{Body, SectionKind, count, figure, leading, list, quoted, table, within};
use crate::findings::Findings;
use crate::study::Study;
use crate::{Result, Shape};

options! {
    /// Directions before one token against before another.
    BeforeTokens {
        /// The one token, by its text.
        one: String = String::new(),
        /// The other.
        other: String = String::new(),
    }
}

impl SectionKind for BeforeTokens {
    const KIND: &str = "before_tokens";
    const TITLE: &str = "Before one token, and before another";
    const BY_DEFAULT: bool = false;

    fn check_study(&self, _study: &Study, opened: &Opened) -> Result<(), String> {
        if self.one.is_empty() || self.other.is_empty() {
            return Err("needs two tokens; give `one` and `other`, as \" he\" and \" she\"".into());
        }
        let tokenizer = opened.tokenizer().map_err(|e| e.to_string())?;
        let token = |text: &str| tokenizer.single_token(text).map_err(|e| e.to_string());
        match (token(&self.one)?, token(&self.other)?) {
            (one, other) if one == other => {
                Err(format!("`one` and `other` are the same token {:?}; give two that differ", self.one))
            }
            _ => Ok(()),
        }
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let tokenizer = found.opened.tokenizer()?;
        let tokens = [tokenizer.single_token(&self.one)?, tokenizer.single_token(&self.other)?];
        let before = before_tokens(found.index, found.sae_index(), tokens, found.watch)?;
        let (one, other) = (quoted(&self.one), quoted(&self.other));
        let counted = format!(
            "{one} follows at {} of the corpus that count, {other} at {}, in {}.",
            count(before.positions[0], "position"),
            count(before.positions[1], "position"),
            count(before.prompts, "prompt")
        );
        if before.directions.is_empty() {
            let why = if before.positions.contains(&0) {
                "Without positions before both there is nothing to compare: choose tokens that occur, or a larger corpus."
            } else {
                "No direction fires at any of them."
            };
            return Ok(Body { prose: vec![counted, why.into()], blocks: Vec::new() });
        }
        let mut rows = before.directions.clone();
        rows.sort_by(|a, b| b.difference.mean().abs().total_cmp(&a.difference.mean().abs()));
        let prose = vec![
            counted,
            told_apart(&before, [&one, &other], |direction| found.link(direction)),
            "This is where directions fire, not what they do: a direction that fires before one of them need not make the model say it.".into(),
        ];
        let scatter = figure(
            "before-tokens",
            &format!("Mean activation before {one} and before {other}"),
            (&format!("mean activation before {one}"), &format!("mean activation before {other}")),
            "One point for each direction that fires before either, zeros included; on the diagonal it does not tell them apart.",
            Shape::Scatter {
                x: before.directions.iter().map(|row| row.before_one).collect(),
                y: before.directions.iter().map(|row| row.before_other).collect(),
                hover: before.directions.iter().map(|row| row.direction.to_string()).collect(),
            },
        );
        let links = before.directions.iter().map(|row| found.anchor(row.direction)).collect();
        let blocks = vec![
            leading(scatter, links),
            table(
                "before-tokens",
                &format!(
                    "Every direction that fires before {one} (one) or {other} (other): mean activation over the positions before each, zeros included, and the difference over all n of them, with standard error and half width of its 95 % interval clustered by prompt, p and q, its false-discovery rate over these directions. The largest differences first."
                ),
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

/// How many directions tell the tokens apart, and which do most.
fn told_apart(before: &Before, [one, other]: [&str; 2], link: impl Fn(usize) -> String) -> String {
    let of = |sign: f64| {
        let sure = before.directions.iter().filter(|row| row.difference.q < 0.05 && row.difference.mean() * sign > 0.0);
        let mut sure: Vec<&Found> = sure.collect();
        sure.sort_by(|a, b| b.difference.mean().abs().total_cmp(&a.difference.mean().abs()));
        sure
    };
    let named = |rows: &[&Found]| {
        if rows.is_empty() {
            return String::new();
        }
        let name = |row: &&Found| {
            let claim = &row.difference;
            format!("{} ({:+.2}{})", link(row.direction), claim.mean(), within(claim.estimate.half_width, 2))
        };
        format!(", most {}", list(&rows.iter().take(3).map(name).collect::<Vec<_>>()))
    };
    let [ones, others] = [of(1.0), of(-1.0)];
    format!(
        "Of {} that fire there, {} fire more before {one}{}; {} fire more before {other}{}; at a false-discovery rate of 5 % over them all.",
        count(before.directions.len(), "direction"),
        ones.len(),
        named(&ones),
        others.len(),
        named(&others)
    )
}

#[cfg(test)]
mod tests {
    use directrix_circuits::{About, Chosen, Claim, Controls, Estimate};

    use super::*;

    #[test]
    fn directions_that_tell_the_tokens_apart_are_counted_on_both_sides() {
        let about =
            About { chosen: Chosen::Given, change: "", measure: "difference", unit: "activation", over: "positions" };
        let of = |mean: f64| (about, Estimate::of([mean - 0.1, mean, mean + 0.1]), Controls::default());
        let row = |(direction, difference)| Found { direction, before_one: 1.0, before_other: 2.0, difference };
        let directions = Claim::list([3.0, -2.0, -4.0, 0.01].map(of)).into_iter().enumerate().map(row).collect();
        let before = Before { positions: [9, 9], prompts: 3, directions };
        let said = told_apart(&before, ["‘a’", "‘b’"], |direction| direction.to_string());
        assert!(said.contains("Of 4 directions that fire there, 1 fire more before ‘a’, most 0 (+3.00"), "{said}");
        assert!(said.contains("2 fire more before ‘b’, most 2 (-4.00"), "{said}");
    }
}
