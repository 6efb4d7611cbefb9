//! Text of any origin as it is shown to a person.

/// `text` with hidden characters by their code, `\u{202e}`: those that control a terminal, reorder what follows, or cannot be told
/// from nothing or from a space. Lines and tabs stay.
pub fn visible(text: &str) -> String {
    let shown = |(i, c): (usize, char)| match c {
        '\n' | '\t' => c.to_string(),
        // Within a text it joins emoji into one.
        '\u{200d}' if i > 0 => c.to_string(),
        c if is_hidden(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().enumerate().map(shown).collect()
}

/// `text` as [`visible`], on one line: line breaks as `↵`, tabs as `⇥`, and these two signs by their code.
pub fn one_line(text: &str) -> String {
    let signs = text.replace('↵', "\\u{21b5}").replace('⇥', "\\u{21e5}");
    visible(&signs.replace('\n', "↵").replace('\t', "⇥"))
}

/// Controls, spaces that are not the space, bidirectional overrides, zero-width characters and those that XML forbids.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::{one_line, visible};

    #[test]
    fn what_hides_reorders_or_controls_is_shown_by_its_code() {
        assert_eq!(visible("a\x1b[2J\nb\t\u{a0}"), "a\\u{1b}[2J\nb\t\\u{a0}");
        assert_eq!(one_line(" a\n\0\u{202e}\t"), " a↵\\u{0}\\u{202e}⇥");
        assert_eq!(one_line("é漢 👩\u{200d}💻"), "é漢 👩\u{200d}💻");
    }

    #[test]
    fn different_texts_look_different() {
        let alike = ["\n", "↵", "\t", "⇥", " ", "\u{a0}", "\u{2003}", "", "\u{200b}", "\u{200d}", "\u{feff}", "\r"];
        let shown: std::collections::BTreeSet<String> = alike.iter().map(|text| one_line(text)).collect();
        assert_eq!(shown.len(), alike.len());
    }
}
