//! Patching between pairs of prompts: which part of the model carries what makes their predictions differ.

use std::collections::{BTreeMap, BTreeSet};

use directrix_corpus::{Prompts, Tokenizer, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Case, Edit, HookPoint, Intervention, Model, Positions, Prediction, Run, Session, Target,
};
use serde::Serialize;

use crate::claim::named;
use crate::exchange::{Exchange, Seen, each_exchange};
use crate::statistics::Ratio;
use crate::{About, Chosen, Claim, Controls, Error, Estimate, ModelPart, Result};

/// Positions of both prompts of the pairs that are run together, about: the values of all parts at them are held.
const BATCH: usize = 1024;

/// Two prompts of equally many tokens with another answer each, which is not part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPair {
    /// The prompt that is run and changed.
    pub clean: Vec<u32>,
    /// The one that values are taken from.
    pub corrupted: Vec<u32>,
    /// The answer of the clean prompt, then that of the corrupted one.
    pub answers: [u32; 2],
}

impl PromptPair {
    /// A pair of texts, each beginning with `bos` where there is one, and their answers.
    ///
    /// # Errors
    /// If an answer is not a single token, or a text cannot be tokenised.
    pub fn of_texts(
        tokenizer: &Tokenizer,
        bos: Option<u32>,
        [clean, corrupted]: [&str; 2],
        answers: [&str; 2],
    ) -> Result<PromptPair> {
        let tokens = |text: &str| {
            let own = tokenizer.encode(text)?;
            Ok::<_, Error>(bos.into_iter().filter(|bos| own.first() != Some(bos)).chain(own.iter().copied()).collect())
        };
        let [one, other] = answers;
        let answers = [tokenizer.single_token(one)?, tokenizer.single_token(other)?];
        Ok(PromptPair { clean: tokens(clean)?, corrupted: tokens(corrupted)?, answers })
    }

    /// That values can be exchanged between its prompts.
    ///
    /// # Errors
    /// If they have not equally many tokens, or are the same, or both answers are.
    pub fn check(&self) -> Result<()> {
        self.first_difference().map(drop)
    }

    /// The first position at which the two differ; before it, nothing of the one differs from the other.
    fn first_difference(&self) -> Result<usize> {
        let (clean, corrupted) = (self.clean.len(), self.corrupted.len());
        if clean != corrupted {
            return Err(Error::UnequalPair { clean, corrupted });
        }
        let first = self.clean.iter().zip(&self.corrupted).position(|(a, b)| a != b);
        first.filter(|_| self.answers[0] != self.answers[1]).ok_or(Error::SamePair)
    }
}

/// What one part carries from the corrupted prompts to the answers, over pairs. Effects are changes of the logit difference, that of the
/// clean prompt's answer minus that of the corrupted one's, at the last position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Patched {
    /// The part.
    pub component: String,
    /// What the clean prompt's prediction changes by if the part has the values of the corrupted one, at all positions.
    #[serde(flatten, serialize_with = "named")]
    pub total_effect: Claim,
    /// What of it goes straight to the final norm: the change of what the part writes at the last position, added to the residual
    /// stream behind the last block, all else as in the clean prompt.
    pub direct_effect: f64,
    /// Half width of its 95 % interval.
    pub direct_effect_half_width: f64,
    /// What goes through later parts: the total effect less the direct one, pair by pair.
    pub indirect_effect: f64,
    /// Half width of its 95 % interval.
    pub indirect_effect_half_width: f64,
    /// The sum of total effects as a share of the sum of differences between corrupted and clean prompts: 1 where the part carries all.
    pub share: f64,
    /// Half width of its 95 % interval.
    pub share_half_width: f64,
}

/// A part patched at one position alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatchedAt {
    /// The part.
    pub component: String,
    /// Position from the end: 1 is the last, which predicts the answer.
    pub from_end: usize,
    /// Pairs that have this position.
    pub n: usize,
    /// Mean total effect over them.
    pub total_effect: f64,
    /// Half width of its 95 % interval.
    pub total_effect_half_width: f64,
}

