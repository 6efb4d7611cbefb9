//! `directrix ablate`.

use clap::Args;
use directrix::circuits::{
    self, About, Activity, Change, Chosen, Effect, LossClaim, Matched, Trial, ablate_each, activity, effects,
    loss_claims,
};
use directrix::corpus::{Prompts, Watch};
use directrix::lab::Opened;
use directrix::sae::Sae;
use serde::Serialize;

use super::directions::Directions;
use super::inputs::{PromptArgs, Saes, SubjectArgs, position};
use super::numbers::place;
use super::results::{Found, ResultArgs};
use super::watch::watch;

const EXAMPLES: &str = "\
Examples:
  directrix ablate --directions 3,17 --text 'Tim said, \"I like it.\"'
  directrix ablate --sae tinystories-2l/sae-l0 --directions 3 --prompts stories.txt --everywhere
  directrix ablate --directions 3,17,40-44 --each --prompts stories.txt \\
      --limit 100 --out out/ablations";

/// Ablate directions and see what it does to predictions.
///
/// Takes what the directions contribute out of the SAE's hook point at one position of each prompt, and compares the
/// prediction of the token after it, the answer, with and without. Losses are in nats; the rank is the number of tokens
/// with a higher logit. Beside the mean stand two controls on the same prompts: as much taken out along random rows, and
/// random directions that fire at about as many positions of these prompts. Where no direction is active nothing is ablated: such prompts are shown as inactive, and means
/// are over the others.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ablate {
    #[command(flatten)]
    subject: SubjectArgs,
    /// SAE: a folder, or owner/name:folder on the hub [default: the model's last, tinystories-2l/sae-l1]
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// Directions to ablate, all together: numbers and ranges
    #[arg(long, visible_alias = "direction", value_name = "N,N-N,...", required = true)]
    directions: Directions,
    /// Ablate each direction alone; a row is a direction, its values means over the prompts in which it is active
    #[arg(long)]
    each: bool,
    /// Position to change, from 0; negative counts from the end: -2 predicts the last token
    #[arg(long, value_name = "N", default_value_t = -2, value_parser = place)]
    position: i64,
    /// Change every position; losses are means over the positions of a prompt
    #[arg(long, conflicts_with_all = ["position", "reconstruct"])]
    everywhere: bool,
    /// Replace the values by the SAE's reconstruction without the directions, instead of subtracting these; that changes
    /// every prompt
    #[arg(long)]
    reconstruct: bool,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// What a change does at one position of a prompt; nothing where no direction is active.
#[derive(Serialize)]
struct AtPosition {
    prompt: usize,
    position: usize,
    answer: String,
    active: bool,
    log_prob: f64,
    log_prob_ablated: Option<f64>,
    logit: f32,
    logit_ablated: Option<f32>,
    rank: usize,
    rank_ablated: Option<usize>,
    loss_increase: Option<f64>,
}

/// What a change at every position does to a prompt; nothing where no direction is active.
#[derive(Serialize)]
struct Everywhere {
    prompt: usize,
    active: bool,
    loss: f64,
    loss_ablated: Option<f64>,
    loss_increase: Option<f64>,
}

/// What is ablated where.
struct Ablation<'a> {
    opened: &'a Opened,
    sae: &'a Sae,
    prompts: Prompts,
    /// The position of each prompt; none if every one is changed.
    positions: Option<Vec<usize>>,
    reconstruct: bool,
    directions: Vec<u32>,
    /// For each prompt, the directions that are active where it is changed.
    active: Vec<Vec<u32>>,
    /// Draws controls: directions that fire as often in these prompts.
    matched: Matched,
}

