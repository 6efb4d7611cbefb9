//! Study files to tables, figures and a report.
//!
//! A [`Study`] is a TOML file: model, SAEs, corpus, a behaviour, and the analyses to make with their options. Running it
//! builds or reuses an index, finds the prompts that show the behaviour, makes each analysis, and writes `report.html` (one
//! file, offline), every table as CSV and Parquet, every figure as SVG, `study.json` and a manifest. The parts can be used
//! alone: a [`Report`] is [`Section`]s of [`Block`]s, a [`Figure`] draws itself as SVG and as an interactive chart, a table
//! is [written](write_table) to files.
//!
//! ```
//! use directrix_study::Study;
//!
//! let study = Study::parse(Study::CLOSING_QUOTE, "closing-quote.toml")?;
//! assert_eq!(study.behaviour.contains, "said, \"");
//! # Ok::<(), directrix_study::Error>(())
//! ```

mod browser;
mod chart;
mod error;
pub mod export;
mod figure;
mod findings;
mod graph_story;
mod interactive;
mod intervention;
pub mod look;
mod output;
mod palette;
mod prompt_graph;
mod report;
mod run;
pub mod sections;
mod study;
mod svg;

pub use browser::Browser;
pub use error::{Error, Result};
pub use figure::{Band, Figure, Series, Shape};
pub use graph_story::{CheckRow, EdgeRow, GraphStory, LoadingRow, LookRow, NodeRow};
pub use intervention::{ChangedRow, Intervention, NextRow};
pub use output::{write_figure, write_graph, write_table};
pub use prompt_graph::{NodeNames, PromptGraph};
pub use report::{Block, Fact, Report, Section, ShadedText, Texts};
pub use run::Finished;
pub use study::{Pair, Study};
