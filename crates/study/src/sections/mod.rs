//! The analyses of a study: each turns rows into a section of the report.

mod ablation;
mod attribution;
mod behaviour;
mod corpus;
mod direction;
mod pairs;

use crate::lab::Lab;
use crate::report::Section;
use crate::study::SectionKind;
use crate::{Figure, Result, Shape};

/// Makes one analysis.
pub(crate) fn make(lab: &Lab, kind: &SectionKind) -> Result<Section> {
    match kind {
        SectionKind::Tokens(o) => Ok(corpus::tokens(lab, o)),
        SectionKind::Examples(o) => Ok(corpus::examples(lab, o)),
        SectionKind::TopTokens(o) => Ok(corpus::top_tokens(lab, o)),
        SectionKind::Cosine(o) => pairs::cosine(lab, o),
        SectionKind::Cooccurrence(o) => pairs::cooccurrence(lab, o),
        SectionKind::Behaviour(o) => behaviour::prompts(lab, o),
        SectionKind::Active(o) => Ok(behaviour::active(lab, o)),
        SectionKind::SingleAblations(o) => Ok(behaviour::single_ablations(lab, o)),
        SectionKind::Coactivation(o) => Ok(behaviour::coactivation(lab, o)),
        SectionKind::Attention(o) => behaviour::attention(lab, o),
        SectionKind::LogitAttribution(_) => attribution::logit(lab),
        SectionKind::Remainder(o) => attribution::remainder(lab, o),
        SectionKind::FeatureAttribution(o) => attribution::feature(lab, o),
        SectionKind::DirectionAttribution(o) => attribution::directions(lab, o),
        SectionKind::JointAblation(o) => ablation::joint(lab, o),
        SectionKind::LossRecovered(o) => ablation::loss_recovered(lab, o),
        SectionKind::MoreAblations(o) => ablation::more(lab, o),
        SectionKind::Direction(o) => direction::closely(lab, o),
    }
}

/// The title of an analysis, for the contents list and the progress line.
pub(crate) fn title(kind: &SectionKind) -> &'static str {
    match kind {
        SectionKind::Tokens(_) => "Common and rare tokens",
        SectionKind::Examples(_) => "Top examples of the top directions",
        SectionKind::TopTokens(_) => "Top token of every direction",
        SectionKind::Cosine(_) => "Pairs of directions by cosine",
        SectionKind::Cooccurrence(_) => "Which first directions a second one needs",
        SectionKind::Behaviour(_) => "Behaviour prompts",
        SectionKind::Active(_) => "Directions active before the answer",
        SectionKind::SingleAblations(_) => "Ablating one direction at a time",
        SectionKind::Coactivation(_) => "Are the top directions active together?",
        SectionKind::Attention(_) => "An attention pattern",
        SectionKind::LogitAttribution(_) => "Who writes the answer (DLA)",
        SectionKind::Remainder(_) => "MLP, reconstruction, remainder",
        SectionKind::FeatureAttribution(_) => "What drives the top directions (DFA)",
        SectionKind::DirectionAttribution(_) => "Directions by positive logit attribution",
        SectionKind::JointAblation(_) => "Ablating the top directions together",
        SectionKind::LossRecovered(_) => "Loss recovered",
        SectionKind::MoreAblations(_) => "More ablations of the top direction",
        SectionKind::Direction(_) => "The top direction closely",
    }
}

/// A section without blocks yet; its anchor is made from its kind.
fn section(kind: &str, title: &str, prose: impl IntoIterator<Item = String>) -> Section {
    Section { name: kind.into(), title: title.into(), prose: prose.into_iter().collect(), blocks: Vec::new() }
}

fn figure(name: &str, title: &str, axes: (&str, &str), caption: &str, shape: Shape) -> Figure {
    Figure {
        name: name.into(),
        title: title.into(),
        x: axes.0.into(),
        y: axes.1.into(),
        caption: caption.into(),
        shape,
    }
}

/// `1 direction`, `2 directions`.
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `7, 9 and 12`.
fn list<T: std::fmt::Display>(items: &[T]) -> String {
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

/// Whether a 95 % interval excludes zero, in words.
fn excludes_zero(mean: f64, half_width: f64) -> &'static str {
    if half_width.is_nan() {
        "one prompt gives no interval"
    } else if (mean - half_width) * (mean + half_width) > 0.0 {
        "the 95 % interval excludes zero"
    } else {
        "the 95 % interval includes zero, so this may be chance"
    }
}
