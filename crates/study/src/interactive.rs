//! Figures as Plotly charts, drawn by the report's script.

use plotly::common::{
    ColorBar, ColorScale, ColorScaleElement, ErrorData, ErrorType, ExponentFormat, Font, Line, Marker, Mode, TickMode,
    Title,
};
use plotly::layout::{Axis, AxisType, HoverMode, Legend, Margin};
use plotly::{Bar, Configuration, HeatMap, Layout, Plot, Scatter};
use serde_json::Value;

use crate::figure::{ANNOTATED, Figure, Series, Shape, colour_range, plain, visible_token};

const MONOSPACE: &str = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const HEIGHT: usize = 420;

impl Figure {
    /// The figure as a Plotly description: `data`, `layout` and `config`. Its title is left to the page around it.
    ///
    /// A heat map asks for a `layout.width`, so that its cells are square; others take the width they are given.
    pub fn to_plotly(&self) -> Value {
        let mut plot = Plot::new();
        plot.set_configuration(
            Configuration::new().responsive(true).display_mode_bar(plotly::configuration::DisplayModeBar::False),
        );
        let layout = match &self.shape {
            Shape::Lines { labels, series } => self.lines(&mut plot, labels, series),
            Shape::Histogram { edges, counts, log_counts } => self.histogram(&mut plot, edges, counts, *log_counts),
            Shape::Bars { labels, values, half_widths } => self.bars(&mut plot, labels, values, half_widths),
            Shape::Scatter { x, y, hover } => self.scatter(&mut plot, x, y, hover),
            Shape::Heatmap { columns, rows, values, diverging } => {
                self.heatmap(&mut plot, columns, rows, values, *diverging)
            }
        };
        plot.set_layout(layout);
        let mut description = serde_json::from_str(&plot.to_json()).unwrap_or(Value::Null);
        if let Shape::Heatmap { columns, rows, .. } = &self.shape
            && columns.len().max(rows.len()) <= ANNOTATED
        {
            description["data"][0]["texttemplate"] = "%{z:.2f}".into();
        }
        description
    }

    fn lines(&self, plot: &mut Plot, labels: &[String], series: &[Series]) -> Layout {
        let positions: Vec<usize> = (0..labels.len()).collect();
        let mode = if labels.len() <= 60 { Mode::LinesMarkers } else { Mode::Lines };
        for one in series {
            let trace = Scatter::new(positions.clone(), finite(&one.values))
                .name(escaped(&plain(&one.name)))
                .mode(mode.clone())
                .line(Line::new().width(2.0))
                .marker(Marker::new().size(6))
                .hover_template("%{y:.4~g}");
            plot.add_trace(trace);
        }
        Layout::new()
            .height(HEIGHT + 40)
            .margin(Margin::new().left(70).right(16).top(44).bottom(60))
            .hover_mode(HoverMode::XUnified)
            .show_legend(series.len() > 1)
            .legend(
                Legend::new()
                    .orientation(plotly::common::Orientation::Horizontal)
                    .x(0.0)
                    .y(1.02)
                    .y_anchor(plotly::common::Anchor::Bottom),
            )
            .x_axis(category_axis(&self.x, labels))
            .y_axis(value_axis(&self.y))
    }

    fn histogram(&self, plot: &mut Plot, edges: &[f64], counts: &[u64], log_counts: bool) -> Layout {
        let bins: Vec<(&[f64], u64)> = edges.windows(2).zip(counts.iter().copied()).collect();
        let middles: Vec<f64> = bins.iter().map(|(edge, _)| f64::midpoint(edge[0], edge[1])).collect();
        let width = bins.first().map_or(1.0, |(edge, _)| edge[1] - edge[0]);
        let heights: Vec<Option<u64>> =
            bins.iter().map(|&(_, count)| if log_counts && count == 0 { None } else { Some(count) }).collect();
        let hover = bins.iter().map(|(edge, count)| format!("{:.4} to {:.4}: {count}", edge[0], edge[1])).collect();
        let trace = Bar::new(middles, heights)
            .width(width)
            .hover_text_array(hover)
            .hover_template("%{hovertext}<extra></extra>")
            .text_position(plotly::common::TextPosition::None);
        plot.add_trace(trace);
        let mut counts_axis = value_axis(&self.y);
        if log_counts {
            let greatest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
            let range = vec![0.7_f64.log10(), greatest.log10() + 0.1];
            counts_axis = counts_axis.type_(AxisType::Log).dtick(1.0).tick_format(",d").range(range);
        }
        Layout::new()
            .height(HEIGHT)
            .margin(Margin::new().left(70).right(16).top(16).bottom(60))
            .bar_gap(0.04)
            .x_axis(value_axis(&self.x).show_grid(false))
            .y_axis(counts_axis)
    }

