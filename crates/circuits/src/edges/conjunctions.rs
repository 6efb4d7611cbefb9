//! Which directions a downstream one needs together, and of which each is enough.

use std::collections::BTreeMap;

use directrix_corpus::Watch;
use serde::Serialize;

use super::{Between, Half, Sample, once, spread};
use crate::error::threshold;
use crate::{About, Change, Chosen, Claim, Controls, Effect, Estimate, Look, Matched, Result, Trial, effects};

/// How conjunctions are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conjunctions {
    /// Positions of each pair or set, at most, spread evenly over those there are.
    pub positions: usize,
    /// Only positions count at which the downstream direction fires at least at this share of its maximum.
    pub share_of_maximum: f32,
    /// An interaction beyond this, either way, is none of a sum.
    pub interaction: f64,
    /// What each of two must take alone for their losses to count as added up.
    pub needed: f64,
    /// False-discovery rate up to which an interaction counts.
    pub rate: f64,
    /// The share of the activation that a joint set must take.
    pub enough: f64,
}

impl Default for Conjunctions {
    fn default() -> Conjunctions {
        Conjunctions { positions: 256, share_of_maximum: 0.17, interaction: 0.25, needed: 0.1, rate: 0.05, enough: 0.8 }
    }
}

impl Conjunctions {
    fn check(&self) -> Result<()> {
        threshold("share_of_maximum", self.share_of_maximum)?;
        threshold("interaction", self.interaction)?;
        threshold("needed", self.needed)?;
        threshold("rate", self.rate)?;
        threshold("enough", self.enough)
    }

    /// What two directions are to a third by their losses.
    fn verdict(&self, alone: [Estimate; 2], interaction: &Claim) -> Verdict {
        let (low, high) = (interaction.estimate.low(), interaction.estimate.high());
        let is_sure = interaction.q <= self.rate && interaction.is_beyond_controls();
        if is_sure && high < -self.interaction {
            Verdict::And
        } else if is_sure && low > self.interaction {
            Verdict::Or
        } else if -self.interaction < low
            && high < self.interaction
            && alone.iter().all(|lost| lost.low() > self.needed)
        {
            Verdict::Additive
        } else {
            Verdict::Neither
        }
    }
}

/// A direction of the first SAE, and how much of the downstream activation ablating it alone takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Upstream {
    /// The direction.
    pub direction: usize,
    /// Share of the activation lost: a mean over prompts, of each the position at which the downstream direction fires most strongly among
    /// those at which both fire.
    pub lost: Estimate,
    /// Of the positions at which the downstream direction fires, the share at which this one does.
    pub fires: f64,
}

impl Upstream {
    /// About what share it takes over all positions at which the downstream direction fires.
    fn takes(&self) -> f64 {
        self.lost.mean * self.fires
    }
}

/// What two directions are to a third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Both are needed: either alone takes what both take.
    And,
    /// Each is enough: only both together take it.
    Or,
    /// What both take is what each takes, added up.
    Additive,
    /// None of these.
    Neither,
}

/// What ablating two directions of the first SAE, alone and together, takes of the activation of a third, at positions at which all three
/// fire. Means over positions; intervals clustered by prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Conjunction {
    /// One direction.
    pub first: usize,
    /// The other.
    pub other: usize,
    /// The downstream one.
    pub second: usize,
    /// What they are to it.
    pub verdict: Verdict,
    /// Share of the activation lost when the first is ablated.
    pub lost_first: f64,
    /// The same of the other.
    pub lost_other: f64,
    /// The same of both together.
    pub lost_both: f64,
    /// The share that both together lose less the shares that each loses.
    #[serde(flatten)]
    pub interaction: Claim,
    /// Half width of the 95 % interval of what is lost when the first is ablated.
    pub lost_first_half_width: f64,
    /// The same of the other.
    pub lost_other_half_width: f64,
    /// The same of both together.
    pub lost_both_half_width: f64,
}

impl Conjunction {
    /// What its columns are, for captions.
    pub const SENTENCE: &'static str = "At positions at which two directions (first, other) and a downstream one (second) fire: the shares of its activation lost when the first, the other and both are ablated there, with half widths of 95 % intervals clustered by prompt; the interaction is what both take less what each takes. Verdict: `and`, both are needed; `or`, each is enough; `additive`, they add up; `neither`.";
}

