//! What is looked for, and the language it is said in.

use regex::bytes::Regex;

use super::text;
use crate::{Error, Index, Result};

/// The longest text, sequence of tokens, and query, in bytes, tokens and characters.
const LONGEST: usize = 4096;
/// Parentheses and `!` within each other.
const DEEPEST: usize = 32;
/// What a term begins with.
const TERM: &str = "SAE/DIRECTION, \"text\", /regex/, [token ids], ! or (";
/// What may stand behind a term.
const OPERATOR: &str = "&, |, within or the end";
/// What no name of an SAE holds; one that does is named by its number.
const SIGNS: &str = "&|!()[]\"/>";

/// What is looked for in a corpus: a set of its positions.
///
/// | written | positions |
/// |---|---|
/// | `"text"` | where a literal text ends: of each place, the last token that overlaps it. `\"`, `\\`, `\n`, `\t` stand for what they do in Rust |
/// | `/regex/` | where a match of a regular expression ends, likewise; empty matches are none. `\/` is a slash |
/// | `[318]`, `[318 22]` | where a token is, or the last of tokens that follow each other |
/// | `sae-l1/429` | where direction 429 of the SAE with this name, or number, fires |
/// | `sae-l1/429>0.5` | where its activation is above 0.5 |
/// | `!A` | where A is not |
/// | `A within 5 of B` | where A is and, in the same prompt, B is at the same position or at most 5 away on either side |
/// | `A & B` | where both are |
/// | <code>A &#124; B</code> | where one or both are |
///
/// `!` binds most, then `within`, `&`, `|`; parentheses group. A text or a regular expression is looked for in the
/// text of each prompt alone; the BOS that begins a prompt has none, so that `^` is before the first token behind it.
#[derive(Debug, Clone)]
pub struct Query {
    pub(super) node: Node,
    directions: Vec<(usize, usize)>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Tokens(Vec<u32>),
    Text(String),
    Regex(Regex),
    Fires { sae: usize, direction: usize, above: f32 },
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Within(Box<Node>, u64, Box<Node>),
}

impl Query {
    /// A literal text.
    ///
    /// # Errors
    /// [`Error::Pattern`] if it is empty or longer than 4,096 bytes.
    pub fn text(text: &str) -> Result<Query> {
        Ok(Query::of(Node::Text(checked_text(text).map_err(|problem| Error::Pattern { problem })?)))
    }

    /// A regular expression, in the syntax of the crate `regex`.
    ///
    /// # Errors
    /// [`Error::Pattern`] if it cannot be understood, or is too large.
    pub fn regex(pattern: &str) -> Result<Query> {
        Ok(Query::of(Node::Regex(text::regex(pattern).map_err(|problem| Error::Pattern { problem })?)))
    }

    /// Tokens that follow each other, or one.
    ///
    /// # Errors
    /// [`Error::Pattern`] if there are none or more than 4,096, or one is not of the index's vocabulary.
    pub fn tokens(tokens: &[u32], index: &Index) -> Result<Query> {
        checked_tokens(tokens, index).map_err(|problem| Error::Pattern { problem })?;
        Ok(Query::of(Node::Tokens(tokens.to_vec())))
    }

    /// Reads the language above, with the SAEs of `index`.
    ///
    /// # Errors
    /// [`Error::Query`] says at which character what was expected and found.
    pub fn parse(text: &str, index: &Index) -> Result<Query> {
        let mut parser = Parser { text: text.chars().collect(), at: 0, depth: 0, index };
        if parser.text.len() > LONGEST {
            return Err(wrong(LONGEST, format!("a query has {LONGEST} characters at most")));
        }
        let node = parser.any()?;
        if parser.next().is_some() {
            return Err(parser.expected(OPERATOR));
        }
        Ok(Query::of(node))
    }

    fn of(node: Node) -> Query {
        let mut directions = Vec::new();
        node.directions(true, &mut directions);
        Query { node, directions }
    }

