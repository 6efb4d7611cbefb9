//! Claims: what a change does, with what a reader needs to believe it.

use directrix_corpus::{Prompts, Watch};
use directrix_model::Model;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::statistics::false_discovery_rates;
use crate::{Effect, Estimate, Matched, Result, Trial, effects};

/// That a change does something on average: every table of effects is made of these.
///
/// As columns of a flat row: `n`, `prompts` where these are fewer, the mean under the measure's own name, `se`, `half_width`, `p`,
/// `q`, and of each control there is its mean and half width: `random_rows`, `random_directions`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// What it claims.
    pub about: About,
    /// The mean and its uncertainty; prompts are the clusters.
    pub estimate: Estimate,
    /// What the same does at the same places by chance.
    pub controls: Controls,
    /// Its false-discovery rate in its list (Benjamini and Hochberg 1995).
    pub q: f64,
}

/// What an effect is compared with: the same at the same places with something drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Controls {
    /// As much along random rows of the same norm ([`Change::along_random_rows`](crate::Change::along_random_rows)).
    pub rows: Option<Estimate>,
    /// Random directions of matched density ([`Change::of_random_directions`](crate::Change::of_random_directions)).
    pub directions: Option<Estimate>,
}

impl Controls {
    /// Each with the name of its column.
    fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, Estimate)> {
        let all = [
            ("random_rows", "random_rows_half_width", self.rows),
            ("random_directions", "random_directions_half_width", self.directions),
        ];
        all.into_iter().filter_map(|(name, half_width, control)| Some((name, half_width, control?)))
    }

    /// What they are, for captions; empty if there is none.
    pub fn sentence(&self) -> &'static str {
        match (self.rows, self.directions) {
            (None, None) => "",
            (Some(_), None) => "random rows: as much taken out along random rows of the same norm, on the same prompts",
            (None, Some(_)) => "random directions: others of matched density ablated instead, on the same prompts",
            (Some(_), Some(_)) => {
                "random rows: as much taken out along random rows of the same norm; random directions: others of matched density ablated instead; both drawn anew for each of the same prompts"
            }
        }
    }
}

/// What a claim is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct About {
    /// How what is changed was chosen.
    pub chosen: Chosen,
    /// The change: `ablated alone before the answer`.
    pub change: &'static str,
    /// What was measured, as the column of its mean is called: `loss_increase`.
    pub measure: &'static str,
    /// Its unit: `nats`.
    pub unit: &'static str,
    /// What the values of the mean are: `prompts`, `positions`.
    pub over: &'static str,
}

/// How what is changed was chosen. An effect on the very prompts that chose it is too large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Chosen {
    /// By the user.
    Given,
    /// By the weights alone: their `cosine`.
    ByWeights(&'static str),
    /// By what was found on prompts.
    On {
        /// How many.
        prompts: usize,
        /// By what: `mean activation before the answer`.
        by: &'static str,
        /// Whether the effect was measured on others.
        apart: bool,
    },
}

/// A claim on losses, with what its mean is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct LossClaim {
    /// The claim.
    pub claim: Claim,
    /// What each trial did.
    pub effects: Vec<Effect>,
}

impl LossClaim {
    /// The loss increase of each trial, nats.
    ///
    /// # Errors
    /// As [`Effect::loss_increase`].
    pub fn increases(&self) -> Result<Vec<f64>> {
        self.effects.iter().map(Effect::loss_increase).collect()
    }
}

/// What each list of trials does to the loss on average, beside the controls of each trial if `matched` is there to draw
/// them; all claims are one list of tests.
///
/// # Errors
/// As [`effects`].
pub fn loss_claims(
    model: &Model,
    prompts: &Prompts,
    lists: &[(About, Vec<Trial>)],
    matched: Option<&Matched>,
    watch: &Watch,
) -> Result<Vec<LossClaim>> {
    // Of each list: its own trials, those along random rows, those of random directions.
    let with_controls: Vec<[Vec<Trial>; 3]> = lists.iter().map(|(_, trials)| with_controls(trials, matched)).collect();
    let all: Vec<Trial> = with_controls.iter().flatten().flatten().cloned().collect();
    let mut effects = effects(model, prompts, &all, watch)?.into_iter();
    let estimate = |trials: &[Trial], effects: &[Effect]| -> Result<Estimate> {
        let prompts = trials.iter().map(|trial| trial.prompt);
        let increases = effects.iter().map(Effect::loss_increase).collect::<Result<Vec<_>>>()?;
        Ok(Estimate::clustered(&prompts.zip(increases).collect::<Vec<_>>()))
    };
    let (mut estimates, mut made) = (Vec::new(), Vec::new());
    for ((about, trials), with_controls) in lists.iter().zip(&with_controls) {
        let [own, rows, directions] =
            with_controls.each_ref().map(|trials| effects.by_ref().take(trials.len()).collect::<Vec<Effect>>());
        let control = |effects: &[Effect]| (!effects.is_empty()).then(|| estimate(trials, effects)).transpose();
        let controls = Controls { rows: control(&rows)?, directions: control(&directions)? };
        estimates.push((*about, estimate(trials, &own)?, controls));
        made.push(own);
    }
    let of = |(claim, effects)| LossClaim { claim, effects };
    Ok(Claim::list(estimates).into_iter().zip(made).map(of).collect())
}

