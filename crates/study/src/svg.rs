//! Figures as static SVG files.

use std::sync::Arc;

use kuva::backend::svg::SvgBackend;
use kuva::plot::colormap::ColorMap;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{BarPlot, Heatmap, Histogram, LinePlot, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::render_multiple;
use kuva::render::theme::Theme;

use crate::figure::{ANNOTATED, Figure, Shape, colour_range, plain, visible_token};
use crate::interactive::shortened;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];

impl Figure {
    /// The figure as an SVG document, light, with its title, for a paper or a slide.
    pub fn to_svg(&self) -> String {
        let (plots, layout) = if self.shape.is_empty() { empty() } else { self.plots() };
        let layout = layout
            .with_title(label(&self.title))
            .with_title_wrap(90)
            .with_title_size(17)
            .with_label_size(14)
            .with_x_label(label(&self.x))
            .with_y_label(label(&self.y))
            .with_theme(Theme { grid_color: "#e6e6e6".into(), legend_border: "#cccccc".into(), ..Theme::light() })
            .with_font_family("Helvetica, Arial, sans-serif");
        SvgBackend::new().render_scene(&render_multiple(plots, layout))
    }

    fn plots(&self) -> (Vec<Plot>, Layout) {
        match &self.shape {
            Shape::Lines { labels, series } => {
                let plots: Vec<Plot> = series
                    .iter()
                    .zip(COLOURS.iter().cycle())
                    .flat_map(|(one, colour)| {
                        let points = points(one.values.iter().take(labels.len()));
                        let line =
                            LinePlot::new().with_data(points.clone()).with_color(*colour).with_legend(label(&one.name));
                        let dots = ScatterPlot::new().with_data(points).with_color(*colour).with_size(3.0);
                        [Plot::Line(line), Plot::Scatter(dots)]
                    })
                    .collect();
                let mut layout = category_layout(&plots, labels).with_legend_position(LegendPosition::OutsideRightTop);
                layout.x_range = (0.5, labels.len() as f64 + 0.5);
                (plots, layout)
            }
            Shape::Histogram { edges, counts, log_counts } => {
                let heights = counts.iter().map(|&count| count as f64).collect();
                let bars = Histogram::from_bins(edges.clone(), heights).with_color(COLOURS[0]);
                let plots = vec![Plot::Histogram(bars)];
                let mut layout = sized(Layout::auto_from_plots(&plots));
                // Ticks at round values instead of at the bins' edges.
                layout.x_bin_width = None;
                if let [least, .., greatest] = edges[..] {
                    layout = layout.with_x_axis_min(least).with_x_axis_max(greatest);
                }
                if *log_counts {
                    let most = counts.iter().copied().max().unwrap_or(1) as f64;
                    layout.data_y_range = Some((0.7, most));
                    layout = layout.with_log_y().with_y_axis_min(0.7).with_y_axis_max(most * 1.3);
                }
                (plots, layout)
            }
            Shape::Bars { labels, values, half_widths } => {
                let heights = |values: &[f64]| -> Vec<f64> {
                    values.iter().map(|v| if v.is_finite() { *v } else { 0.0 }).take(labels.len()).collect()
                };
                let mut bars = BarPlot::new()
                    .with_bars(ticks(labels).into_iter().zip(heights(values)))
                    .with_color(COLOURS[0])
                    .with_error_color("#222222");
                if !half_widths.is_empty() {
                    bars = bars.with_error(heights(half_widths));
                }
                let plots = vec![Plot::Bar(bars)];
                let layout = category_layout(&plots, labels);
                (plots, layout)
            }
            Shape::Scatter { x, y, hover } => {
                let at: Vec<usize> =
                    (0..x.len().min(y.len())).filter(|&i| x[i].is_finite() && y[i].is_finite()).collect();
                let points: Vec<(f64, f64)> = at.iter().map(|&i| (x[i], y[i])).collect();
                let mut dots = ScatterPlot::new().with_data(points).with_color(COLOURS[0]).with_size(4.0);
                if at.len() <= ANNOTATED {
                    let names =
                        at.iter().map(|&i| hover.get(i).map_or_else(String::new, |text| label(&shortened(text))));
                    dots = dots.with_labels(names).with_repel_labels();
                }
                let plots = vec![Plot::Scatter(dots.with_marker_opacity(0.6))];
                let layout = sized(Layout::auto_from_plots(&plots));
                (plots, layout)
            }
            Shape::Heatmap { columns, rows, values, diverging } => heatmap(columns, rows, values, *diverging),
        }
    }
}