impl Ablate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watch = watch();
        let _lock = self.results.lock()?;
        let opened = self.subject.open(Saes::One(self.sae.as_deref()), self.prompts.wanted())?;
        let sae = &opened.saes[0];
        let directions: Vec<u32> = self.directions.each().map(|d| sae.check(d)).collect::<Result<_, _>>()?;
        let prompts = self.prompts.load_some(&opened)?;
        // Every position is checked before the first is changed.
        let at = if self.everywhere { -2 } else { self.position };
        let positions: Vec<usize> =
            (0..prompts.len()).map(|prompt| position(&prompts, prompt, at, true)).collect::<Result<_, _>>()?;
        let changed = |prompt: usize| {
            if self.everywhere { 0..prompts.get(prompt).len() - 1 } else { positions[prompt]..positions[prompt] + 1 }
        };
        let Activity { active, matched } = activity(&opened.model, sae, &prompts, changed, &directions, &watch)?;
        let positions = (!self.everywhere).then_some(positions);
        let (opened, reconstruct) = (&opened, self.reconstruct);
        let ablation = Ablation { opened, sae, prompts, positions, reconstruct, directions, active, matched };
        if self.each { self.each(&ablation, &watch) } else { self.together(&ablation, &watch) }
    }

    fn each(&self, ablation: &Ablation, watch: &Watch) -> anyhow::Result<()> {
        let Ablation { opened, sae, prompts, directions, .. } = ablation;
        let change = match (self.everywhere, self.reconstruct) {
            (true, _) => "ablated alone at every position",
            (_, true) => "left out alone of the reconstruction before the answer",
            _ => "ablated alone before the answer",
        };
        let of = |direction| ablation.trials(&[direction], |prompt| ablation.changes(prompt, &[direction]));
        let matched = Some(&ablation.matched);
        let rows = ablate_each(&opened.model, prompts, directions, self.about(change), of, matched, watch)?;
        let name = sae.short_name();
        let inactive = rows.iter().filter(|row| row.loss_increase.estimate.n == 0).count();
        let remark = match inactive {
            0 => String::new(),
            n => format!(" {n} of {} directions are active in no prompt there.", rows.len()),
        };
        let caption = format!("{name}: {}{remark}", rows[0].loss_increase.sentence());
        let found = Found {
            name: "ablations",
            caption: &caption,
            rows: &rows,
            bars: "loss increase",
            missing: "inactive",
            overall: None,
        };
        self.results.show(&found, opened)
    }

    fn together(&self, ablation: &Ablation, watch: &Watch) -> anyhow::Result<()> {
        let Ablation { opened, sae, prompts, directions, .. } = ablation;
        let change = if self.everywhere { "ablated at every position" } else { "ablated before the answer" };
        let (changed, unchanged): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|prompt| ablation.changes(*prompt, directions));
        let trials = ablation.trials(directions, |prompt| ablation.changes(prompt, directions))?;
        let others = ablation.trials(directions, |prompt| !ablation.changes(prompt, directions))?;
        let LossClaim { claim, effects: of_changed } =
            loss_claims(&opened.model, prompts, &[(self.about(change), trials)], Some(&ablation.matched), watch)?
                .remove(0);
        let of_unchanged = effects(&opened.model, prompts, &others, watch)?;
        let mut found: Vec<(usize, &Effect)> =
            changed.into_iter().zip(&of_changed).chain(unchanged.into_iter().zip(&of_unchanged)).collect();
        found.sort_by_key(|(prompt, _)| *prompt);

        let (name, listed) = (sae.short_name(), &self.directions);
        let what = if self.reconstruct {
            format!("its site reconstructed by {name} without directions {listed}")
        } else {
            format!("directions {listed} of {name} ablated")
        };
        let overall = Some(claim);
        let bars = "loss increase";
        if self.everywhere {
            let rows =
                found.iter().map(|(p, effect)| ablation.everywhere(*p, effect)).collect::<Result<Vec<_>, _>>()?;
            let caption = format!("Mean loss over each prompt, with {what} at every position.");
            return self.results.show(
                &Found { name: "ablations", caption: &caption, rows: &rows, bars, missing: "inactive", overall },
                opened,
            );
        }
        let rows = found.iter().map(|(p, effect)| ablation.at_position(*p, effect)).collect::<Result<Vec<_>, _>>()?;
        let caption = format!("The answer's prediction, with {what} at the position before it.");
        self.results.show(
            &Found { name: "ablations", caption: &caption, rows: &rows, bars, missing: "inactive", overall },
            opened,
        )
    }

    fn about(&self, change: &'static str) -> About {
        let over = if self.reconstruct { "prompts" } else { "prompts in which they are active" };
        About { chosen: Chosen::Given, change, measure: "loss_increase", unit: "nats", over }
    }
}

impl<'a> Ablation<'a> {
    /// Whether ablating these changes a prompt.
    fn changes(&self, prompt: usize, directions: &[u32]) -> bool {
        self.reconstruct || self.active[prompt].iter().any(|active| directions.contains(active))
    }

    /// The change of `directions` in the prompts that are wanted.
    fn trials(&self, directions: &[u32], wanted: impl Fn(usize) -> bool) -> circuits::Result<Vec<Trial<'a>>> {
        let change = if self.reconstruct {
            Change::Reconstruct { without: directions.to_vec() }
        } else {
            Change::Ablate(directions.to_vec())
        };
        let trial = |prompt: usize| match &self.positions {
            Some(positions) => Trial::at(self.sae, &self.prompts, prompt, positions[prompt], change.clone()),
            None => Trial::everywhere(self.sae, &self.prompts, prompt, change.clone()),
        };
        (0..self.prompts.len()).filter(|prompt| wanted(*prompt)).map(trial).collect()
    }

    fn at_position(&self, prompt: usize, effect: &Effect) -> circuits::Result<AtPosition> {
        let [before, after] = [effect.before.prediction()?, effect.after.prediction()?];
        let position = self.positions.as_ref().map_or(0, |positions| positions[prompt]);
        let changed = self.changes(prompt, &self.directions);
        Ok(AtPosition {
            prompt,
            position,
            answer: self.opened.token(self.prompts.get(prompt)[position + 1]),
            active: !self.active[prompt].is_empty(),
            log_prob: before.log_prob,
            log_prob_ablated: changed.then_some(after.log_prob),
            logit: before.logit,
            logit_ablated: changed.then_some(after.logit),
            rank: before.rank,
            rank_ablated: changed.then_some(after.rank),
            loss_increase: changed.then(|| effect.loss_increase()).transpose()?,
        })
    }

    fn everywhere(&self, prompt: usize, effect: &Effect) -> circuits::Result<Everywhere> {
        let [loss, loss_ablated] = [effect.before.loss()?, effect.after.loss()?];
        let changed = self.changes(prompt, &self.directions);
        Ok(Everywhere {
            prompt,
            active: !self.active[prompt].is_empty(),
            loss,
            loss_ablated: changed.then_some(loss_ablated),
            loss_increase: changed.then(|| effect.loss_increase()).transpose()?,
        })
    }
}
