//! Edges from the first SAE to the last over all pairs of directions: ranked, verified, and the rankings compared.

use directrix_circuits::edges::{
    Agreement, AgreementRow, Between, Compared, Measure, Sample, VerifiedEdge, Verify, check_path,
};
use directrix_lab::Opened;
use directrix_sae::Sae;

use super::{Body, SectionKind, check_written, figure, table};
use crate::findings::Findings;
use crate::report::Block;
use crate::{Band, Result, Shape};

options! {
    /// Edges over whole dictionaries.
    Edges {
        /// Edges that are verified, strongest by causal effect first.
        top: usize = 1000 => 1.0..,
        /// Prompts of each direction on which edges are ranked, at most.
        sample_prompts: usize = 16 => 1.0..,
        /// Prompts in which both directions must fire for an edge to be ranked.
        least_prompts: usize = 4 => 2.0..,
        /// Prompts of each edge on which it is verified, at most.
        verify_prompts: usize = 24 => 2.0..,
        /// False-discovery rate up to which an edge is verified.
        rate: f64 = 0.05 => 0.0..=1.0,
    }
}

/// Points of a scatter plot, at most.
const POINTS: usize = 2000;
/// Bars of edges.
const BARS: usize = 30;

impl SectionKind for Edges {
    const KIND: &str = "edges";
    const TITLE: &str = "Edges over whole dictionaries";
    const SAES: usize = 2;
    const BY_DEFAULT: bool = false;

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        let (first, last) = (&opened.saes[0], &opened.saes[opened.saes.len() - 1]);
        check_path(&opened.model, first, last).map_err(|e| e.to_string())?;
        check_written(opened, first)?;
        last.check_readable(&opened.model).map_err(|e| e.to_string())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let last = found.opened.saes.len() - 1;
        let saes = [&found.opened.saes[0], &found.opened.saes[last]];
        let parts = [found.index.sae(0), found.index.sae(last)];
        let between = Between::new(&found.opened.model, saes, found.index, parts)?;
        let sample = Sample { prompts: self.sample_prompts, least: self.least_prompts };
        let verify = Verify { prompts: self.verify_prompts, rate: self.rate };
        let agreement = between.agreement(sample, verify, found.watch)?;
        let strongest: Vec<_> = agreement.best(Measure::Causal).iter().take(self.top).copied().collect();
        let verified = between.verify(&strongest, verify, found.watch)?;

        let pairs = (saes[0].directions(), saes[1].directions());
        let prose = vec![counted(&agreement, &verified, pairs, self.rate), compared(&agreement.rows)];
        let names: Vec<String> = agreement.rows.iter().map(|row| row.measure.replace('-', " ")).collect();
        let whole = |low: f64, high: f64| (high - low) / 2.0;
        let correlations = agreement.rows.iter().map(|row| (row.rank_correlation, whole(row.low, row.high)));
        let others = names.len() - 1;
        let shares = agreement.rows.iter().map(|row| (row.verified_of_100, whole(row.verified_low, row.verified_high)));
        let blocks = vec![
            figure(
                "edges-verified",
                "The strongest edges, on prompts that did not choose them",
                ("edge", "change of activation when the first is ablated"),
                "Change of the second direction's activation, summed over a prompt, mean over the prompts in which both fire; bars are 95 % intervals by bootstrap over prompts, shades those of the controls.",
                edge_bars(&verified),
            ),
            table("edges", VerifiedEdge::SENTENCE, &verified),
            figure(
                "edges-agreement",
                "Rank correlation with the causal effect",
                ("measure", "Spearman's correlation"),
                "Spearman's correlation of each measure's strength with the size of the causal effect, over a random sample of the pairs that have one; 95 % intervals by bootstrap over first directions.",
                Shape::bars(names[..others].to_vec(), correlations.take(others)),
            ),
            figure(
                "edges-verified-share",
                "How many of the best hundred are verified",
                ("measure", "share verified"),
                "Of the hundred strongest edges by each measure, the share that is verified by ablation on other prompts; 95 % intervals for a share.",
                Shape::bars(names, shares),
            ),
            scatter(&agreement.compared, Measure::Attribution, "edges-attribution", "attribution"),
            scatter(&agreement.compared, Measure::Cosine, "edges-cosine", "cosine"),
            table("edges-agreement", &AgreementRow::sentence(agreement.pairs), &agreement.rows),
            table("edges-best-of-each", VerifiedEdge::SENTENCE, &agreement.verified),
        ];
        Ok(Body { prose, blocks })
    }
}

