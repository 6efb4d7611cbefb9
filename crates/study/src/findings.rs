//! What a study has found before its sections are made, and what they all build on.

use std::fmt::Display;

use directrix_circuits::{
    ActiveDirection, ActivePrompts, BehaviourPrompts, Chosen, Matched, PromptPair, SingleAblation, active_directions,
    answer_activations, behaviour_prompts, single_ablations,
};
use directrix_corpus::{Prompts, Watch};
use directrix_index::{Example, Index, SaeIndex};
use directrix_kernels::SparseActivations;
use directrix_lab::Opened;
use directrix_model::{Ask, Positions, batches};
use directrix_sae::Sae;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::report::ShadedText;
use crate::run::Clock;
use crate::sections::{Active, Analysis, SingleAblations, list};
use crate::study::Study;
use crate::{Error, Result};

/// The behaviour's prompts, the directions chosen on some of them, and what ablating each does on the others.
pub(crate) struct Findings<'a> {
    pub(crate) study: &'a Study,
    pub(crate) opened: &'a Opened,
    pub(crate) index: &'a Index,
    pub(crate) watch: &'a Watch,
    /// The prompts on which effects are measured.
    pub(crate) behaviour: BehaviourPrompts,
    /// The prompts on which directions are chosen.
    pub(crate) choosing: Prompts,
    /// Numbers of `behaviour` among all prompts of the behaviour.
    pub(crate) numbers: Vec<usize>,
    /// Prompts of the behaviour, those included on which directions were chosen.
    pub(crate) all_prompts: usize,
    /// Activations of the SAE taken apart before the answer, one row per prompt of `behaviour`.
    pub(crate) acts: SparseActivations,
    pub(crate) selection: Selection,
    /// Ablation of each active direction, in the order of their effects on the prompts of the selection.
    pub(crate) singles: Vec<SingleAblation>,
    /// The directions ablated together and looked at closely; at least one.
    pub(crate) top: Vec<u32>,
    /// What stands in for directions of the SAE taken apart in controls.
    pub(crate) matched: Matched,
}

/// How directions were chosen.
pub(crate) struct Selection {
    /// Prompts on which they were chosen.
    pub(crate) prompts: usize,
    /// Whether these are others than those on which effects are measured.
    pub(crate) apart: bool,
    /// Activations before the answer, one row per prompt that was looked at for active directions.
    pub(crate) acts: SparseActivations,
    /// The directions active there, strongest first.
    pub(crate) active: Vec<ActiveDirection>,
    /// Ablation of each there, largest loss increase first.
    pub(crate) singles: Vec<SingleAblation>,
}

impl<'a> Findings<'a> {
    pub(crate) fn of(
        study: &'a Study,
        name: &str,
        opened: &'a Opened,
        index: &'a Index,
        clock: &mut Clock,
        watch: &'a Watch,
    ) -> Result<Findings<'a>> {
        let Opened { model, tokenizer, saes, bos, .. } = opened;
        let context = model.config().n_ctx;
        let mut behaviour =
            behaviour_prompts(opened.documents()?, tokenizer.as_ref(), &study.behaviour, *bos, context, watch)?;
        let sae = &saes[study.chosen()];
        let all_prompts = behaviour.prompts.len();
        let [chosen_on, numbers] = divide(all_prompts, study.split, study.seed);
        let of = |numbers: &[usize]| Prompts::from_rows(numbers.iter().map(|number| behaviour.prompts.get(*number)));
        let (choosing, measuring) = (of(&chosen_on), of(&numbers));
        behaviour.prompts = measuring;
        let acts = answer_activations(model, sae, &behaviour.prompts, watch)?;
        clock.lap("behaviour prompts");