/// Trials that make one change, as they are, along random rows, and of the random directions that `matched` draws; the controls of
/// a change are there for all trials or for none.
pub(crate) fn with_controls<'a>(trials: &[Trial<'a>], matched: Option<&Matched>) -> [Vec<Trial<'a>>; 3] {
    let (mut rows, mut directions) = (Vec::new(), Vec::new());
    for [row, direction] in trials.iter().map(|trial| trial.controls(matched)) {
        rows.extend(row);
        directions.extend(direction);
    }
    [trials.to_vec(), rows, directions]
}

impl Claim {
    /// What it says and how, for captions.
    pub fn sentence(&self) -> String {
        let About { chosen, change, measure, unit, over } = &self.about;
        let controls = match self.controls.sentence() {
            "" => String::new(),
            controls => format!("; {controls}"),
        };
        let chosen = match chosen {
            Chosen::Given => "chosen by the user".into(),
            Chosen::ByWeights(by) => format!("chosen by {by}"),
            Chosen::On { prompts, by, apart: true } => format!("chosen by {by} on {prompts} other prompts"),
            Chosen::On { prompts, by, .. } => format!("chosen by {by} on {prompts} prompts, these among them"),
        };
        format!(
            "Directions {chosen}, {change}; mean {} in {unit} over n {over}, with standard error and half width of the 95 % interval (clustered by prompt), p by Student's t and q, its false-discovery rate in this list (Benjamini–Hochberg){controls}.",
            measure.replace('_', " ")
        )
    }

    /// Claims of one list.
    pub fn list(found: impl IntoIterator<Item = (About, Estimate, Controls)>) -> Vec<Claim> {
        let found: Vec<_> = found.into_iter().collect();
        let p: Vec<f64> = found.iter().map(|(_, estimate, _)| estimate.p()).collect();
        let claim = |((about, estimate, controls), q)| Claim { about, estimate, controls, q };
        found.into_iter().zip(false_discovery_rates(&p)).map(claim).collect()
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.estimate.mean
    }

    /// Whether the 95 % interval excludes zero.
    pub fn excludes_zero(&self) -> bool {
        self.estimate.low() * self.estimate.high() > 0.0
    }

    /// The same in words.
    pub fn verdict(&self) -> &'static str {
        if self.estimate.half_width.is_nan() {
            "one prompt gives no interval"
        } else if self.excludes_zero() {
            "the 95 % interval excludes zero"
        } else {
            "the 95 % interval includes zero, so this may be chance"
        }
    }

    /// Whether the 95 % interval excludes zero and meets that of no control.
    pub fn is_beyond_controls(&self) -> bool {
        let apart = |control: Estimate| {
            // A control without interval is a number.
            let half_width = if control.half_width.is_nan() { 0.0 } else { control.half_width };
            control.mean + half_width < self.estimate.low() || control.mean - half_width > self.estimate.high()
        };
        self.excludes_zero() && self.controls.named().all(|(_, _, control)| apart(control))
    }

    /// Its columns in order; the mean's has no name.
    fn columns(&self) -> Vec<(&'static str, Value)> {
        let Estimate { n, mean, se, half_width, clusters, .. } = self.estimate;
        let mut columns = vec![("n", n.into())];
        if clusters < n {
            columns.push(("prompts", clusters.into()));
        }
        let numbers = [("", mean), ("se", se), ("half_width", half_width), ("p", self.estimate.p()), ("q", self.q)];
        columns.extend(numbers.map(|(name, number)| (name, number.into())));
        for (name, half_width, control) in self.controls.named() {
            columns.extend([(name, control.mean.into()), (half_width, control.half_width.into())]);
        }
        columns
    }
}