/// What patching pairs of prompts shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Patching {
    /// The logit difference of each pair's clean prompt.
    pub clean: Vec<f64>,
    /// That of its corrupted prompt.
    pub corrupted: Vec<f64>,
    /// Every part, in the order of the model.
    pub parts: Vec<Patched>,
    /// Residual stream, attention and MLP of every block at each position from the first at which any pair differs on, if asked for.
    pub positions: Vec<PatchedAt>,
}

/// Patches every part of the model from the corrupted prompt of each pair into its clean one (activation patching: Vig et al. 2020,
/// Meng et al. 2022), and takes the effect apart (Pearl 2001). The control is as large a change of the part along random rows.
///
/// # Errors
/// If the prompts of a pair differ in length or not at all, a token is not in the vocabulary, or as [`Model::run`].
pub fn patching(model: &Model, pairs: &[PromptPair], each_position: bool, watch: &Watch) -> Result<Patching> {
    let with_first = |(number, pair): (usize, &'_ PromptPair)| {
        let problem = |problem| Error::Pair { number: number + 1, problem: Box::new(problem) };
        pair.first_difference().map_err(problem)
    };
    let firsts = pairs.iter().enumerate().map(with_first).collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&PromptPair, usize)> = pairs.iter().zip(firsts).collect();
    let mut found = Found::new(model, pairs.len());
    let mut rest = &pairs[..];
    while !rest.is_empty() {
        let mut positions = 0;
        let n = rest.iter().take_while(|(pair, _)| {
            let fits = positions < BATCH;
            positions += pair.clean.len();
            fits
        });
        let (now, later) = rest.split_at(n.count());
        found.add(model, now, each_position, watch)?;
        rest = later;
    }
    Ok(found.summed(&pairs))
}

/// What is found of each part, pair by pair.
struct Found {
    parts: Vec<ModelPart>,
    clean: Vec<f64>,
    corrupted: Vec<f64>,
    /// By part: total effect, its control, direct effect.
    effects: Vec<[Vec<f64>; 3]>,
    /// By part and pair, the effect at each position from the first difference on.
    positions: Vec<Vec<Vec<f64>>>,
}

/// What an exchange is of.
#[derive(Clone, Copy)]
enum Of {
    Total,
    Control,
    Position(usize),
}

impl Found {
    fn new(model: &Model, pairs: usize) -> Found {
        let parts = ModelPart::all(model.config());
        let effects = vec![[const { Vec::new() }; 3]; parts.len()];
        let positions = vec![vec![Vec::new(); pairs]; parts.len()];
        Found { parts, clean: Vec::new(), corrupted: Vec::new(), effects, positions }
    }