fn heatmap(columns: &[String], rows: &[String], values: &[f64], diverging: bool) -> (Vec<Plot>, Layout) {
    let (least, greatest) = colour_range(values, diverging);
    let shown = values.iter().copied().filter(|v| v.is_finite());
    let drawn_least = shown.clone().fold(f64::INFINITY, f64::min);
    let drawn_greatest = shown.fold(f64::NEG_INFINITY, f64::max);
    let few = columns.len().max(rows.len()) <= ANNOTATED;
    // kuva spreads its colours over the values drawn; ours go over the range shared with the interactive figure, and
    // stay pale enough for the black values written on few cells.
    let colours = move |t: f64| {
        if t.is_finite() {
            let value = drawn_least + t * (drawn_greatest - drawn_least);
            let place = (value - least) / (greatest - least);
            match (few, diverging) {
                (true, true) => colour(0.5 + 0.7 * (place - 0.5), true),
                (true, false) => colour(0.55 * place, false),
                (false, _) => colour(place, diverging),
            }
        } else {
            "#ffffff".into()
        }
    };
    let mut matrix: Vec<Vec<f64>> = values.chunks(columns.len()).take(rows.len()).map(<[f64]>::to_vec).collect();
    for row in &mut matrix {
        row.resize(columns.len(), f64::NAN);
    }
    matrix.reverse();
    let mut cells = Heatmap::new()
        .with_data(matrix)
        .with_color_map(ColorMap::Custom(Arc::new(colours)))
        .with_cell_size(if few { 0.98 } else { 1.0 });
    if few && values.iter().all(|v| v.is_finite()) {
        cells = cells.with_values();
    }
    let plots = vec![Plot::Heatmap(cells)];
    let most = columns.len().max(rows.len()) as f64;
    let cell = (700.0 / most).clamp(10.0, 60.0);
    let layout = Layout::auto_from_plots(&plots)
        .with_x_categories(ticks(columns))
        .with_y_categories(ticks(rows).into_iter().rev().collect())
        .with_x_tick_rotate(-90.0)
        .with_show_grid(false)
        .with_tick_size((cell as u32 - 1).clamp(7, 12))
        .with_width(cell * columns.len() as f64 + 260.0)
        .with_height(cell * rows.len() as f64 + 200.0)
        .with_equal_aspect();
    (plots, layout)
}

/// Blues, or blue over white to red: the same stops as the interactive figure's light theme.
fn colour(t: f64, diverging: bool) -> String {
    const BLUES: [[f64; 3]; 3] = [[247.0, 251.0, 255.0], [107.0, 174.0, 214.0], [8.0, 48.0, 107.0]];
    const BLUE_TO_RED: [[f64; 3]; 5] = [
        [33.0, 102.0, 172.0],
        [146.0, 197.0, 222.0],
        [247.0, 247.0, 247.0],
        [244.0, 165.0, 130.0],
        [178.0, 24.0, 43.0],
    ];
    let stops: &[[f64; 3]] = if diverging { &BLUE_TO_RED } else { &BLUES };
    let place = t.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let from = (place as usize).min(stops.len() - 2);
    let part = place - from as f64;
    let channel = |i: usize| (stops[from][i] + part * (stops[from + 1][i] - stops[from][i])).round() as u8;
    format!("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2))
}

fn empty() -> (Vec<Plot>, Layout) {
    (Vec::new(), sized(Layout::new((0.0, 1.0), (0.0, 1.0)).with_subtitle("no data")))
}

fn sized(layout: Layout) -> Layout {
    layout.with_width(WIDTH).with_height(HEIGHT).with_tick_size(12)
}

fn category_layout(plots: &[Plot], labels: &[String]) -> Layout {
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let layout = sized(Layout::auto_from_plots(plots))
        .with_width(WIDTH.max(labels.len() as f64 * 16.0 + 120.0))
        .with_x_categories(ticks(labels));
    if labels.len() * longest > 100 { layout.with_x_tick_rotate(-60.0) } else { layout }
}

/// One-based places on a category axis, without the values that are not finite.
fn points<'a>(values: impl Iterator<Item = &'a f64>) -> Vec<(f64, f64)> {
    values.enumerate().filter(|(_, v)| v.is_finite()).map(|(i, v)| (i as f64 + 1.0, *v)).collect()
}

