//! The behaviour prompts, and the directions and heads at work before the answer.

use directrix_circuits::{Estimate, PromptEffect, Table, logit_attribution};
use directrix_corpus::Prompts;
use directrix_model::{Ask, BlockHook, HookPoint};
use serde::Serialize;

use super::{count, excludes_zero, figure, list, quoted, section, title};
use crate::lab::Lab;
use crate::report::{Block, Section, Texts};
use crate::study::{Active, Attention, BehaviourSection, Coactivation, SectionKind, SingleAblations};
use crate::{Result, Shape};

#[derive(Serialize)]
struct PromptRow {
    prompt: usize,
    positions: usize,
    answer_log_prob: f64,
    answer_rank: usize,
}

pub(super) fn prompts(lab: &Lab, options: &BehaviourSection) -> Result<Section> {
    let found = &lab.behaviour;
    let effects = PromptEffect::of(&lab.model, lab.sae(), &found.prompts, &directrix_circuits::Change::None)?;
    let loss = Estimate::of(effects.iter().map(|e| -e.log_prob));
    let first = effects.iter().filter(|e| e.rank == 0).count();
    let n = found.prompts.len();
    let mut out = section(
        "behaviour",
        title(&SectionKind::Behaviour(options.clone())),
        [
            format!(
                "{} of {} stories contain {} and, cut after the next {}, end with that one token; {} left out for being longer than the context.",
                n,
                found.stories,
                quoted(&lab.study.behaviour.contains),
                quoted(&lab.answer()),
                if found.too_long == 1 { "1 was".into() } else { format!("{} were", found.too_long) }
            ),
            format!(
                "The model does show the behaviour: the answer is its first choice on {:.0} % of these prompts, and its mean loss there is {:.3} ± {:.3} (95 % interval).",
                100.0 * first as f64 / n as f64,
                loss.mean,
                loss.half_width
            ),
        ],
    );
    let losses: Vec<f64> = effects.iter().map(|e| -e.log_prob).collect();
    let rows: Vec<PromptRow> = effects
        .iter()
        .map(|e| PromptRow {
            prompt: e.prompt,
            positions: found.prompts.get(e.prompt).len(),
            answer_log_prob: e.log_prob,
            answer_rank: e.rank,
        })
        .collect();
    let examples = lab.answers(options.examples);
    let shaded = examples
        .iter()
        .enumerate()
        .map(|(prompt, tokens)| {
            let label = format!("prompt {prompt}, loss of the answer {:.3}", losses[prompt]);
            lab.shaded(label, tokens, vec![0.0; tokens.len()], 1.0, Some(tokens.len() - 1))
        })
        .collect();
    out.blocks = vec![
        Block::Figure(figure(
            "answer-loss",
            "Loss of the answer",
            ("loss, nats", "prompts"),
            "Every behaviour prompt by the loss of its last token.",
            Shape::histogram(&losses, 40),
        )),
        Block::Texts(Texts {
            name: "behaviour-examples".into(),
            title: "The first prompts".into(),
            caption: "The answer is outlined.".into(),
            rows: shaded,
        }),
        Block::Table(Table::from_rows(
            "behaviour-prompts",
            "Every behaviour prompt: log-probability of the answer in nats, and how many tokens have a higher logit.",
            &rows,
        )),
    ];
    Ok(out)
}