    /// Patches some pairs, the next ones.
    fn add(&mut self, model: &Model, pairs: &[(&PromptPair, usize)], each_position: bool, watch: &Watch) -> Result<()> {
        let (config, before) = (model.config(), self.clean.len());
        let hooks: BTreeSet<HookPoint> = self.parts.iter().map(|part| part.hook()).collect();
        let last = |prompt: usize| pairs[prompt].0.clean.len() - 1;
        let answers = (0..pairs.len())
            .flat_map(|prompt| pairs[prompt].0.answers.map(|token| Target { prompt, position: last(prompt), token }));
        let ask = Ask::capture(hooks).watched(watch).with_predictions(answers);
        let again = Positions::Each(pairs.iter().map(|(pair, first)| (*first..pair.clean.len()).collect()).collect());
        let first_block = HookPoint::Block(0, BlockHook::ResidPre);
        let clean = Prompts::from_rows(pairs.iter().map(|(pair, _)| &pair.clean));
        let corrupted = model.run(&Prompts::from_rows(pairs.iter().map(|(pair, _)| &pair.corrupted)), &ask, &[])?;
        let offsets = clean.offsets().to_vec();
        let session = model.session(clean, &ask, first_block, again)?;
        self.clean.extend(session.run().predictions().chunks(2).map(logit_difference));
        self.corrupted.extend(corrupted.predictions().chunks(2).map(logit_difference));

        let of = |part: ModelPart, run: &Run, prompt: usize, positions: std::ops::Range<usize>| {
            let row = |position| part.of_row(config, run.captured(part.hook()).row(offsets[prompt] + position));
            Matrix::from_rows(&positions.map(row).collect::<Vec<_>>())
        };
        let (mut exchanges, mut are_of) = (Vec::new(), Vec::new());
        for (number, &part) in self.parts.iter().enumerate() {
            for (prompt, (pair, first)) in pairs.iter().enumerate() {
                let positions = *first..pair.clean.len();
                let other = of(part, &corrupted, prompt, positions.clone());
                if each_position && !matches!(part, ModelPart::Head(..)) {
                    self.positions[number][before + prompt] = vec![0.0; positions.len()];
                    for (i, position) in positions.clone().enumerate() {
                        let row = Matrix::new(other.row(i).to_vec(), 1, other.columns());
                        exchanges.push(Exchange::set(prompt, part, position, row));
                        are_of.push((number, prompt, Of::Position(i)));
                    }
                }
                let patched = Exchange::set(prompt, part, *first, other);
                let seed = ((before + prompt) * self.parts.len() + number) as u64;
                let control = patched.random(&of(part, session.run(), prompt, positions.clone()), seed);
                exchanges.extend([patched, control]);
                are_of.extend([(number, prompt, Of::Total), (number, prompt, Of::Control)]);
            }
        }
        let n = before + pairs.len();
        self.effects.iter_mut().flatten().for_each(|values| values.resize(n, f64::NAN));

        // What the parts write otherwise at the last position, `[d_model]`.
        let mut written: Vec<(usize, usize, Vec<f32>)> = Vec::new();
        let hooks: BTreeSet<HookPoint> = self.parts.iter().map(|part| part.written_at()).collect();
        let captures: Vec<HookPoint> = hooks.into_iter().collect();
        let last_row = |hook: &HookPoint, prompt| session.run().captured(*hook).row(offsets[prompt] + last(prompt));
        let unchanged: BTreeMap<(HookPoint, usize), Vec<f32>> = captures
            .iter()
            .flat_map(|hook| (0..pairs.len()).map(move |prompt| ((*hook, prompt), last_row(hook, prompt).to_vec())))
            .collect();
        let targets: Vec<Vec<u32>> = pairs.iter().map(|(pair, _)| pair.answers.to_vec()).collect();
        let session = each_exchange(session, &targets, &exchanges, &captures, watch, |number, seen: Seen| {
            let (part, prompt, of) = are_of[number];
            let effect = logit_difference(seen.predictions) - self.clean[before + prompt];
            match of {
                Of::Position(i) => self.positions[part][before + prompt][i] = effect,
                Of::Control => self.effects[part][1][before + prompt] = effect,
                Of::Total => {
                    self.effects[part][0][before + prompt] = effect;
                    let hook = self.parts[part].written_at();
                    let row = seen.captured(hook).expect("a part is exchanged before it is written");
                    let before = &unchanged[&(hook, prompt)];
                    let difference = row.iter().zip(before).map(|(new, old)| new - old).collect();
                    written.push((part, prompt, difference));
                }
            }
            Ok(())
        })?;

        for (part, prompt, logits) in straight(session, &targets, &written, watch)? {
            self.effects[part][2][before + prompt] = logits - self.clean[before + prompt];
        }
        Ok(())
    }