/// Directions of the first SAE, each with those before it, and what ablating them together takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JointStep {
    /// How many they are.
    pub size: usize,
    /// The last of them.
    pub added: usize,
    /// The downstream one.
    pub second: usize,
    /// Share of the activation lost on the prompts that chose them.
    pub lost_choosing: f64,
    /// The same on others.
    #[serde(flatten)]
    pub lost: Claim,
}

impl JointStep {
    /// What it takes with those before it, for captions; `enough` is the share that was wanted.
    pub fn sentence(&self, enough: f64) -> String {
        let Estimate { mean, half_width, .. } = self.lost.estimate;
        let said = if self.lost_choosing >= enough { "take enough" } else { "do not take enough" };
        format!(
            "Ablated together, the first and those above it: they {said} where they were chosen ({:.0} % of {:.0} %), and {:.0} ± {:.0} % on other prompts. {}",
            100.0 * self.lost_choosing,
            100.0 * enough,
            100.0 * mean,
            100.0 * half_width,
            self.lost.sentence()
        )
    }
}

/// A position at which the downstream direction fires.
struct Place {
    prompt: usize,
    position: usize,
    activation: f32,
    /// The directions of the first SAE that fire there, ascending.
    active: Vec<u32>,
}

impl Place {
    fn has(&self, direction: u32) -> bool {
        self.active.binary_search(&direction).is_ok()
    }

    /// What a draw at random here begins with.
    fn seed(&self) -> u64 {
        (self.prompt as u64) << 32 | self.position as u64
    }
}

/// What ablating two directions takes at a position.
#[derive(Clone, Copy)]
struct Lost {
    prompt: usize,
    alone: [f64; 2],
    both: f64,
}

impl Lost {
    fn interaction(&self) -> f64 {
        self.both - self.alone[0] - self.alone[1]
    }
}

