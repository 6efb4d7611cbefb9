//! The corpus: its tokens, examples of directions, and the tokens that directions fire on.

use directrix_circuits::{Table, token_occurrences};
use directrix_index::Example;
use serde::Serialize;

use super::{figure, list, section, title};
use crate::Shape;
use crate::lab::Lab;
use crate::report::{Block, Section, Texts};
use crate::study::{Examples, SectionKind, Tokens, TopTokens};

#[derive(Serialize)]
struct TokenRow {
    token: String,
    id: u32,
    count: u64,
    share: f64,
}

pub(super) fn tokens(lab: &Lab, options: &Tokens) -> Section {
    let counts = token_occurrences(&lab.index);
    let total: u64 = counts.iter().map(|row| row.count).sum();
    let common = counts.iter().filter(|row| row.count > options.min_count).count();
    let covered: u64 = counts[..common].iter().map(|row| row.count).sum();
    let rows: Vec<TokenRow> = counts
        .iter()
        .take(options.top)
        .map(|row| TokenRow {
            token: lab.token(row.token),
            id: row.token,
            count: row.count,
            share: row.count as f64 / total as f64,
        })
        .collect();
    let mut out = section(
        "tokens",
        title(&SectionKind::Tokens(options.clone())),
        [
            format!(
                "Of {} tokens in the vocabulary, {common} occur more than {} times in the {} stories; these common tokens make up {:.1} % of all {total} positions.",
                counts.len(),
                options.min_count,
                lab.index.prompts(),
                100.0 * covered as f64 / total as f64
            ),
            "Later sections leave rare tokens out of their rankings, because their log-probabilities rest on too few examples.".into(),
        ],
    );
    let logs: Vec<f64> = counts.iter().filter(|row| row.count > 0).map(|row| (row.count as f64).log10()).collect();
    out.blocks = vec![
        Block::Figure(figure(
            "token-occurrences",
            "How often tokens occur",
            ("log₁₀ of occurrences in the corpus", "tokens"),
            "Tokens that occur at least once, by the logarithm of their count.",
            Shape::histogram(&logs, 40),
        )),
        Block::Table(Table::from_rows(
            "common-tokens",
            &format!("The {} most frequent tokens; share is of all positions, BOS included.", rows.len()),
            &rows,
        )),
    ];
    out
}

pub(super) fn examples(lab: &Lab, options: &Examples) -> Section {
    let sae = lab.sae_index();
    let directions: Vec<usize> =
        options.directions.clone().unwrap_or_else(|| lab.top.iter().map(|d| *d as usize).collect());
    let mut blocks = Vec::new();
    for &direction in &directions {
        let n = options.examples;
        let mut chosen: Vec<(&str, Example)> =
            sae.top_examples(&lab.index, direction, n).into_iter().map(|e| ("highest", e)).collect();
        for (name, low, high) in
            [("upper third", 2.0 / 3.0, 0.999), ("middle third", 1.0 / 3.0, 2.0 / 3.0), ("lower third", 0.0, 1.0 / 3.0)]
        {
            let known: Vec<usize> = chosen.iter().map(|(_, e)| e.prompt).collect();
            let more = sae.interval_examples(&lab.index, direction, low, high, n);
            chosen.extend(more.into_iter().filter(|e| !known.contains(&e.prompt)).map(|e| (name, e)));
        }
        let rows = chosen
            .into_iter()
            .map(|(kind, e)| {
                let label = format!("{kind}: prompt {}, {:.2} at position {}", e.prompt, e.activation, e.position);
                let values = sae.on_prompt(&lab.index, e.prompt, direction);
                lab.shaded(label, lab.index.prompt(e.prompt), values, sae.maxima()[direction], Some(e.position))
            })
            .collect();
        blocks.push(Block::Texts(Texts {
            name: format!("examples-{direction}"),
            title: format!("Direction {direction}"),
            caption: format!(
                "Stories shaded by the activation of direction {direction} (darkest: {:.2}, its maximum), by where in its range their highest activation lies.",
                sae.maxima()[direction]
            ),
            rows,
        }));
    }
    let summaries: Vec<_> = directions.iter().map(|d| sae.direction(*d)).collect();
    blocks.insert(
        0,
        Block::Table(Table::from_rows(
            "directions",
            "What the corpus says of each direction: its maximum, the positions at which it fires and their share, its mean activation there, and the stories in which it fires.",
            &summaries,
        )),
    );
    let dense = summaries.iter().max_by(|a, b| a.density.total_cmp(&b.density));
    let mut out = section(
        "examples",
        title(&SectionKind::Examples(options.clone())),
        [
            format!(
                "The directions whose ablation raises the loss most are {}; the densest of them fires at {:.2} % of all positions.",
                list(&directions),
                dense.map_or(0.0, |d| 100.0 * d.density)
            ),
            "Read the darkest tokens and what comes before them: a direction means something if its examples share it over its whole range, not only at the top.".into(),
        ],
    );
    out.blocks = blocks;
    out
}

#[derive(Serialize)]
struct TopTokenRow {
    direction: usize,
    top_token: String,
    share: f64,
    token_occurrences: u32,
    occurrences: u64,
}

pub(super) fn top_tokens(lab: &Lab, options: &TopTokens) -> Section {
    let mut blocks = Vec::new();
    let mut prose = Vec::new();
    for (number, sae) in lab.index.saes().iter().enumerate() {
        let all = directrix_circuits::top_tokens(sae);
        let shares: Vec<f64> = all.iter().map(|row| row.share).collect();
        blocks.push(Block::Figure(figure(
            &format!("top-token-share-{number}"),
            &format!("Share of the top token, {}", sae.name()),
            ("share of the top token", "directions"),
            "Directions by the share of their most frequent token among positions above half of their maximum.",
            Shape::histogram(&shares, 50),
        )));
        let mut low: Vec<_> = all.iter().filter(|row| row.share < options.share_below).collect();
        low.sort_by(|a, b| b.occurrences.cmp(&a.occurrences).then(a.direction.cmp(&b.direction)));
        let rows: Vec<TopTokenRow> = low
            .iter()
            .take(options.top)
            .map(|row| TopTokenRow {
                direction: row.direction,
                top_token: lab.token(row.token),
                share: row.share,
                token_occurrences: row.token_occurrences,
                occurrences: row.occurrences,
            })
            .collect();
        let single = all.iter().filter(|row| row.share > 0.9).count();
        prose.push(format!(
            "In {}, {} of {} directions fire nowhere in this corpus; {single} of the {} that do have one token at more than 90 % of their strong activations, and {} have none above {:.0} %.",
            sae.name(),
            sae.dead(),
            sae.directions(),
            all.len(),
            low.len(),
            100.0 * options.share_below
        ));
        if !rows.is_empty() {
            blocks.push(Block::Table(Table::from_rows(
                &format!("contextual-directions-{number}"),
                &format!(
                    "Directions of {} whose top token has a share below {}, most active first: they fire on a context and not on a token. Occurrences are positions above half of the maximum, the first ten of a story left out.",
                    sae.name(),
                    options.share_below
                ),
                &rows,
            )));
        }
    }
    prose.push(
        "Directions at the right of a histogram are detectors of one token; the interesting ones are at the left."
            .into(),
    );
    let mut out = section("top-tokens", title(&SectionKind::TopTokens(options.clone())), prose);
    out.blocks = blocks;
    out
}
