//! Rankings: the best edges by a measure, kept while all pairs pass by.

use std::cmp::Ordering;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Edge;
use crate::Estimate;

/// By what edges are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// Cosine of what the first writes and what the second reads.
    Cosine,
    /// Inner product of the same: what a unit of the first adds to the pre-activation of the second, norms left aside.
    VirtualWeight,
    /// Pointwise mutual information of firing at the same position, nats.
    MutualInformation,
    /// Share of the positions at which the first fires at which the second fires.
    Conditional,
    /// Pearson correlation of the activations over positions.
    Correlation,
    /// Gradient of the second's activation times the first's, summed over a prompt; a mean over prompts in which both fire.
    Attribution,
    /// The same with the divisors of norms and attention patterns taken as constants.
    FrozenAttribution,
    /// The same as attribution, its gradient a mean over the way from none of the first SAE's contributions to all of them.
    IntegratedAttribution,
    /// Change of the second's activation when the first is ablated, summed over a prompt; a mean over prompts in which both fire.
    Causal,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 9] = [
        Measure::Cosine,
        Measure::VirtualWeight,
        Measure::MutualInformation,
        Measure::Conditional,
        Measure::Correlation,
        Measure::Attribution,
        Measure::FrozenAttribution,
        Measure::IntegratedAttribution,
        Measure::Causal,
    ];

    /// Its name; of a column, with `_` for `-`.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Cosine => "cosine",
            Measure::VirtualWeight => "virtual-weight",
            Measure::MutualInformation => "mutual-information",
            Measure::Conditional => "conditional",
            Measure::Correlation => "correlation",
            Measure::Attribution => "attribution",
            Measure::FrozenAttribution => "frozen-attribution",
            Measure::IntegratedAttribution => "integrated-attribution",
            Measure::Causal => "causal",
        }
    }

    /// What a value of it is, for captions.
    pub fn sentence(self) -> &'static str {
        match self {
            Measure::Cosine => "cosine of what the first writes and what the second reads",
            Measure::VirtualWeight => {
                "inner product of what the first writes and what the second reads, per unit of activation, norms left aside"
            }
            Measure::MutualInformation => "pointwise mutual information of firing at the same position, in nats",
            Measure::Conditional => "share of the first's positions at which the second fires",
            Measure::Correlation => "Pearson correlation of activations over positions",
            Measure::Attribution => {
                "gradient of the second's activation times the first's, summed over a prompt, mean over n prompts"
            }
            Measure::FrozenAttribution => {
                "gradient of the second's activation, norms and patterns frozen, times the first's, summed over a prompt, mean over n prompts"
            }
            Measure::IntegratedAttribution => {
                "gradient of the second's activation, a mean over the way from none of the first SAE's contributions to all, times the first's, summed over a prompt, mean over n prompts"
            }
            Measure::Causal => {
                "change of the second's activation when the first is ablated, summed over a prompt, mean over n prompts"
            }
        }
    }

    /// What of a value ranks: co-activation is ranked from the highest, all else by magnitude.
    pub fn strength(self, value: f64) -> f64 {
        match self {
            Measure::MutualInformation | Measure::Conditional | Measure::Correlation => value,
            _ => value.abs(),
        }
    }
}

/// An edge and its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// The edge.
    pub edge: Edge,
    /// By what it is ranked.
    pub measure: Measure,
    /// Its value.
    pub value: f64,
    /// Number of prompts or positions at which both fire, where the measure is of these.
    pub n: Option<usize>,
    /// Half width of the 95 % interval, where the value is a mean.
    pub half_width: Option<f64>,
}

impl Ranked {
    /// A value that is a mean over prompts.
    pub(super) fn mean(edge: Edge, measure: Measure, mean: Estimate) -> Ranked {
        let Estimate { n, mean: value, half_width, .. } = mean;
        Ranked { edge, measure, value, n: Some(n), half_width: Some(half_width) }
    }

    /// How many numbers it is to another process.
    pub(super) const NUMBERS: usize = 5;

    /// It as numbers, the measure left out: NaN where there is none.
    pub(super) fn numbers(&self) -> [f64; Ranked::NUMBERS] {
        let n = self.n.map_or(f64::NAN, |n| n as f64);
        [self.edge.first as f64, self.edge.second as f64, self.value, n, self.half_width.unwrap_or(f64::NAN)]
    }

    /// What [`numbers`](Ranked::numbers) made; where there is an `n` there is a half width.
    pub(super) fn of_numbers(measure: Measure, numbers: &[f64]) -> Option<Ranked> {
        let &[first, second, value, n, half_width] = numbers else { return None };
        let edge = Edge { first: first as usize, second: second as usize };
        let is_mean = !n.is_nan();
        Some(Ranked {
            edge,
            measure,
            value,
            n: is_mean.then_some(n as usize),
            half_width: is_mean.then_some(half_width),
        })
    }

    /// Strongest first.
    fn order(&self, other: &Ranked) -> Ordering {
        let strength = |ranked: &Ranked| ranked.measure.strength(ranked.value);
        strength(other).total_cmp(&strength(self)).then(self.edge.cmp(&other.edge))
    }
}

impl Serialize for Ranked {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("first", &self.edge.first)?;
        map.serialize_entry("second", &self.edge.second)?;
        if let Some(n) = self.n {
            map.serialize_entry("n", &n)?;
        }
        map.serialize_entry(&self.measure.name().replace('-', "_"), &self.value)?;
        if let Some(half_width) = self.half_width {
            map.serialize_entry("half_width", &half_width)?;
        }
        map.end()
    }
}

/// The `k` strongest edges of all that were shown to it, in memory for twice as many.
#[derive(Debug, Clone)]
pub struct Ranking {
    k: usize,
    best: Vec<Ranked>,
    shown: u64,
    /// As many are at least this strong.
    floor: f64,
}

impl Ranking {
    /// Of the `k` strongest.
    pub fn new(k: usize) -> Ranking {
        Ranking { k, best: Vec::new(), shown: 0, floor: f64::NEG_INFINITY }
    }

    /// Shows it an edge.
    pub fn show(&mut self, ranked: Ranked) {
        self.shown += 1;
        if !self.has_room_for(ranked.measure.strength(ranked.value)) {
            return;
        }
        self.best.push(ranked);
        if self.best.len() >= 2 * self.k.max(512) {
            self.keep_best();
        }
    }

    /// Whether an edge of this strength may be among the strongest of those shown.
    pub(super) fn has_room_for(&self, strength: f64) -> bool {
        strength >= self.floor
    }

    /// How many edges it was shown.
    pub fn shown(&self) -> u64 {
        self.shown
    }

    /// The strongest edges, strongest first.
    pub fn finish(mut self) -> Vec<Ranked> {
        self.keep_best();
        self.best.sort_unstable_by(Ranked::order);
        self.best
    }

    fn keep_best(&mut self) {
        if self.best.len() > self.k && self.k > 0 {
            let (_, last, _) = self.best.select_nth_unstable_by(self.k - 1, Ranked::order);
            self.floor = last.measure.strength(last.value);
        }
        self.best.truncate(self.k);
    }
}