fn ticks(labels: &[String]) -> Vec<String> {
    labels.iter().map(|text| no_formula(&shortened(&visible_token(text)))).collect()
}

fn label(text: &str) -> String {
    no_formula(&plain(text))
}

/// kuva reads `$...$` as a formula.
fn no_formula(text: &str) -> String {
    text.replace('$', "\\$")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figure::Series;

    fn figure(name: &str, shape: Shape) -> Figure {
        let title = format!("Title of {name} <&\"'> $x$ \u{0}");
        let (x, y) = ("across <".into(), "up & down".into());
        Figure { name: name.into(), title, x, y, caption: "One sentence.".into(), shape }
    }

    fn words(n: usize) -> Vec<String> {
        (0..n).map(|i| format!(" <w&{i}>\u{1}")).collect()
    }

    pub(crate) fn every_shape() -> Vec<Figure> {
        let wave = |n: usize| (0..n).map(|i| (i as f64).sin()).collect::<Vec<f64>>();
        let gaps = vec![1.0, f64::NAN, f64::INFINITY, -1.0];
        vec![
            figure(
                "lines",
                Shape::Lines {
                    labels: words(4),
                    series: vec![
                        Series { name: "one <".into(), values: wave(4) },
                        Series { name: "two".into(), values: gaps.clone() },
                    ],
                },
            ),
            figure("histogram", Shape::histogram(&wave(50), 8)),
            figure("log-histogram", Shape::histogram(&[0.0, 0.0, 0.0, 1.0], 4).with_log_counts()),
            figure("bars", Shape::Bars { labels: words(4), values: gaps.clone(), half_widths: gaps.clone() }),
            figure("scatter", Shape::Scatter { x: wave(4), y: gaps.clone(), hover: words(4) }),
            figure("heatmap", Shape::Heatmap { columns: words(2), rows: words(2), values: gaps, diverging: false }),
            figure(
                "diverging",
                Shape::Heatmap { columns: words(30), rows: words(20), values: wave(600), diverging: true },
            ),
        ]
    }

    fn empty_shapes() -> Vec<Figure> {
        vec![
            figure("lines", Shape::Lines { labels: vec![], series: vec![] }),
            figure("histogram", Shape::histogram(&[], 8)),
            figure("none", Shape::Histogram { edges: vec![], counts: vec![], log_counts: true }),
            figure("bars", Shape::Bars { labels: vec![], values: vec![], half_widths: vec![] }),
            figure("scatter", Shape::Scatter { x: vec![], y: vec![], hover: vec![] }),
            figure("heatmap", Shape::Heatmap { columns: vec![], rows: vec![], values: vec![], diverging: true }),
        ]
    }

    /// Every tag closed, in order, and no character XML forbids.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        let body = svg.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").unwrap_or(svg);
        for tag in body.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "bare > in {text}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.trim()));
            } else if !tag.ends_with('/') && !tag.starts_with(['!', '?']) {
                open.push(tag.split_whitespace().next().expect("a tag has a name"));
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        assert!(!svg.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        assert!(!svg.contains("NaN") && !svg.contains("inf\""));
    }

    #[test]
    fn every_shape_is_well_formed_and_titled() {
        for figure in every_shape().into_iter().chain(empty_shapes()) {
            let svg = figure.to_svg();
            assert_well_formed(&svg);
            assert!(svg.contains(&format!("Title of {}", figure.name)), "{svg}");
        }
    }

    #[test]
    fn colours_end_where_the_scale_ends() {
        assert_eq!(colour(0.0, false), "#f7fbff");
        assert_eq!(colour(2.0, false), "#08306b");
        assert_eq!(colour(0.5, true), "#f7f7f7");
    }
}
