//! Figures as data: what is shown, apart from how it is drawn.

use directrix_corpus::one_line;
use serde::{Deserialize, Serialize};

/// A figure: one chart with its words.
///
/// It is drawn twice: interactively in the report ([`Figure::to_plotly`]) and as a static file ([`Figure::to_svg`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Identifier, used as file name: lower case words joined by `-`.
    pub name: String,
    /// Headline.
    pub title: String,
    /// Label of the horizontal axis, with its unit; for a heat map what a column is.
    pub x: String,
    /// Label of the vertical axis, with its unit; for a heat map what a row is.
    pub y: String,
    /// What is shown and what means are over, in one sentence.
    pub caption: String,
    /// The data.
    pub shape: Shape,
    /// Where each category or point leads to in the report, as an anchor without `#`; empty for nowhere.
    pub links: Vec<String>,
}

/// The data of a [`Figure`], by kind of chart. Values that are not finite are not shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shape {
    /// One line per series over shared categories.
    Lines {
        /// The categories, left to right; labels may repeat.
        labels: Vec<String>,
        /// The lines.
        series: Vec<Series>,
    },
    /// Counts in intervals.
    Histogram {
        /// Interval bounds, ascending, one more than counts.
        edges: Vec<f64>,
        /// Values in `[edges[i], edges[i + 1])`; the last interval holds its upper bound too.
        counts: Vec<u64>,
        /// Whether the vertical axis is logarithmic.
        log_counts: bool,
    },
    /// One bar per category, with its interval.
    Bars {
        /// The categories, left to right; labels may repeat.
        labels: Vec<String>,
        /// Heights.
        values: Vec<f64>,
        /// Half widths of the 95 % intervals; empty for none, `NaN` for none at a bar.
        half_widths: Vec<f64>,
        /// What bars are compared with, behind each its own.
        bands: Vec<Band>,
    },
    /// Points.
    Scatter {
        /// Horizontal positions.
        x: Vec<f64>,
        /// Vertical positions.
        y: Vec<f64>,
        /// What to show on pointing at each, and beside each where there are few; empty for none.
        hover: Vec<String>,
    },
    /// A matrix of coloured cells, its first row on top.
    Heatmap {
        /// Column labels; may repeat.
        columns: Vec<String>,
        /// Row labels; may repeat.
        rows: Vec<String>,
        /// Cells, row by row; `NaN` where there is none.
        values: Vec<f64>,
        /// Whether zero is the middle of the colour scale.
        diverging: bool,
    },
}

/// Intervals to compare bars with: of a control, for example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// Its name in the legend.
    pub name: String,
    /// Lower ends, one per bar; `NaN` for none.
    pub low: Vec<f64>,
    /// Upper ends.
    pub high: Vec<f64>,
}

/// One line of [`Shape::Lines`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// One value per category.
    pub values: Vec<f64>,
}

impl Shape {
    /// A histogram of `values` in `bins` intervals of equal width from the least to the greatest.
    ///
    /// Values that are not finite are left out. Equal values get one interval of width 1 around them.
    pub fn histogram(values: &[f64], bins: usize) -> Shape {
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let least = finite.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if finite.is_empty() {
            return Shape::Histogram { edges: vec![0.0, 1.0], counts: vec![0], log_counts: false };
        }
        let bins = bins.max(1);
        let width = greatest / bins as f64 - least / bins as f64;
        if width <= 0.0 {
            let (edges, counts) = (vec![least - 0.5, least + 0.5], vec![finite.len() as u64]);
            return Shape::Histogram { edges, counts, log_counts: false };
        }
        let edges = (0..=bins).map(|i| if i == bins { greatest } else { least + i as f64 * width }).collect();
        let mut counts = vec![0; bins];
        for value in finite {
            let bin = (value / width - least / width) as usize;
            counts[bin.min(bins - 1)] += 1;
        }
        Shape::Histogram { edges, counts, log_counts: false }
    }

    /// Bars of means, each with the half width of its interval.
    pub fn bars(labels: Vec<String>, means: impl IntoIterator<Item = (f64, f64)>) -> Shape {
        let (values, half_widths) = means.into_iter().unzip();
        Shape::Bars { labels, values, half_widths, bands: Vec::new() }
    }

    /// The same bars with intervals to compare them with; other shapes stay as they are.
    #[must_use]
    pub fn with_bands(mut self, compared: Vec<Band>) -> Shape {
        if let Shape::Bars { bands, .. } = &mut self {
            *bands = compared;
        }
        self
    }

