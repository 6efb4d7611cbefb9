//! Ablations of several directions, of the whole site, and of one direction in other places.

use directrix_circuits::{Change, Effect, Estimate, PromptEffect, Table, Trial, ablate_everywhere, effects, mean_site};
use directrix_corpus::Prompts;
use serde::Serialize;

use super::{count, excludes_zero, figure, list, quoted, section, title};
use crate::lab::Lab;
use crate::report::{Block, Section, Texts};
use crate::study::{JointAblation, LossRecoveredSection, MoreAblations, SectionKind};
use crate::{Result, Shape};

#[derive(Serialize)]
struct DifferenceRow<'a> {
    ablated: &'a str,
    measure: &'a str,
    n: usize,
    mean: f64,
    sd: f64,
    se: f64,
    half_width: f64,
}

/// Original − ablated, per measure.
fn differences<'a>(ablated: &'a str, rows: &[PromptEffect]) -> Vec<DifferenceRow<'a>> {
    type Measure = fn(&PromptEffect) -> f64;
    let measures: [(&str, Measure); 3] = [
        ("log-probability", |e| e.log_prob - e.log_prob_changed),
        ("logit", |e| (e.logit - e.logit_changed) as f64),
        ("rank", |e| e.rank as f64 - e.rank_changed as f64),
    ];
    measures
        .into_iter()
        .map(|(measure, of)| {
            let Estimate { n, mean, sd, se, half_width, .. } = Estimate::of(rows.iter().map(of));
            DifferenceRow { ablated, measure, n, mean, sd, se, half_width }
        })
        .collect()
}

fn difference_bars(name: &str, heading: &str, rows: &[DifferenceRow]) -> Block {
    Block::Figure(figure(
        name,
        heading,
        ("measure of the answer", "original − ablated"),
        &format!("Mean over {} prompts; bars are 95 % intervals.", rows.first().map_or(0, |row| row.n)),
        Shape::Bars {
            labels: rows.iter().map(|row| row.measure.into()).collect(),
            values: rows.iter().map(|row| row.mean).collect(),
            half_widths: rows.iter().map(|row| row.half_width).collect(),
        },
    ))
}

pub(super) fn joint(lab: &Lab, options: &JointAblation) -> Result<Section> {
    let sae = lab.sae();
    let prompts = lab.answers(options.prompts);
    let set = PromptEffect::of(&lab.model, sae, &prompts, &Change::Ablate(lab.top.clone()))?;
    let mean = mean_site(&lab.model, sae, &lab.stories(options.mean_prompts))?;
    let some = lab.answers(options.mean_ablation_prompts);
    let site = PromptEffect::of(&lab.model, sae, &some, &Change::Replace(mean.into()))?;
    let increase = |rows: &[PromptEffect]| Estimate::of(rows.iter().map(|e| e.log_prob - e.log_prob_changed));
    let (of_set, of_site) = (increase(&set), increase(&site));
    let first = |rows: &[PromptEffect], changed: bool| {
        let hits = rows.iter().filter(|e| if changed { e.rank_changed == 0 } else { e.rank == 0 }).count();
        100.0 * hits as f64 / rows.len() as f64
    };
    let mut out = section(
        "joint-ablation",
        title(&SectionKind::JointAblation(options.clone())),
        [
            format!(
                "Ablating {} together before the answer changes its loss by {:+.3} nats (standard deviation {:.3} over {} prompts; 95 % interval {:.3} to {:.3}): {}.",
                list(&lab.top),
                of_set.mean,
                of_set.sd,
                of_set.n,
                of_set.low(),
                of_set.high(),
                excludes_zero(of_set.mean, of_set.half_width)
            ),
            format!(
                "{} is the first choice on {:.0} % of the prompts before and {:.0} % after; replacing the whole site by its mean changes the loss by {:+.3} ± {:.3} on {}: {}.",
                quoted(&lab.answer()),
                first(&set, false),
                first(&set, true),
                of_site.mean,
                of_site.half_width,
                count(site.len(), "prompt"),
                if of_site.low() > 0.0 {
                    format!(
                        "these directions account for {:.0} % of what the site does for the answer",
                        100.0 * of_set.mean / of_site.mean
                    )
                } else {
                    "as a whole, the site is not what the answer depends on".into()
                }
            ),
        ],
    );
    let (set_name, site_name) = (format!("directions {}", list(&lab.top)), "whole site, by its mean".to_owned());
    let (set_rows, site_rows) = (differences(&set_name, &set), differences(&site_name, &site));
    out.blocks = vec![
        difference_bars("joint-ablation", "The top directions ablated", &set_rows),
        difference_bars("mean-ablation", "The whole site replaced by its mean", &site_rows),
        Block::Table(Table::from_rows(
            "joint-ablation-summary",
            "Mean over n prompts of original − ablated, with standard deviation, standard error and half width of the 95 % interval. A positive difference of log-probability is a loss increase; a negative difference of rank says that the answer fell behind other tokens.",
            &set_rows.into_iter().chain(site_rows).collect::<Vec<_>>(),
        )),
        Block::Table(Table::from_rows(
            "joint-ablation",
            "Each prompt: log-probability, logit and rank of the answer, and the same with the top directions ablated.",
            &set,
        )),
    ];
    Ok(out)
}

