//! The report: one HTML file that opens anywhere, offline.

use std::collections::BTreeMap;

use directrix_circuits::{Cells, Column, Table};
use directrix_corpus::one_line;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use crate::browser::{Browser, packed};
use crate::error::{Error, Result};
use crate::figure::{Figure, visible_token};
use crate::look;
use crate::prompt_graph::PromptGraph;

const TEMPLATE: &str = include_str!("report.html.jinja");
/// The script of the browser of directions.
const BROWSER: &str = include_str!("browser.js");
/// The script of attribution graphs.
const GRAPHS: &str = include_str!("prompt_graph.js");
/// The page holds at most this many rows of a table; its files hold all.
const MOST_ROWS: usize = 500;
/// Tokens shown around the one that matters, until the reader asks for more.
const BEFORE: usize = 40;
const AFTER: usize = 15;

/// What a study found, in reading order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Headline.
    pub title: String,
    /// The study in a paragraph.
    pub lead: String,
    /// What the texts are that it is found on.
    pub corpus: String,
    /// Headline numbers.
    pub facts: Vec<Fact>,
    /// The analyses.
    pub sections: Vec<Section>,
    /// What made the report, for reproduction.
    pub footer: String,
    /// The number of the SAE that is taken apart, and of how many: what direction numbers in tables are of.
    #[serde(skip)]
    pub saes: (usize, usize),
    /// The files that the page carries, by their path beside it: tables as CSV and figures as SVG.
    #[serde(skip)]
    pub files: Vec<(String, String)>,
}

/// A headline number of a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// The value, with its unit.
    pub value: String,
    /// What it is over, and what to make of it; empty if the name says it all.
    pub note: String,
}

/// One analysis of a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    /// Identifier, used as anchor: lower case words joined by `-`.
    pub name: String,
    /// Headline.
    pub title: String,
    /// Paragraphs of plain text, in which `[429](#direction/0/429)` leads to a direction.
    pub prose: Vec<String>,
    /// The results.
    pub blocks: Vec<Block>,
}

/// One result of a [`Section`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Block {
    /// Rows, linked to `tables/NAME.csv` and `tables/NAME.parquet`.
    Table(Table),
    /// A chart, linked to `figures/NAME.svg`.
    Figure(Figure),
    /// Shaded prompts.
    Texts(Texts),
    /// All directions.
    Browser(Browser),
    /// An attribution graph, linked to `figures/NAME.svg`.
    Graph(PromptGraph),
}

/// Prompts with tokens shaded by a value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Texts {
    /// Identifier, used as anchor: lower case words joined by `-`.
    pub name: String,
    /// Headline.
    pub title: String,
    /// What the shade is, in one sentence.
    pub caption: String,
    /// The prompts.
    pub rows: Vec<ShadedText>,
}

/// One prompt of [`Texts`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShadedText {
    /// Which prompt it is and why it is here: `prompt 123, maximum 4.21`.
    pub label: String,
    /// The tokens' text, spaces included; empty for the further tokens of a character.
    pub tokens: Vec<String>,
    /// One value per token; negative ones get the other colour.
    pub values: Vec<f32>,
    /// The absolute value of the darkest shade.
    pub maximum: f32,
    /// The position to outline.
    pub marked: Option<usize>,
}

impl Report {
    /// The report as one HTML page that fetches nothing: styles, scripts and data are within.
    ///
    /// # Errors
    /// [`Error::Render`] if a value cannot be shown.
    pub fn to_html(&self) -> Result<String> {
        self.render().map_err(|source| Error::Render { title: self.title.clone(), source })
    }

    fn render(&self) -> std::result::Result<String, minijinja::Error> {
        let links = self.links();
        let sections: Vec<SectionView> = self.sections.iter().map(|section| SectionView::of(section, links)).collect();
        let drawn =
            sections.iter().flat_map(|s| &s.blocks).any(|b| matches!(b, BlockView::Figure { data: Some(_), .. }));
        let has_graph = sections.iter().flat_map(|s| &s.blocks).any(|b| matches!(b, BlockView::Graph { .. }));
        let mut environment = Environment::new();
        environment.add_template("report.html", TEMPLATE)?;
        let files: BTreeMap<&str, &str> =
            self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let files =
            packed(&files).map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        let page = environment.get_template("report.html")?.render(context! {
            title => self.title.as_str(),
            lead => linked(&self.lead, links.is_some()),
            corpus => self.corpus.as_str(),
            facts => Serde(&self.facts),
            sections => Serde(&sections),
            footer => self.footer.as_str(),
            files => (!self.files.is_empty()).then(|| Value::from_safe_string(files)),
            browser => links.is_some().then(|| Value::from_safe_string(BROWSER.into())),
            graphs => has_graph.then(|| Value::from_safe_string(GRAPHS.into())),
            style => Value::from_safe_string(look::style().into()),
            look => Value::from_safe_string(look::script().into()),
            plotly => drawn.then(|| Value::from_safe_string(format!("<script>{}</script>", look::plotly()))),
        })?;
        Ok(page.replace('\0', "\u{fffd}"))
    }

