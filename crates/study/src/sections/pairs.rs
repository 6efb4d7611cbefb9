//! Edges between a first and a second SAE: by cosine and by ablation.

use directrix_circuits::{CooccurrenceOptions, Table, cosine_pairs, pair_effects};
use directrix_corpus::Prompts;
use serde::Serialize;

use super::{figure, section, title};
use crate::lab::Lab;
use crate::report::{Block, Section};
use crate::study::{CooccurrenceSection, Cosine, SectionKind};
use crate::{Result, Shape};

pub(super) fn cosine(lab: &Lab, options: &Cosine) -> Result<Section> {
    let (first, second) = (&lab.saes[0], &lab.saes[lab.saes.len() - 1]);
    let pairs = cosine_pairs(&lab.model, first, second, options.pairs, options.lower_triangle)?;
    let rows = pair_effects(&lab.model, first, second, &lab.index, lab.index.sae(0), &pairs, options.prompts)?;
    let falls = rows.iter().filter(|row| row.activation_change + row.activation_change_half_width < 0.0).count();
    let mut out = section(
        "cosine",
        title(&SectionKind::Cosine(options.clone())),
        [
            format!(
                "The {} of {} × {} pairs with the highest cosine between what a direction of {} writes and what one of {} reads have cosines from {:.2} to {:.2}.",
                rows.len(),
                first.directions(),
                second.directions(),
                first.short_name(),
                second.short_name(),
                rows.last().map_or(f64::NAN, |r| r.cosine as f64),
                rows.first().map_or(f64::NAN, |r| r.cosine as f64)
            ),
            format!(
                "In {falls} of them, ablating the first direction where it is most active lowers the second one's activation with an interval that excludes zero: a pair that points the same way is a circuit only if the activation changes, too."
            ),
        ],
    );
    let labels: Vec<String> = rows.iter().map(|r| format!("{} → {}", r.first, r.second)).collect();
    out.blocks = vec![
        Block::Figure(figure(
            "cosine-activation-change",
            "The second direction when the first is ablated",
            ("pair", "change of activation"),
            "Mean change of the second direction's activation at the position where the first is most active, over the stories with its highest activations; bars are 95 % intervals.",
            Shape::Bars {
                labels,
                values: rows.iter().map(|r| r.activation_change).collect(),
                half_widths: rows.iter().map(|r| r.activation_change_half_width).collect(),
            },
        )),
        Block::Table(Table::from_rows(
            "cosine-pairs",
            "Per pair, means over n stories at the position of the first direction's maximum: loss of the next token unchanged and with either direction ablated there, and the second direction's activation.",
            &rows,
        )),
    ];
    Ok(out)
}

#[derive(Serialize)]
struct Row {
    prompt: usize,
    position: usize,
    token: String,
    first: usize,
    second: usize,
    activation: f32,
    ablated: f32,
    difference: f32,
}

pub(super) fn cooccurrence(lab: &Lab, options: &CooccurrenceSection) -> Result<Section> {
    let (first, second) = (&lab.saes[0], &lab.saes[lab.saes.len() - 1]);
    let found = |prompts: &Prompts, options: CooccurrenceOptions| -> Result<Vec<Row>> {
        let rows = directrix_circuits::cooccurrence(&lab.model, first, second, prompts, options)?;
        let row = |r: directrix_circuits::Cooccurrence| Row {
            prompt: r.prompt,
            position: r.position,
            token: lab.token(prompts.get(r.prompt)[r.position]),
            first: r.first,
            second: r.second,
            activation: r.activation,
            ablated: r.ablated,
            difference: r.difference,
        };
        Ok(rows.into_iter().map(row).collect())
    };
    let stories = lab.stories(options.prompts);
    let rows = found(&stories, options.options)?;
    let needs = rows.iter().filter(|row| row.difference < -0.5 * row.activation).count();
    let mut out = section(
        "cooccurrence",
        title(&SectionKind::Cooccurrence(options.clone())),
        [
            format!(
                "At every position from {} on of {} stories, the most active direction of {} was looked at with each direction of {} above {} ablated there: {} pairs, of which {needs} lose more than half of the second activation.",
                options.options.first_position,
                stories.len(),
                second.short_name(),
                first.short_name(),
                options.options.above,
                rows.len()
            ),
            "A large negative difference says that the second direction needs the first (an AND if it needs several); a positive one that the first holds it back.".into(),
        ],
    );
    if rows.is_empty() {
        out.prose.push("No first direction was above the threshold; lower `above` in the study file.".into());
        return Ok(out);
    }
    let differences: Vec<f64> = rows.iter().map(|row| row.difference as f64).collect();
    out.blocks.push(Block::Figure(figure(
        "cooccurrence-differences",
        "Change of the most active second direction",
        ("difference of activation, ablated − original", "pairs"),
        "Every active first direction at every position, ablated alone; counts on a logarithmic scale.",
        Shape::histogram(&differences, 60).with_log_counts(),
    )));
    let caption = "Activation of the second direction, with the first one ablated, and the difference";
    let needed: Vec<&Row> = rows.iter().rev().take(options.top).collect();
    let held_back: Vec<&Row> = rows.iter().take(options.top).collect();
    for (name, rows, what) in [
        ("cooccurrence-needed", needed, "most negative differences"),
        ("cooccurrence-held-back", held_back, "most positive differences"),
    ] {
        out.blocks.push(Block::Table(Table::from_rows(name, &format!("{caption}; the {what}."), &rows)));
    }
    if let Some(text) = &options.text {
        let tokens = lab.tokenizer.as_ref().map(|t| t.encode(text)).transpose()?.unwrap_or_default();
        let prompt: Vec<u32> = lab.bos.into_iter().chain(tokens).collect();
        if prompt.is_empty() {
            return Ok(out);
        }
        let last = prompt.len() - 1;
        let rows = found(
            &Prompts::from_rows([prompt]),
            CooccurrenceOptions { first_position: last, above: options.options.above },
        )?;
        out.blocks.push(Block::Table(Table::from_rows(
            "cooccurrence-text",
            &format!("{caption}; at the last position of “{text}”."),
            &rows,
        )));
    }
    Ok(out)
}