#[derive(Serialize)]
struct LossRow<'a> {
    site: &'a str,
    n: usize,
    mean_loss: f64,
    se: f64,
    half_width: f64,
}

pub(super) fn loss_recovered(lab: &Lab, options: &LossRecoveredSection) -> Result<Section> {
    let sae = lab.sae();
    let mean = mean_site(&lab.model, sae, &lab.stories(options.mean_prompts))?;
    let found = directrix_circuits::loss_recovered(&lab.model, sae, &lab.behaviour.prompts, &lab.top, &mean)?;
    let top = format!("top {} ablated", lab.top.len());
    let rows: Vec<LossRow> = [
        ("original", &found.original),
        ("mean-ablated", &found.mean),
        ("zero-ablated", &found.zero),
        (&top, &found.directions),
        ("reconstructed", &found.sae),
    ]
    .into_iter()
    .map(|(site, losses)| {
        let Estimate { n, mean, se, half_width, .. } = Estimate::of(losses.iter().copied());
        LossRow { site, n, mean_loss: mean, se, half_width }
    })
    .collect();
    let mut out = section(
        "loss-recovered",
        title(&SectionKind::LossRecovered(options.clone())),
        [
            if rows[2].mean_loss > rows[0].mean_loss {
                format!(
                    "With the site of {} replaced by its reconstruction before the answer, the SAE recovers {:.1} % of the loss between zero ablation ({:.3}) and the unchanged model ({:.3}): (zero − sae) / (zero − original), means over {} prompts.",
                    sae.short_name(),
                    100.0 * found.recovered(),
                    rows[2].mean_loss,
                    rows[0].mean_loss,
                    rows[0].n
                )
            } else {
                format!(
                    "The answer's loss is lower with the site of {} set to zero ({:.3}) than unchanged ({:.3}), so there is no loss for the SAE to recover here; means over {} prompts.",
                    sae.short_name(),
                    rows[2].mean_loss,
                    rows[0].mean_loss,
                    rows[0].n
                )
            },
            format!(
                "The reconstructed loss is {:.3} ± {:.3}; if the bar of the ablated top directions reaches those of mean and zero ablation, the few directions carry what the site does here.",
                rows[4].mean_loss, rows[4].half_width
            ),
        ],
    );
    out.blocks = vec![
        Block::Figure(figure(
            "loss-recovered",
            "Loss of the answer with the site changed",
            ("site before the answer", "loss, nats"),
            "Mean over all behaviour prompts; bars are 95 % intervals.",
            Shape::Bars {
                labels: rows.iter().map(|row| row.site.into()).collect(),
                values: rows.iter().map(|row| row.mean_loss).collect(),
                half_widths: rows.iter().map(|row| row.half_width).collect(),
            },
        )),
        Block::Table(Table::from_rows(
            "loss-recovered",
            "Mean loss of the answer over n prompts, with standard error and half width of the 95 % interval.",
            &rows,
        )),
    ];
    Ok(out)
}

#[derive(Serialize)]
struct PlaceRow<'a> {
    ablated: &'a str,
    mean_is_over: &'a str,
    n: usize,
    loss_increase: f64,
    sd: f64,
    se: f64,
    half_width: f64,
}

