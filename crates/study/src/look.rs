//! What reports and the page look like: one style, one palette, one way of drawing figures.

use std::fmt::Write;
use std::sync::LazyLock;

use plotly::Plot;
use serde_json::json;

use crate::palette::{DARK, LIGHT, Palette};
use crate::prompt_graph;

const RULES: &str = include_str!("look.css");
const SCRIPT: &str = include_str!("look.js");

static STYLE: LazyLock<String> = LazyLock::new(|| {
    let (light, dark) = (variables(&LIGHT), variables(&DARK));
    format!(
        ":root {{ color-scheme: light;{light} }}\n\
         :root[data-theme=\"dark\"] {{ color-scheme: dark;{dark} }}\n\
         @media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ color-scheme: dark;{dark} }} }}\n\
         {RULES}{}",
        prompt_graph::STYLE
    )
});

static LOOK: LazyLock<String> = LazyLock::new(|| {
    let palettes = json!({ "light": &LIGHT, "dark": &DARK }).to_string();
    SCRIPT.replacen("PALETTES", &palettes.replace('<', "\\u003c"), 1)
});

static PLOTLY: LazyLock<String> = LazyLock::new(|| {
    // Its own script element alone: the formula typesetter that comes along is not used.
    let sources = Plot::offline_js_sources();
    let script = sources.split_once("<script").and_then(|(_, rest)| rest.split_once('>'));
    script.and_then(|(_, rest)| rest.split_once("</script>")).map_or_else(String::new, |(script, _)| script.into())
});

/// The style sheet: colours as variables (`--ink`, `--page`, `--accent`), light and dark, and the rules of reports.
pub fn style() -> &'static str {
    &STYLE
}

/// The script that defines `Look.themed`, which gives a [figure's](crate::Figure::to_plotly) description the page's colours, and
/// `Look.palettes`.
pub fn script() -> &'static str {
    &LOOK
}

/// Plotly, which draws figures.
pub fn plotly() -> &'static str {
    &PLOTLY
}

/// A palette as variables of a style sheet.
fn variables(palette: &Palette) -> String {
    let mut variables = String::new();
    let page = serde_json::to_value(&palette.page).unwrap_or_default();
    for (name, colour) in page.as_object().into_iter().flatten() {
        let _ = write!(variables, " --{name}: {};", colour.as_str().unwrap_or_default());
    }
    let _ = write!(variables, " --positive: {}; --negative: {};", palette.series[0], palette.series[1]);
    for (number, colour) in palette.series.iter().enumerate() {
        let _ = write!(variables, " --series-{number}: {colour};");
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_whole() {
        assert!(style().contains("--accent: #") && style().contains("color-scheme: dark; --"));
        assert!(style().contains(".graph-drawing") && !style().contains('\0'));
        assert!(script().contains("\"sequential\":") && !script().contains("PALETTES"));
        assert!(plotly().len() > 1_000_000 && !plotly().contains("</script"));
    }
}
