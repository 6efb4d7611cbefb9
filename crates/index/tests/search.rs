//! Queries against what looking at every position gives, and what cannot be looked for.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use common::{Fixture, chunks, files, fixture, identity, make};
use directrix_corpus::{Prompts, Tokenizer, TokenizerFiles, Watch};
use directrix_index::{Error, Found, Index, Options, Place, Query, Search, build};
use directrix_sae::Counted;
use proptest::prelude::*;
use serde_json::json;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| fixture("neo-tiny"));

/// Tokens whose bytes are parts of characters, letters, and several letters; the first begins prompts.
const TOKENS: [&str; 14] = ["<bos>", "a", "b", "ab", "aa", "Ġa", "Ã", "©", "Ã©", "ð", "Łĺ", "Ģ", "Ċ", "Ġaba"];
/// Their bytes.
const BYTES: [&[u8]; 14] = [
    b"",
    b"a",
    b"b",
    b"ab",
    b"aa",
    b" a",
    b"\xC3",
    b"\xA9",
    b"\xC3\xA9",
    b"\xF0",
    b"\x9F\x98",
    b"\x80",
    b"\n",
    b" aba",
];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let vocab: serde_json::Map<_, _> =
        TOKENS.iter().enumerate().map(|(i, token)| ((*token).into(), i.into())).collect();
    let special = json!([{ "id": 0, "content": "<bos>", "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false }]);
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    let config = json!({ "bos_token": "<bos>" }).to_string();
    let files = TokenizerFiles {
        folder: "x",
        tokenizer: &serde_json::to_vec(&file).unwrap(),
        tokenizer_config: Some(config.as_bytes()),
        config: None,
    };
    Tokenizer::from_files(files).unwrap()
});

fn index(rows: &[Vec<u32>], counted: Counted, folder: &Path) -> Index {
    let prompts = Prompts::from_rows(rows);
    let mut identity = identity("c");
    identity.options = Options { counted, ..Options::default() };
    build(&FIXTURE.model, &FIXTURE.saes, chunks(&prompts, 7), &identity, folder, &Watch::nobody()).unwrap()
}

fn search(rows: &[Vec<u32>], counted: Counted) -> (tempfile::TempDir, Search) {
    let folder = tempfile::tempdir().unwrap();
    let index = index(rows, counted, &folder.path().join("index"));
    (folder, Search::new(Arc::new(index), Some(TOKENIZER.clone())))
}

fn places(found: &Found) -> Vec<(usize, usize)> {
    found.places().map(|Place { prompt, position }| (prompt, position)).collect()
}

fn find(search: &Search, query: &str) -> Vec<(usize, usize)> {
    places(&search.find(&Query::parse(query, search.index()).unwrap(), &Watch::nobody()).unwrap())
}

/// A query as it is written, and as it is meant.
#[derive(Debug, Clone)]
enum Wanted {
    Tokens(Vec<u32>),
    Text(String),
    Regex(&'static str),
    Fires(usize, usize, f32),
    Not(Box<Wanted>),
    And(Box<Wanted>, Box<Wanted>),
    Or(Box<Wanted>, Box<Wanted>),
    Within(Box<Wanted>, usize, Box<Wanted>),
}

impl Wanted {
    fn written(&self, index: &Index) -> String {
        match self {
            Wanted::Tokens(tokens) => format!("{tokens:?}").replace(',', ""),
            Wanted::Text(text) => format!("{text:?}"),
            Wanted::Regex(regex) => format!("/{regex}/"),
            Wanted::Fires(sae, direction, above) => format!("{}/{direction}>{above}", index.sae(*sae).name()),
            Wanted::Not(of) => format!("!({})", of.written(index)),
            Wanted::And(a, b) => format!("({}) & ({})", a.written(index), b.written(index)),
            Wanted::Or(a, b) => format!("({})|({})", a.written(index), b.written(index)),
            Wanted::Within(a, n, b) => format!("({}) within {n} of ({})", a.written(index), b.written(index)),
        }
    }

    /// Looks at every position of every prompt.
    fn looked_for(&self, rows: &[Vec<u32>], index: &Index) -> BTreeSet<(usize, usize)> {
        let everywhere = || rows.iter().enumerate().flat_map(|(p, row)| (0..row.len()).map(move |at| (p, at)));
        let of_bytes = |matches: &dyn Fn(&[u8]) -> Vec<usize>| {
            let mut found = BTreeSet::new();
            for (prompt, row) in rows.iter().enumerate() {
                let (mut bytes, mut owners) = (Vec::new(), Vec::new());
                for (position, token) in row.iter().enumerate() {
                    let own = BYTES.get(*token as usize).map_or(format!("[{token}]").into_bytes(), |own| own.to_vec());
                    let own = if position > 0 && *token == 0 { b"<bos>".to_vec() } else { own };
                    owners.extend(own.iter().map(|_| position));
                    bytes.extend(own);
                }
                found.extend(matches(&bytes).into_iter().map(|end| (prompt, owners[end - 1])));
            }
            found
        };
        match self {
            Wanted::Tokens(tokens) => everywhere().filter(|(p, at)| rows[*p][..=*at].ends_with(tokens)).collect(),
            Wanted::Text(text) => of_bytes(&|bytes| {
                let n = text.len();
                (n..=bytes.len()).filter(|end| bytes[end - n..*end] == *text.as_bytes()).collect()
            }),
            Wanted::Regex(regex) => of_bytes(&|bytes| {
                let regex = regex::bytes::Regex::new(regex).unwrap();
                regex.find_iter(bytes).filter(|found| !found.is_empty()).map(|found| found.end()).collect()
            }),
            Wanted::Fires(sae, direction, above) => {
                let fires = index.sae(*sae).fires_anywhere(*direction).unwrap();
                fires.iter().filter(|at| at.activation > *above).map(|at| (at.prompt, at.position)).collect()
            }
            Wanted::Not(of) => {
                let of = of.looked_for(rows, index);
                everywhere().filter(|place| !of.contains(place)).collect()
            }
            Wanted::And(a, b) => &a.looked_for(rows, index) & &b.looked_for(rows, index),
            Wanted::Or(a, b) => &a.looked_for(rows, index) | &b.looked_for(rows, index),
            Wanted::Within(a, n, b) => {
                let b = b.looked_for(rows, index);
                let near = |(p, at): &(usize, usize)| b.iter().any(|(q, other)| p == q && at.abs_diff(*other) <= *n);
                a.looked_for(rows, index).into_iter().filter(near).collect()
            }
        }
    }

    /// The first direction that is to fire.
    fn named(&self) -> Option<(usize, usize)> {
        fn named(of: &Wanted, wanted: bool) -> Option<(usize, usize)> {
            match of {
                Wanted::Fires(sae, direction, _) if wanted => Some((*sae, *direction)),
                Wanted::Not(of) => named(of, !wanted),
                Wanted::And(a, b) | Wanted::Or(a, b) | Wanted::Within(a, _, b) => {
                    named(a, wanted).or_else(|| named(b, wanted))
                }
                _ => None,
            }
        }
        named(self, true)
    }
}

fn rows() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let row = (any::<bool>(), prop::collection::vec(0..15_u32, 1..24));
    let row = row.prop_map(|(bos, row)| if bos { [vec![0], row].concat() } else { row });
    prop::collection::vec(row, 1..12)
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let texts = ["a", "aa", "aba", "é", "😀", " a", "b\n", "aab", "<bos>", "[14]", "a é", "\"", "abab"];
    let regexes = [
        "a+",
        "a*",
        "b|aba",
        "^a",
        "a$",
        r"\p{L}",
        ".",
        r"(?s).",
        "é+",
        r"\n| ",
        r"\[\d+\]",
        "a.?b",
        "()",
        r"(?-u:\x98)",
    ];
    let leaf = prop_oneof![
        prop::collection::vec(0..15_u32, 1..4).prop_map(Wanted::Tokens),
        prop::sample::select(texts.to_vec()).prop_map(|text| Wanted::Text(text.into())),
        prop::sample::select(regexes.to_vec()).prop_map(Wanted::Regex),
        (0..2_usize, 0..60_usize, prop::sample::select(vec![0.0_f32, 0.01, 0.1]))
            .prop_map(|(s, d, a)| Wanted::Fires(s, d, a)),
    ];
    leaf.prop_recursive(4, 12, 2, |of| {
        prop_oneof![
            of.clone().prop_map(|a| Wanted::Not(a.into())),
            (of.clone(), of.clone()).prop_map(|(a, b)| Wanted::And(a.into(), b.into())),
            (of.clone(), of.clone()).prop_map(|(a, b)| Wanted::Or(a.into(), b.into())),
            (of.clone(), 0..6_usize, of).prop_map(|(a, n, b)| Wanted::Within(a.into(), n, b.into())),
        ]
    })
}

/// `2 [log L(p₁, k₁, n₁) + log L(p₂, k₂, n₂) − log L(p, k₁, n₁) − log L(p, k₂, n₂)]`, as Dunning has it.
fn dunning(k1: f64, n1: f64, k2: f64, n2: f64) -> f64 {
    let times_ln = |k: f64, p: f64| if k == 0.0 { 0.0 } else { k * p.ln() };
    let log = |p: f64, k: f64, n: f64| times_ln(k, p) + times_ln(n - k, 1.0 - p);
    let (p1, p2, p) = (k1 / n1, if n2 == 0.0 { 0.0 } else { k2 / n2 }, (k1 + k2) / (n1 + n2));
    2.0 * (log(p1, k1, n1) + log(p2, k2, n2) - log(p, k1, n1) - log(p, k2, n2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_query_finds_what_looking_everywhere_finds(
        rows in rows(),
        all in prop::collection::vec(wanted(), 1..6),
        (skip_first, skip_last, exclude) in (0..3_usize, any::<bool>(), prop::collection::vec(0..15_u32, 0..2)),
    ) {
        let counted = Counted { skip_first, skip_last, exclude };
        let (_folder, search) = search(&rows, counted.clone());
        let counts = |(p, at): &(usize, usize)| counted.counts(*at, rows[*p].len(), rows[*p][*at]);
        for wanted in all {
            let written = wanted.written(search.index());
            let query = Query::parse(&written, search.index()).unwrap();
            let found = search.find(&query, &Watch::nobody()).unwrap();
            let everywhere = wanted.looked_for(&rows, search.index());
            let expected: Vec<(usize, usize)> = everywhere.iter().copied().filter(counts).collect();
            prop_assert_eq!(&places(&found), &expected, "{}", written);
            prop_assert_eq!(found.matches, expected.len() as u64);
            prop_assert_eq!(found.left_out, (everywhere.len() - expected.len()) as u64);
            let prompts: BTreeSet<usize> = expected.iter().map(|(p, _)| *p).collect();
            prop_assert_eq!(found.prompts, prompts.len() as u64);
            for (prompt, row) in rows.iter().enumerate() {
                for position in 0..row.len() + 2 {
                    prop_assert_eq!(found.contains(Place { prompt, position }), expected.contains(&(prompt, position)));
                }
            }
            let beyond = Place { prompt: rows.len(), position: 0 };
            prop_assert!(!found.contains(beyond));

            // Directions, from all their activations.
            for (number, sae) in search.index().saes().iter().enumerate() {
                let firing = search.firing(&found, number, usize::MAX).unwrap();
                prop_assert!(firing.is_sorted_by(|a, b| a.g2 > b.g2 || (a.g2 == b.g2 && a.direction < b.direction)));
                let by = |k| search.firing(&found, number, k).unwrap();
                prop_assert_eq!(&by(2)[..], &firing[..firing.len().min(2)]);
                let mut seen = 0;
                for direction in 0..sae.directions() {
                    let there: Vec<f64> = sae.fires_anywhere(direction).unwrap().iter()
                        .filter(|at| expected.contains(&(at.prompt, at.position)))
                        .map(|at| f64::from(at.activation)).collect();
                    let row = firing.iter().find(|row| row.direction == direction);
                    prop_assert_eq!(row.is_some(), !there.is_empty());
                    let Some(row) = row else { continue };
                    seen += 1;
                    let said = sae.direction(direction);
                    let (k, n, counted) = (there.len() as f64, expected.len() as f64, search.index().meta().counted as f64);
                    prop_assert_eq!(row.fires, there.len() as u64);
                    prop_assert_eq!((row.share, row.density), (k / n, said.density));
                    prop_assert_eq!((row.lift, row.precision), (row.share / row.density, k / said.active as f64));
                    prop_assert!((row.mean - there.iter().sum::<f64>() / k).abs() < 1e-9);
                    let expected = dunning(k, n, said.active as f64 - k, counted - n);
                    prop_assert!((row.g2.abs() - expected).abs() < 1e-6, "{} {expected}", row.g2);
                    prop_assert!(row.g2.abs() < 1e-9 || (row.g2 > 0.0) == (row.lift > 1.0), "{:?}", row);
                }
                prop_assert_eq!(seen, firing.len());
            }

            // Some of the matches, one of a prompt.
            for k in [1, 3, 100] {
                let matches = search.matches(&found, &query, k).unwrap();
                prop_assert_eq!(matches.len(), k.min(prompts.len()));
                let of: BTreeSet<usize> = matches.iter().map(|found| found.prompt).collect();
                prop_assert_eq!(of.len(), matches.len());
                prop_assert_eq!(query.directions().first().copied(), wanted.named());
                let at = |place: &(usize, usize)| wanted.named().map_or(0.0, |(sae, direction)| {
                    search.index().sae(sae).on_prompt(place.0, direction).unwrap()[place.1]
                });
                let mut best: Vec<(f32, (usize, usize))> = prompts.iter().map(|prompt| {
                    let own = expected.iter().filter(|place| place.0 == *prompt).map(|place| (at(place), *place));
                    own.reduce(|best, next| if next.0 > best.0 { next } else { best }).unwrap()
                }).collect();
                best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                if wanted.named().is_some() || k >= best.len() {
                    let found: Vec<(f32, (usize, usize))> = matches.iter()
                        .map(|found| (found.activations.first().copied().unwrap_or(0.0), (found.prompt, found.position))).collect();
                    prop_assert_eq!(&found[..], &best[..matches.len()]);
                }
            }
        }
    }

    #[test]
    fn whatever_is_written_is_a_query_or_an_error_that_says_where(
        signs in prop::collection::vec(prop::sample::select(vec![
            "sae-l0", "/", "3", "99999999999", ">", "0.5", "&", "|", "!", "(", ")", "\"", "a", "\\", "[", "]", " ", "within", "of",
            "é", "😀", "\0", "\n", ".",
        ]), 0..24),
    ) {
        static SEARCH: LazyLock<(tempfile::TempDir, Search)> = LazyLock::new(|| search(&[vec![0, 1, 2, 3, 1]], Counted::all()));
        let text = signs.concat();
        match Query::parse(&text, SEARCH.1.index()) {
            Ok(query) => drop(SEARCH.1.find(&query, &Watch::nobody()).unwrap()),
            Err(Error::Query { at, problem }) => {
                prop_assert!((1..=text.chars().count() + 1).contains(&at), "{text:?} {at}");
                prop_assert!(!problem.is_empty() && !problem.contains('\n'), "{text:?} {problem:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn matches_end_in_the_last_token_that_overlaps_them() {
    // a ab é-in-two 😀-in-three ab | aa aa | é
    let rows = [vec![0, 1, 3, 6, 7, 9, 10, 11, 3], vec![4, 4], vec![8]];
    let (_folder, search) = search(&rows, Counted::all());
    let found = |query: &str| find(&search, query);
    assert_eq!(found("\"aab\""), [(0, 2)], "across tokens");
    assert_eq!(found("\"a\""), [(0, 1), (0, 2), (0, 8), (1, 0), (1, 1)], "several in one token are one");
    assert_eq!(found("\"aaa\""), [(1, 1)], "those that overlap");
    assert_eq!(found("\"é\""), [(0, 4), (2, 0)], "a character of two tokens, and of one");
    assert_eq!(found("/é|😀/"), [(0, 4), (0, 7), (2, 0)]);
    assert_eq!(found("/(?-u:\\xC3)/"), [(0, 3), (2, 0)], "a part of a character");
    assert_eq!(found("/^a/"), [(0, 1), (1, 0)], "before the first token behind BOS");
    assert_eq!(found("/b$/"), [(0, 8)], "at the end of a prompt");
    assert_eq!(found("/a*/"), found("/a+/"), "an empty match is none");
    assert_eq!(found("/x*/"), []);
    assert_eq!(found("\"aaé\""), [], "not across prompts");
    assert_eq!(found("[4 4]"), [(1, 1)]);
    assert_eq!(found("[0]"), [(0, 0)], "BOS has no text, but is a token");
    assert_eq!(found("\"<bos>\""), []);
    assert_eq!(found("[4] within 0 of \"aaaa\""), [(1, 1)]);
    assert_eq!(found("![0 1] & !([3] | [4] | [8]) & \"b\" | [6]"), [(0, 3)]);
}

#[test]
fn sequences_that_overlap_are_all_found() {
    let (_folder, search) = search(&[vec![1; 5], vec![1]], Counted::all());
    assert_eq!(find(&search, "[1 1 1]"), [(0, 2), (0, 3), (0, 4)]);
    assert_eq!(find(&search, "\"aaa\""), [(0, 2), (0, 3), (0, 4)]);
    assert_eq!(find(&search, "/aaa/"), [(0, 2)], "matches of a regular expression do not overlap");
    assert_eq!(find(&search, "[1] within 1000000 of [1]").len(), 6);
}

#[test]
fn what_cannot_be_looked_for_is_said_with_its_place() {
    let (_folder, search) = search(&[vec![0, 1, 2]], Counted::all());
    let names: Vec<&str> = search.index().saes().iter().map(directrix_index::SaeIndex::name).collect();
    let (name, last) = (names[0], search.index().sae(0).directions() - 1);
    let deep = format!("{}[1]{}", "(".repeat(33), ")".repeat(33));
    let long = format!("[1]{}", " ".repeat(4096));
    let big = format!("\"a\" & /{}/", r"\w{500}");
    for (query, at, said) in [
        ("", 1, "expected SAE/DIRECTION, \"text\", /regex/, [token ids], ! or (, found its end".to_owned()),
        ("\"a\" & ", 7, "expected SAE/DIRECTION".into()),
        ("\"a\" \"b\"", 5, "expected &, |, within or the end, found `\\\"`".into()),
        ("\"é\" && \"b\"", 6, "found `&`".into()),
        ("(\"a\"", 5, "expected ), &, |, within, found its end".into()),
        ("\"a\")", 4, "expected &, |, within or the end, found `)`".into()),
        ("\"a", 1, "the text that begins here has no \" at its end".into()),
        (" /a", 2, "the regular expression that begins here has no / at its end".into()),
        ("\"\\x\"", 3, "expected \", \\, n or t behind a \\, found `x`".into()),
        ("!\"\"", 2, "an empty text is everywhere".into()),
        ("[]", 1, "no tokens are given".into()),
        ("[1 x]", 4, "expected a token id or ], found `x`".into()),
        ("[1 128]", 1, "there is no token 128: the vocabulary has 0 to 127".into()),
        ("[99999999999]", 2, "expected a token id".into()),
        ("! none/3", 3, format!("the index has no SAE `none`; it has {}", names.join(", "))),
        (
            &format!("{name}/9999"),
            name.len() + 2,
            format!("{name} has directions 0 to {last}, so there is no direction 9999"),
        ),
        (&format!("{name}/99999999999999999999"), name.len() + 2, "so there is no direction".into()),
        (&format!("{name}/"), name.len() + 2, "expected the number of a direction, found its end".into()),
        (
            name,
            name.len() + 1,
            format!("expected / and the number of a direction behind the SAE `{name}`, found its end"),
        ),
        (&format!("{name}/3 > x"), name.len() + 6, "expected an activation from 0 on, found `x`".into()),
        (&format!("{name}/3>1e400"), name.len() + 5, "expected &, |, within or the end, found `e`".into()),
        ("[1] within of [1]", 12, "expected a whole number of tokens from 0 to 1000000, found `o`".into()),
        ("[1] within 1000001 of [1]", 12, "a whole number of tokens".into()),
        ("[1] within 3 [1]", 14, "expected of, found `[`".into()),
        (&deep, 33, "parentheses and ! are 32 deep at most".into()),
        (&"!".repeat(40), 33, "32 deep".into()),
        (&long, 4097, "a query has 4096 characters at most".into()),
        ("/a(/", 1, "the regular expression cannot be understood: unclosed group".into()),
        ("[1] | /a{9/", 7, "the regular expression cannot be understood: ".into()),
        (&big, 7, "takes more than".into()),
        (&format!("/{}/", "(".repeat(300)), 1, "the regular expression cannot be understood".into()),
    ] {
        let error = Query::parse(query, search.index()).unwrap_err();
        let Error::Query { at: place, problem } = &error else { panic!("{query}: {error}") };
        assert!(*place == at && problem.contains(&said), "{query}: {error}");
    }
    let index = search.index();
    for error in [
        Query::text(""),
        Query::text(&"a".repeat(5000)),
        Query::regex("["),
        Query::tokens(&[], index),
        Query::tokens(&[500], index),
    ] {
        assert!(matches!(error, Err(Error::Pattern { .. })), "{error:?}");
    }
    let without = tempfile::tempdir().unwrap();
    let without = Search::new(Arc::new(self::index(&[vec![1]], Counted::all(), &without.path().join("i"))), None);
    assert!(matches!(without.find(&Query::text("a").unwrap(), &Watch::nobody()), Err(Error::NoTokenizer)));
    assert_eq!(without.find(&Query::parse("[1]", without.index()).unwrap(), &Watch::nobody()).unwrap().matches, 1);
}

#[test]
fn a_query_of_another_index_is_an_error_where_it_names_what_is_not_there() {
    let (_one, search) = search(&[vec![0, 1, 2]], Counted::all());
    let gpt = fixture("gpt2-tiny");
    let folder = tempfile::tempdir().unwrap();
    let prompts = Prompts::from_rows([[1, 2, 3]]);
    let other =
        build(&gpt.model, &gpt.saes, chunks(&prompts, 7), &identity("c"), &folder.path().join("i"), &Watch::nobody())
            .unwrap();
    let (last, here) = (other.sae(0).directions() - 1, search.index().sae(0).directions());
    if last >= here {
        let query = Query::parse(&format!("0/{last}"), &other).unwrap();
        assert!(matches!(search.find(&query, &Watch::nobody()), Err(Error::Outside { .. })));
    }
    let query = Query::text("a").unwrap();
    let found = search.find(&query, &Watch::nobody()).unwrap();
    let other = Search::new(Arc::new(other), None);
    assert!(matches!(other.firing(&found, 0, 5), Err(Error::Pattern { .. })));
    assert!(matches!(other.matches(&found, &query, 5), Err(Error::Pattern { .. })));
    assert!(matches!(search.firing(&found, 2, 5), Err(Error::Outside { what: "SAE", number: 2, there: 2 })));
}

#[test]
fn hostile_expressions_end() {
    let rows: Vec<Vec<u32>> = (0..50).map(|_| vec![1; 60]).collect();
    let (_folder, search) = search(&rows, Counted::all());
    for regex in ["(a*)*b", "(a|aa)+$", "(?:a?){60}a{60}", "(.*)*\\n", "a{1,60}{1,3}"] {
        search.find(&Query::regex(regex).unwrap(), &Watch::nobody()).unwrap();
    }
    let huge = (0..400).map(|i| format!("[{}]", i % 15)).collect::<Vec<_>>().join(" | ");
    assert_eq!(find(&search, &huge).len(), 50 * 60);
}

#[test]
fn a_search_that_nobody_waits_for_ends() {
    let rows: Vec<Vec<u32>> = (0..50).map(|_| vec![1; 60]).collect();
    let (_folder, search) = search(&rows, Counted::all());
    let gone = Watch::new(Arc::new(true.into()), |_| ());
    for query in ["/(a*)*b/", "\"aa\"", "[1 1]", "0/3 | !0/4"] {
        let query = Query::parse(query, search.index()).unwrap();
        assert!(matches!(search.find(&query, &gone), Err(Error::GivenUp)));
    }
}

#[test]
fn damage_is_an_error_and_not_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<u32>> = (0..40).map(|i| (0..30).map(|j| (i * 7 + j * j) % 15).collect()).collect();
    let whole = folder.path().join("whole");
    drop(index(&rows, Counted::all(), &whole));
    let whole = files(&whole);
    let ask = |folder: &Path| -> directrix_index::Result<()> {
        let search = Search::new(Arc::new(Index::open(folder)?), Some(TOKENIZER.clone()));
        for query in ["\"a\" | [3]", "0/3 | 1/5 within 3 of /b/"] {
            let query = Query::parse(query, search.index())?;
            let found = search.find(&query, &Watch::nobody())?;
            search.firing(&found, 0, 5)?;
            search.firing(&found, 1, 5)?;
            search.matches(&found, &query, 5)?;
        }
        Ok(())
    };
    let mut seen = 0;
    for number in 0..whole.len() {
        for place in 0..5 {
            let mut damaged = whole.clone();
            let n = damaged[number].1.len();
            if n == 0 {
                continue;
            }
            damaged[number].1[place * (n - 1) / 4] ^= 64;
            let out = folder.path().join("damaged");
            make(&out, &damaged);
            seen += usize::from(ask(&out).is_err());
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    // What a search does not read is the tokens that directions fire on.
    assert!(seen >= 5 * (whole.len() - 8), "{seen} of {} files", whole.len());
}