        // Of sections of one kind, the last one's options count.
        let sections = || study.sections.iter().rev();
        let options =
            sections().find_map(|s| if let Analysis::Active(options) = s { Some(options.clone()) } else { None });
        let Active { prompts, options } = options.unwrap_or_default();
        let on_choosing = answer_activations(model, sae, &choosing, watch)?;
        let mut looked_at = SparseActivations::default();
        for prompt in 0..prompts.min(choosing.len()) {
            let (directions, values) = on_choosing.at(prompt);
            looked_at.push(directions.iter().copied().zip(values.iter().copied()));
        }
        let matched = Matched::of(index.sae(study.chosen()));
        let active = active_directions(&looked_at, index.sae(study.chosen()).maxima(), options)?;
        let directions: Vec<u32> = active.iter().map(|row| row.direction as u32).collect();
        let options = sections()
            .find_map(|s| if let Analysis::SingleAblations(options) = s { Some(options.clone()) } else { None });
        let SingleAblations { active_above: above, prompts: limit } = options.unwrap_or_default();
        let apart = chosen_on != numbers;
        let chosen = Chosen::On { prompts: looked_at.positions(), by: "mean activation before the answer", apart };
        // What only ranks needs no controls.
        let on = ActivePrompts { acts: &on_choosing, above, limit, matched: (!apart).then_some(&matched) };
        let mut first = single_ablations(model, sae, &choosing, &directions, chosen, on, watch)?;
        first.retain(|row| row.loss_increase.estimate.n > 0);
        first.sort_by(|a, b| b.loss_increase.mean().total_cmp(&a.loss_increase.mean()));
        let directions: Vec<u32> = first.iter().map(|row| row.direction as u32).collect();
        let singles = if apart {
            let on = ActivePrompts { acts: &acts, above, limit, matched: Some(&matched) };
            single_ablations(model, sae, &behaviour.prompts, &directions, chosen, on, watch)?
        } else {
            first.clone()
        };
        let top: Vec<u32> = match &study.directions {
            Some(directions) => directions.iter().map(|d| sae.check(*d)).collect::<Result<_, _>>()?,
            None => directions.into_iter().take(study.top_directions).collect(),
        };
        if top.is_empty() {
            return Err(Error::Study {
                name: name.into(),
                problem: "no direction is active before the answer on enough prompts; name some under `directions`, or lower the thresholds of the section `active`".into(),
            });
        }
        if watch.is_stopped() {
            return Err(Error::Stopped);
        }
        clock.lap("single ablations");
        let selection = Selection { prompts: choosing.len(), apart, acts: looked_at, active, singles: first };
        Ok(Findings {
            study,
            opened,
            index,
            watch,
            behaviour,
            choosing,
            numbers,
            all_prompts,
            acts,
            selection,
            singles,
            top,
            matched,
        })
    }

    /// How the top directions were chosen.
    pub(crate) fn top_chosen(&self) -> Chosen {
        let Selection { prompts, apart, .. } = self.selection;
        match self.study.directions {
            Some(_) => Chosen::Given,
            None => Chosen::On { prompts, by: "single ablation", apart },
        }
    }

    /// A direction of the SAE taken apart in a sentence: its number, which leads to it.
    pub(crate) fn link(&self, direction: impl Display) -> String {
        format!("[{direction}](#{})", self.anchor(&direction))
    }

    /// Several of them.
    pub(crate) fn linked<D: Display>(&self, directions: &[D]) -> String {
        list(&directions.iter().map(|direction| self.link(direction)).collect::<Vec<_>>())
    }

    /// Where a direction of the SAE taken apart is in the report.
    pub(crate) fn anchor(&self, direction: impl Display) -> String {
        format!("direction/{}/{direction}", self.study.chosen())
    }

    /// The tokens that occur more often than this in the corpus.
    pub(crate) fn common_tokens(&self, min_count: u64) -> Result<Vec<usize>> {
        let counts = self.index.occurrences()?;
        Ok(counts.iter().enumerate().filter(|(_, count)| **count > min_count).map(|(token, _)| token).collect())
    }

    /// The SAE that is taken apart.
    pub(crate) fn sae(&self) -> &Sae {
        &self.opened.saes[self.study.chosen()]
    }

    /// Its part of the index.
    pub(crate) fn sae_index(&self) -> &SaeIndex {
        self.index.sae(self.study.chosen())
    }

    /// The text of a token; `[id]` without a tokenizer.
    pub(crate) fn token(&self, token: u32) -> String {
        self.opened.token(token)
    }

    pub(crate) fn texts(&self, tokens: &[u32]) -> Vec<String> {
        tokens.iter().map(|token| self.token(*token)).collect()
    }

    pub(crate) fn answer(&self) -> String {
        self.token(self.behaviour.answer)
    }

    /// The study's pairs of prompts.
    pub(crate) fn prompt_pairs(&self) -> Result<Vec<PromptPair>> {
        let problem = |problem| Error::Study { name: self.study.title.clone(), problem };
        self.study.prompt_pairs(self.opened).map_err(problem)
    }

    /// The first `n` prompts of the corpus.
    pub(crate) fn corpus_prompts(&self, n: usize) -> Result<Prompts> {
        self.prompts_of_index(0..n.min(self.index.prompts()))
    }

    /// Prompts of the corpus by their numbers.
    pub(crate) fn prompts_of_index(&self, numbers: impl Iterator<Item = usize>) -> Result<Prompts> {
        let rows: Vec<&[u32]> = numbers.map(|number| self.index.prompt(number)).collect::<Result<_, _>>()?;
        Ok(Prompts::from_rows(rows))
    }

    /// A prompt, shaded by a value for each token.
    pub(crate) fn shade(
        &self,
        label: String,
        tokens: &[u32],
        values: Vec<f32>,
        maximum: f32,
        marked: usize,
    ) -> ShadedText {
        let alike = |i: usize| values[i] == values[i + 1] && i != marked && i + 1 != marked;
        ShadedText { label, tokens: self.opened.pieces(tokens, alike), values, maximum, marked: Some(marked) }
    }

    /// A prompt of the index, shaded by a direction's activations.
    pub(crate) fn shaded(&self, label: String, example: &Example, direction: usize) -> Result<ShadedText> {
        let (index, sae) = (self.index, self.sae_index());
        let values = sae.on_prompt(example.prompt, direction)?;
        Ok(self.shade(label, index.prompt(example.prompt)?, values, sae.maxima()[direction], example.position))
    }

    /// The first `n` behaviour prompts.
    pub(crate) fn behaviour_prompts(&self, n: usize) -> Prompts {
        self.behaviour.prompts.range(0..n.min(self.behaviour.prompts.len()))
    }

    /// The behaviour prompts on which `direction` is active before the answer, and its activations there.
    pub(crate) fn active_on(&self, direction: u32, above: f32) -> Vec<(usize, f32)> {
        let all = (0..self.behaviour.prompts.len()).map(|prompt| (prompt, self.acts.get(prompt, direction)));
        all.filter(|(_, activation)| *activation > above).collect()
    }

    /// A direction's activation at every position of some prompts.
    pub(crate) fn on_prompts(&self, prompts: &Prompts, direction: u32) -> Result<Vec<Vec<f32>>> {
        let (sae, mut all) = (self.sae(), Vec::new());
        for batch in batches(prompts, 4096) {
            let part = prompts.range(batch);
            let ask = Ask::nothing().with_capture(sae.site().reads.hook, Positions::All).watched(self.watch);
            let run = self.opened.model.run(&part, &ask, &[])?;
            let acts = sae.encode(run.captured(sae.site().reads.hook))?;
            all.extend(
                part.offsets().windows(2).map(|w| (w[0]..w[1]).map(|row| acts.get(row, direction)).collect::<Vec<_>>()),
            );
        }
        Ok(all)
    }
}