    fn bars(&self, plot: &mut Plot, labels: &[String], values: &[f64], half_widths: &[f64]) -> Layout {
        let positions: Vec<usize> = (0..labels.len()).collect();
        let mut trace = Bar::new(positions, finite(values)).hover_template("%{x}: <b>%{y:.4~g}</b><extra></extra>");
        if !half_widths.is_empty() {
            let lengths = half_widths.iter().map(|h| if h.is_finite() { *h } else { 0.0 }).collect();
            trace = trace
                .error_y(ErrorData::new(ErrorType::Data).array(lengths).thickness(1.5).width(4))
                .hover_template("%{x}: <b>%{y:.4~g}</b> ± %{error_y.array:.3~g}<extra></extra>");
        }
        plot.add_trace(trace);
        Layout::new()
            .height(HEIGHT)
            .margin(Margin::new().left(70).right(16).top(16).bottom(60))
            .bar_gap(0.3)
            .x_axis(category_axis(&self.x, labels).show_grid(false))
            .y_axis(value_axis(&self.y).zero_line(true))
    }

    fn scatter(&self, plot: &mut Plot, x: &[f64], y: &[f64], hover: &[String]) -> Layout {
        let mut trace = Scatter::new(finite(x), finite(y))
            .mode(Mode::Markers)
            .marker(Marker::new().size(8).opacity(0.65))
            .hover_template("(%{x:.4~g}, %{y:.4~g})<extra></extra>");
        if !hover.is_empty() {
            if hover.len() <= ANNOTATED {
                trace = trace
                    .mode(Mode::MarkersText)
                    .text_array(hover.iter().map(|text| escaped(&shortened(&plain(text)))).collect())
                    .text_position(plotly::common::Position::TopCenter);
            }
            trace = trace
                .hover_text_array(hover.iter().map(|text| escaped(&plain(text))).collect())
                .hover_template("%{hovertext}<br>(%{x:.4~g}, %{y:.4~g})<extra></extra>");
        }
        plot.add_trace(trace);
        Layout::new()
            .height(HEIGHT + 40)
            .margin(Margin::new().left(70).right(16).top(16).bottom(60))
            .hover_mode(HoverMode::Closest)
            .x_axis(value_axis(&self.x).zero_line(true))
            .y_axis(value_axis(&self.y).zero_line(true))
    }

    fn heatmap(&self, plot: &mut Plot, columns: &[String], rows: &[String], values: &[f64], diverging: bool) -> Layout {
        let cells = finite(values);
        let matrix: Vec<Vec<Option<f64>>> = cells.chunks(columns.len().max(1)).map(<[_]>::to_vec).collect();
        let (least, greatest) = colour_range(values, diverging);
        let most = columns.len().max(rows.len());
        let mut trace =
            HeatMap::new((0..columns.len()).collect::<Vec<_>>(), (0..rows.len()).collect::<Vec<_>>(), matrix)
                .zmin(least)
                .zmax(greatest)
                .color_scale(ColorScale::Vector(scale(diverging)))
                .color_bar(ColorBar::new().thickness(12).outline_width(0).tick_format(".3~g"))
                .hover_on_gaps(false)
                .hover_template("%{y} → %{x}: <b>%{z:.4~g}</b><extra></extra>");
        if most <= 40 {
            trace = trace.x_gap(1).y_gap(1);
        }
        if diverging {
            trace = trace.zmid(0.0);
        }
        plot.add_trace(trace);

        let size = MatrixSize::of(columns, rows);
        let axis = |title: &str, labels: &[String]| {
            category_axis(title, labels)
                .show_grid(false)
                .zero_line(false)
                .auto_margin(false)
                .tick_length(0)
                .tick_font(Font::new().family(MONOSPACE).size(size.font))
        };
        Layout::new()
            .width(size.width)
            .height(size.height)
            .margin(Margin::new().left(size.left).right(size.right).top(12).bottom(size.bottom))
            .x_axis(axis(&self.x, columns).tick_angle(-90.0).range(vec![-0.5, columns.len() as f64 - 0.5]))
            .y_axis(axis(&self.y, rows).tick_angle(0.0).range(vec![rows.len() as f64 - 0.5, -0.5]))
    }
}