    /// Where direction numbers lead; nowhere without a browser.
    fn links(&self) -> Option<Links> {
        let browser = |block: &Block| matches!(block, Block::Browser(_));
        let has = self.sections.iter().flat_map(|section| &section.blocks).any(browser);
        has.then_some(Links { own: self.saes.0, last: self.saes.1.saturating_sub(1) })
    }
}

/// The numbers of the SAEs whose directions columns name: `direction`, `one` and `other` of that taken apart, `first` one of the first,
/// `second` one of the last.
#[derive(Debug, Clone, Copy)]
struct Links {
    own: usize,
    last: usize,
}

impl Links {
    /// Where a row's cell of the column leads to.
    fn anchor(self, table: &Table, column: &Column, row: usize) -> Option<String> {
        let sae = match column.name.as_str() {
            // A table of another SAE says of which.
            "direction" => of_sae(table, row).unwrap_or(self.own as i64),
            "one" | "other" => self.own as i64,
            "first" => 0,
            "second" => self.last as i64,
            _ => return None,
        };
        match &column.cells {
            Cells::Integer(directions) => Some(format!("direction/{sae}/{}", directions[row])),
            _ => None,
        }
    }
}

/// A paragraph as HTML: `[429](#direction/0/429)` as a link, or without one where there is nothing to lead to; all else as it is.
fn linked(text: &str, links: bool) -> Value {
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;")
    };
    let mut html = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let (before, from) = rest.split_at(start);
        html.push_str(&escape(before));
        rest = if let Some((number, anchor, after)) = link(from) {
            let shown = if links { format!("<a href=\"#{anchor}\">{number}</a>") } else { number.into() };
            html.push_str(&shown);
            after
        } else {
            html.push('[');
            &from[1..]
        };
    }
    html.push_str(&escape(rest));
    Value::from_safe_string(html)
}

/// The number, the anchor and what follows of a text that begins with a link to a direction.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (number, from) = text.strip_prefix('[')?.split_once("](#")?;
    let (anchor, after) = from.split_once(')')?;
    let (sae, direction) = anchor.strip_prefix("direction/")?.split_once('/')?;
    (digits(number) && digits(sae) && digits(direction)).then_some((number, anchor, after))
}

/// `data` as the content of a script element: no text in it can end the element or open a comment.
fn embedded(data: &serde_json::Value) -> Value {
    Value::from_safe_string(data.to_string().replace('<', "\\u003c"))
}

#[derive(Serialize)]
struct SectionView<'a> {
    name: &'a str,
    title: &'a str,
    prose: Vec<Value>,
    blocks: Vec<BlockView<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum BlockView<'a> {
    Table { name: &'a str, caption: &'a str, columns: Vec<ColumnView<'a>>, rows: Vec<Vec<CellView>>, total: usize },
    Figure { name: &'a str, title: &'a str, caption: &'a str, data: Option<Value> },
    Texts { name: &'a str, title: &'a str, caption: &'a str, rows: Vec<TextView<'a>> },
    Browser { name: &'a str, caption: &'a str, packed: Value },
    Graph { name: &'a str, title: &'a str, caption: &'a str, drawing: Value, data: Value },
}

#[derive(Serialize)]
struct ColumnView<'a> {
    name: &'a str,
    class: &'static str,
}

#[derive(Serialize)]
struct CellView {
    text: String,
    /// The unrounded value, where the text is rounded.
    exact: Option<String>,
    /// The direction that it names, as an anchor.
    link: Option<String>,
}

#[derive(Serialize)]
struct TextView<'a> {
    label: &'a str,
    before: Vec<TokenView>,
    near: Vec<TokenView>,
    after: Vec<TokenView>,
}

#[derive(Serialize)]
struct TokenView {
    text: String,
    /// Opacity of the shade.
    shade: String,
    hint: Option<String>,
    class: &'static str,
}

impl<'a> SectionView<'a> {
    fn of(section: &'a Section, links: Option<Links>) -> Self {
        let blocks = section.blocks.iter().map(|block| BlockView::of(block, links)).collect();
        let prose = section.prose.iter().map(|paragraph| linked(paragraph, links.is_some())).collect();
        SectionView { name: &section.name, title: &section.title, prose, blocks }
    }
}