    fn summed(self, pairs: &[(&PromptPair, usize)]) -> Patching {
        let gaps: Vec<f64> = self.corrupted.iter().zip(&self.clean).map(|(other, own)| other - own).collect();
        let about = About {
            chosen: Chosen::Given,
            change: "given the values of the corrupted prompt",
            measure: "total_effect",
            unit: "logit difference",
            over: "pairs",
        };
        let claims = Claim::list(self.effects.iter().map(|[total, control, _]| {
            let controls = Controls { rows: Some(Estimate::of(control.iter().copied())), directions: None };
            (about, Estimate::of(total.iter().copied()), controls)
        }));
        let row = |((part, [total, _, direct]), total_effect): ((&ModelPart, &[Vec<f64>; 3]), Claim)| {
            let (direct_effect, indirect) =
                (Estimate::of(direct.iter().copied()), Estimate::of(total.iter().zip(direct).map(|(t, d)| t - d)));
            let share = Ratio::of(total, &gaps);
            Patched {
                component: part.to_string(),
                total_effect,
                direct_effect: direct_effect.mean,
                direct_effect_half_width: direct_effect.half_width,
                indirect_effect: indirect.mean,
                indirect_effect_half_width: indirect.half_width,
                share: share.value,
                share_half_width: share.half_width,
            }
        };
        let parts = self.parts.iter().zip(&self.effects).zip(claims).map(row).collect();
        let positions = self.by_position(pairs);
        Patching { clean: self.clean, corrupted: self.corrupted, parts, positions }
    }

    /// Means over the pairs that have a position, counted from the end. Before the first difference of a pair the effect is zero.
    fn by_position(&self, pairs: &[(&PromptPair, usize)]) -> Vec<PatchedAt> {
        let mut rows = Vec::new();
        for (part, of_part) in self.parts.iter().zip(&self.positions) {
            if of_part.iter().all(Vec::is_empty) || matches!(part, ModelPart::Head(..)) {
                continue;
            }
            let longest = of_part.iter().map(Vec::len).max().unwrap_or(0);
            for from_end in (1..=longest).rev() {
                let there = of_part.iter().zip(pairs).filter(|(_, (pair, _))| pair.clean.len() >= from_end);
                let effect = |effects: &Vec<f64>| effects.len().checked_sub(from_end).map_or(0.0, |i| effects[i]);
                let Estimate { n, mean, half_width, .. } = Estimate::of(there.map(|(effects, _)| effect(effects)));
                rows.push(PatchedAt {
                    component: part.to_string(),
                    from_end,
                    n,
                    total_effect: mean,
                    total_effect_half_width: half_width,
                });
            }
        }
        rows
    }
}

/// The logit difference with each change of what a part writes at the last position of a prompt added behind the last block; part and
/// prompt beside it.
fn straight(
    session: Session,
    targets: &[Vec<u32>],
    written: &[(usize, usize, Vec<f32>)],
    watch: &Watch,
) -> Result<Vec<(usize, usize, f64)>> {
    let end = HookPoint::Block(session.model().config().n_layers - 1, BlockHook::ResidPost);
    let session = session.advance(end)?;
    let mut found = Vec::new();
    for some in written.chunks(BATCH) {
        let case = |(_, prompt, difference): &(usize, usize, Vec<f32>)| {
            let last = session.prompts().get(*prompt).len() - 1;
            let add = Intervention::new(end, Positions::At(vec![last]), Edit::Add(difference.clone().into()));
            Case { prompt: *prompt, until: last, interventions: vec![add] }
        };
        let cases: Vec<Case> = some.iter().map(case).collect();
        let wanted = cases.iter().enumerate().flat_map(|(case, of)| {
            targets[of.prompt].iter().map(move |&token| Target { prompt: case, position: of.until, token })
        });
        let run = session.resume(&cases, &Ask::nothing().watched(watch).with_predictions(wanted))?;
        let of = |((part, prompt, _), two): (&(usize, usize, Vec<f32>), &[Prediction])| {
            (*part, *prompt, logit_difference(two))
        };
        found.extend(some.iter().zip(run.predictions().chunks(2)).map(of));
    }
    Ok(found)
}

/// The logit of the first of two tokens minus that of the second.
fn logit_difference(predictions: &[Prediction]) -> f64 {
    predictions[0].logit as f64 - predictions[1].logit as f64
}