fn edge_bars(verified: &[VerifiedEdge]) -> Shape {
    let shown = &verified[..BARS.min(verified.len())];
    let labels = shown.iter().map(|row| format!("{} → {}", row.ranked.edge.first, row.ranked.edge.second));
    let band = |name: &str, ends: fn(&VerifiedEdge) -> [f64; 2]| Band {
        name: name.into(),
        low: shown.iter().map(|row| ends(row)[0]).collect(),
        high: shown.iter().map(|row| ends(row)[1]).collect(),
    };
    let bands = vec![
        band("random rows, 95 %", |row| [row.random_rows_low, row.random_rows_high]),
        band("random directions, 95 %", |row| [row.random_directions_low, row.random_directions_high]),
    ];
    Shape::bars(labels.collect(), shown.iter().map(|row| (row.change, (row.high - row.low) / 2.0))).with_bands(bands)
}

fn scatter(compared: &[Compared], measure: Measure, name: &str, label: &str) -> Block {
    let step = compared.len().div_ceil(POINTS).max(1);
    let shown: Vec<&Compared> = compared.iter().filter(|pair| !pair.of(measure).is_nan()).step_by(step).collect();
    let hover = shown.iter().map(|pair| format!("{} → {}", pair.edge.first, pair.edge.second)).collect();
    let shape = Shape::Scatter {
        x: shown.iter().map(|pair| pair.of(measure)).collect(),
        y: shown.iter().map(|pair| pair.of(Measure::Causal)).collect(),
        hover,
    };
    let caption = format!(
        "Pairs drawn at random from those that have a causal effect; horizontal: {}; vertical: {}.",
        measure.sentence(),
        Measure::Causal.sentence()
    );
    figure(name, &format!("Causal effect by {label}"), (label, "change of activation"), &caption, shape)
}

/// How many edges there are and are verified.
fn counted(agreement: &Agreement, verified: &[VerifiedEdge], pairs: (usize, usize), rate: f64) -> String {
    let hits = verified.iter().filter(|row| row.verified).count();
    let falls = verified.iter().filter(|row| row.verified && row.change < 0.0).count();
    format!(
        "Of the {} × {} pairs of directions, {} fire in enough prompts together to have a causal effect measured. Of the {} strongest, {hits} are verified on prompts that did not rank them, at a false-discovery rate of {:.0} % and beyond both controls: in {falls} the second direction needs the first, in {} the first holds it down.",
        pairs.0,
        pairs.1,
        agreement.pairs,
        verified.len(),
        100.0 * rate,
        hits - falls
    )
}

/// Which measure tells most of the causal effect, and which least.
fn compared(rows: &[AgreementRow]) -> String {
    let others = &rows[..rows.len() - 1];
    let by = |a: &&AgreementRow, b: &&AgreementRow| a.rank_correlation.total_cmp(&b.rank_correlation);
    let said = |row: &AgreementRow| {
        format!(
            "{} ({:.2}, 95 % interval {:.2} to {:.2}; {:.0} of its best hundred are verified)",
            row.measure.replace('-', " "),
            row.rank_correlation,
            row.low,
            row.high,
            100.0 * row.verified_of_100
        )
    };
    let known = || others.iter().filter(|row| !row.rank_correlation.is_nan());
    let (Some(most), Some(least)) = (known().max_by(by), known().min_by(by)) else {
        return "Too few pairs fire together to compare the measures.".into();
    };
    format!(
        "Over pairs that fire together, the size of the causal effect correlates in rank most with {} and least with {}.",
        said(most),
        said(least)
    )
}