impl Between<'_> {
    /// The directions of the first SAE by the share of the activation of `second` that ablating each alone takes: at a position at which both
    /// fire, times the share of such positions, largest first. On prompts of the index with an even number, of those that have enough.
    ///
    /// # Errors
    /// As [`effects`], if there is no such direction, or the index is damaged.
    pub fn upstream(&self, second: usize, sample: Sample, how: &Conjunctions, watch: &Watch) -> Result<Vec<Upstream>> {
        let places = self.places(second, Half::Ranks, how)?;
        let mut strongest: BTreeMap<(u32, usize), usize> = BTreeMap::new();
        let mut fires = vec![0_usize; self.first.directions()];
        for (number, place) in places.iter().enumerate() {
            for first in &place.active {
                fires[*first as usize] += 1;
                let best = strongest.entry((*first, place.prompt)).or_insert(number);
                if places[*best].activation < place.activation {
                    *best = number;
                }
            }
        }
        let by_first: Vec<(u32, usize)> = strongest.into_iter().map(|((first, _), place)| (first, place)).collect();
        let enough = |same: &&[(u32, usize)]| same.len() >= sample.least.max(1);
        let ablations: Vec<(usize, Vec<u32>)> = by_first
            .chunk_by(|a, b| a.0 == b.0)
            .filter(enough)
            .flat_map(|same| spread(same, sample.prompts))
            .map(|(first, place)| (place, vec![first]))
            .collect();
        let lost = self.lost(second, &places, &ablations, watch)?;
        let found: Vec<(u32, f64)> = ablations.iter().map(|(_, ablated)| ablated[0]).zip(lost).collect();
        let of = |same: &[(u32, f64)]| Upstream {
            direction: same[0].0 as usize,
            lost: Estimate::of(same.iter().map(|(_, lost)| *lost)),
            fires: fires[same[0].0 as usize] as f64 / places.len() as f64,
        };
        let mut upstream: Vec<Upstream> = found.chunk_by(|a, b| a.0 == b.0).map(of).collect();
        upstream.sort_by(|a, b| b.takes().total_cmp(&a.takes()).then(a.direction.cmp(&b.direction)));
        Ok(upstream)
    }

    /// The directions with which [`upstream`](Between::upstream) begins, so many at most, and how they were chosen.
    ///
    /// # Errors
    /// As [`upstream`](Between::upstream).
    pub fn most_upstream(
        &self,
        second: usize,
        sample: Sample,
        how: &Conjunctions,
        most: usize,
        watch: &Watch,
    ) -> Result<(Vec<usize>, Chosen)> {
        let mut upstream = self.upstream(second, sample, how, watch)?;
        upstream.truncate(most);
        let prompts = upstream.iter().map(|upstream| upstream.lost.n).max().unwrap_or_default();
        let by = "the share of the activation that each takes alone";
        let chosen = Chosen::On { prompts, by, apart: true };
        Ok((upstream.iter().map(|upstream| upstream.direction).collect(), chosen))
    }

    /// How what each two of `firsts` take of the activation of `second` goes together, on prompts with an odd number: at positions at
    /// which all three fire, the first, the other and both are ablated there. With `l` the share of the activation lost, the interaction is
    /// `l_both − l_first − l_other`: about −1 where both are needed, 1 where each is enough, 0 where they add up. The control is the same
    /// of two other directions that fire there, of matched density and none of `firsts`. Sorted by verdict, the largest interaction of each first.
    ///
    /// A pair counts as `and` if the 95 % interval of its interaction lies below −[`interaction`](Conjunctions::interaction), apart from
    /// that of the control, with a false-discovery rate up to [`rate`](Conjunctions::rate) in the list; as `or` if above it in the same way;
    /// as `additive` if it lies between the two and each alone takes more than [`needed`](Conjunctions::needed).
    ///
    /// # Errors
    /// As [`effects`], if there is no such direction, or the index is damaged.
    pub fn conjunctions(
        &self,
        second: usize,
        firsts: &[usize],
        chosen: Chosen,
        how: &Conjunctions,
        watch: &Watch,
    ) -> Result<Vec<Conjunction>> {
        let firsts = self.checked(firsts)?;
        let places = self.places(second, Half::Verifies, how)?;
        let mut of_pair: BTreeMap<[u32; 2], Vec<usize>> = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            let fires: Vec<u32> = firsts.iter().copied().filter(|first| place.has(*first)).collect();
            for (i, one) in fires.iter().enumerate() {
                fires[i + 1..].iter().for_each(|other| of_pair.entry([*one, *other]).or_default().push(number));
            }
        }
        let matched = Matched::of(self.of_first);
        let (mut own, mut controls) = (Vec::new(), Vec::new());
        for (pair, numbers) in &of_pair {
            for number in spread(numbers, how.positions) {
                own.push((*pair, number, *pair));
                if let [one, other] = drawn(&matched, pair, &places[number], &firsts)[..] {
                    controls.push((*pair, number, [one, other]));
                }
            }
        }
        let [own, controls] = [own, controls].map(|pairs| self.lost_of_pairs(second, &places, &pairs, watch));
        let (own, controls) = (own?, controls?);
        let about = About {
            chosen,
            change: "ablated alone and together where they and the downstream direction fire",
            measure: "interaction",
            unit: "shares of its activation",
            over: "positions",
        };
        let estimate = |lost: &[Lost], value: &dyn Fn(&Lost) -> f64| {
            Estimate::clustered(&lost.iter().map(|lost| (lost.prompt, value(lost))).collect::<Vec<_>>())
        };
        let claims = Claim::list(own.iter().map(|(pair, lost)| {
            let control = controls.get(pair).map(|lost| estimate(lost, &Lost::interaction));
            (about, estimate(lost, &Lost::interaction), Controls { rows: None, directions: control })
        }));
        let row = |((&[first, other], lost), interaction): ((&[u32; 2], &Vec<Lost>), Claim)| {
            let alone = [0, 1].map(|which| estimate(lost, &|lost| lost.alone[which]));
            let both = estimate(lost, &|lost| lost.both);
            Conjunction {
                first: first as usize,
                other: other as usize,
                second,
                verdict: how.verdict(alone, &interaction),
                lost_first: alone[0].mean,
                lost_other: alone[1].mean,
                lost_both: both.mean,
                interaction,
                lost_first_half_width: alone[0].half_width,
                lost_other_half_width: alone[1].half_width,
                lost_both_half_width: both.half_width,
            }
        };
        let mut rows: Vec<Conjunction> = own.iter().zip(claims).map(row).collect();
        let size = |row: &Conjunction| row.interaction.mean().abs();
        rows.sort_by(|a, b| a.verdict.cmp(&b.verdict).then(size(b).total_cmp(&size(a))));
        Ok(rows)
    }

    /// The smallest set of `firsts` found whose ablation together takes [`enough`](Conjunctions::enough) of the activation of `second`, the mean
    /// over positions at which that fires. It is chosen on prompts with an even number: the direction that takes most more is added until it is
    /// enough, then whatever is not needed for that is left out. What the first, the first two and so on take is measured on prompts with an
    /// odd number, beside as many other directions that fire there, of matched density. All of `firsts` are there if they do not take enough.
    ///
    /// # Errors
    /// As [`effects`], if there is no such direction, or the index is damaged.
    pub fn joint_set(
        &self,
        second: usize,
        firsts: &[usize],
        how: &Conjunctions,
        watch: &Watch,
    ) -> Result<Vec<JointStep>> {
        let firsts = self.checked(firsts)?;
        let all = self.places(second, Half::Ranks, how)?;
        let choosing: Vec<&Place> = spread(&all.iter().collect::<Vec<_>>(), how.positions).collect();
        let means = |sets: &[Vec<u32>]| self.means_lost(second, &choosing, sets, watch);
        let (mut set, mut lost) = (Vec::<u32>::new(), 0.0);
        while lost < how.enough && set.len() < firsts.len() && !choosing.is_empty() {
            let others: Vec<u32> = firsts.iter().copied().filter(|first| !set.contains(first)).collect();
            let with = |other: &u32| set.iter().copied().chain([*other]).collect::<Vec<u32>>();
            let (best, most) = best(&means(&others.iter().map(with).collect::<Vec<_>>())?);
            set.push(others[best]);
            lost = most;
        }
        while lost >= how.enough && set.len() > 1 {
            let without =
                |left_out: usize| -> Vec<u32> { set.iter().copied().filter(|first| *first != set[left_out]).collect() };
            let (least, most) = best(&means(&(0..set.len()).map(without).collect::<Vec<_>>())?);
            if most < how.enough {
                break;
            }
            set.remove(least);
            lost = most;
        }
        let prefixes: Vec<Vec<u32>> = (1..=set.len()).map(|size| set[..size].to_vec()).collect();
        let on_choosing = means(&prefixes)?;

        let all = self.places(second, Half::Verifies, how)?;
        let reporting: Vec<&Place> = spread(&all.iter().collect::<Vec<_>>(), how.positions).collect();
        let matched = Matched::of(self.of_first);
        let mut ablations = Vec::new();
        for prefix in &prefixes {
            for (number, place) in reporting.iter().enumerate() {
                let fires: Vec<u32> = prefix.iter().copied().filter(|first| place.has(*first)).collect();
                ablations.push((number, drawn(&matched, &fires, place, &firsts)));
                ablations.push((number, fires));
            }
        }
        let lost = self.lost(second, &reporting, &ablations, watch)?;
        let about = About {
            chosen: Chosen::On {
                prompts: once(choosing.iter().map(|place| place.prompt)).len(),
                by: "what they take together",
                apart: true,
            },
            change: "ablated together where the downstream direction fires",
            measure: "lost",
            unit: "shares of its activation",
            over: "positions",
        };
        let claims = Claim::list(lost.chunks(2 * reporting.len().max(1)).map(|lost| {
            let of = |which: usize| {
                let values = lost.iter().skip(which).step_by(2);
                Estimate::clustered(
                    &reporting.iter().map(|place| place.prompt).zip(values.copied()).collect::<Vec<_>>(),
                )
            };
            (about, of(1), Controls { rows: None, directions: Some(of(0)) })
        }));
        let step = |((at, lost_choosing), lost): ((usize, f64), Claim)| JointStep {
            size: at + 1,
            added: set[at] as usize,
            second,
            lost_choosing,
            lost,
        };
        Ok(on_choosing.into_iter().enumerate().zip(claims).map(step).collect())
    }

    /// The positions of a half at which `second` fires strongly enough.
    fn places(&self, second: usize, half: Half, how: &Conjunctions) -> Result<Vec<Place>> {
        how.check()?;
        self.second.check(second)?;
        let least = how.share_of_maximum * self.of_second.maxima()[second];
        let fires = self.of_second.fires(second)?.into_iter();
        let counts =
            fires.filter(|fires| half.has(fires.prompt) && fires.activation > 0.0 && fires.activation >= least);
        let place = |fires: directrix_index::Example| -> Result<Place> {
            let (prompt, position, activation) = (fires.prompt, fires.position, fires.activation);
            let active = self.of_first.at(prompt, position)?.0.to_vec();
            Ok(Place { prompt, position, activation, active })
        };
        counts.map(place).collect()
    }

    /// `firsts`, each once and in order.
    fn checked(&self, firsts: &[usize]) -> Result<Vec<u32>> {
        let checked = |first| -> Result<u32> { Ok(self.first.check(first)?) };
        once(firsts.iter().copied()).into_iter().map(checked).collect()
    }

    /// The mean share lost over places for each set of directions.
    fn means_lost(&self, second: usize, places: &[&Place], sets: &[Vec<u32>], watch: &Watch) -> Result<Vec<f64>> {
        let of_set = |set: &Vec<u32>| {
            let of_place = |(number, place): (usize, &&Place)| {
                (number, set.iter().copied().filter(|direction| place.has(*direction)).collect())
            };
            places.iter().enumerate().map(of_place).collect::<Vec<_>>()
        };
        let lost = self.lost(second, places, &sets.iter().flat_map(of_set).collect::<Vec<_>>(), watch)?;
        Ok(lost.chunks(places.len().max(1)).map(|lost| lost.iter().sum::<f64>() / lost.len() as f64).collect())
    }

    /// What pairs of directions take, by what they stand for: of each, that, its place, and the directions that are ablated.
    fn lost_of_pairs(
        &self,
        second: usize,
        places: &[Place],
        pairs: &[([u32; 2], usize, [u32; 2])],
        watch: &Watch,
    ) -> Result<BTreeMap<[u32; 2], Vec<Lost>>> {
        let three = |(_, place, [one, other]): &([u32; 2], usize, [u32; 2])| {
            [vec![*one], vec![*other], vec![*one, *other]].map(|ablated| (*place, ablated))
        };
        let lost = self.lost(second, places, &pairs.iter().flat_map(three).collect::<Vec<_>>(), watch)?;
        let mut found: BTreeMap<[u32; 2], Vec<Lost>> = BTreeMap::new();
        for ((of, place, _), lost) in pairs.iter().zip(lost.chunks(3)) {
            let prompt = places[*place].prompt;
            found.entry(*of).or_default().push(Lost { prompt, alone: [lost[0], lost[1]], both: lost[2] });
        }
        Ok(found)
    }

    /// The share of the activation of `second` that each ablation takes: of directions of the first SAE, at a place. Each is made once.
    fn lost<P: std::borrow::Borrow<Place>>(
        &self,
        second: usize,
        places: &[P],
        ablations: &[(usize, Vec<u32>)],
        watch: &Watch,
    ) -> Result<Vec<f64>> {
        let mut distinct: Vec<&(usize, Vec<u32>)> = ablations.iter().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |number: usize| -> &Place { places[number].borrow() };
        let numbers = once(distinct.iter().map(|(number, _)| place(*number).prompt));
        let (prompts, _) = self.prompts(&numbers)?;
        let trial = |(number, ablated): &&(usize, Vec<u32>)| {
            let Place { prompt, position, .. } = *place(*number);
            Trial {
                prompt: numbers.partition_point(|number| *number < prompt),
                sae: self.first,
                positions: position..position + 1,
                change: Change::Ablate(ablated.clone()),
                look: Look::Activation { sae: self.second, direction: second as u32, position },
            }
        };
        let trials: Vec<Trial> = distinct.iter().map(trial).collect();
        let share = |effect: Effect| -> Result<f64> {
            let [before, after] = [effect.before.activation()?, effect.after.activation()?].map(f64::from);
            Ok(if before > 0.0 { (before - after) / before } else { 0.0 })
        };
        let shares: Vec<f64> =
            effects(self.model, &prompts, &trials, watch)?.into_iter().map(share).collect::<Result<_>>()?;
        let of =
            |ablation| shares[distinct.binary_search(&ablation).expect("every ablation is among the distinct ones")];
        Ok(ablations.iter().map(of).collect())
    }
}

/// Where the largest of some means is, and what it is; of equal ones the first.
fn best(means: &[f64]) -> (usize, f64) {
    let all = means.iter().copied().enumerate();
    all.reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap_or((0, 0.0))
}

/// As many directions as `directions` that fire at a place and are none of `firsts`, ascending; fewer where there are fewer.
fn drawn(matched: &Matched, directions: &[u32], place: &Place, firsts: &[u32]) -> Vec<u32> {
    let may = |direction: u32| place.has(direction) && firsts.binary_search(&direction).is_err();
    let mut drawn = matched.draw_among(directions, place.seed(), may);
    drawn.sort_unstable();
    drawn
}