/// The pixels of a heat map with square cells.
struct MatrixSize {
    font: usize,
    left: usize,
    right: usize,
    bottom: usize,
    width: usize,
    height: usize,
}

impl MatrixSize {
    fn of(columns: &[String], rows: &[String]) -> MatrixSize {
        let most = columns.len().max(rows.len()).max(1);
        let font = if most > 60 { 7 } else { 12 };
        let labels = |labels: &[String]| {
            let longest = labels.iter().map(|label| visible_token(label).chars().count()).max().unwrap_or(0);
            longest.min(LONGEST_LABEL) * font * 62 / 100 + 34
        };
        let (left, right, bottom) = (labels(rows), 60, labels(columns));
        let cell = (COLUMN.saturating_sub(left + right) / most).clamp(7, 42);
        let width = left + right + cell * columns.len().max(1);
        let height = 12 + bottom + cell * rows.len().max(1);
        MatrixSize { font, left, right, bottom, width, height }
    }
}

/// The width of the report's text in pixels; only matrices of more than about a hundred columns are wider.
const COLUMN: usize = 900;

/// Tick labels are cut after this many characters.
const LONGEST_LABEL: usize = 24;

fn category_axis(title: &str, labels: &[String]) -> Axis {
    let texts = labels.iter().map(|label| escaped(&shortened(&visible_token(label)))).collect();
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let axis = Axis::new()
        .title(Title::with_text(escaped(&plain(title))))
        .tick_mode(TickMode::Array)
        .tick_values((0..labels.len()).map(|i| i as f64).collect())
        .tick_text(texts)
        .auto_margin(true)
        .zero_line(false);
    if labels.len() * longest > 80 { axis.tick_angle(-60.0) } else { axis }
}

fn value_axis(title: &str) -> Axis {
    Axis::new()
        .title(Title::with_text(escaped(&plain(title))))
        .auto_margin(true)
        .zero_line(false)
        .exponent_format(ExponentFormat::Power)
}

pub(crate) fn shortened(label: &str) -> String {
    if label.chars().count() <= LONGEST_LABEL {
        return label.into();
    }
    label.chars().take(LONGEST_LABEL - 1).chain(['…']).collect()
}

/// `text` without Plotly's own markup: it reads `<b>`, `<a href>` and entities in every label.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn finite(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().map(|v| v.is_finite().then_some(*v)).collect()
}

fn scale(diverging: bool) -> Vec<ColorScaleElement> {
    let colours: &[&str] = if diverging {
        &["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"]
    } else {
        &["#f7fbff", "#6baed6", "#08306b"]
    };
    let last = colours.len() as f64 - 1.0;
    colours.iter().enumerate().map(|(i, colour)| ColorScaleElement(i as f64 / last, (*colour).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::every_shape;

    #[test]
    fn every_shape_is_a_chart() {
        for figure in every_shape() {
            let description = figure.to_plotly();
            assert!(description["data"].as_array().is_some_and(|traces| !traces.is_empty()), "{}", figure.name);
            assert_eq!(description["config"]["displayModeBar"], false);
        }
    }

    #[test]
    fn values_that_are_not_finite_are_null() {
        let shape = Shape::Bars {
            labels: vec!["a".into(), "b".into()],
            values: vec![f64::NAN, f64::INFINITY],
            half_widths: vec![f64::NAN, 1.0],
        };
        let figure =
            Figure { name: "n".into(), title: "t".into(), x: "x".into(), y: "y".into(), caption: String::new(), shape };
        let description = figure.to_plotly();
        assert_eq!(description["data"][0]["y"], serde_json::json!([null, null]));
        assert_eq!(description["data"][0]["error_y"]["array"], serde_json::json!([0.0, 1.0]));
    }

    #[test]
    fn labels_carry_no_markup() {
        let shape = Shape::Lines {
            labels: vec!["<a href='javascript:x'>".into()],
            series: vec![Series { name: "<b>&".into(), values: vec![1.0] }],
        };
        let figure = Figure {
            name: "n".into(),
            title: "t".into(),
            x: "<i>".into(),
            y: "y".into(),
            caption: String::new(),
            shape,
        };
        let description = figure.to_plotly();
        assert_eq!(description["layout"]["xaxis"]["ticktext"][0], "&lt;a href='javascript:x'&gt;");
        assert_eq!(description["layout"]["xaxis"]["title"]["text"], "&lt;i&gt;");
        assert_eq!(description["data"][0]["name"], "&lt;b&gt;&amp;");
    }
}
