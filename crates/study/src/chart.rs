//! What both drawings of a figure agree on: axes, labels, colours, and what is written beside the marks.

use directrix_corpus::one_line;

use crate::figure::{Figure, Shape, visible_token};
use crate::palette::{Palette, Scale};

/// Values are written into the cells of a heat map up to this many rows and columns, names beside all points up to this many,
/// else beside those of them that lie farthest out.
const WRITTEN: usize = 12;
/// Lines have dots up to this many categories.
const DOTTED: usize = 60;
/// Labels are slanted if all of them, as long as the longest, have more characters than this.
const LEVEL: usize = 100;
/// Labels are cut after this many characters.
const LONGEST: usize = 24;

/// An axis.
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) title: String,
    pub(crate) ticks: Ticks,
    /// Whether lines lead from the ticks across the chart.
    pub(crate) grid: bool,
    /// Whether zero is marked.
    pub(crate) zero: bool,
}

/// What an axis is labelled with.
pub(crate) enum Ticks {
    /// One label per category, at 0, 1, 2, …
    Labels(Vec<String>),
    /// Round values.
    Values,
    /// Powers of ten, the axis going from the least to the greatest of these.
    Powers { least: f64, greatest: f64 },
}

/// Which colours values get.
#[derive(Clone, Copy)]
pub(crate) struct Colours {
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    /// Whether zero is in the middle.
    pub(crate) diverging: bool,
}

impl Figure {
    /// The horizontal and the vertical axis.
    pub(crate) fn axes(&self) -> (Axis, Axis) {
        let (x, y) = (|ticks| Axis::new(&self.x, ticks), |ticks| Axis::new(&self.y, ticks));
        match &self.shape {
            Shape::Lines { labels, .. } => (x(Ticks::labels(labels)), y(Ticks::Values)),
            Shape::Histogram { counts, log_counts, .. } => {
                let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
                let powers = Ticks::Powers { least: 0.7, greatest: 1.3 * most };
                (x(Ticks::Values).without_grid(), y(if *log_counts { powers } else { Ticks::Values }))
            }
            Shape::Bars { labels, .. } => (x(Ticks::labels(labels)).without_grid(), y(Ticks::Values).with_zero()),
            Shape::Scatter { .. } => (x(Ticks::Values).with_zero(), y(Ticks::Values).with_zero()),
            Shape::Heatmap { columns, rows, .. } => {
                (x(Ticks::labels(columns)).without_grid(), y(Ticks::labels(rows)).without_grid())
            }
        }
    }
}

impl Shape {
    /// Whether dots stand on lines, names beside points and values in cells: where they are few.
    pub(crate) fn is_written(&self) -> bool {
        match self {
            Shape::Lines { labels, .. } => labels.len() <= DOTTED,
            Shape::Scatter { .. } => true,
            Shape::Heatmap { columns, rows, .. } => columns.len().max(rows.len()) <= WRITTEN,
            Shape::Histogram { .. } | Shape::Bars { .. } => false,
        }
    }
}

impl Axis {
    fn new(title: &str, ticks: Ticks) -> Axis {
        Axis { title: one_line(title), ticks, grid: true, zero: false }
    }

    fn with_zero(self) -> Axis {
        Axis { zero: true, ..self }
    }

    fn without_grid(self) -> Axis {
        Axis { grid: false, ..self }
    }

    /// The labels of the categories; none on an axis of values.
    pub(crate) fn labels(&self) -> &[String] {
        if let Ticks::Labels(labels) = &self.ticks { labels } else { &[] }
    }

    /// Characters of the longest label.
    pub(crate) fn longest(&self) -> usize {
        self.labels().iter().map(|label| label.chars().count()).max().unwrap_or(0)
    }

    /// Whether the labels are too long to stand side by side on a wide page.
    pub(crate) fn is_slanted(&self) -> bool {
        self.labels().len() * self.longest() > LEVEL
    }
}