impl<'a> BlockView<'a> {
    fn of(block: &'a Block, links: Option<Links>) -> Self {
        match block {
            Block::Table(table) => BlockView::of_table(table, links),
            Block::Browser(Browser { name, caption, packed }) => {
                BlockView::Browser { name, caption, packed: Value::from_safe_string(packed.clone()) }
            }
            Block::Graph(graph) => BlockView::Graph {
                name: &graph.name,
                title: &graph.title,
                caption: &graph.caption,
                drawing: Value::from_safe_string(graph.inline()),
                data: embedded(&graph.data()),
            },
            Block::Figure(figure) => BlockView::Figure {
                name: &figure.name,
                title: &figure.title,
                caption: &figure.caption,
                data: (!figure.shape.is_empty()).then(|| embedded(&figure.to_plotly())),
            },
            Block::Texts(texts) => BlockView::Texts {
                name: &texts.name,
                title: &texts.title,
                caption: &texts.caption,
                rows: texts.rows.iter().map(TextView::of).collect(),
            },
        }
    }

    fn of_table(table: &'a Table, links: Option<Links>) -> Self {
        let shown: Vec<(&Column, Option<&[f64]>)> = with_intervals(&table.columns);
        let columns: Vec<ColumnView> =
            shown.iter().map(|(column, _)| ColumnView { name: &column.name, class: class(column) }).collect();
        let cells = |row| {
            let cell = |((column, half_widths), view): (&(&Column, Option<&[f64]>), &ColumnView)| {
                let cell = CellView::of(&column.cells, row, view.class).within(half_widths.map(|widths| widths[row]));
                CellView { link: links.and_then(|links| links.anchor(table, column, row)), ..cell }
            };
            shown.iter().zip(&columns).map(cell).collect()
        };
        let rows = (0..table.len().min(MOST_ROWS)).map(cells).collect();
        BlockView::Table { name: &table.name, caption: &table.caption, columns, rows, total: table.len() }
    }
}

/// The columns to show, with the half widths of those that have any: the page says `mean ± half width` in one column. A column
/// `x half width` belongs to `x`, one called `half width` to the first column of reals before it that is not a standard error.
fn with_intervals(columns: &[Column]) -> Vec<(&Column, Option<&[f64]>)> {
    let is_error = |column: &Column| column.name == "se" || column.name.ends_with(" se");
    let mut shown: Vec<(&Column, Option<&[f64]>)> = Vec::new();
    for column in columns {
        let owner = match (column.name.strip_suffix("half width").map(str::trim_end), &column.cells) {
            (Some(""), Cells::Real(_)) => {
                shown.iter().rposition(|(c, _)| matches!(c.cells, Cells::Real(_)) && !is_error(c))
            }
            (Some(name), Cells::Real(_)) => shown.iter().rposition(|(c, _)| c.name == name),
            _ => None,
        };
        match (owner, &column.cells) {
            (Some(owner), Cells::Real(widths)) if shown[owner].1.is_none() => shown[owner].1 = Some(widths),
            _ => shown.push((column, None)),
        }
    }
    // What is said by the interval needs no column beside it.
    let has_interval = shown.iter().any(|(_, widths)| widths.is_some());
    shown.retain(|(column, _)| !(has_interval && is_error(column)));
    shown
}

/// The number of the SAE that a row is about, if the table says it.
fn of_sae(table: &Table, row: usize) -> Option<i64> {
    table.columns.iter().find_map(|column| match &column.cells {
        Cells::Integer(numbers) if column.name == "sae" => Some(numbers[row]),
        _ => None,
    })
}

/// How a column is set: `number`, `token` (spaces made visible) or `text`.
fn class(column: &Column) -> &'static str {
    match &column.cells {
        Cells::Integer(_) | Cells::Real(_) => "number",
        Cells::Text(cells) => {
            let named = column.name.split_whitespace().any(|word| matches!(word, "token" | "tokens"));
            let spaced = |text: &String| text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
            if named || cells.iter().any(spaced) { "token" } else { "text" }
        }
    }
}

impl CellView {
    fn of(cells: &Cells, row: usize, class: &str) -> Self {
        match cells {
            Cells::Integer(v) => CellView { text: v[row].to_string(), exact: None, link: None },
            Cells::Real(v) => {
                let text = real(v[row]);
                let exact = v[row].is_finite().then(|| v[row].to_string()).filter(|exact| *exact != text);
                CellView { text, exact, link: None }
            }
            Cells::Text(v) if class == "token" => CellView { text: visible_token(&v[row]), exact: None, link: None },
            Cells::Text(v) => CellView { text: one_line(&v[row]), exact: None, link: None },
        }
    }
}

