//! Edges between the directions of SAEs.

use directrix_circuits as circuits;
use directrix_circuits::edges::{
    AgreementRow, Between, Edge, Measure, Path, Ranked, Sample, VerifiedEdge, Verify, Weights, check_path,
};
use directrix_corpus::Watch;
use directrix_index::SaeIndex;
use directrix_lab::probe;
use directrix_sae as sae;
use pyo3::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::{fitted, flags, part};
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::sae::Sae;
use crate::table::Table;
use crate::team::{Shard, watch_of};
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(edges, module)?)?;
    module.add_function(wrap_pyfunction!(verify_edges, module)?)?;
    module.add_function(wrap_pyfunction!(edge_agreement, module)?)
}

/// An edge with the SAEs it is between.
#[derive(Serialize)]
struct OfSaes<'a, T: Serialize> {
    from: &'a str,
    to: &'a str,
    #[serde(flatten)]
    edge: T,
}

/// SAEs with the parts that an index has of them, and how edges between them are ranked.
struct Ranks<'a> {
    model: &'a Model,
    saes: &'a [sae::Sae],
    /// By SAE; none without an index.
    parts: Vec<Option<&'a SaeIndex>>,
    index: Option<&'a Index>,
    by: Measure,
    path: Path,
    steps: usize,
    sample: Sample,
}

impl<'a> Ranks<'a> {
    fn new(
        model: &'a Model,
        saes: &'a [sae::Sae],
        index: Option<&'a Index>,
        by: &str,
        head: Option<(usize, usize)>,
        steps: usize,
        sample: Sample,
    ) -> Result<Ranks<'a>> {
        let by = Measure::ALL.into_iter().find(|measure| measure.name() == by.replace('_', "-")).ok_or_else(|| {
            Failure::argument(format!("`{by}` is not known; there are {}", Measure::ALL.map(Measure::name).join(", ")))
        })?;
        let of_weights = matches!(by, Measure::Cosine | Measure::VirtualWeight);
        if head.is_some() && !of_weights {
            return Err(Failure::argument("a head is for edges by cosine and virtual-weight"));
        }
        if index.is_none() && !of_weights {
            return Err(Failure::argument(format!(
                "edges by {} are found in an index of the SAEs; give one",
                by.name()
            )));
        }
        if !(1..=1000).contains(&steps) {
            return Err(Failure::argument(format!("`steps` is {steps}; give 1 to 1000")));
        }
        let parts = saes
            .iter()
            .map(|sae| index.map(|index| part(index, model, sae, None)).transpose())
            .collect::<Result<_>>()?;
        let path = head.map_or(Path::Residual, |(layer, head)| Path::Head { layer, head });
        Ok(Ranks { model, saes, parts, index, by, path, steps, sample })
    }

    /// The pairs of SAEs of which the first reaches the second.
    fn pairs(&self) -> Result<Vec<[usize; 2]>> {
        let n = self.saes.len();
        let all = (0..n).flat_map(|one| (0..n).map(move |two| [one, two])).filter(|[one, two]| one != two);
        let path = |[one, two]: [usize; 2]| check_path(&self.model.model, &self.saes[one], &self.saes[two]);
        let pairs: Vec<[usize; 2]> = all.filter(|pair| path(*pair).is_ok()).collect();
        match (n, pairs.is_empty()) {
            (0 | 1, _) => Err(Failure::argument(format!("edges are between two SAEs or more, and there is {n}"))),
            (_, true) => path([0, 1]).map(|()| pairs).map_err(Into::into),
            _ => Ok(pairs),
        }
    }

    fn between(&self, [one, two]: [usize; 2]) -> Result<Between<'a>> {
        let (Some(index), Some(of_one), Some(of_two)) = (self.index, self.parts[one], self.parts[two]) else {
            return Err(Failure::argument("give an index of the SAEs"));
        };
        Ok(Between::new(&self.model.model, [&self.saes[one], &self.saes[two]], &index.index, [of_one, of_two])?)
    }

    /// The strongest edges between two SAEs.
    fn rank(&self, pair: [usize; 2], top: usize, watch: &Watch) -> Result<Vec<Ranked>> {
        let saes = pair.map(|sae| &self.saes[sae]);
        if matches!(self.by, Measure::Cosine | Measure::VirtualWeight) {
            return Ok(Weights::new(&self.model.model, saes, self.path, self.by)?.strongest(top, watch)?);
        }
        let sample = self.sample;
        let found = self.between(pair)?.strongest(self.by, self.steps, sample, top, watch)?;
        if found.is_empty() {
            return Err(Failure::argument(format!(
                "no two directions fire in the same {} prompts or more; index more prompts, or lower `least_prompts`",
                sample.least
            )));
        }
        Ok(found)
    }

    /// The strongest edges between all SAEs.
    fn strongest(&self, top: usize, watch: &Watch) -> Result<Vec<([usize; 2], Ranked)>> {
        let mut all = Vec::new();
        for pair in self.pairs()? {
            all.extend(self.rank(pair, top, watch)?.into_iter().map(|ranked| (pair, ranked)));
        }
        all.sort_by(|(_, a), (_, b)| strength(b).total_cmp(&strength(a)));
        all.truncate(top);
        Ok(all)
    }

    /// What determines a ranking.
    fn about(&self, top: usize) -> Result<Value> {
        let head = match self.path {
            Path::Head { layer, head } => Some([layer, head]),
            Path::Residual => None,
        };
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "bits": probe(&self.model.model, self.saes)?,
            "saes": self.saes.iter().map(sae::Sae::short_name).collect::<Vec<_>>(),
            "index": self.index.map(Index::said),
            "by": self.by.name(),
            "top": top,
            "head": head,
            "steps": self.steps,
            "sample": [self.sample.prompts, self.sample.least],
        }))
    }

    fn of_saes<T: Serialize>(&self, [one, two]: [usize; 2], edge: T) -> OfSaes<'a, T> {
        OfSaes { from: self.saes[one].short_name(), to: self.saes[two].short_name(), edge }
    }
}

