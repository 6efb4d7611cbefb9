//! Ablation by encoding beside ablation by subtraction.

use directrix_circuits::{About, Change, Chosen, Claim, Estimate, LossClaim, Trial, loss_claims};
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, check_range, count, figure, interval, leading, list, table, within};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Result, Shape};

options! {
    /// Directions set to a value in the reconstruction, beside the same at the site itself.
    EncodedAblation {
        /// Prompts.
        prompts: usize = 100 => 1.0..,
        /// Directions, those chosen first.
        directions: usize = 20 => 1.0..,
        /// What their activations are set to.
        value: f32 = 0.0,
    }
}

impl SectionKind for EncodedAblation {
    const KIND: &str = "encoded_ablation";
    const TITLE: &str = "Subtracting a direction, and encoding without it";
    const BY_DEFAULT: bool = false;

    fn check(&self, _opened: &Opened, _sae: &Sae) -> Result<(), String> {
        check_range("value", self.value as f64, -1e30..=1e30)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let sets = self.sets(found);
        let (whole, rows) = self.rows(found, &sets)?;
        let singles: Vec<&SetRow> = rows.iter().filter(|row| row.set.len() == 1).collect();
        let prose = vec![
            reconstruction(found.sae().short_name(), &whole),
            self.compared(&rows),
            "Subtracting leaves what the SAE does not explain as it is; encoding replaces the site by what the SAE makes of it, so that its effect is told beside the reconstruction’s own.".into(),
        ];
        let links = singles.iter().map(|row| found.anchor(row.set[0])).collect();
        let names =
            [format!("set to {} at the site", self.value), format!("set to {} in the reconstruction", self.value)];
        let scatter = figure(
            "encoded-ablation",
            "The same directions, at the site and in the reconstruction",
            ("loss increase at the site, nats", "loss increase in the reconstruction, nats"),
            &format!(
                "One point for each direction, {} and {}, there beside the reconstruction with it as it is; means over the same {}.",
                names[0],
                names[1],
                count(whole.claim.estimate.n, "prompt")
            ),
            Shape::Scatter {
                x: singles.iter().map(|row| row.at_site.mean()).collect(),
                y: singles.iter().map(|row| row.beside.mean).collect(),
                hover: singles.iter().map(|row| row.set[0].to_string()).collect(),
            },
        );
        Ok(Body { prose, blocks: vec![leading(scatter, links), self.table(&whole, &rows)] })
    }
}

/// A set of directions, and what setting them does in both ways.
struct SetRow {
    set: Vec<u32>,
    at_site: Claim,
    encoded: Claim,
    /// Beside the reconstruction with them as they are, prompt by prompt.
    beside: Estimate,
}

#[derive(Serialize)]
struct Row {
    directions: String,
    change: String,
    #[serde(flatten)]
    loss_increase: Claim,
    beside_the_reconstruction: f64,
    beside_the_reconstruction_half_width: f64,
}

impl EncodedAblation {
    /// Each direction alone, and the top ones together.
    fn sets(&self, found: &Findings) -> Vec<Vec<u32>> {
        let mut alone: Vec<u32> = found.top.clone();
        alone.extend(found.selection.singles.iter().map(|row| row.direction as u32).filter(|d| !found.top.contains(d)));
        alone.truncate(self.directions.max(found.top.len()));
        let together = Some(found.top.clone()).filter(|top| top.len() > 1);
        together.into_iter().chain(alone.into_iter().map(|direction| vec![direction])).collect()
    }

