//! Studies and figures.

use std::path::Path;

use directrix_study as study;
use pyo3::prelude::*;

use crate::error::{Failure, Result};
use crate::watch::watched;

/// The report's path, what is to be told, and the seconds of each step.
type Finished = (String, Vec<String>, Vec<(String, f64)>);

/// A study file: model, SAEs, corpus, a behaviour, and the analyses to make.
#[pyclass(frozen, module = "directrix", name = "CoreStudy")]
pub(crate) struct Study {
    study: study::Study,
    name: String,
}

#[pymethods]
impl Study {
    /// Reads a study file; without one, the study that the program brings.
    #[staticmethod]
    #[pyo3(signature = (path = None))]
    fn read(path: Option<&str>) -> Result<Study> {
        match path {
            Some(path) => Ok(Study { study: study::Study::read(Path::new(path))?, name: path.into() }),
            None => Study::parse(study::Study::CLOSING_QUOTE, "closing-quote.toml"),
        }
    }

    /// Reads the text of a study; `name` is what errors call it.
    #[staticmethod]
    fn parse(text: &str, name: &str) -> Result<Study> {
        Ok(Study { study: study::Study::parse(text, name)?, name: name.into() })
    }

    /// Makes every analysis and writes report, tables and figures to `out`. Gives the report's path, what is to be told, and the seconds
    /// of each step.
    fn run(&self, py: Python, out: &str) -> Result<Finished> {
        let finished = watched(py, |watch| self.study.run(&self.name, Path::new(out), watch))?;
        Ok((finished.report.display().to_string(), finished.notes, finished.timings))
    }
}

/// A figure, interactive and as SVG.
#[pyclass(frozen, module = "directrix", name = "CoreFigure")]
pub(crate) struct Figure(study::Figure);

#[pymethods]
impl Figure {
    /// Of what a study's figures are made of, as JSON.
    #[new]
    fn new(json: &str) -> Result<Figure> {
        let wrong = |error: serde_json::Error| Failure::argument(format!("this is no figure: {error}"));
        Ok(Figure(serde_json::from_str(json).map_err(wrong)?))
    }

    /// What plotly draws, as JSON.
    fn to_plotly(&self) -> String {
        self.0.to_plotly().to_string()
    }

    /// The figure as SVG.
    fn to_svg(&self) -> String {
        self.0.to_svg()
    }
}