fn strength(ranked: &Ranked) -> f64 {
    ranked.measure.strength(ranked.value)
}

/// Which prompts of an index edges are ranked on.
pub(super) fn sample(prompts: usize, least: usize) -> Result<Sample> {
    if prompts == 0 || least < 2 {
        return Err(Failure::argument("give one or more `sample_prompts`, and two or more `least_prompts`"));
    }
    Ok(Sample { prompts, least })
}

fn how(prompts: usize, rate: f64) -> Result<Verify> {
    if prompts < 2 || !(0.0..=1.0).contains(&rate) {
        return Err(Failure::argument("give two or more `verify_prompts`, and a `rate` from 0 to 1"));
    }
    Ok(Verify { prompts, rate })
}

#[pyfunction]
#[pyo3(signature = (model, saes, index, by, top, head, steps, sample_prompts, least_prompts))]
fn edges(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    index: Option<&Index>,
    by: &str,
    top: usize,
    head: Option<(usize, usize)>,
    steps: usize,
    sample_prompts: usize,
    least_prompts: usize,
) -> Result<Table> {
    let saes = fitted(model, &saes)?;
    let ranks = Ranks::new(model, &saes, index, by, head, steps, sample(sample_prompts, least_prompts)?)?;
    let found = watched(py, |watch| ranks.strongest(top, watch))?;
    let rows: Vec<_> = found.into_iter().map(|(pair, ranked)| ranks.of_saes(pair, ranked)).collect();
    let caption = format!("The strongest edges by {}", ranks.by.sentence());
    Ok(Table::of("edges", &caption, &rows))
}

/// An edge as it is given: numbers of two SAEs, of two directions, and its value.
type Given = (usize, usize, usize, usize, f64);

/// Of the edges that are given, or of the strongest. A shard does its part of it, and gives nothing where others have not done
/// theirs.
#[pyfunction]
#[pyo3(signature = (model, saes, index, given, by, top, head, steps, sample_prompts, least_prompts, verify_prompts, rate, shard = None))]
fn verify_edges(
    py: Python,
    model: &Model,
    saes: Vec<PyRef<Sae>>,
    index: &Index,
    given: Option<Vec<Given>>,
    by: &str,
    top: usize,
    head: Option<(usize, usize)>,
    steps: usize,
    sample_prompts: usize,
    least_prompts: usize,
    verify_prompts: usize,
    rate: f64,
    shard: Option<Shard>,
) -> Result<Option<Table>> {
    let saes = fitted(model, &saes)?;
    let ranks = Ranks::new(model, &saes, Some(index), by, head, steps, sample(sample_prompts, least_prompts)?)?;
    let how = how(verify_prompts, rate)?;
    for &(one, two, first, second, _) in given.iter().flatten() {
        if one.max(two) >= saes.len() {
            return Err(Failure::argument(format!("there is no SAE {}; there are {}", one.max(two), saes.len())));
        }
        saes[one].check(first)?;
        saes[two].check(second)?;
    }
    let made = watched(py, |watch| {
        let about = || {
            let (ranks, how) = (ranks.about(top)?, [how.prompts as f64, how.rate]);
            Ok(json!({ "ranks": ranks, "given": about_given(given.as_deref()), "how": how }))
        };
        let watch = &watch_of(shard, watch, about)?;
        let ranked = match given {
            None => ranks.strongest(top, watch)?,
            Some(given) => {
                let of = |(one, two, first, second, value)| {
                    let edge = Edge { first, second };
                    ([one, two], Ranked { edge, measure: ranks.by, value, n: None, half_width: None })
                };
                given.into_iter().map(of).collect()
            }
        };
        let mut pairs: Vec<[usize; 2]> = ranked.iter().map(|(pair, _)| *pair).collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut rows: Vec<OfSaes<VerifiedEdge>> = Vec::new();
        for pair in pairs {
            let own: Vec<Ranked> = ranked.iter().filter(|(of, _)| *of == pair).map(|(_, edge)| *edge).collect();
            let verified = ranks.between(pair)?.verify(&own, how, watch)?;
            rows.extend(verified.into_iter().map(|edge| ranks.of_saes(pair, edge)));
        }
        VerifiedEdge::as_one_list(rows.iter_mut().map(|row| &mut row.edge), how.rate);
        // Those without a value stay as they came.
        let by =
            |row: &OfSaes<VerifiedEdge>| if row.edge.ranked.value.is_nan() { 0.0 } else { strength(&row.edge.ranked) };
        rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
        Ok::<_, Failure>(rows)
    });
    let rows = match made {
        Err(Failure::Waits(_)) => return Ok(None),
        made => made?,
    };
    let has_value = rows.iter().any(|row| !row.edge.ranked.value.is_nan());
    let without = if has_value { None } else { Some(ranks.by.name().replace('-', " ")) };
    let mut table = flags(circuits::Table::from_rows("verified-edges", VerifiedEdge::SENTENCE, &rows), &["verified"]);
    table.columns.retain(|column| Some(&column.name) != without.as_ref());
    Ok(Some(Table::new(table)))
}