pub(super) fn active(lab: &Lab, options: &Active) -> Section {
    let sae = lab.sae();
    let mut sums = vec![0.0_f64; sae.directions()];
    for prompt in 0..lab.active_prompts {
        let (directions, values) = lab.acts.at(prompt);
        directions.iter().zip(values).for_each(|(d, v)| sums[*d as usize] += *v as f64);
    }
    let means: Vec<f64> = sums.iter().map(|sum| sum / lab.active_prompts as f64).filter(|mean| *mean > 0.0).collect();
    let rows = &lab.active;
    let mut out = section(
        "active",
        title(&SectionKind::Active(options.clone())),
        [
            format!(
                "Before the answer, {} of {} fire on at least one of {} prompts; {} exceed {} of their maximum on at least {:.0} % of them.",
                means.len(),
                count(sae.directions(), "direction"),
                lab.active_prompts,
                rows.len(),
                options.options.share_of_maximum,
                100.0 * options.options.share_of_prompts
            ),
            format!(
                "The strongest is {}, with a mean of {:.2} over the {:.0} % of prompts on which it exceeds its threshold: candidates for the behaviour are the directions in this table, and the next section tests them.",
                rows.first().map_or_else(|| "none".into(), |r| r.direction.to_string()),
                rows.first().map_or(f64::NAN, |r| r.mean_activation),
                rows.first().map_or(f64::NAN, |r| 100.0 * r.share)
            ),
        ],
    );
    out.blocks = vec![
        Block::Figure(figure(
            "mean-activations",
            "Mean activation before the answer",
            ("mean activation over prompts, zeros included", "directions"),
            "Directions that fire on at least one prompt; counts on a logarithmic scale.",
            Shape::histogram(&means, 50).with_log_counts(),
        )),
        Block::Table(Table::from_rows(
            "active-directions",
            "Directions above their threshold on enough prompts; the mean activation is over the prompts on which they are.",
            rows,
        )),
    ];
    out
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

pub(super) fn single_ablations(lab: &Lab, options: &SingleAblations) -> Section {
    let rows: Vec<SingleRow> = lab
        .singles
        .iter()
        .filter_map(|single| {
            let active = lab.active.iter().find(|row| row.direction == single.direction)?;
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
    let mut out = section(
        "single-ablations",
        title(&SectionKind::SingleAblations(options.clone())),
        [
            format!(
                "Of {} active directions, {raising} raise the loss of {} when ablated alone with an interval above zero; the most important is {}, with {:.3} nats ({}).",
                rows.len(),
                quoted(&lab.answer()),
                best.map_or_else(|| "none".into(), |r| r.direction.to_string()),
                best.map_or(f64::NAN, |r| r.loss_increase),
                best.map_or("", |r| excludes_zero(r.loss_increase, r.half_width)),
            ),
            format!(
                "Each mean is over up to {} prompts on which the direction is active; the directions taken further are {}.",
                options.prompts,
                list(&lab.top)
            ),
        ],
    );
    let shown = &rows[..rows.len().min(25)];
    out.blocks = vec![
        Block::Figure(figure(
            "single-ablations",
            "Loss increase from ablating one direction",
            ("direction", "loss increase, nats"),
            "Mean over prompts on which the direction is active; bars are 95 % intervals.",
            Shape::Bars {
                labels: shown.iter().map(|r| r.direction.to_string()).collect(),
                values: shown.iter().map(|r| r.loss_increase).collect(),
                half_widths: shown.iter().map(|r| r.half_width).collect(),
            },
        )),
        Block::Table(Table::from_rows(
            "single-ablations",
            "Mean increase of the answer's loss over n prompts on which the direction is active, with the half width of its 95 % interval; mean activation and share of prompts as in the section before.",
            &rows,
        )),
    ];
    out
}

pub(super) fn coactivation(lab: &Lab, options: &Coactivation) -> Section {
    let values = directrix_circuits::coactivation(&lab.acts, &lab.top, options.active_above);
    let n = lab.top.len();
    let labels: Vec<String> = lab.top.iter().map(u32::to_string).collect();
    let strongest = (0..n)
        .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
        .filter(|(i, j)| values[i * n + j].is_finite())
        .max_by(|a, b| values[a.0 * n + a.1].abs().total_cmp(&values[b.0 * n + b.1].abs()));
    let sentence = strongest.map_or_else(
        || "No two of them vary over these prompts, so there is nothing to correlate.".into(),
        |(i, j)| {
            format!("The strongest correlation is between {} and {}: {:.2}.", lab.top[i], lab.top[j], values[i * n + j])
        },
    );
    let mut out = section(
        "coactivation",
        title(&SectionKind::Coactivation(options.clone())),
        [
            sentence,
            format!(
                "The correlation is over {} prompts, of whether a direction is above {} before the answer: near zero they work on prompts of their own choosing, near one together, below zero one stands in for the other.",
                lab.acts.positions(),
                options.active_above
            ),
        ],
    );
    out.blocks = vec![Block::Figure(figure(
        "coactivation",
        "Correlation of being active",
        ("direction", "direction"),
        "Pearson correlation over behaviour prompts; blank where a direction is active on all prompts or on none.",
        Shape::Heatmap { columns: labels.clone(), rows: labels, values, diverging: true },
    ))];
    out
}

pub(super) fn attention(lab: &Lab, options: &Attention) -> Result<Section> {
    let (layer, head) = match (options.layer, options.head) {
        (Some(layer), Some(head)) => (layer, head),
        (layer, head) => strongest_head(lab, layer, head)?,
    };
    let prompts = &lab.behaviour.prompts;
    let fits = |tokens: &&[u32]| tokens.len() <= options.positions;
    let prompt = prompts.iter().find(fits).unwrap_or_else(|| prompts.get(0));
    let n = prompt.len();
    let hook = HookPoint::Block(layer, BlockHook::Pattern);
    let run = lab.model.run(&Prompts::from_rows([prompt]), &Ask::capture([hook]), &[])?;
    let pattern = run.captured(hook);
    let values: Vec<f64> = (0..n)
        .flat_map(|query| {
            let row = &pattern.row(query)[head * n..(head + 1) * n];
            row.iter().enumerate().map(move |(key, &p)| if key > query { f64::NAN } else { p as f64 })
        })
        .collect();
    let before = (n - 2) * n;
    let weights = &values[before..before + n - 1];
    let key = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0);
    let texts = lab.texts(prompt);
    let labels: Vec<String> = texts.iter().enumerate().map(|(i, text)| format!("{i} {text}")).collect();
    let mut out = section(
        "attention",
        title(&SectionKind::Attention(options.clone())),
        [
            format!(
                "At the position that predicts the answer, head L{layer}H{head} looks most at {} (position {key}), with weight {:.2}.",
                quoted(&texts[key]),
                weights[key]
            ),
            "Each row is a position and shows where the head looks from there: columns are the positions before it, and a row sums to one.".into(),
        ],
    );
    out.blocks = vec![Block::Figure(figure(
        "attention-pattern",
        &format!("Attention pattern of L{layer}H{head}"),
        ("looks at (key)", "from (query)"),
        &format!("The first behaviour prompt of at most {} positions.", options.positions),
        Shape::Heatmap { columns: labels.clone(), rows: labels, values, diverging: false },
    ))];
    Ok(out)
}

/// The head that contributes most to the answer's logit, up or down, among those of a layer or number if it is said.
fn strongest_head(lab: &Lab, layer: Option<usize>, head: Option<usize>) -> Result<(usize, usize)> {
    let rows = logit_attribution(&lab.model, &lab.answers(200))?;
    let size = |(layer, head): (usize, usize)| {
        let label = format!("L{layer}H{head}");
        rows.iter().find(|row| row.component == label).map_or(0.0, |row| row.mean.abs())
    };
    let config = lab.model.config();
    let all = (0..config.n_layers).flat_map(|l| (0..config.attention.query_heads).map(move |h| (l, h)));
    let allowed = all.filter(|(l, h)| layer.is_none_or(|layer| layer == *l) && head.is_none_or(|head| head == *h));
    Ok(allowed.max_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or((0, 0)))
}
