//! The sections of a study, one a file: kind, options, title, what it needs, and what it makes.
//!
//! A new one is a file here, its `mod` and its line in the list.

/// Defines the options of a section: a struct with defaults, of which a file may name any, and the ranges of its numbers.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr $(=> $range:expr)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl super::Ranges for $name {
            fn check_ranges(&self) -> Result<(), String> {
                $($(super::check_range(stringify!($field), self.$field as f64, $range)?;)?)*
                Ok(())
            }
        }
    };
}

mod active;
mod attention;
mod attribution_to_direction;
mod before_tokens;
mod behaviour;
mod behaviour_circuit;
mod coactivation;
mod component_ablation;
mod conjunctions;
mod cooccurrence;
mod cosine;
mod dictionaries;
mod direction;
mod direction_attribution;
mod directions;
mod edges;
mod encoded_ablation;
mod intervention;
mod joint_ablation;
mod logit_attribution;
mod loss_recovered;
mod more_ablations;
mod patching;
mod prompt_graph;
mod remainder;
mod similarity;
mod single_ablations;
mod subspace;
mod tokens;
mod top_tokens;

use std::ops::RangeBounds;

use directrix_circuits::{Claim, Component, Estimate, Interval, Table};
use directrix_corpus::in_range;
use directrix_kernels::Matrix;
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::findings::Findings;
use crate::report::{Block, Section};
use crate::study::Study;
use crate::{Band, Figure, Result, Shape};

/// Makes [`Analysis`] from the list of all sections.
macro_rules! sections {
    ($($module:ident::$section:ident,)*) => {
        $(pub use $module::$section;)*

        /// A section that a study asks for, with its options. In a file, `kind` says which.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Analysis {
            $(#[doc = concat!("A section of the kind `", stringify!($module), "`.")] $section($section),)*
        }

        impl Analysis {
            const KINDS: &[&str] = &[$($section::KIND),*];

            /// Every section with its defaults, in the order of a study that names none; see [`by_default`](Self::by_default).
            pub(crate) fn all() -> Vec<Analysis> {
                vec![$(Analysis::$section($section::default())),*]
            }

            /// What `kind` says in a file.
            pub fn kind(&self) -> &'static str {
                match self { $(Analysis::$section(_) => $section::KIND),* }
            }

            /// The headline.
            pub fn title(&self) -> &'static str {
                match self { $(Analysis::$section(_) => $section::TITLE),* }
            }

            /// How many SAEs the study must name.
            pub(crate) fn saes(&self) -> usize {
                match self { $(Analysis::$section(_) => $section::SAES),* }
            }

            /// Whether a study that names no section makes it.
            pub(crate) fn by_default(&self) -> bool {
                match self { $(Analysis::$section(_) => $section::BY_DEFAULT),* }
            }

            /// What the options ask for and the study, the model or the SAE taken apart does not have.
            pub(crate) fn check(&self, study: &Study, opened: &Opened, sae: &Sae) -> Result<(), String> {
                match self {
                    $(Analysis::$section(options) => {
                        options.check(opened, sae)?;
                        options.check_study(study, opened)
                    })*
                }
            }

            /// The section of the report.
            pub(crate) fn make(&self, found: &Findings) -> Result<Section> {
                let Body { prose, blocks } = match self { $(Analysis::$section(options) => options.make(found)),* }?;
                Ok(Section { name: self.kind().replace('_', "-"), title: self.title().into(), prose, blocks })
            }

            /// Whether every number of the options lies in its range; else which does not, and what to give.
            pub(crate) fn check_ranges(&self) -> Result<(), String> {
                match self { $(Analysis::$section(options) => options.check_ranges()),* }
            }

            fn read(kind: &str, options: toml::Table) -> Option<Result<Analysis, toml::de::Error>> {
                match kind {
                    $($section::KIND => Some(options.try_into().map(Analysis::$section)),)*
                    _ => None,
                }
            }
        }

        impl Serialize for Analysis {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Analysis::$section(options) => Named { kind: $section::KIND, options }.serialize(serializer)),*
                }
            }
        }
    };
}

// In the origin's order; the browser, to which all lead, comes last.
sections! {
    tokens::Tokens,
    cosine::Cosine,
    cooccurrence::Cooccurrence,
    top_tokens::TopTokens,
    behaviour::Behaviour,
    logit_attribution::LogitAttribution,
    active::Active,
    single_ablations::SingleAblations,
    remainder::Remainder,
    attribution_to_direction::AttributionToDirection,
    attention::Attention,
    coactivation::Coactivation,
    joint_ablation::JointAblation,
    loss_recovered::LossRecovered,
    direction::Direction,
    more_ablations::MoreAblations,
    direction_attribution::DirectionAttribution,
    prompt_graph::PromptGraph,
    directions::Directions,
    // Made only where they are named.
    patching::Patching,
    component_ablation::ComponentAblation,
    encoded_ablation::EncodedAblation,
    subspace::Subspace,
    similarity::Similarity,
    before_tokens::BeforeTokens,
    dictionaries::Dictionaries,
    edges::Edges,
    conjunctions::Conjunctions,
    behaviour_circuit::BehaviourCircuit,
    intervention::Intervention,
}

