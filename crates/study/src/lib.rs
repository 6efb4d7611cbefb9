//! Study files to tables, figures and a report.

mod error;
mod figure;
mod interactive;
mod output;
mod report;
mod svg;

pub use error::{Error, Result};
pub use figure::{Figure, Series, Shape};
pub use output::{write_atomically, write_figure, write_table};
pub use report::{Block, Report, Section, ShadedText, Texts};