    /// A histogram of whole `numbers` from 1 on over their logarithm to base ten: every interval holds a whole number, so that
    /// none is empty for want of one.
    pub fn log_histogram(numbers: &[u64], bins: usize) -> Shape {
        let numbers: Vec<u64> = numbers.iter().copied().filter(|n| *n > 0).collect();
        let most = numbers.iter().copied().max().unwrap_or(1);
        // Numbers k to l fill log₁₀(k − ½) to log₁₀(l + ½).
        let step = ((most as f64 + 0.5).log10() - 0.5_f64.log10()) / bins.max(1) as f64;
        let mut bounds = vec![1_u64];
        while let Some(&last) = bounds.last().filter(|last| **last <= most) {
            let next = 10_f64.powf((last as f64 - 0.5).log10() + step);
            bounds.push((next.round() as u64).clamp(last + 1, most + 1));
        }
        let mut counts = vec![0; bounds.len() - 1];
        for number in numbers {
            counts[bounds.partition_point(|bound| *bound <= number) - 1] += 1;
        }
        let edges = bounds.iter().map(|bound| (*bound as f64 - 0.5).log10()).collect();
        Shape::Histogram { edges, counts, log_counts: false }
    }

    /// The same histogram with a logarithmic vertical axis; other shapes stay as they are.
    #[must_use]
    pub fn with_log_counts(mut self) -> Shape {
        if let Shape::Histogram { log_counts, .. } = &mut self {
            *log_counts = true;
        }
        self
    }

    /// Whether nothing would be drawn.
    pub fn is_empty(&self) -> bool {
        match self {
            Shape::Lines { labels, series } => series.iter().all(|s| no_finite(&s.values, labels.len())),
            Shape::Histogram { counts, .. } => counts.iter().all(|&count| count == 0),
            Shape::Bars { labels, values, .. } => no_finite(values, labels.len()),
            Shape::Scatter { x, y, .. } => !x.iter().zip(y).any(|(x, y)| x.is_finite() && y.is_finite()),
            Shape::Heatmap { columns, rows, values, .. } => no_finite(values, columns.len() * rows.len()),
        }
    }
}

fn no_finite(values: &[f64], shown: usize) -> bool {
    !values.iter().take(shown).any(|v| v.is_finite())
}

/// `token` with the spaces around it as `·`, line breaks as `↵`, other invisible characters by their code.
pub(crate) fn visible_token(token: &str) -> String {
    let word = token.trim_matches(' ');
    let before = token.len() - token.trim_start_matches(' ').len();
    let after = token.len() - word.len() - before;
    ["·".repeat(before), one_line(word), "·".repeat(after)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f64], bins: usize) -> (Vec<f64>, Vec<u64>) {
        match Shape::histogram(values, bins) {
            Shape::Histogram { edges, counts, .. } => (edges, counts),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn histogram_counts_every_finite_value() {
        let values = [0.0, 0.1, 0.5, 0.99, 1.0, f64::NAN, f64::INFINITY];
        assert_eq!(histogram(&values, 2), (vec![0.0, 0.5, 1.0], vec![2, 3]));
    }

    #[test]
    fn histogram_of_nothing_of_one_value_and_of_extremes() {
        assert_eq!(histogram(&[f64::NAN], 9), (vec![0.0, 1.0], vec![0]));
        assert_eq!(histogram(&[3.0; 4], 9), (vec![2.5, 3.5], vec![4]));
        assert_eq!(histogram(&[1.0, 2.0], 0), (vec![1.0, 2.0], vec![2]));
        assert_eq!(histogram(&[f64::MIN, f64::MAX], 2).1, [1, 1]);
    }

    #[test]
    fn a_histogram_over_logarithms_has_no_interval_without_a_whole_number() {
        for bins in [1, 7, 40] {
            let every: Vec<u64> = (0..=5000).collect();
            let Shape::Histogram { edges, counts, .. } = Shape::log_histogram(&every, bins) else {
                unreachable!("it is one")
            };
            assert_eq!(counts.iter().sum::<u64>(), 5000);
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            assert!(edges.is_sorted() && counts.len() <= bins + 1 && edges.len() == counts.len() + 1);
        }
        assert!(Shape::log_histogram(&[], 5).is_empty());
    }

    #[test]
    fn hidden_characters_are_shown() {
        assert_eq!(visible_token(" a\n\0\u{202e}"), "·a↵\\u{0}\\u{202e}");
        assert_eq!(visible_token(" a b  "), "·a b··");
        assert_eq!(visible_token("   "), "···");
    }
}