/// What numbers a section's options may have.
trait Ranges {
    /// Whether every number lies in its range; else which does not, and what to give.
    fn check_ranges(&self) -> Result<(), String>;
}

fn check_range(name: &str, number: f64, range: impl RangeBounds<f64>) -> Result<(), String> {
    let number_or_none = if number.is_infinite() { f64::NAN } else { number };
    in_range(number_or_none, range).map_err(|give| format!("`{name}` is {number}; {give}"))
}

/// A kind of section; a value of it is the options.
trait SectionKind: Ranges + Default + Serialize + DeserializeOwned {
    /// What `kind` says in a study file; with `-` for `_`, the section's anchor in the report.
    const KIND: &str;
    /// The headline.
    const TITLE: &str;
    /// How many SAEs the study must name.
    const SAES: usize = 1;
    /// Whether a study that names no section makes it.
    const BY_DEFAULT: bool = true;

    /// What the options ask for and `model` or `sae`, the one taken apart, does not have; said before the long work.
    fn check(&self, _opened: &Opened, _sae: &Sae) -> Result<(), String> {
        Ok(())
    }

    /// What the section needs and the study does not give; said before the long work.
    fn check_study(&self, _study: &Study, _opened: &Opened) -> Result<(), String> {
        Ok(())
    }

    /// What the section says and shows.
    fn make(&self, found: &Findings) -> Result<Body>;
}

/// What a section says and shows.
struct Body {
    /// Paragraphs.
    prose: Vec<String>,
    /// Tables, figures and shaded prompts.
    blocks: Vec<Block>,
}

#[derive(Serialize)]
struct Named<'a, O> {
    kind: &'a str,
    #[serde(flatten)]
    options: &'a O,
}

impl<'de> Deserialize<'de> for Analysis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Analysis, D::Error> {
        let mut options = toml::Table::deserialize(deserializer)?;
        let known = || format!("one of `{}`", Analysis::KINDS.join("`, `"));
        match options.remove("kind") {
            Some(toml::Value::String(kind)) => match Analysis::read(&kind, options) {
                Some(Ok(analysis)) => Ok(analysis),
                Some(Err(error)) => Err(D::Error::custom(format!("section `{kind}`: {}", error.message()))),
                None => Err(D::Error::custom(format!("unknown kind `{kind}`, expected {}", known()))),
            },
            _ => Err(D::Error::custom(format!("a section needs a `kind`, {}", known()))),
        }
    }
}

/// An error if what the SAE writes does not reach the residual stream.
pub(crate) fn check_written(opened: &Opened, sae: &Sae) -> Result<(), String> {
    sae.to_residual(&opened.model, &Matrix::zeros(1, sae.d_out())).map(drop).map_err(|e| e.to_string())
}

/// An error if what the first SAE writes cannot reach the last.
fn check_order(opened: &Opened) -> Result<(), String> {
    match &opened.saes[..] {
        [first, .., last] => directrix_circuits::check_order(first, last).map_err(|e| e.to_string()),
        _ => Ok(()),
    }
}

/// An error if the SAE has no such directions.
fn check_directions<'a>(sae: &Sae, directions: impl IntoIterator<Item = &'a usize>) -> Result<(), String> {
    directions.into_iter().try_for_each(|direction| sae.check(*direction).map(drop).map_err(|e| e.to_string()))
}

fn table<R: Serialize>(name: &str, caption: &str, rows: &[R]) -> Block {
    Block::Table(Table::from_rows(name, caption, rows))
}

fn figure(name: &str, title: &str, axes: (&str, &str), caption: &str, shape: Shape) -> Block {
    Block::Figure(Figure {
        name: name.into(),
        title: title.into(),
        x: axes.0.into(),
        y: axes.1.into(),
        caption: caption.into(),
        shape,
        links: Vec::new(),
    })
}

/// The figure with a place that each of its categories or points leads to.
fn leading(block: Block, links: Vec<String>) -> Block {
    match block {
        Block::Figure(figure) => Block::Figure(Figure { links, ..figure }),
        other => other,
    }
}

/// Bars of claims, each with its interval and before those of its controls.
fn claim_bars(labels: Vec<String>, claims: &[Claim]) -> Shape {
    Shape::bars(labels, claims.iter().map(|claim| interval(&claim.estimate))).with_bands(control_bands(claims))
}

/// A mean and the half width of its interval.
fn interval(estimate: &Estimate) -> (f64, f64) {
    (estimate.mean, estimate.half_width)
}

/// What the controls of a claim do, in a sentence: along random rows, of random directions.
fn of_controls(claim: &Claim) -> [String; 2] {
    let said = |c: Estimate| {
        if c.is_nothing() {
            return "nothing (inactive there)".into();
        }
        format!("{:+.3}{}", c.mean, within(c.half_width, 3))
    };
    [claim.controls.rows, claim.controls.directions].map(|control| control.map_or_else(|| "not measured".into(), said))
}