impl CellView {
    /// The same with `± half width`, if there is one.
    fn within(self, half_width: Option<f64>) -> CellView {
        match half_width {
            Some(width) if width.is_finite() => {
                let exact = self.exact.unwrap_or_else(|| self.text.clone());
                CellView { text: format!("{} ± {}", self.text, short(width)), exact: Some(exact), ..self }
            }
            _ => self,
        }
    }
}

/// `value` with two significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !(1e-4..1e4).contains(&value) {
        return real(value);
    }
    let decimals = (1.0 - value.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

/// `value` with four significant digits; whole numbers plain, very small and very large ones with an exponent.
fn real(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        "–".into()
    } else if value.is_infinite() {
        if value > 0.0 { "∞".into() } else { "-∞".into() }
    } else if value.fract() == 0.0 && size < 1e9 {
        format!("{value:.0}")
    } else if !(1e-4..1e7).contains(&size) {
        format!("{value:.3e}")
    } else {
        let decimals = (3.0 - size.log10().floor()).max(0.0) as usize;
        format!("{value:.decimals$}")
    }
}

impl<'a> TextView<'a> {
    fn of(text: &'a ShadedText) -> Self {
        let value = |position: usize| text.values.get(position).copied().filter(|v| v.is_finite()).unwrap_or(0.0);
        let strongest =
            (0..text.tokens.len()).max_by(|&a, &b| value(a).abs().total_cmp(&value(b).abs()).then(b.cmp(&a)));
        let centre = text.marked.or(strongest).unwrap_or(0);
        let mut tokens: Vec<TokenView> = text
            .tokens
            .iter()
            .enumerate()
            .map(|(position, token)| TokenView::of(token, value(position), text.maximum, text.marked == Some(position)))
            .collect();
        let after = tokens.split_off((centre + 1 + AFTER).min(tokens.len()));
        let near = tokens.split_off(centre.saturating_sub(BEFORE).min(tokens.len()));
        TextView { label: &text.label, before: tokens, near, after }
    }
}

