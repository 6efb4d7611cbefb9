//! Text and tables laid out for the width of what shows them: the terminal's, else that of the variable COLUMNS, else 80.

use std::io;

use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

use super::terminal::bar;

/// Where nothing says how wide it is.
const WIDTH: usize = 80;
/// No layout is narrower.
const NARROWEST: usize = 20;
/// Between columns, where there is room and where there is not.
const GAPS: [usize; 2] = [3, 2];
/// The most that a bar takes, and the least.
const BARS: [usize; 2] = [20, 6];

/// How wide results may be.
pub(crate) fn width() -> usize {
    let terminal = terminal_size_of(io::stdout()).map(|(Width(width), _)| usize::from(width));
    let variable = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(variable).unwrap_or(WIDTH).max(NARROWEST)
}

/// A paragraph broken between words, each line after `indent` spaces.
pub(crate) fn paragraph(text: &str, indent: usize) -> String {
    wrap(text.split_whitespace().map(|word| (word.to_owned(), word.width())), indent, width())
}

/// Words, each as shown and how wide, on lines after `indent` spaces. A word that no line has room for stays whole: it may be a path.
pub(crate) fn wrap(words: impl Iterator<Item = (String, usize)>, indent: usize, width: usize) -> String {
    let (mut text, mut at) = (String::new(), 0);
    for (word, wide) in words {
        if at == 0 {
            text.push_str(&" ".repeat(indent));
            at = indent;
        } else if at + 1 + wide > width {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            at = indent;
        } else {
            text.push(' ');
            at += 1;
        }
        text.push_str(&word);
        at += wide;
    }
    text
}

/// The beginning of a text that is too wide, with `…`.
pub(crate) fn elided(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.into();
    }
    let mut shown = String::new();
    for character in text.chars() {
        if shown.width() + character.to_string().width() + 1 > width {
            break;
        }
        shown.push(character);
    }
    shown + "…"
}

/// A table of texts and numbers. No number is broken or shortened: columns are left out where there is no room for all, and said to be.
pub(crate) struct Table {
    columns: Vec<Column>,
    /// Columns in the order in which they are kept.
    kept: Vec<usize>,
    /// Of the largest, which bars are drawn after the rows.
    shares: Vec<f64>,
}

struct Column {
    header: String,
    is_text: bool,
    cells: Vec<String>,
}

impl Table {
    /// An empty table; the first `texts` columns are of text.
    pub(crate) fn new(header: &[&str], texts: usize) -> Table {
        let column =
            |(i, name): (usize, &&str)| Column { header: (*name).into(), is_text: i < texts, cells: Vec::new() };
        let columns: Vec<Column> = header.iter().enumerate().map(column).collect();
        Table { kept: (0..columns.len()).collect(), columns, shares: Vec::new() }
    }

    /// Says which columns are of text.
    pub(crate) fn texts(mut self, is_text: impl Fn(usize) -> bool) -> Table {
        self.columns.iter_mut().enumerate().for_each(|(i, column)| column.is_text = is_text(i));
        self
    }

    /// Keeps these columns longer than the others.
    pub(crate) fn keep(mut self, first: &[usize]) -> Table {
        self.kept.sort_by_key(|column| first.iter().position(|kept| kept == column).unwrap_or(usize::MAX));
        self
    }