/// The intervals of the controls that these claims have.
fn control_bands(claims: &[Claim]) -> Vec<Band> {
    let band = |name: &str, of: fn(&Claim) -> Option<Estimate>| {
        let ends =
            |end: fn(&Estimate) -> f64| claims.iter().map(|claim| of(claim).map_or(f64::NAN, |e| end(&e))).collect();
        claims.iter().any(|claim| of(claim).is_some()).then(|| Band {
            name: name.into(),
            low: ends(Estimate::low),
            high: ends(Estimate::high),
        })
    };
    let rows = band("random rows, 95 %", |claim| claim.controls.rows);
    rows.into_iter().chain(band("random directions, 95 %", |claim| claim.controls.directions)).collect()
}

/// Components by mean as bars, largest first; of many those farthest from zero.
fn component_bars(rows: &[Component]) -> (Shape, String) {
    let mut order: Vec<&Component> = rows.iter().collect();
    order.sort_by(|a, b| b.mean.abs().total_cmp(&a.mean.abs()));
    let left_out = order.len().saturating_sub(MOST_BARS);
    order.truncate(MOST_BARS);
    order.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    let labels = order.iter().map(|row| row.component.clone()).collect();
    let shape = Shape::bars(labels, order.iter().map(|row| (row.mean, row.half_width)));
    let left_out = if left_out == 0 { String::new() } else { format!(" The {left_out} closest to zero are left out.") };
    (shape, left_out)
}

/// Bars of components in one figure, at most.
const MOST_BARS: usize = 30;

/// The components with the largest and smallest mean.
fn extremes(rows: &[Component]) -> Option<(&Component, &Component)> {
    let by_mean = |a: &&Component, b: &&Component| a.mean.total_cmp(&b.mean);
    Some((rows.iter().max_by(by_mean)?, rows.iter().min_by(by_mean)?))
}

fn labels(rows: &[Component]) -> Vec<String> {
    rows.iter().map(|row| row.component.clone()).collect()
}

fn means(rows: &[Component]) -> Vec<f64> {
    rows.iter().map(|row| row.mean).collect()
}

/// `0.42 to 0.51` of a 95 % interval; `no interval` if there is none.
fn ends(interval: Interval, decimals: usize) -> String {
    if interval.low.is_nan() {
        return "no interval".into();
    }
    format!("95 % interval {:.decimals$} to {:.decimals$}", interval.low, interval.high)
}

/// The same of a share, in percent.
fn percent(Interval { low, high }: Interval) -> String {
    ends(Interval { low: 100.0 * low, high: 100.0 * high }, 1) + if low.is_nan() { "" } else { " %" }
}

/// `± 0.12`; nothing where there is no interval.
fn within(half_width: f64, decimals: usize) -> String {
    if half_width.is_nan() { " (one prompt gives no interval)".into() } else { format!(" ± {half_width:.decimals$}") }
}

/// `1 direction`, `2 directions`.
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `7, 9 and 12`.
pub(crate) fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "none".into(),
    }
}

/// Token text in a sentence: quoted, line breaks visible.
pub(crate) fn quoted(token: &str) -> String {
    format!("‘{}’", token.replace('\n', "⏎"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row of the table of sections in `docs/studies.md`, read back as a section and the names of its options.
    fn documented() -> Vec<(Analysis, Vec<String>)> {
        let docs = include_str!("../../../../docs/studies.md");
        let rows = docs.lines().skip_while(|line| !line.starts_with("| kind |")).skip(2);
        let row = |row: &str| {
            let mut quoted = row.split('`').skip(1).step_by(2);
            let kind = quoted.next().unwrap();
            let options: Vec<&str> = quoted.collect();
            let text: Vec<&str> = options.iter().copied().filter(|option| option.contains('=')).collect();
            let section = toml::from_str(&format!("kind = '{kind}'\n{}", text.join("\n"))).unwrap();
            (section, options.iter().map(|option| option.split(' ').next().unwrap().into()).collect())
        };
        rows.take_while(|line| line.starts_with('|')).map(row).collect()
    }

    #[test]
    fn the_documentation_names_every_section_with_its_options_and_their_defaults() {
        let documented = documented();
        assert_eq!(documented.iter().map(|(section, _)| section.clone()).collect::<Vec<_>>(), Analysis::all());
        for (section, names) in documented {
            let options = serde_json::to_value(&section).unwrap();
            let expected: Vec<&String> = options.as_object().unwrap().keys().filter(|key| *key != "kind").collect();
            assert_eq!(names.iter().collect::<Vec<_>>(), expected, "{}", section.kind());
        }
    }

    #[test]
    fn a_section_is_written_as_it_is_read() {
        for section in Analysis::all() {
            let text = toml::to_string(&section).unwrap();
            assert_eq!(toml::from_str::<Analysis>(&text).unwrap(), section, "{text}");
        }
    }
}
