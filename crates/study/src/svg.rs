//! Figures as static SVG files.

use std::sync::Arc;

use directrix_corpus::one_line;
use kuva::backend::svg::SvgBackend;
use kuva::plot::colormap::ColorMap;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{BandPlot, BarPlot, Heatmap, Histogram, LinePlot, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::render_multiple;
use kuva::render::theme::Theme;

use crate::chart::{Axis, Colours, Ticks, named, shortened};
use crate::figure::{Band, Figure, Series, Shape};
use crate::palette::{LIGHT, mixed};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// Pixels that a heat map's labels, title and colours take beside and above its cells.
const AROUND: (f64, f64) = (260.0, 200.0);

impl Figure {
    /// The figure as an SVG document, light, with its title, for a paper or a slide.
    pub fn to_svg(&self) -> String {
        let (x, y) = self.axes();
        let written = self.shape.is_written();
        let (plots, layout) = match &self.shape {
            shape if shape.is_empty() => {
                (Vec::new(), sized(Layout::new((0.0, 1.0), (0.0, 1.0)).with_subtitle("no data")))
            }
            Shape::Lines { series, .. } => lines(&x, series, written),
            Shape::Histogram { edges, counts, .. } => bins(&y, edges, counts),
            Shape::Bars { values, half_widths, bands, .. } => bars(&x, values, half_widths, bands),
            Shape::Scatter { x, y, hover } => points(x, y, hover),
            Shape::Heatmap { values, diverging, .. } => cells(&x, &y, values, Colours::of(values, *diverging), written),
        };
        let text = LIGHT.page.ink;
        let theme = Theme {
            axis_color: text.into(),
            tick_color: text.into(),
            text_color: text.into(),
            grid_color: LIGHT.page.grid.into(),
            legend_border: LIGHT.page.line.into(),
            ..Theme::light()
        };
        let layout = layout
            .with_title(no_formula(&one_line(&self.title)))
            .with_title_wrap(90)
            .with_title_size(17)
            .with_label_size(14)
            .with_x_label(no_formula(&x.title))
            .with_y_label(no_formula(&y.title))
            .with_theme(theme)
            .with_font_family("Helvetica, Arial, sans-serif");
        same_name(&SvgBackend::new().render_scene(&render_multiple(plots, layout)))
    }
}

/// kuva numbers its clip paths through all figures of a process: the same figure is to have the same bits.
fn same_name(svg: &str) -> String {
    const CLIP: &str = "kuva-clip-";
    let mut parts = svg.split(CLIP);
    let first = parts.next().unwrap_or_default();
    parts.fold(first.to_owned(), |svg, part| svg + "clip" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn lines(x: &Axis, series: &[Series], dots: bool) -> (Vec<Plot>, Layout) {
    let categories = x.labels().len();
    let mut plots = Vec::new();
    for (one, colour) in series.iter().zip(LIGHT.series.iter().cycle()) {
        // Categories stand at 1, 2, 3, …
        let values = one.values.iter().take(categories).enumerate().filter(|(_, v)| v.is_finite());
        let points: Vec<(f64, f64)> = values.map(|(i, v)| (i as f64 + 1.0, *v)).collect();
        let name = no_formula(&one_line(&one.name));
        plots.push(Plot::Line(LinePlot::new().with_data(points.clone()).with_color(*colour).with_legend(name)));
        if dots {
            plots.push(Plot::Scatter(ScatterPlot::new().with_data(points).with_color(*colour).with_size(3.0)));
        }
    }
    let mut layout = categorical(&plots, x).with_legend_position(LegendPosition::OutsideRightTop);
    layout.x_range = (0.5, categories as f64 + 0.5);
    (plots, layout)
}

fn bins(y: &Axis, edges: &[f64], counts: &[u64]) -> (Vec<Plot>, Layout) {
    let heights = counts.iter().map(|&count| count as f64).collect();
    let plots = vec![Plot::Histogram(Histogram::from_bins(edges.to_vec(), heights).with_color(LIGHT.series[0]))];
    let mut layout = sized(Layout::auto_from_plots(&plots));
    // Ticks at round values instead of at the bins' edges.
    layout.x_bin_width = None;
    if let [least, .., greatest] = edges[..] {
        layout = layout.with_x_axis_min(least).with_x_axis_max(greatest);
    }
    if let Ticks::Powers { least, greatest } = y.ticks {
        layout.data_y_range = Some((least, greatest));
        layout = layout.with_log_y().with_y_axis_min(least).with_y_axis_max(greatest);
    }
    (plots, layout)
}

fn bars(x: &Axis, heights: &[f64], half_widths: &[f64], bands: &[Band]) -> (Vec<Plot>, Layout) {
    let drawn = |values: &[f64]| -> Vec<f64> {
        values.iter().map(|v| if v.is_finite() { *v } else { 0.0 }).take(x.labels().len()).collect()
    };
    let mut bars = BarPlot::new()
        .with_bars(ticks(x).into_iter().zip(drawn(heights)))
        .with_color(LIGHT.series[0])
        .with_error_color(LIGHT.page.ink);
    if !half_widths.is_empty() {
        bars = bars.with_error(drawn(half_widths));
    }
    let mut plots = vec![Plot::Bar(bars)];
    for (band, colour) in bands.iter().zip(LIGHT.series.iter().cycle().skip(1)) {
        let mut name = Some(no_formula(&one_line(&band.name)));
        for (i, (low, high)) in band.low.iter().zip(&band.high).enumerate().take(x.labels().len()) {
            if low.is_finite() && high.is_finite() {
                // Categories stand at 1, 2, 3, …
                let ends = [i as f64 + 0.55, i as f64 + 1.45];
                let mut drawn = BandPlot::new(ends, [*low; 2], [*high; 2]).with_color(*colour).with_opacity(0.45);
                if let Some(name) = name.take() {
                    drawn = drawn.with_legend(name);
                }
                plots.push(Plot::Band(drawn));
            }
        }
    }
    let mut layout = categorical(&plots, x);
    if !bands.is_empty() {
        layout = layout.with_legend_position(LegendPosition::OutsideRightTop);
    }
    (plots, layout)
}

fn points(x: &[f64], y: &[f64], names: &[String]) -> (Vec<Plot>, Layout) {
    let shown: Vec<usize> = (0..x.len().min(y.len())).filter(|&i| x[i].is_finite() && y[i].is_finite()).collect();
    let mut dots = ScatterPlot::new()
        .with_data(shown.iter().map(|&i| (x[i], y[i])).collect::<Vec<_>>())
        .with_color(LIGHT.series[0])
        .with_size(4.0);
    let named = named(x, y);
    if !names.is_empty() && !named.is_empty() {
        let name = |i: &usize| match names.get(*i) {
            Some(name) if named.contains(i) => no_formula(&shortened(&one_line(name))),
            _ => String::new(),
        };
        dots = dots.with_labels(shown.iter().map(name)).with_repel_labels();
    }
    let plots = vec![Plot::Scatter(dots.with_marker_opacity(0.6))];
    let layout = sized(Layout::auto_from_plots(&plots));
    (plots, layout)
}

fn cells(x: &Axis, y: &Axis, values: &[f64], colours: Colours, written: bool) -> (Vec<Plot>, Layout) {
    let (columns, rows) = (x.labels().len(), y.labels().len());
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (least, greatest) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let scale = colours.scale(&LIGHT);
    // kuva spreads its colours over the values drawn; ours go over the range of both drawings, and stay pale enough for
    // the black values written into the cells.
    let colour = move |t: f64| {
        if !t.is_finite() {
            return LIGHT.page.raised.into();
        }
        let place = colours.place(least + t * (greatest - least));
        mixed(
            &scale,
            match (written, colours.diverging) {
                (true, true) => 0.5 + 0.7 * (place - 0.5),
                (true, false) => 0.55 * place,
                (false, _) => place,
            },
        )
    };
    // kuva counts rows from below.
    let mut matrix: Vec<Vec<f64>> = values.chunks(columns).take(rows).map(<[f64]>::to_vec).collect();
    for row in &mut matrix {
        row.resize(columns, f64::NAN);
    }
    matrix.reverse();
    let mut cells = Heatmap::new()
        .with_data(matrix)
        .with_color_map(ColorMap::Custom(Arc::new(colour)))
        .with_cell_size(if written { 0.98 } else { 1.0 });
    if written && finite().count() == columns * rows {
        cells = cells.with_values();
    }
    let plots = vec![Plot::Heatmap(cells)];
    let cell = (700.0 / columns.max(rows) as f64).clamp(10.0, 60.0);
    let layout = Layout::auto_from_plots(&plots)
        .with_x_categories(ticks(x))
        .with_y_categories(ticks(y).into_iter().rev().collect())
        .with_x_tick_rotate(-90.0)
        .with_show_grid(false)
        .with_tick_size((cell as u32 - 1).clamp(7, 12))
        .with_width(cell * columns as f64 + AROUND.0)
        .with_height(cell * rows as f64 + AROUND.1)
        .with_equal_aspect();
    (plots, layout)
}

fn sized(layout: Layout) -> Layout {
    layout.with_width(WIDTH).with_height(HEIGHT).with_tick_size(12)
}

fn categorical(plots: &[Plot], x: &Axis) -> Layout {
    let layout = sized(Layout::auto_from_plots(plots))
        .with_width(WIDTH.max(x.labels().len() as f64 * 16.0 + 120.0))
        .with_x_categories(ticks(x));
    if x.is_slanted() { layout.with_x_tick_rotate(-60.0) } else { layout }
}

fn ticks(axis: &Axis) -> Vec<String> {
    axis.labels().iter().map(|label| no_formula(label)).collect()
}

/// kuva reads `$...$` as a formula.
fn no_formula(text: &str) -> String {
    text.replace('$', "\\$")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn figure(name: &str, shape: Shape) -> Figure {
        let title = format!("Title of {name} <&\"'> $x$ \u{0}");
        let (x, y) = ("across <".into(), "up & down".into());
        Figure { name: name.into(), title, x, y, caption: "One sentence.".into(), shape, links: Vec::new() }
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
            figure(
                "bars",
                Shape::Bars {
                    labels: words(4),
                    values: gaps.clone(),
                    half_widths: gaps.clone(),
                    bands: vec![Band { name: "random <".into(), low: gaps.clone(), high: vec![2.0; 4] }],
                },
            ),
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
            figure("bars", Shape::Bars { labels: vec![], values: vec![], half_widths: vec![], bands: vec![] }),
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
            assert_eq!(svg, figure.to_svg(), "the same figure has the same bits");
            assert_well_formed(&svg);
            assert!(svg.contains(&format!("Title of {}", figure.name)), "{svg}");
        }
    }
}