/// The edges that are given, as what determines a work has them.
fn about_given(given: Option<&[Given]>) -> Value {
    given.map_or(Value::Null, |given| json!({ "edges": given.len(), "of": given }))
}

#[derive(Serialize)]
struct BestEdge {
    measure: &'static str,
    #[serde(flatten)]
    edge: Edge,
    value: f64,
    n: Option<usize>,
    half_width: Option<f64>,
}

#[derive(Serialize)]
struct ComparedPair {
    #[serde(flatten)]
    edge: Edge,
    cosine: f64,
    virtual_weight: f64,
    mutual_information: f64,
    conditional: f64,
    correlation: f64,
    attribution: f64,
    frozen_attribution: f64,
    causal: f64,
}

/// A verified edge, with the measure that ranked it in a column.
#[derive(Serialize)]
struct OfMeasure {
    measure: &'static str,
    #[serde(flatten)]
    edge: Edge,
    value: f64,
    prompts: usize,
    verified: bool,
    change: f64,
    low: f64,
    high: f64,
    activation: f64,
    random_rows: f64,
    random_directions: f64,
    loss_increase: f64,
    p: f64,
    q: f64,
}

/// How far measures agree, the best edges of each, the best hundred of each verified, and the pairs that were compared one by one.
#[pyfunction]
fn edge_agreement(
    py: Python,
    model: &Model,
    first: PyRef<Sae>,
    second: PyRef<Sae>,
    index: &Index,
    sample_prompts: usize,
    least_prompts: usize,
    verify_prompts: usize,
    rate: f64,
) -> Result<(Table, Table, Table, Table)> {
    let saes = fitted(model, &[first, second])?;
    let sample = sample(sample_prompts, least_prompts)?;
    let (ranks, how) = (Ranks::new(model, &saes, Some(index), "causal", None, 1, sample)?, how(verify_prompts, rate)?);
    let between = ranks.between([0, 1])?;
    let found = watched(py, |watch| between.agreement(sample, how, watch))?;
    let measures: Vec<Measure> =
        Measure::ALL.into_iter().filter(|measure| *measure != Measure::IntegratedAttribution).collect();
    let best = |&measure: &Measure| {
        found.best(measure).iter().map(move |of| BestEdge {
            measure: measure.name(),
            edge: of.edge,
            value: of.value,
            n: of.n,
            half_width: of.half_width,
        })
    };
    let best: Vec<BestEdge> = measures.iter().flat_map(best).collect();
    let of_measure = |of: &VerifiedEdge| OfMeasure {
        measure: of.ranked.measure.name(),
        edge: of.ranked.edge,
        value: of.ranked.value,
        prompts: of.prompts,
        verified: of.verified,
        change: of.change,
        low: of.low,
        high: of.high,
        activation: of.activation,
        random_rows: of.random_rows,
        random_directions: of.random_directions,
        loss_increase: of.loss_increase,
        p: of.p,
        q: of.q,
    };
    let verified: Vec<OfMeasure> = found.verified.iter().map(of_measure).collect();
    let pair = |of: &directrix_circuits::edges::Compared| ComparedPair {
        edge: of.edge,
        cosine: of.of(Measure::Cosine),
        virtual_weight: of.of(Measure::VirtualWeight),
        mutual_information: of.of(Measure::MutualInformation),
        conditional: of.of(Measure::Conditional),
        correlation: of.of(Measure::Correlation),
        attribution: of.of(Measure::Attribution),
        frozen_attribution: of.of(Measure::FrozenAttribution),
        causal: of.of(Measure::Causal),
    };
    let compared: Vec<ComparedPair> = found.compared.iter().map(pair).collect();
    Ok((
        Table::of("agreement", &AgreementRow::sentence(found.pairs), &found.rows),
        Table::of("best-edges", "The best thousand edges by each measure, best first", &best),
        Table::new(flags(
            circuits::Table::from_rows("verified-edges", VerifiedEdge::SENTENCE, &verified),
            &["verified"],
        )),
        Table::of(
            "compared-pairs",
            "Pairs drawn at random from those that have a causal effect, with all values",
            &compared,
        ),
    ))
}
