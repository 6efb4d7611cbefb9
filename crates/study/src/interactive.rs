//! Figures as Plotly charts, drawn by the report's script.

use directrix_corpus::one_line;
use serde_json::{Value, json};

use crate::chart::{Axis, Colours, Ticks, named, shortened};
use crate::figure::{Band, Figure, Series, Shape};

const MONOSPACE: &str = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const HEIGHT: usize = 420;
/// The width of the report's text in pixels; only matrices of more than about a hundred columns are wider.
const COLUMN: usize = 900;

impl Figure {
    /// The figure as a Plotly description: `data`, `layout` and `config`. Its title and its colours are left to the page
    /// around it.
    ///
    /// A heat map asks for a `layout.width`, so that its cells are square; others take the width they are given.
    pub fn to_plotly(&self) -> Value {
        let (x, y) = self.axes();
        let written = self.shape.is_written();
        let mut layout = json!({
            "height": HEIGHT,
            "margin": { "l": 70, "r": 16, "t": 16, "b": 60 },
            "bargap": 0.3,
            "xaxis": axis(&x),
            "yaxis": axis(&y),
        });
        let data = match &self.shape {
            Shape::Lines { series, .. } => {
                layout["hovermode"] = "x unified".into();
                layout["showlegend"] = (series.len() > 1).into();
                layout["legend"] = json!({ "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom" });
                layout["margin"]["t"] = 44.into();
                series.iter().map(|one| line(one, written)).collect()
            }
            Shape::Histogram { edges, counts, .. } => {
                layout["bargap"] = json!(0.04);
                vec![bins(edges, counts)]
            }
            Shape::Bars { values, half_widths, bands, .. } => {
                layout["showlegend"] = (!bands.is_empty()).into();
                layout["legend"] = json!({ "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom" });
                [bars(values, half_widths)].into_iter().chain(bands.iter().map(band)).collect()
            }
            Shape::Scatter { x, y, hover } => {
                layout["hovermode"] = "closest".into();
                vec![points(x, y, hover)]
            }
            Shape::Heatmap { columns, values, diverging, .. } => {
                square(&mut layout, &x, &y);
                vec![cells(values, columns.len().max(1), Colours::of(values, *diverging), written)]
            }
        };
        let mut data: Vec<Value> = data;
        if let (Some(trace), false) = (data.first_mut(), self.links.is_empty()) {
            trace["customdata"] = self.links.iter().map(String::as_str).collect();
        }
        json!({ "data": data, "layout": layout, "config": { "responsive": true, "displayModeBar": false } })
    }
}

fn axis(axis: &Axis) -> Value {
    let mut shown = json!({
        "title": { "text": escaped(&axis.title) },
        "automargin": true,
        "showgrid": axis.grid,
        "zeroline": axis.zero,
    });
    match &axis.ticks {
        Ticks::Labels(labels) => {
            shown["tickmode"] = "array".into();
            shown["tickvals"] = (0..labels.len()).collect();
            shown["ticktext"] = labels.iter().map(|label| escaped(label)).collect();
            if axis.is_slanted() {
                shown["tickangle"] = json!(-60);
            }
        }
        Ticks::Values => shown["exponentformat"] = "power".into(),
        Ticks::Powers { least, greatest } => {
            shown["type"] = "log".into();
            shown["dtick"] = json!(1);
            shown["tickformat"] = ",d".into();
            shown["range"] = json!([least.log10(), greatest.log10()]);
        }
    }
    shown
}

fn line(series: &Series, dots: bool) -> Value {
    json!({
        "type": "scatter",
        "mode": if dots { "lines+markers" } else { "lines" },
        "name": escaped(&one_line(&series.name)),
        "x": (0..series.values.len()).collect::<Vec<_>>(),
        "y": series.values,
        "line": { "width": 2 },
        "marker": { "size": 6 },
        "hovertemplate": "%{y:.4~g}",
    })
}

fn bins(edges: &[f64], counts: &[u64]) -> Value {
    let bins = || edges.windows(2).zip(counts);
    let shown = |(edge, count): (&[f64], &u64)| format!("{:.4} to {:.4}: {count}", edge[0], edge[1]);
    json!({
        "type": "bar",
        "x": bins().map(|(edge, _)| f64::midpoint(edge[0], edge[1])).collect::<Vec<_>>(),
        "y": counts,
        "width": edges.windows(2).map(|edge| edge[1] - edge[0]).collect::<Vec<_>>(),
        "hovertext": bins().map(shown).collect::<Vec<_>>(),
        "hovertemplate": "%{hovertext}<extra></extra>",
        "textposition": "none",
    })
}

