//! Where a head looks from before the answer: on one behaviour prompt, and on average.

use std::collections::BTreeMap;

use directrix_circuits::{Estimate, logit_attribution};
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_model::{Ask, BlockHook, HookPoint, Positions, batches};
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, count, figure, interval, quoted, table, within};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Result, Shape};

options! {
    /// A head's attention pattern.
    Attention {
        /// Layer; that of the chosen head if not said.
        layer: Option<usize> = None,
        /// Head; the one with the largest logit attribution if not said.
        head: Option<usize> = None,
        /// The first behaviour prompt of at most this many positions is shown.
        positions: usize = 100 => 2.0..,
        /// Positions before the answer shown as a matrix.
        last: usize = 30 => 2.0..,
        /// Prompts of the mean.
        prompts: usize = 200 => 1.0..,
        /// Bars.
        bars: usize = 20 => 1.0..,
    }
}

impl SectionKind for Attention {
    const KIND: &str = "attention";
    const TITLE: &str = "Where a head looks";

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        let model = &opened.model;
        let (layers, heads) = (model.config().n_layers, model.config().attention.query_heads);
        if self.layer.is_some_and(|l| l >= layers) || self.head.is_some_and(|h| h >= heads) {
            return Err(format!(
                "names layer {:?}, head {:?}; the model has {layers} layers of {heads} heads, counted from 0",
                self.layer, self.head
            ));
        }
        Ok(())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (layer, head) = match (self.layer, self.head) {
            (Some(layer), Some(head)) => (layer, head),
            (layer, head) => strongest_head(found, layer, head)?,
        };
        let prompts = &found.behaviour.prompts;
        let fits = |tokens: &&[u32]| tokens.len() <= self.positions;
        let prompt = prompts.iter().find(fits).unwrap_or_else(|| prompts.get(0));
        let n = prompt.len();
        let hook = HookPoint::Block(layer, BlockHook::Pattern);
        let run = found.opened.model.run(&Prompts::from_rows([prompt]), &Ask::capture([hook]), &[])?;
        let pattern = run.captured(hook);
        let values: Vec<f64> = (0..n)
            .flat_map(|query| {
                let row = &pattern.row(query)[head * n..(head + 1) * n];
                row.iter().enumerate().map(move |(key, &p)| if key > query { f64::NAN } else { p as f64 })
            })
            .collect();
        let before = (n - 2) * n;
        let weights = &values[before..before + n - 1];
        let texts = found.texts(prompt);
        let labels: Vec<String> = texts.iter().enumerate().map(|(i, text)| format!("{i} {text}")).collect();
        let means = self.over_prompts(found, hook, head)?;
        let (token, mean) = (found.token(means[0].token), means[0].weight);
        let key = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0);
        let prose = vec![
            format!(
                "At the position that predicts the answer, head L{layer}H{head} looks most at {}: {:.2}{} of its attention on average over {}. On the prompt shown it looks most at {} (position {key}), with weight {:.2}.",
                quoted(&token),
                mean.mean,
                within(mean.half_width, 2),
                count(mean.n, "prompt"),
                quoted(&texts[key]),
                weights[key]
            ),
            "Attention says where a head looks, not what it takes from there.".into(),
        ];
        let shown = n.saturating_sub(self.last)..n;
        let square: Vec<f64> =
            shown.clone().flat_map(|query| values[query * n..][..n][shown.clone()].to_vec()).collect();
        let shown_labels: Vec<String> = labels[shown.clone()].to_vec();
        let top = &means[..self.bars.min(means.len())];
        let blocks = vec![
            figure(
                "attention-mean",
                &format!("Where L{layer}H{head} looks before the answer, on average"),
                ("token looked at", "share of attention"),
                &format!(
                    "Attention from the position that predicts the answer, summed over the places of a token in a prompt; mean over {}, with 95 % intervals; the {} tokens with the most.",
                    count(mean.n, "prompt"),
                    top.len()
                ),
                Shape::bars(
                    top.iter().map(|row| found.token(row.token)).collect(),
                    top.iter().map(|row| interval(&row.weight)),
                ),
            ),
            self.on_one(weights, &labels),
            figure(
                "attention-pattern",
                &format!("Attention pattern of L{layer}H{head}"),
                ("looks at (key)", "from (query)"),
                &format!(
                    "The last {} positions of the same prompt: each row is a position and shows where the head looks from there, the row before the last predicts the answer.",
                    shown.len()
                ),
                Shape::Heatmap { columns: shown_labels.clone(), rows: shown_labels, values: square, diverging: false },
            ),
            table(
                "attention-mean",
                "Attention from the position that predicts the answer by token looked at: mean over n prompts, zero where a token does not occur, with standard error and half width of the 95 % interval.",
                &means
                    .iter()
                    .map(|row| MeanRow {
                        token: found.token(row.token),
                        n: row.weight.n,
                        mean: row.weight.mean,
                        se: row.weight.se,
                        half_width: row.weight.half_width,
                    })
                    .collect::<Vec<_>>(),
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

/// The attention that a token gets.
struct OfToken {
    token: u32,
    weight: Estimate,
}

#[derive(Serialize)]
struct MeanRow {
    token: String,
    n: usize,
    mean: f64,
    se: f64,
    half_width: f64,
}

impl Attention {
    /// The positions that get most attention from before the answer of one prompt, in their order.
    fn on_one(&self, weights: &[f64], labels: &[String]) -> Block {
        let mut strongest: Vec<usize> = (0..weights.len()).collect();
        strongest.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        strongest.truncate(self.bars);
        strongest.sort_unstable();
        figure(
            "attention-answer",
            "The same on one prompt",
            ("position and token looked at", "attention"),
            &format!(
                "The first behaviour prompt of at most {} positions; the {} positions with the most, in their order.",
                self.positions,
                strongest.len()
            ),
            Shape::Bars {
                labels: strongest.iter().map(|i| labels[*i].clone()).collect(),
                values: strongest.iter().map(|i| weights[*i]).collect(),
                half_widths: Vec::new(),
                bands: Vec::new(),
            },
        )
    }

    /// The attention that each token gets from before the answer, most first.
    fn over_prompts(&self, found: &Findings, hook: HookPoint, head: usize) -> Result<Vec<OfToken>> {
        let prompts = found.behaviour_prompts(self.prompts);
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for batch in batches(&prompts, 4096) {
            let part = prompts.range(batch);
            let ask = Ask::nothing().with_capture(hook, Positions::FromEnd(2)).watched(found.watch);
            let run = found.opened.model.run(&part, &ask, &[])?;
            for (row, tokens) in part.iter().enumerate() {
                let pattern = run.captured(hook).row(row);
                let width = pattern.len() / found.opened.model.config().attention.query_heads;
                let mut of_prompt: BTreeMap<u32, f64> = BTreeMap::new();
                for (token, weight) in tokens[..tokens.len() - 1].iter().zip(&pattern[head * width..]) {
                    *of_prompt.entry(*token).or_default() += *weight as f64;
                }
                for (token, weight) in of_prompt {
                    let (sum, squares) = sums.entry(token).or_default();
                    *sum += weight;
                    *squares += weight * weight;
                }
            }
        }
        let of = |(token, (sum, squares))| OfToken { token, weight: Estimate::of_sums(prompts.len(), sum, squares) };
        let mut means: Vec<OfToken> = sums.into_iter().map(of).collect();
        means.sort_by(|a, b| b.weight.mean.total_cmp(&a.weight.mean));
        Ok(means)
    }
}

/// The head that contributes most to the answer's logit, up or down, among those of a layer or number if it is said.
fn strongest_head(found: &Findings, layer: Option<usize>, head: Option<usize>) -> Result<(usize, usize)> {
    let rows = logit_attribution(&found.opened.model, &found.behaviour_prompts(200), found.watch)?;
    let size = |(layer, head): (usize, usize)| {
        let label = format!("L{layer}H{head}");
        rows.iter().find(|row| row.component == label).map_or(0.0, |row| row.mean.abs())
    };
    let config = found.opened.model.config();
    let all = (0..config.n_layers).flat_map(|l| (0..config.attention.query_heads).map(move |h| (l, h)));
    let allowed = all.filter(|(l, h)| layer.is_none_or(|layer| layer == *l) && head.is_none_or(|head| head == *h));
    Ok(allowed.max_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or((0, 0)))
}
