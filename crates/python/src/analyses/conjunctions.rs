//! Directions that another needs together, or of which each is enough.

use directrix_circuits::edges::{Between, Conjunction, Conjunctions, Sample, Upstream};
use directrix_circuits::{self as circuits, Chosen};
use directrix_corpus::Watch;
use directrix_sae as sae;
use pyo3::prelude::*;
use serde::Serialize;

use super::edges::sample;
use super::part;
use crate::error::{Failure, Result};
use crate::index::Index;
use crate::model::Model;
use crate::sae::Sae;
use crate::table::Table;
use crate::watch::watched;

pub(super) fn register(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(upstream, module)?)?;
    module.add_function(wrap_pyfunction!(conjunctions, module)?)?;
    module.add_function(wrap_pyfunction!(joint_set, module)?)
}

/// `(positions, share_of_maximum, interaction, needed, rate, enough)`.
type How = (usize, f32, f64, f64, f64, f64);

fn meant((positions, share_of_maximum, interaction, needed, rate, enough): How) -> Result<Conjunctions> {
    if positions < 2 {
        return Err(Failure::argument("give two or more `positions`"));
    }
    Ok(Conjunctions { positions, share_of_maximum, interaction, needed, rate, enough })
}

/// Two SAEs and a direction of the second.
struct Looked<'a> {
    model: &'a Model,
    saes: [sae::Sae; 2],
    index: &'a Index,
    direction: usize,
    sample: Sample,
    how: Conjunctions,
}

impl<'a> Looked<'a> {
    fn new(
        model: &'a Model,
        [first, second]: [&Sae; 2],
        index: &'a Index,
        direction: usize,
        (prompts, least): (usize, usize),
        how: How,
    ) -> Result<Looked<'a>> {
        let saes = [first.of(model)?, second.of(model)?];
        saes[1].check(direction)?;
        Ok(Looked { model, saes, index, direction, sample: sample(prompts, least)?, how: meant(how)? })
    }

    fn between(&self) -> Result<Between<'_>> {
        let [first, second] = &self.saes;
        let parts = [part(self.index, self.model, first, None)?, part(self.index, self.model, second, None)?];
        Ok(Between::new(&self.model.model, [first, second], &self.index.index, parts)?)
    }

    /// The directions of the first SAE that are given, or those that take most alone; and how they were chosen.
    fn firsts(
        &self,
        between: &Between,
        given: Option<&Vec<usize>>,
        most: usize,
        watch: &Watch,
    ) -> circuits::Result<(Vec<usize>, Chosen)> {
        match given {
            Some(given) => Ok((given.clone(), Chosen::Given)),
            None => between.most_upstream(self.direction, self.sample, &self.how, most, watch),
        }
    }

    fn check(&self, given: Option<&Vec<usize>>) -> Result<()> {
        given.into_iter().flatten().try_for_each(|first| Ok(self.saes[0].check(*first).map(drop)?))
    }

    fn nothing(&self, what: &str) -> Failure {
        let [first, second] = self.saes.each_ref().map(sae::Sae::short_name);
        Failure::argument(format!(
            "{what} of {first} with direction {} of {second} in enough prompts; index more prompts, name directions with `firsts`, or lower \
             `least_prompts` or `share_of_maximum`",
            self.direction
        ))
    }

    fn about(&self) -> String {
        let [first, second] = self.saes.each_ref().map(sae::Sae::short_name);
        format!("Direction {} of {second}, by directions of {first}.", self.direction)
    }
}

#[derive(Serialize)]
struct Taken {
    direction: usize,
    n: usize,
    lost: f64,
    se: f64,
    half_width: f64,
    fires: f64,
}

#[pyfunction]
fn upstream(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    index: &Index,
    direction: usize,
    sampled: (usize, usize),
    how: How,
) -> Result<Table> {
    let looked = Looked::new(model, [first, second], index, direction, sampled, how)?;
    let between = looked.between()?;
    let found = watched(py, |watch| between.upstream(direction, looked.sample, &looked.how, watch))?;
    let row = |Upstream { direction, lost, fires }: &Upstream| Taken {
        direction: *direction,
        n: lost.n,
        lost: lost.mean,
        se: lost.se,
        half_width: lost.half_width,
        fires: *fires,
    };
    let rows: Vec<Taken> = found.iter().map(row).collect();
    let caption = format!(
        "{} Share of its activation lost when each is ablated alone where both fire, mean over n prompts, with standard error and half width of the \
         95 % interval; fires: the share of the positions at which it fires at which the other does; by the product of both, largest first",
        looked.about()
    );
    Ok(Table::of("upstream", &caption, &rows))
}

#[pyfunction]
#[pyo3(signature = (model, first, second, index, direction, firsts, most, sampled, how))]
fn conjunctions(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    index: &Index,
    direction: usize,
    firsts: Option<Vec<usize>>,
    most: usize,
    sampled: (usize, usize),
    how: How,
) -> Result<Table> {
    let looked = Looked::new(model, [first, second], index, direction, sampled, how)?;
    looked.check(firsts.as_ref())?;
    let between = looked.between()?;
    let rows = watched(py, |watch| {
        let (firsts, chosen) = looked.firsts(&between, firsts.as_ref(), most, watch)?;
        between.conjunctions(direction, &firsts, chosen, &looked.how, watch)
    })?;
    let Some(Conjunction { interaction, .. }) = rows.first() else {
        return Err(looked.nothing("no two directions fire"));
    };
    let caption = format!("{} {} {}", looked.about(), Conjunction::SENTENCE, interaction.sentence());
    Ok(Table::of("conjunctions", &caption, &rows))
}

#[pyfunction]
#[pyo3(signature = (model, first, second, index, direction, firsts, most, sampled, how))]
fn joint_set(
    py: Python,
    model: &Model,
    first: &Sae,
    second: &Sae,
    index: &Index,
    direction: usize,
    firsts: Option<Vec<usize>>,
    most: usize,
    sampled: (usize, usize),
    how: How,
) -> Result<Table> {
    let looked = Looked::new(model, [first, second], index, direction, sampled, how)?;
    looked.check(firsts.as_ref())?;
    let between = looked.between()?;
    let steps = watched(py, |watch| {
        let (firsts, _) = looked.firsts(&between, firsts.as_ref(), most, watch)?;
        between.joint_set(direction, &firsts, &looked.how, watch)
    })?;
    let Some(last) = steps.last() else {
        return Err(looked.nothing("no direction fires"));
    };
    let caption = format!("{} {}", looked.about(), last.sentence(looked.how.enough));
    Ok(Table::of("joint-set", &caption, &steps))
}
