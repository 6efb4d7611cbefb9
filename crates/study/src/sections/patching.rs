//! Which parts of the model carry what makes the predictions of two prompts differ.

use directrix_circuits::{Claim, Patched, PatchedAt, Patching as Found, PromptPair, patching};
use directrix_lab::Opened;
use serde::Serialize;

use super::{Body, SectionKind, claim_bars, count, figure, interval, list, quoted, table, within};
use crate::findings::Findings;
use crate::report::Block;
use crate::study::Study;
use crate::{Result, Shape};

options! {
    /// Patching between the study's pairs of prompts.
    Patching {
        /// Also patch the residual stream, attention and MLP of every block at one position at a time.
        each_position: bool = true,
        /// Parts drawn, those with the largest effects.
        bars: usize = 30 => 1.0..,
    }
}

impl SectionKind for Patching {
    const KIND: &str = "patching";
    const TITLE: &str = "Patching between prompts";
    const BY_DEFAULT: bool = false;

    fn check_study(&self, study: &Study, opened: &Opened) -> Result<(), String> {
        if study.pairs.is_empty() {
            return Err("needs pairs of prompts; give [[pairs]], each with `clean`, `corrupted` and `answers`".into());
        }
        study.prompt_pairs(opened).map(drop)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let pairs = found.prompt_pairs()?;
        let patched = patching(&found.opened.model, &pairs, self.each_position, found.watch)?;
        let rows: Vec<PairRow> = pairs
            .iter()
            .zip(&found.study.pairs)
            .zip(patched.clean.iter().zip(&patched.corrupted))
            .map(|((pair, text), (clean, corrupted))| PairRow {
                clean: text.clean.clone(),
                corrupted: text.corrupted.clone(),
                token_clean: found.token(pair.answers[0]),
                token_corrupted: found.token(pair.answers[1]),
                difference_clean: *clean,
                difference_corrupted: *corrupted,
            })
            .collect();
        let mut blocks = vec![
            self.effects(&patched.parts),
            figure(
                "patching-ways",
                "Straight to the answer, or through later parts",
                ("direct effect, logit difference", "indirect effect, logit difference"),
                "One point for each part: what its change does straight through the final norm, and what it does through later parts. Means over pairs.",
                Shape::Scatter {
                    x: patched.parts.iter().map(|part| part.direct_effect).collect(),
                    y: patched.parts.iter().map(|part| part.indirect_effect).collect(),
                    hover: patched.parts.iter().map(|part| part.component.clone()).collect(),
                },
            ),
        ];
        if !patched.positions.is_empty() {
            blocks.push(positions(found, &pairs, &patched.positions));
        }
        blocks.extend([
            table(
                "patching",
                "Mean over n pairs of the change of the logit difference (the clean prompt's answer minus the corrupted one's) if a part has the values of the corrupted prompt at all positions: in all, straight to the final norm, and through later parts; half widths are of 95 % intervals over pairs; of the total effect also p, q, its false-discovery rate in this list, and its control: the part changed by as much along random rows. Share: the sum of total effects over the sum of differences between the prompts.",
                &patched.parts,
            ),
            table(
                "patching-pairs",
                "The pairs: their prompts, answers, and the logit difference (the clean prompt's answer minus the corrupted one's) after each prompt.",
                &rows,
            ),
        ]);
        if !patched.positions.is_empty() {
            let caption = "Each part patched at one position alone, counted from the end: mean total effect over n pairs, zero before the first token in which a pair differs.";
            blocks.push(table("patching-positions", caption, &patched.positions));
        }
        Ok(Body { prose: prose(&patched, pairs.len()), blocks })
    }
}

#[derive(Serialize)]
struct PairRow {
    clean: String,
    corrupted: String,
    token_clean: String,
    token_corrupted: String,
    difference_clean: f64,
    difference_corrupted: f64,
}

impl Patching {
    /// The parts with the largest total effects, in the order of the model.
    fn effects(&self, parts: &[Patched]) -> Block {
        let mut largest: Vec<usize> = (0..parts.len()).collect();
        let size = |part: &usize| parts[*part].total_effect.mean().abs();
        largest.sort_by(|a, b| size(b).total_cmp(&size(a)));
        largest.truncate(self.bars);
        largest.sort_unstable();
        let claims: Vec<Claim> = largest.iter().map(|part| parts[*part].total_effect).collect();
        let left_out = match parts.len() - largest.len() {
            0 => String::new(),
            n => format!(" The {} with the smallest effects are left out.", count(n, "part")),
        };
        figure(
            "patching",
            "The values of the corrupted prompt in the clean one",
            ("part of the model", "change of the logit difference"),
            &format!(
                "Total effect, mean over pairs with 95 % intervals; shaded: the part changed by as much along random rows.{left_out}"
            ),
            claim_bars(largest.iter().map(|part| parts[*part].component.clone()).collect(), &claims),
        )
    }
}