    /// The directions that are to fire, each an SAE's number and its own, as they are first named; those behind `!` left out.
    pub fn directions(&self) -> &[(usize, usize)] {
        &self.directions
    }
}

impl Node {
    fn directions(&self, wanted: bool, found: &mut Vec<(usize, usize)>) {
        match self {
            Node::Fires { sae, direction, .. } if wanted && !found.contains(&(*sae, *direction)) => {
                found.push((*sae, *direction));
            }
            Node::Not(of) => of.directions(!wanted, found),
            Node::And(a, b) | Node::Or(a, b) | Node::Within(a, _, b) => {
                a.directions(wanted, found);
                b.directions(wanted, found);
            }
            _ => {}
        }
    }
}

fn checked_text(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("an empty text is everywhere; give at least one character".into()),
        n if n > LONGEST => Err(format!("the text has {n} bytes; give {LONGEST} at most")),
        _ => Ok(text.into()),
    }
}

fn checked_tokens(tokens: &[u32], index: &Index) -> Result<(), String> {
    let vocabulary = index.meta().vocabulary;
    let outside = tokens.iter().find(|token| **token as usize >= vocabulary);
    match (tokens.len(), outside) {
        (0, _) => Err("no tokens are given; give at least one".into()),
        (n, _) if n > LONGEST => Err(format!("{n} tokens are given; give {LONGEST} at most")),
        (_, Some(token)) => {
            Err(format!("there is no token {token}: the vocabulary has 0 to {}", vocabulary.saturating_sub(1)))
        }
        _ => Ok(()),
    }
}

