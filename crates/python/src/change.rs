//! Interventions: what is changed in a run, as data.

use directrix_circuits::Change;
use directrix_model::{self as model, Columns, Edit, HookPoint, Positions, Rows};
use numpy::PyReadonlyArray2;
use pyo3::prelude::*;

use crate::array::matrix;
use crate::error::{Failure, Result};
use crate::sae::Sae;

/// Positions as they are given: one, from the end if negative; some; or some for each prompt.
#[derive(FromPyObject)]
pub(crate) enum Where {
    One(isize),
    Some(Vec<usize>),
    Each(Vec<Vec<usize>>),
}

impl Where {
    /// Every position where nothing is said.
    pub(crate) fn positions(given: Option<Where>) -> Positions {
        match given {
            None => Positions::All,
            Some(Where::One(at)) if at < 0 => Positions::FromEnd(at.unsigned_abs()),
            Some(Where::One(at)) => Positions::At(vec![at as usize]),
            Some(Where::Some(at)) => Positions::At(at),
            Some(Where::Each(at)) => Positions::Each(at),
        }
    }
}

/// A change of a run: at a hook point, or of an SAE's directions.
#[pyclass(frozen, module = "directrix")]
pub(crate) struct Intervention {
    pub(crate) made: Made,
    about: String,
}

/// What is changed.
pub(crate) enum Made {
    AtHook(model::Intervention),
    AtSite { sae: directrix_sae::Sae, change: Change, positions: Positions },
}

impl Intervention {
    /// The change of an SAE's site, where it is one.
    pub(crate) fn change(&self) -> Result<&Change> {
        match &self.made {
            Made::AtSite { change, .. } => Ok(change),
            Made::AtHook(_) => Err(Failure::argument(format!("{} is no change of an SAE's directions", self.about))),
        }
    }
}

#[pymethods]
impl Intervention {
    /// Zeroes, sets, adds to, scales or projects the values at a hook point, in all columns or one head's. `rows` is one row, or one
    /// for each position that is changed.
    #[staticmethod]
    #[pyo3(signature = (hook, kind, *, rows = None, by = None, positions = None, head = None))]
    fn at_hook(
        hook: &str,
        kind: &str,
        rows: Option<PyReadonlyArray2<f32>>,
        by: Option<f32>,
        positions: Option<Where>,
        head: Option<usize>,
    ) -> Result<Intervention> {
        let about = format!("{hook} {kind}");
        let hook: HookPoint = hook.parse()?;
        let given = |rows: Option<PyReadonlyArray2<f32>>| {
            let rows = rows.ok_or_else(|| Failure::argument(format!("`{kind}` needs a row of values")))?;
            let rows = matrix(&rows);
            Ok::<Rows, Failure>(match rows.rows() {
                1 => Rows::every(rows.into_data()),
                n => Rows::each(&rows.into(), 0..n),
            })
        };
        let edit = match kind {
            "zero" => Edit::Zero,
            "set" => Edit::Set(given(rows)?),
            "add" => Edit::Add(given(rows)?),
            "project" => Edit::Project(given(rows)?),
            "scale" => Edit::Scale(by.ok_or_else(|| Failure::argument("`scale` needs a factor"))?),
            _ => {
                let problem = format!("`{kind}` is not known; there are zero, set, add, scale, project");
                return Err(Failure::argument(problem));
            }
        };
        let intervention = model::Intervention::new(hook, Where::positions(positions), edit);
        let made = match head {
            Some(head) => intervention.in_columns(Columns::Head(head)),
            None => intervention,
        };
        Ok(Intervention { made: Made::AtHook(made), about })
    }

    /// Changes directions of an SAE: `ablate`, `set` and `scale` leave what the SAE does not explain; `reconstruct` puts the
    /// reconstruction in the site's place, with these directions left out or, where `to` is given, set.
    #[staticmethod]
    #[pyo3(signature = (sae, kind, directions, *, to = None, positions = None))]
    fn of_directions(
        sae: &Sae,
        kind: &str,
        directions: Vec<u32>,
        to: Option<f32>,
        positions: Option<Where>,
    ) -> Result<Intervention> {
        let about = format!("{} {kind} {directions:?}", sae.0.short_name());
        for direction in &directions {
            sae.0.check(*direction as usize)?;
        }
        let number = || to.ok_or_else(|| Failure::argument(format!("`{kind}` needs a number")));
        let change = match (kind, to) {
            ("ablate", _) => Change::Ablate(directions),
            ("set", _) => Change::Set { directions, to: number()? },
            ("scale", _) => Change::Scale { directions, by: number()? },
            ("reconstruct", None) => Change::Reconstruct { without: directions },
            ("reconstruct", Some(to)) => Change::ReconstructSet { directions, to },
            ("zero", _) => Change::Zero,
            _ => {
                let problem = format!("`{kind}` is not known; there are ablate, set, scale, reconstruct, zero");
                return Err(Failure::argument(problem));
            }
        };
        let positions = Where::positions(positions);
        Ok(Intervention { made: Made::AtSite { sae: sae.0.clone(), change, positions }, about })
    }

    fn __repr__(&self) -> String {
        format!("Intervention({})", self.about)
    }
}