impl Serialize for Claim {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.columns() {
            map.serialize_entry(if name.is_empty() { self.about.measure } else { name }, &value)?;
        }
        map.end()
    }
}

/// The columns of a claim in a row that has other means: all but `n` begin with the measure's name.
pub(crate) fn named<S: Serializer>(claim: &Claim, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in claim.columns() {
        let measure = claim.about.measure;
        match name {
            "n" => map.serialize_entry(name, &value)?,
            "" => map.serialize_entry(measure, &value)?,
            name => map.serialize_entry(&format!("{measure}_{name}"), &value)?,
        }
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    const ABOUT: About = About {
        chosen: Chosen::On { prompts: 200, by: "mean activation before the answer", apart: true },
        change: "ablated alone before the answer",
        measure: "loss_increase",
        unit: "nats",
        over: "prompts",
    };

    #[test]
    fn claims_of_a_list_share_its_false_discovery_rate() {
        let sure = Estimate::of([1.0, 1.1, 0.9, 1.0, 1.05]);
        let unsure = Estimate::of([1.0, -1.0, 0.5]);
        let controls = Controls { rows: Some(sure), directions: None };
        let claims = Claim::list([(ABOUT, sure, Controls::default()), (ABOUT, unsure, controls)]);
        assert_eq!((claims[0].q, claims[1].q), (2.0 * sure.p(), unsure.p()));
        assert!(claims[0].excludes_zero() && !claims[1].excludes_zero());
        assert!(claims[1].verdict().contains("chance"));
        assert!(Claim::list([(ABOUT, Estimate::of([1.0]), Controls::default())])[0].verdict().contains("no interval"));
        assert!(
            claims[0]
                .sentence()
                .starts_with("Directions chosen by mean activation before the answer on 200 other prompts, abl")
        );
        assert!(!claims[0].sentence().contains("random") && claims[1].sentence().contains("; random rows: "));
    }

    #[test]
    fn an_effect_is_beyond_its_controls_if_no_interval_meets() {
        let wide = |mean: f64| Estimate::of([mean - 0.1, mean, mean + 0.1]);
        let beyond = |effect, rows, directions| {
            let controls = Controls { rows: Some(rows), directions };
            Claim::list([(ABOUT, effect, controls)])[0].is_beyond_controls()
        };
        assert!(beyond(wide(1.0), wide(0.0), None) && beyond(wide(-1.0), wide(0.0), Some(wide(0.2))));
        assert!(beyond(wide(1.0), Estimate::of([0.0]), None));
        assert!(!beyond(wide(1.0), wide(0.8), None) && !beyond(wide(1.0), wide(0.0), Some(wide(1.2))));
        assert!(!beyond(wide(0.1), wide(5.0), None), "it may be zero");
    }

    #[test]
    fn a_claim_is_columns_of_its_row() {
        #[derive(Serialize)]
        struct Alone {
            direction: usize,
            #[serde(flatten)]
            claim: Claim,
        }
        #[derive(Serialize)]
        struct Beside {
            direction: usize,
            #[serde(flatten, serialize_with = "named")]
            claim: Claim,
        }
        let names = |table: Table| table.columns.into_iter().map(|column| column.name).collect::<Vec<_>>();
        let estimate = Estimate::clustered(&[(0, 1.0), (0, 2.0), (1, 3.0)]);
        let controls = Controls { rows: Some(estimate), directions: Some(estimate) };
        let claim = Claim::list([(ABOUT, estimate, controls)]).remove(0);
        let alone = names(Table::from_rows("t", "", &[Alone { direction: 1, claim }]));
        let expected = [
            "direction",
            "n",
            "prompts",
            "loss increase",
            "se",
            "half width",
            "p",
            "q",
            "random rows",
            "random rows half width",
            "random directions",
            "random directions half width",
        ];
        assert_eq!(alone, expected);
        let claim = Claim::list([(ABOUT, Estimate::of([1.0, 2.0]), Controls::default())]).remove(0);
        let beside = names(Table::from_rows("t", "", &[Beside { direction: 1, claim }]));
        assert_eq!(beside[..5], ["direction", "n", "loss increase", "loss increase se", "loss increase half width"]);
    }
}