    pub(crate) fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.columns.iter_mut().zip(cells).for_each(|(column, cell)| column.cells.push(cell.into()));
    }

    /// A bar for the last row: a share of the longest, `-` before it if below 0.
    pub(crate) fn bar(&mut self, share: f64) {
        self.shares.push(share);
    }

    /// The table as wide as it may be.
    pub(crate) fn shown(&self) -> String {
        self.fit(width())
    }

    fn fit(&self, width: usize) -> String {
        for gap in GAPS {
            for one_line in [true, false] {
                if let Some(text) = self.with((0..self.columns.len()).collect(), width, gap, one_line) {
                    return text;
                }
            }
        }
        // The fewest are left out that must be, those kept longest in the order of the table.
        let count =
            (1..self.columns.len()).rev().find(|count| self.with(self.first(*count), width, GAPS[1], false).is_some());
        let shown = self.first(count.unwrap_or(1));
        let left_out: Vec<&str> =
            (0..self.columns.len()).filter(|i| !shown.contains(i)).map(|i| self.columns[i].header.as_str()).collect();
        let text = self.with(shown, width, GAPS[1], false).unwrap_or_default();
        let note = format!("({} too: a wider terminal, or --json)", left_out.join(", "));
        let words = note.split_whitespace().map(|word| (word.to_owned(), word.width()));
        format!("{text}\n{}", wrap(words, 1, width))
    }

    fn first(&self, count: usize) -> Vec<usize> {
        let mut columns = self.kept[..count].to_vec();
        columns.sort_unstable();
        columns
    }

    /// These columns, if they fit.
    fn with(&self, columns: Vec<usize>, width: usize, gap: usize, one_line: bool) -> Option<String> {
        let alone = columns.len() == 1;
        let columns: Vec<(&Column, usize)> = columns
            .into_iter()
            .map(|i| {
                let column = &self.columns[i];
                let cells = column.cells.iter().map(|cell| cell.width()).max().unwrap_or(0);
                let most = if column.is_text { (width / 3).max(8) } else { usize::MAX };
                let header = if one_line {
                    column.header.width()
                } else {
                    column.header.split(' ').map(UnicodeWidthStr::width).max().unwrap_or(0)
                };
                (column, cells.min(most).max(header))
            })
            .collect();
        let own = 1 + columns.iter().map(|(_, wide)| wide).sum::<usize>() + gap * (columns.len() - 1);
        if own > width && !alone {
            return None;
        }
        let room = width.saturating_sub(own + gap).min(BARS[0]);
        let bars = !self.shares.is_empty() && room >= BARS[1];
        let headers: Vec<Vec<String>> = columns.iter().map(|(column, wide)| lines(&column.header, *wide)).collect();
        let height = headers.iter().map(Vec::len).max().unwrap_or(0);
        let place = |cell: &str, column: &Column, wide: usize| {
            let cell = elided(cell, wide);
            let blank = " ".repeat(wide - cell.width().min(wide));
            if column.is_text { cell + &blank } else { blank + &cell }
        };
        let mut shown = Vec::new();
        let mut line = |cells: Vec<String>| {
            shown.push(format!(" {}", cells.join(&" ".repeat(gap))).trim_end().to_owned());
        };
        for i in 0..height {
            // What is of fewer lines stands at the bottom.
            let cell = |header: &Vec<String>| {
                (i + header.len()).checked_sub(height).map_or("", |i| header[i].as_str()).to_owned()
            };
            line(
                columns
                    .iter()
                    .zip(&headers)
                    .map(|((column, wide), header)| place(&cell(header), column, *wide))
                    .collect(),
            );
        }
        line(Vec::new());
        for row in 0..columns.first().map_or(0, |(column, _)| column.cells.len()) {
            let mut cells: Vec<String> =
                columns.iter().map(|(column, wide)| place(&column.cells[row], column, *wide)).collect();
            if let Some(share) = self.shares.get(row).filter(|_| bars) {
                let length = bar(share.abs(), room - 1);
                cells.push(if *share < 0.0 && !length.is_empty() { format!("-{length}") } else { length });
            }
            line(cells);
        }
        let rule = "─".repeat(width.min(own + 1 + if bars { gap + room } else { 0 }));
        shown[height] = rule;
        Some(shown.join("\n"))
    }
}

/// A header on as few lines as its width allows.
fn lines(header: &str, width: usize) -> Vec<String> {
    wrap(header.split(' ').map(|word| (word.to_owned(), word.width())), 0, width)
        .split('\n')
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let header = ["prompt", "answer", "log prob ablated", "rank", "loss increase"];
        let mut table = Table::new(&header, 0).texts(|i| i == 1).keep(&[0, 4, 1]);
        for (row, share) in [
            (["0", ".\"", "-3.9887", "4", "0.5017"], 0.5),
            (["11", "a very long token of a text", "-12.5000", "1234", "-1.3338"], -1.0),
        ] {
            table.row(row);
            table.bar(share);
        }
        table
    }

    #[test]
    fn a_table_fits_any_width_without_breaking_a_number() {
        for width in 20..150 {
            let shown = table().fit(width);
            for line in shown.lines() {
                assert!(line.width() <= width, "{width}:\n{shown}");
            }
            assert!(shown.contains("-1.3338"), "{width}:\n{shown}");
            for number in shown.split_whitespace().filter(|word| word.contains('.') && word.starts_with('-')) {
                assert!(["-3.9887", "-12.5000", "-1.3338"].contains(&number), "{width}:\n{shown}");
            }
            let all = shown.contains("-12.5000") && shown.contains("1234");
            assert_eq!(all, !shown.contains("--json"), "{width}:\n{shown}");
        }
        assert!(table().fit(100).contains("███") && table().fit(100).contains("a very long token of a text"));
        assert!(table().fit(60).contains("…"));
    }

    #[test]
    fn paragraphs_break_between_words() {
        let text = wrap("one two three four".split(' ').map(|word| (word.to_owned(), word.len())), 2, 12);
        assert_eq!(text, "  one two\n  three four");
        assert_eq!(elided("abcdefghij", 5), "abcd…");
    }
}