/// Parts by position. Tokens are named where all pairs have the same there.
fn positions(found: &Findings, pairs: &[PromptPair], rows: &[PatchedAt]) -> Block {
    let mut parts: Vec<&str> = rows.iter().map(|row| row.component.as_str()).collect();
    parts.dedup();
    let longest = rows.iter().map(|row| row.from_end).max().unwrap_or(0);
    let label = |from_end: usize| {
        let tokens = pairs.iter().filter_map(|pair| {
            Some([
                *pair.clean.get(pair.clean.len().checked_sub(from_end)?)?,
                *pair.corrupted.get(pair.corrupted.len().checked_sub(from_end)?)?,
            ])
        });
        let mut all: Vec<u32> = tokens.flatten().collect();
        all.sort_unstable();
        all.dedup();
        match &all[..] {
            [token] => format!("−{from_end} {}", found.token(*token).trim()),
            _ => format!("−{from_end}"),
        }
    };
    let value = |part: &str, from_end: usize| {
        let row = rows.iter().find(|row| row.component == part && row.from_end == from_end);
        row.map_or(f64::NAN, |row| row.total_effect)
    };
    let ends: Vec<usize> = (1..=longest).rev().collect();
    figure(
        "patching-positions",
        "One position at a time",
        ("position from the end, with its token where all prompts have the same", "part of the model"),
        "Mean total effect over the pairs that have the position, on the logit difference, of the residual stream before a block, of what its attention adds and of what its MLP adds.",
        Shape::Heatmap {
            columns: ends.iter().map(|from_end| label(*from_end)).collect(),
            rows: parts.iter().map(|part| (*part).into()).collect(),
            values: parts.iter().flat_map(|part| ends.iter().map(|from_end| value(part, *from_end))).collect(),
            diverging: true,
        },
    )
}

/// How far the prompts are apart, and which parts carry it.
fn prose(found: &Found, pairs: usize) -> Vec<String> {
    use directrix_circuits::Estimate;

    let [clean, corrupted] = [&found.clean, &found.corrupted].map(|values| Estimate::of(values.iter().copied()));
    let said = |estimate: &Estimate| {
        let (mean, half_width) = interval(estimate);
        format!("{mean:+.2}{}", within(half_width, 2))
    };
    let apart = format!(
        "Over {}, the logit of the clean prompt’s answer minus that of the corrupted one’s is {} after the clean prompts and {} after the corrupted ones.",
        count(pairs, "pair"),
        said(&clean),
        said(&corrupted)
    );
    if corrupted.mean >= clean.mean {
        let none = "The corrupted prompts do not lower it, so that there is nothing for a part to carry: give pairs whose answers the model tells apart.";
        return vec![apart, none.into()];
    }
    let carried = |part: &Patched| format!("{} ({:.0} %)", part.component, 100.0 * part.share);
    let mut parts: Vec<&Patched> = found
        .parts
        .iter()
        .filter(|part| part.total_effect.q < 0.05 && part.total_effect.is_beyond_controls() && part.share > 0.0)
        .collect();
    parts.retain(|part| !part.component.ends_with("resid_pre"));
    parts.sort_by(|a, b| b.share.total_cmp(&a.share));
    let most = if parts.is_empty() {
        "No head, attention or MLP carries any of it that survives a false-discovery rate of 5 % over all parts and is beyond its control.".into()
    } else {
        format!(
            "Of heads, attentions and MLPs, {} carry some of it at a false-discovery rate of 5 % over all parts and beyond the control, most of it {}. Shares need not add up: parts work through each other.",
            parts.len(),
            list(&parts.iter().take(3).map(|part| carried(part)).collect::<Vec<_>>())
        )
    };
    let way = parts.first().map(|part| {
        let (direct, indirect) = (part.direct_effect, part.indirect_effect);
        let way = if direct.abs() > indirect.abs() { "writes the answer itself" } else { "works through later parts" };
        format!(
            "{} {way}: {direct:+.2} of its effect go straight to the final norm, {indirect:+.2} through later parts.",
            quoted(&part.component)
        )
    });
    [apart, most].into_iter().chain(way).collect()
}