pub(super) fn more(lab: &Lab, options: &MoreAblations) -> Result<Section> {
    let sae = lab.sae();
    let direction = options.direction.map_or(lab.top[0], |d| d as u32);
    let change = || Change::Ablate(vec![direction]);
    let active = lab.active_on(direction, options.active_above);

    let trials: Vec<Trial> = active
        .iter()
        .map(|&(prompt, _)| {
            let tokens = lab.behaviour.prompts.get(prompt);
            Trial { prompt, position: tokens.len() - 2, token: lab.behaviour.answer, change: change() }
        })
        .collect();
    let increases: Vec<f64> =
        effects(&lab.model, sae, &lab.behaviour.prompts, &trials)?.iter().map(Effect::loss_increase).collect();

    let examples = lab.sae_index().top_examples(&lab.index, direction as usize, options.prompts);
    let stories = Prompts::from_rows(examples.iter().map(|e| lab.index.prompt(e.prompt)));
    let everywhere: Vec<f64> = ablate_everywhere(
        &lab.model,
        sae,
        &stories,
        &(0..stories.len()).map(|story| (story, vec![direction])).collect::<Vec<_>>(),
    )?
    .into_iter()
    .map(|(original, ablated)| ablated - original)
    .collect();

    let threshold = options.share_of_maximum * lab.sae_index().maxima()[direction as usize];
    let mut one_at_a_time = Vec::new();
    for (story, example) in examples.iter().enumerate() {
        let tokens = stories.get(story);
        let values = lab.sae_index().on_prompt(&lab.index, example.prompt, direction as usize);
        for position in 0..tokens.len().saturating_sub(1) {
            if values[position] > threshold {
                one_at_a_time.push(Trial { prompt: story, position, token: tokens[position + 1], change: change() });
            }
        }
    }
    let at_positions: Vec<f64> =
        effects(&lab.model, sae, &stories, &one_at_a_time)?.iter().map(Effect::loss_increase).collect();

    let row = |ablated, mean_is_over, values: &[f64]| {
        let Estimate { n, mean, sd, se, half_width, .. } = Estimate::of(values.iter().copied());
        PlaceRow { ablated, mean_is_over, n, loss_increase: mean, sd, se, half_width }
    };
    let rows = [
        row("before the answer", "behaviour prompts on which it is active", &increases),
        row("everywhere", "its top stories, mean loss over a story", &everywhere),
        row("one active position at a time", "active positions of its top stories", &at_positions),
    ];
    let activations: Vec<f64> = active.iter().map(|(_, a)| *a as f64).collect();
    let correlation = directrix_circuits::correlation(&[activations.clone(), increases.clone()])[1];
    let mut out = section(
        "more-ablations",
        title(&SectionKind::MoreAblations(options.clone())),
        [
            format!(
                "Ablating direction {direction} raises the loss by {:.3} ± {:.3} before the answer, by {:.4} ± {:.4} over whole stories on which it is most active, and by {:.3} ± {:.3} at a single active position there (95 % intervals).",
                rows[0].loss_increase,
                rows[0].half_width,
                rows[1].loss_increase,
                rows[1].half_width,
                rows[2].loss_increase,
                rows[2].half_width
            ),
            format!(
                "If the first number is much larger than the last, the direction serves this behaviour more than others; the increase and the activation correlate at {correlation:.2} over {}, which says how far a large effect is just a large activation.",
                count(active.len(), "prompt")
            ),
        ],
    );
    let mut order: Vec<usize> = (0..increases.len()).collect();
    order.sort_by(|a, b| increases[*b].total_cmp(&increases[*a]));
    order.truncate(options.examples);
    let shown = Prompts::from_rows(order.iter().map(|i| lab.behaviour.prompts.get(active[*i].0)));
    let values = lab.on_prompts(&shown, direction)?;
    let shaded = order
        .iter()
        .zip(values)
        .enumerate()
        .map(|(row, (&i, values))| {
            let label = format!("prompt {}, loss increase {:.3}", active[i].0, increases[i]);
            let maximum = values.iter().copied().fold(0.0, f32::max);
            lab.shaded(label, shown.get(row), values, maximum, Some(shown.get(row).len() - 2))
        })
        .collect();
    out.blocks = vec![
        Block::Figure(figure(
            "loss-increases",
            &format!("Loss increase from ablating {direction} before the answer"),
            ("loss increase, nats", "prompts"),
            "Behaviour prompts on which the direction is active.",
            Shape::histogram(&increases, 40),
        )),
        Block::Figure(figure(
            "increase-by-activation",
            "Loss increase against activation",
            ("activation before the answer", "loss increase, nats"),
            "One point per behaviour prompt on which the direction is active.",
            Shape::Scatter {
                x: activations,
                y: increases.clone(),
                hover: active.iter().map(|(prompt, _)| format!("prompt {prompt}")).collect(),
            },
        )),
        Block::Table(Table::from_rows(
            "ablation-places",
            "Mean loss increase over n values, with standard deviation, standard error and half width of the 95 % interval; `mean is over` says what the values are.",
            &rows,
        )),
        Block::Texts(Texts {
            name: "largest-increases".into(),
            title: "Prompts with the largest loss increase".into(),
            caption: format!(
                "Shaded by the activation of direction {direction}; the position that predicts the answer is outlined."
            ),
            rows: shaded,
        }),
    ];
    Ok(out)
}