fn bars(heights: &[f64], half_widths: &[f64]) -> Value {
    let mut trace = json!({
        "type": "bar",
        "name": "mean",
        "x": (0..heights.len()).collect::<Vec<_>>(),
        "y": heights,
        "hovertemplate": "%{x}: <b>%{y:.4~g}</b><extra></extra>",
    });
    if !half_widths.is_empty() {
        let lengths: Vec<f64> = half_widths.iter().map(|h| if h.is_finite() { *h } else { 0.0 }).collect();
        trace["error_y"] = json!({ "type": "data", "array": lengths, "thickness": 1.5, "width": 4 });
        trace["hovertemplate"] = "%{x}: <b>%{y:.4~g}</b> ± %{error_y.array:.3~g}<extra></extra>".into();
    }
    trace
}

/// Rectangles, one over each bar.
fn band(band: &Band) -> Value {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (i, (low, high)) in
        band.low.iter().zip(&band.high).enumerate().filter(|(_, (low, high))| (*high - *low).is_finite())
    {
        let (left, right) = (i as f64 - 0.45, i as f64 + 0.45);
        // A gap ends a rectangle.
        x.extend([left, right, right, left, left, f64::NAN]);
        y.extend([*low, *low, *high, *high, *low, f64::NAN]);
    }
    json!({
        "type": "scatter",
        "mode": "lines",
        "name": escaped(&one_line(&band.name)),
        "x": x,
        "y": y,
        "fill": "toself",
        "line": { "width": 1 },
        "hoverinfo": "skip",
    })
}

fn points(x: &[f64], y: &[f64], names: &[String]) -> Value {
    let mut trace = json!({
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": { "size": 8, "opacity": 0.65 },
        "hovertemplate": "(%{x:.4~g}, %{y:.4~g})<extra></extra>",
    });
    if !names.is_empty() {
        trace["hovertext"] = names.iter().map(|name| escaped(&one_line(name))).collect();
        trace["hovertemplate"] = "%{hovertext}<br>(%{x:.4~g}, %{y:.4~g})<extra></extra>".into();
        let named = named(x, y);
        if !named.is_empty() {
            let text = |(i, name): (usize, &String)| {
                if named.contains(&i) { escaped(&shortened(&one_line(name))) } else { String::new() }
            };
            trace["mode"] = "markers+text".into();
            trace["text"] = names.iter().enumerate().map(text).collect();
            trace["textposition"] = "top center".into();
        }
    }
    trace
}

fn cells(values: &[f64], columns: usize, colours: Colours, written: bool) -> Value {
    let rows: Vec<&[f64]> = values.chunks(columns).collect();
    let gap = usize::from(columns.max(rows.len()) <= 40);
    let mut trace = json!({
        "type": "heatmap",
        "x": (0..columns).collect::<Vec<_>>(),
        "y": (0..rows.len()).collect::<Vec<_>>(),
        "z": rows,
        "zmin": colours.least,
        "zmax": colours.greatest,
        "xgap": gap,
        "ygap": gap,
        "colorbar": { "thickness": 12, "outlinewidth": 0, "tickformat": ".3~g" },
        "hoverongaps": false,
        "hovertemplate": "%{y} → %{x}: <b>%{z:.4~g}</b><extra></extra>",
    });
    if colours.diverging {
        trace["zmid"] = json!(0);
    }
    if written {
        trace["texttemplate"] = "%{z:.2f}".into();
    }
    trace
}

/// Gives a heat map the pixels that make its cells square.
fn square(layout: &mut Value, x: &Axis, y: &Axis) {
    let (columns, rows) = (x.labels().len().max(1), y.labels().len().max(1));
    let most = columns.max(rows);
    let font = if most > 60 { 7 } else { 12 };
    let labels = |axis: &Axis| axis.longest() * font * 62 / 100 + 34;
    let (left, right, top, bottom) = (labels(y), 60, 12, labels(x));
    let cell = (COLUMN.saturating_sub(left + right) / most).clamp(7, 42);
    layout["width"] = (left + right + cell * columns).into();
    layout["height"] = (top + bottom + cell * rows).into();
    layout["margin"] = json!({ "l": left, "r": right, "t": top, "b": bottom });
    for (axis, angle, range) in [("xaxis", -90, [-0.5, columns as f64 - 0.5]), ("yaxis", 0, [rows as f64 - 0.5, -0.5])]
    {
        let axis = &mut layout[axis];
        axis["automargin"] = false.into();
        axis["ticklen"] = 0.into();
        axis["tickangle"] = angle.into();
        axis["tickfont"] = json!({ "family": MONOSPACE, "size": font });
        axis["range"] = json!(range);
    }
}

/// `text` without Plotly's own markup: it reads `<b>`, `<a href>` and entities in every label.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
            bands: Vec::new(),
        };
        let figure = Figure {
            name: "n".into(),
            title: "t".into(),
            x: "x".into(),
            y: "y".into(),
            caption: String::new(),
            shape,
            links: Vec::new(),
        };
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
            links: Vec::new(),
        };
        let description = figure.to_plotly();
        assert_eq!(description["layout"]["xaxis"]["ticktext"][0], "&lt;a href='javascript:x'&gt;");
        assert_eq!(description["layout"]["xaxis"]["title"]["text"], "&lt;i&gt;");
        assert_eq!(description["data"][0]["name"], "&lt;b&gt;&amp;");
    }
}