impl Ticks {
    fn labels(labels: &[String]) -> Ticks {
        Ticks::Labels(labels.iter().map(|label| shortened(&visible_token(label))).collect())
    }
}

impl Colours {
    pub(crate) fn of(values: &[f64], diverging: bool) -> Colours {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let least = finite().fold(f64::INFINITY, f64::min);
        let greatest = finite().fold(f64::NEG_INFINITY, f64::max);
        let (least, greatest) = if diverging {
            let limit = finite().fold(0.0, |limit: f64, v| limit.max(v.abs()));
            let limit = if limit > 0.0 { limit } else { 1.0 };
            (-limit, limit)
        } else if least < greatest {
            (least, greatest)
        } else if least.is_finite() {
            (least, least + 1.0)
        } else {
            (0.0, 1.0)
        };
        Colours { least, greatest, diverging }
    }

    /// Where a value stands between the least and the greatest: 0 to 1.
    pub(crate) fn place(&self, value: f64) -> f64 {
        (value - self.least) / (self.greatest - self.least)
    }

    pub(crate) fn scale(self, palette: &Palette) -> Scale {
        if self.diverging { palette.diverging } else { palette.sequential }
    }
}

/// The points that are named: all if they are few, else the farthest out of those that lie beyond three standard deviations.
pub(crate) fn named(x: &[f64], y: &[f64]) -> Vec<usize> {
    let shown: Vec<usize> = (0..x.len().min(y.len())).filter(|&i| x[i].is_finite() && y[i].is_finite()).collect();
    if shown.len() <= WRITTEN {
        return shown;
    }
    let far_out = |values: &[f64]| -> Vec<f64> {
        let n = shown.len() as f64;
        let mean = shown.iter().map(|&i| values[i]).sum::<f64>() / n;
        let sd = (shown.iter().map(|&i| (values[i] - mean).powi(2)).sum::<f64>() / n).sqrt();
        shown.iter().map(|&i| if sd > 0.0 { (values[i] - mean).abs() / sd } else { 0.0 }).collect()
    };
    let mut far: Vec<(usize, f64)> =
        far_out(x).into_iter().zip(far_out(y)).zip(&shown).map(|((x, y), &i)| (i, x.max(y))).collect();
    far.retain(|(_, out)| *out > 3.0);
    far.sort_by(|a, b| b.1.total_cmp(&a.1));
    far.truncate(WRITTEN);
    far.into_iter().map(|(i, _)| i).collect()
}

/// `label` as far as it is shown on an axis or beside a point.
pub(crate) fn shortened(label: &str) -> String {
    if label.chars().count() <= LONGEST {
        return label.into();
    }
    label.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_ranges_are_never_empty() {
        let range = |values: &[f64], diverging| {
            let colours = Colours::of(values, diverging);
            (colours.least, colours.greatest)
        };
        assert_eq!(range(&[f64::NAN], false), (0.0, 1.0));
        assert_eq!(range(&[f64::NAN], true), (-1.0, 1.0));
        assert_eq!(range(&[2.0], false), (2.0, 3.0));
        assert_eq!(range(&[0.5, -2.0], true), (-2.0, 2.0));
    }

    #[test]
    fn few_points_are_named_and_of_many_the_outliers() {
        assert_eq!(named(&[1.0, f64::NAN, 3.0], &[1.0, 2.0, 3.0]), [0, 2]);
        let mut x = [0.0; 100];
        let y: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        assert!(named(&x, &y).is_empty());
        (x[7], x[50]) = (-9.0, 12.0);
        assert_eq!(named(&x, &y), [50, 7]);
    }

    #[test]
    fn long_labels_are_cut_and_slanted() {
        let labels = |n: usize| Axis::new("", Ticks::labels(&vec!["x".repeat(30); n]));
        assert_eq!(labels(1).labels()[0], format!("{}…", "x".repeat(23)));
        assert!(labels(5).is_slanted() && !labels(4).is_slanted());
    }
}