impl TokenView {
    fn of(token: &str, value: f32, maximum: f32, marked: bool) -> Self {
        let part = if maximum > 0.0 { (value.abs() / maximum).min(1.0) } else { 0.0 };
        let class = match (value < 0.0, marked) {
            (false, false) => "",
            (true, false) => "below",
            (false, true) => "marked",
            (true, true) => "below marked",
        };
        TokenView {
            text: one_line(token),
            shade: if part < 0.005 { String::new() } else { format!("{part:.2}") },
            hint: (value != 0.0 || marked).then(|| format!("{}  {}", visible_token(token), real(value.into()))),
            class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::tests::every_shape;

    const HOSTILE: &str = "</script><img src=x onerror=\"alert('1')\">\n\0\u{202e}<!--<script>{{ 1 }}";

    fn hostile_report() -> Report {
        let text = || HOSTILE.to_string();
        let column = |cells| Column { name: text(), cells };
        let table = Table {
            name: text(),
            caption: text(),
            columns: vec![column(Cells::Text(vec![text()])), column(Cells::Real(vec![f64::NAN]))],
        };
        let mut figures = every_shape();
        for figure in &mut figures {
            figure.name = text();
            figure.title = text();
            figure.x = text();
            figure.caption = text();
        }
        let row = ShadedText {
            label: text(),
            tokens: vec![text(); 3],
            values: vec![f32::NAN, f32::NEG_INFINITY],
            maximum: f32::NAN,
            marked: Some(99),
        };
        let texts = Texts { name: text(), title: text(), caption: text(), rows: vec![row] };
        let blocks = figures.into_iter().map(Block::Figure).chain([Block::Table(table), Block::Texts(texts)]);
        Report {
            title: text(),
            lead: text(),
            corpus: text(),
            facts: vec![Fact { name: text(), value: text(), note: text() }],
            sections: vec![Section { name: text(), title: text(), prose: vec![text()], blocks: blocks.collect() }],
            footer: text(),
            saes: (0, 2),
            files: vec![("tables/x.csv".into(), text())],
        }
    }

    /// The page without Plotly's own source.
    fn page(report: &Report) -> String {
        report.to_html().unwrap().replace(look::plotly(), "")
    }

    #[test]
    fn hostile_text_stays_text() {
        let page = page(&hostile_report());
        assert!(!page.contains("<img"));
        assert!(!page.contains("onerror=\""));
        assert!(!page.contains("<!--"));
        assert!(!page.contains('\0'));
        assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
    }

    #[test]
    fn embedded_figures_are_json() {
        let page = page(&hostile_report());
        let data: Vec<&str> = page
            .split("<script type=\"application/json\">")
            .skip(1)
            .map(|rest| rest.split("</script>").next().unwrap())
            .collect();
        assert_eq!(data.len(), every_shape().len());
        for json in data {
            serde_json::from_str::<serde_json::Value>(json).unwrap();
        }
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page(&hostile_report());
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn an_empty_report_and_empty_blocks_render() {
        let mut report = Report {
            title: "t".into(),
            lead: String::new(),
            corpus: String::new(),
            facts: vec![],
            sections: vec![],
            footer: String::new(),
            saes: (0, 1),
            files: vec![],
        };
        assert!(report.to_html().unwrap().len() < 100_000, "no figure, no Plotly");
        let table = Table { name: "none".into(), caption: "Nothing.".into(), columns: vec![] };
        let figure = Figure {
            name: "none".into(),
            title: "None".into(),
            x: String::new(),
            y: String::new(),
            caption: String::new(),
            shape: crate::Shape::histogram(&[], 5),
            links: vec![],
        };
        let row = ShadedText { label: String::new(), tokens: vec![], values: vec![], maximum: 0.0, marked: None };
        let texts = Texts { name: "x".into(), title: String::new(), caption: String::new(), rows: vec![row] };
        report.sections.push(Section {
            name: "s".into(),
            title: "S".into(),
            prose: vec![],
            blocks: vec![Block::Table(table), Block::Figure(figure), Block::Texts(texts)],
        });
        assert_eq!(report.to_html().unwrap().matches("Nothing to show").count(), 2);
    }

    #[test]
    fn only_a_number_of_a_direction_leads_anywhere() {
        let html = |text: &str| linked(text, true).to_string();
        assert_eq!(html("see [429](#direction/0/429)."), "see <a href=\"#direction/0/429\">429</a>.");
        assert_eq!(linked("see [429](#direction/0/429).", false).to_string(), "see 429.");
        for other in
            ["[x](#direction/0/1)", "[1](javascript:x)", "[1](#direction/0/)", "[1](#direction/0/1", "a [ b", "["]
        {
            assert_eq!(html(other), other);
        }
        assert_eq!(html("<b>[&"), "&lt;b&gt;[&amp;");
    }

    #[test]
    fn an_interval_stands_beside_its_mean() {
        let column = |name: &str, value: f64| Column { name: name.into(), cells: Cells::Real(vec![value]) };
        let columns = [
            Column { name: "n".into(), cells: Cells::Integer(vec![3]) },
            column("prompts", f64::NAN),
            column("loss increase", 1.5),
            column("se", 0.1),
            column("half width", 0.234),
            column("p", 0.01),
            column("random rows", 0.5),
            column("random rows half width", f64::NAN),
        ];
        let shown: Vec<(&str, String)> = with_intervals(&columns)
            .into_iter()
            .map(|(column, widths)| {
                let cell = CellView::of(&column.cells, 0, "number").within(widths.map(|widths| widths[0]));
                (column.name.as_str(), cell.text)
            })
            .collect();
        let expected = [
            ("n", "3"),
            ("prompts", "–"),
            ("loss increase", "1.500 ± 0.23"),
            ("p", "0.01000"),
            ("random rows", "0.5000"),
        ];
        assert_eq!(shown, expected.map(|(name, text)| (name, text.to_string())));
    }

    #[test]
    fn numbers_are_short() {
        let shown = |v| real(v);
        assert_eq!(shown(0.123_456), "0.1235");
        assert_eq!(shown(-12.3456), "-12.35");
        assert_eq!(shown(12_345.678), "12346");
        assert_eq!(shown(3.0), "3");
        assert_eq!(shown(0.0), "0");
        assert_eq!(shown(0.000_012_34), "1.234e-5");
        assert_eq!(shown(f64::NAN), "–");
        assert_eq!(shown(f64::NEG_INFINITY), "-∞");
        assert_eq!(shown(1e300), "1.000e300");
    }

    #[test]
    fn long_prompts_are_cut_around_the_marked_token() {
        let text = ShadedText {
            label: String::new(),
            tokens: vec![" a".into(); 200],
            values: vec![0.0; 200],
            maximum: 1.0,
            marked: Some(100),
        };
        let view = TextView::of(&text);
        assert_eq!((view.before.len(), view.near.len(), view.after.len()), (60, 56, 84));
        let unmarked = ShadedText { marked: None, values: vec![1.0; 200], ..text };
        assert_eq!(TextView::of(&unmarked).before.len(), 0);
    }
}