    fn rows(&self, found: &Findings, sets: &[Vec<u32>]) -> Result<(LossClaim, Vec<SetRow>)> {
        let (sae, prompts, to) = (found.sae(), found.behaviour_prompts(self.prompts), self.value);
        let list = |chosen, change, by: Change| {
            let trial = |prompt| Trial::answer(sae, &prompts, prompt, by.clone());
            let about = About { chosen, change, measure: "loss_increase", unit: "nats", over: "prompts" };
            Ok::<_, crate::Error>((about, (0..prompts.len()).map(trial).collect::<Result<Vec<_>, _>>()?))
        };
        let mut lists = vec![list(
            Chosen::Given,
            "the site replaced by its reconstruction",
            Change::Reconstruct { without: Vec::new() },
        )?];
        for set in sets {
            let at_site =
                if to == 0.0 { Change::Ablate(set.clone()) } else { Change::Set { directions: set.clone(), to } };
            let encoded = Change::ReconstructSet { directions: set.clone(), to };
            lists.push(list(found.top_chosen(), "set at the site before the answer", at_site)?);
            lists.push(list(found.top_chosen(), "set in the reconstruction before the answer", encoded)?);
        }
        let mut claims =
            loss_claims(&found.opened.model, &prompts, &lists, Some(&found.matched), found.watch)?.into_iter();
        let whole = claims.next().expect("the first list is of the reconstruction");
        let base = whole.increases()?;
        let mut rows = Vec::new();
        for set in sets {
            let [at_site, encoded] = [(); 2].map(|()| claims.next().expect("there are two lists of each set"));
            let beside = encoded.increases()?.into_iter().zip(&base).map(|(with, without)| with - without);
            let beside = Estimate::of(beside);
            rows.push(SetRow { set: set.clone(), at_site: at_site.claim, encoded: encoded.claim, beside });
        }
        Ok((whole, rows))
    }

    fn table(&self, whole: &LossClaim, rows: &[SetRow]) -> Block {
        let mut listed = vec![Row {
            directions: "none".into(),
            change: "reconstruction".into(),
            loss_increase: whole.claim,
            beside_the_reconstruction: 0.0,
            beside_the_reconstruction_half_width: f64::NAN,
        }];
        let at_site =
            if self.value == 0.0 { "subtracted".into() } else { format!("set to {} at the site", self.value) };
        for SetRow { set, at_site: claim, encoded, beside } in rows {
            let row = |change: String, loss_increase, [mean, half_width]: [f64; 2]| Row {
                directions: list(set),
                change,
                loss_increase,
                beside_the_reconstruction: mean,
                beside_the_reconstruction_half_width: half_width,
            };
            listed.push(row(at_site.clone(), *claim, [f64::NAN; 2]));
            let change = format!("reconstruction with them at {}", self.value);
            listed.push(row(change, *encoded, [beside.mean, beside.half_width]));
        }
        table(
            "encoded-ablation",
            "Increase of the answer's loss in nats against the unchanged model, mean over n prompts with standard error and half width of the 95 % interval, p and q, its false-discovery rate in this list, and its controls: as much along random rows, and random directions of matched density set in the same way. Beside the reconstruction: the increase over that of the reconstruction alone, prompt by prompt.",
            &listed,
        )
    }

    /// Whether both ways agree.
    fn compared(&self, rows: &[SetRow]) -> String {
        let sign = |estimate: &Estimate| {
            if estimate.low() > 0.0 {
                1
            } else if estimate.high() < 0.0 {
                -1
            } else {
                0
            }
        };
        let signs: Vec<[i32; 2]> = rows.iter().map(|row| [sign(&row.at_site.estimate), sign(&row.beside)]).collect();
        let same = signs.iter().filter(|[one, other]| one == other).count();
        let against = signs.iter().filter(|[one, other]| one * other < 0).count();
        let largest = rows.iter().max_by(|a, b| {
            let apart = |row: &SetRow| (row.at_site.mean() - row.beside.mean).abs();
            apart(a).total_cmp(&apart(b))
        });
        let largest = largest.map_or_else(String::new, |row| {
            let (mean, half_width) = interval(&row.at_site.estimate);
            format!(
                " They are farthest apart for {}: {mean:+.3}{} nats at the site, {:+.3}{} in the reconstruction.",
                list(&row.set),
                within(half_width, 3),
                row.beside.mean,
                within(row.beside.half_width, 3)
            )
        });
        format!(
            "With directions set to {}, both ways say the same of {same} of {} (that the loss rises, falls, or may not change, by the 95 % interval), and the opposite of {against}.{largest}",
            self.value,
            if rows.len() == 1 { "1 set".into() } else { format!("{} sets of them", rows.len()) },
        )
    }
}

/// What the SAE costs by itself.
fn reconstruction(sae: &str, whole: &LossClaim) -> String {
    let (mean, half_width) = interval(&whole.claim.estimate);
    format!(
        "Replacing the site by the reconstruction of {sae} before the answer changes its loss by {mean:+.3}{} nats over {}: {}.",
        within(half_width, 3),
        count(whole.claim.estimate.n, "prompt"),
        whole.claim.verdict()
    )
}