struct Parser<'a> {
    text: Vec<char>,
    at: usize,
    depth: usize,
    index: &'a Index,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Node> {
        let mut node = self.all()?;
        while self.eat('|') {
            node = Node::Or(Box::new(node), Box::new(self.all()?));
        }
        Ok(node)
    }

    fn all(&mut self) -> Result<Node> {
        let mut node = self.near()?;
        while self.eat('&') {
            node = Node::And(Box::new(node), Box::new(self.near()?));
        }
        Ok(node)
    }

    fn near(&mut self) -> Result<Node> {
        let mut node = self.term()?;
        while self.eat_word("within") {
            self.next();
            let (start, digits) = (self.at, self.take(|c| c.is_ascii_digit()));
            let expected = "a whole number of tokens from 0 to 1000000";
            let Some(distance) = digits.parse().ok().filter(|distance| *distance <= 1_000_000) else {
                self.at = start;
                return Err(self.expected(expected));
            };
            self.next();
            if !self.eat_word("of") {
                return Err(self.expected("of"));
            }
            node = Node::Within(Box::new(node), distance, Box::new(self.term()?));
        }
        Ok(node)
    }

    fn term(&mut self) -> Result<Node> {
        let next = self.next();
        let start = self.at;
        if matches!(next, Some('!' | '(')) {
            if self.depth == DEEPEST {
                return Err(wrong(start, format!("parentheses and ! are {DEEPEST} deep at most")));
            }
            self.depth += 1;
        }
        let node = match next {
            Some('!') => {
                self.at += 1;
                let node = Node::Not(Box::new(self.term()?));
                self.depth -= 1;
                node
            }
            Some('(') => {
                self.at += 1;
                let node = self.any()?;
                if !self.eat(')') {
                    return Err(self.expected(&format!("), {OPERATOR}").replace(" or the end", "")));
                }
                self.depth -= 1;
                node
            }
            Some('"') => {
                let text = self.quoted('"')?;
                Node::Text(checked_text(&text).map_err(|problem| wrong(start, problem))?)
            }
            Some('/') => {
                let pattern = self.quoted('/')?;
                Node::Regex(text::regex(&pattern).map_err(|problem| wrong(start, problem))?)
            }
            Some('[') => self.tokens()?,
            Some(c) if !SIGNS.contains(c) => self.fires()?,
            _ => return Err(self.expected(TERM)),
        };
        Ok(node)
    }

    /// What stands between two quotes.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(&c) = self.text.get(self.at) {
            self.at += 1;
            match c {
                c if c == quote => return Ok(text),
                '\\' => {
                    let escaped = self.text.get(self.at).copied();
                    self.at += 1;
                    match (quote, escaped) {
                        ('/', Some('/')) => text.push('/'),
                        ('/', Some(c)) => text.extend(['\\', c]),
                        (_, Some(c @ ('"' | '\\'))) => text.push(c),
                        (_, Some('n')) => text.push('\n'),
                        (_, Some('t')) => text.push('\t'),
                        (_, Some(_)) => {
                            self.at -= 1;
                            return Err(self.expected("\", \\, n or t behind a \\"));
                        }
                        (_, None) => break,
                    }
                }
                c => text.push(c),
            }
        }
        let what = if quote == '/' { "regular expression" } else { "text" };
        Err(wrong(start, format!("the {what} that begins here has no {quote} at its end")))
    }

    /// `[318 22]`.
    fn tokens(&mut self) -> Result<Node> {
        let start = self.at;
        self.at += 1;
        let mut tokens = Vec::new();
        while !self.eat(']') {
            let (at, digits) = (self.at, self.take(|c| c.is_ascii_digit()));
            let Ok(token) = digits.parse() else {
                self.at = at;
                return Err(self.expected("a token id or ]"));
            };
            tokens.push(token);
        }
        checked_tokens(&tokens, self.index).map_err(|problem| wrong(start, problem))?;
        Ok(Node::Tokens(tokens))
    }

    /// `sae-l1/429>0.5`.
    fn fires(&mut self) -> Result<Node> {
        let start = self.at;
        let name = self.take(|c| !c.is_whitespace() && !SIGNS.contains(c));
        if self.text.get(self.at) != Some(&'/') {
            return Err(self.expected(&format!("/ and the number of a direction behind the SAE `{name}`")));
        }
        let sae = self.index.number_of(&name).ok_or_else(|| {
            let names: Vec<&str> = self.index.saes().iter().map(crate::SaeIndex::name).collect();
            wrong(start, format!("the index has no SAE `{name}`; it has {}", names.join(", ")))
        })?;
        self.at += 1;
        let (number, digits) = (self.at, self.take(|c| c.is_ascii_digit()));
        if digits.is_empty() {
            return Err(self.expected("the number of a direction"));
        }
        let of = self.index.sae(sae);
        let Some(direction) = digits.parse().ok().filter(|direction| *direction < of.directions()) else {
            let (name, last) = (of.name(), of.directions() - 1);
            return Err(wrong(number, format!("{name} has directions 0 to {last}, so there is no direction {digits}")));
        };
        let mut above = 0.0;
        if self.eat('>') {
            self.next();
            let (at, digits) = (self.at, self.take(|c| c.is_ascii_digit() || c == '.'));
            let Some(given) = digits.parse().ok().filter(|above: &f32| above.is_finite()) else {
                self.at = at;
                return Err(self.expected("an activation from 0 on"));
            };
            above = given;
        }
        Ok(Node::Fires { sae, direction, above })
    }

    /// The next character that is no space.
    fn next(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, sign: char) -> bool {
        let found = self.next() == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        self.next();
        let end = self.at + word.len();
        let found = self.text.get(self.at..end).is_some_and(|next| next.iter().copied().eq(word.chars()))
            && self.text.get(end).is_none_or(|c| !c.is_alphanumeric());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn take(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let text: String = self.text[self.at.min(self.text.len())..].iter().take_while(|c| is_part(**c)).collect();
        self.at += text.chars().count();
        text
    }

    /// The error of what stands at the place, which is not what should.
    fn expected(&mut self, expected: &str) -> Error {
        let found = self.next().map_or("its end".into(), |c| format!("`{}`", c.escape_debug()));
        wrong(self.at, format!("expected {expected}, found {found}"))
    }
}

fn wrong(at: usize, problem: String) -> Error {
    Error::Query { at: at + 1, problem }
}
