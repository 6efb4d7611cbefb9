//! The prompts that show the behaviour, and how well the model does on them.

use directrix_circuits::{Change, Estimate, Interval, PromptEffect};
use serde::Serialize;

use super::{Body, SectionKind, figure, percent, quoted, table, within};
use crate::findings::Findings;
use crate::report::{Block, Texts};
use crate::{Result, Shape};

options! {
    /// Prompts that show the behaviour.
    Behaviour {
        /// Prompts shown.
        examples: usize = 3 => 1.0..,
    }
}

impl SectionKind for Behaviour {
    const KIND: &str = "behaviour";
    const TITLE: &str = "Behaviour prompts";

    fn make(&self, found: &Findings) -> Result<Body> {
        let behaviour = &found.behaviour;
        let effects =
            PromptEffect::of(&found.opened.model, found.sae(), &behaviour.prompts, &Change::None, found.watch)?;
        let loss = Estimate::of(effects.iter().map(|e| -e.log_prob));
        let first = effects.iter().filter(|e| e.rank == 0).count();
        let n = behaviour.prompts.len();
        let divided = if found.selection.apart {
            format!(
                "Directions are chosen on {} of them, drawn by seed {}; whatever is said here and below is measured on the other {n}.",
                found.selection.prompts, found.study.seed
            )
        } else {
            "Directions are chosen and measured on all of them.".into()
        };
        let prose = vec![
            format!(
                "{} of {} texts contain {} and, cut after the next {}, end with that one token; {} left out for being longer than the context.",
                found.all_prompts,
                behaviour.documents,
                quoted(&found.study.behaviour.contains),
                quoted(&found.answer()),
                if behaviour.too_long == 1 { "1 was".into() } else { format!("{} were", behaviour.too_long) }
            ),
            divided,
            shown(first, n, loss),
        ];
        let losses: Vec<f64> = effects.iter().map(|e| -e.log_prob).collect();
        let rows: Vec<PromptRow> = effects
            .iter()
            .map(|e| PromptRow {
                prompt: found.numbers[e.prompt],
                positions: behaviour.prompts.get(e.prompt).len(),
                answer_log_prob: e.log_prob,
                answer_rank: e.rank,
            })
            .collect();
        let examples = found.behaviour_prompts(self.examples);
        let shaded = examples
            .iter()
            .enumerate()
            .map(|(prompt, tokens)| {
                let label = format!("prompt {}, loss of the answer {:.3}", found.numbers[prompt], losses[prompt]);
                found.shade(label, tokens, vec![0.0; tokens.len()], 1.0, tokens.len() - 1)
            })
            .collect();
        let blocks = vec![
            figure(
                "answer-loss",
                "Loss of the answer",
                ("loss, nats", "prompts"),
                "Behaviour prompts measured on, by the loss of their last token.",
                Shape::histogram(&losses, 40),
            ),
            Block::Texts(Texts {
                name: "behaviour-examples".into(),
                title: "The first prompts".into(),
                caption: "The answer is outlined.".into(),
                rows: shaded,
            }),
            table(
                "behaviour-prompts",
                "Every behaviour prompt measured on, by its number among all: log-probability of the answer in nats, and how many tokens have a higher logit.",
                &rows,
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

/// Whether the answer is the model's first choice, of `first` of `n` prompts.
fn shown(first: usize, n: usize, loss: Estimate) -> String {
    let interval = Interval::of_share(first, n);
    let verdict = if interval.low > 0.5 {
        "The model does show the behaviour"
    } else if interval.high < 0.5 {
        "The model mostly does not show the behaviour"
    } else {
        "The model shows the behaviour about half of the time"
    };
    format!(
        "{verdict}: the answer is its first choice on {:.0} % of these prompts ({}), and its mean loss there is {:.3}{}.",
        100.0 * first as f64 / n as f64,
        percent(interval),
        loss.mean,
        within(loss.half_width, 3)
    )
}

#[derive(Serialize)]
struct PromptRow {
    prompt: usize,
    positions: usize,
    answer_log_prob: f64,
    answer_rank: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_the_model_shows_the_behaviour_follows_from_the_interval() {
        let said = |first, n| shown(first, n, Estimate::of([0.5, 0.7]));
        assert!(said(90, 100).starts_with("The model does show the behaviour: the answer is its first choice on 90 %"));
        assert!(said(52, 100).starts_with("The model shows the behaviour about half of the time"));
        assert!(said(5, 100).starts_with("The model mostly does not"));
        assert!(shown(1, 1, Estimate::of([0.5])).contains("one prompt gives no interval"));
    }
}