/// Numbers from 0 to below `n`, ascending: a share of them, drawn by `seed`, and the others. All twice if either would be none.
fn divide(n: usize, share: f64, seed: u64) -> [Vec<usize>; 2] {
    let first = (share * n as f64).round() as usize;
    if first == 0 || first >= n {
        return [(0..n).collect(), (0..n).collect()];
    }
    let mut numbers: Vec<usize> = (0..n).collect();
    numbers.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut others = numbers.split_off(first);
    numbers.sort_unstable();
    others.sort_unstable();
    [numbers, others]
}

#[cfg(test)]
mod tests {
    use directrix_circuits::Estimate;
    use rand::RngExt;

    use super::*;

    #[test]
    fn the_best_of_much_noise_is_seen_to_be_noise_on_the_other_prompts() {
        let (directions, prompts) = (200, 120);
        let (mut apart, mut same) = (0, 0);
        for seed in 0..100 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut noise = || (0..prompts).map(|_| random.random::<f64>() - 0.5).collect::<Vec<f64>>();
            let effects: Vec<Vec<f64>> = (0..directions).map(|_| noise()).collect();
            let covers = |share: f64| {
                let [choosing, measuring] = divide(prompts, share, seed);
                let on =
                    |effects: &[f64], prompts: &[usize]| Estimate::of(prompts.iter().map(|prompt| effects[*prompt]));
                let mean = |effects: &Vec<f64>| on(effects, &choosing).mean;
                let best = effects.iter().max_by(|a, b| mean(a).total_cmp(&mean(b))).unwrap();
                let measured = on(best, &measuring);
                measured.low() < 0.0 && measured.high() > 0.0
            };
            apart += i32::from(covers(0.5));
            same += i32::from(covers(0.0));
        }
        assert!(apart >= 93, "{apart} of 100 intervals cover zero");
        assert!(same < 30, "chosen and measured on the same prompts, {same} of 100 do");
    }

    #[test]
    fn prompts_are_divided_by_the_seed_and_each_is_on_one_side() {
        let [one, other] = divide(101, 0.5, 3);
        assert_eq!((one.len(), other.len()), (51, 50));
        let mut all = [one.clone(), other].concat();
        all.sort_unstable();
        assert_eq!(all, (0..101).collect::<Vec<_>>());
        assert_eq!(divide(101, 0.5, 3)[0], one);
        assert_ne!(divide(101, 0.5, 4)[0], one);
        assert!(one.is_sorted() && one != (0..51).collect::<Vec<_>>());
        for (n, share) in [(10, 0.0), (1, 0.5), (10, 0.999)] {
            assert_eq!(divide(n, share, 0), [(0..n).collect::<Vec<_>>(), (0..n).collect()], "{n} {share}");
        }
    }
}
