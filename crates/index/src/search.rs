//! Where a pattern occurs in the corpus of an index, and which directions fire there.

mod firing;
mod found;
mod query;
mod set;
mod text;

use std::sync::{Arc, OnceLock};

use directrix_corpus::{Tokenizer, Watch};
use rayon::prelude::*;
use serde::Serialize;

pub use self::firing::Firing;
pub use self::found::{Found, Place};
pub use self::query::Query;

use self::found::{Walk, around};
use self::query::Node;
use self::set::Set;
use self::text::Text;
use crate::identity::For;
use crate::index::Prompts;
use crate::{Error, Index, Result, SaeIndex};

/// Prompts whose tokens are looked at together.
const PIECE: usize = 1024;

/// Queries over an opened index, without the model.
///
/// ```text
/// Query ──find──▶ Found: positions ──firing──▶ the directions that fire there
///                                  └─matches─▶ some of them, to be shown
/// ```
///
/// The text of the corpus is made of its tokens when a query first needs it, and kept: as many bytes as the corpus is long (about
/// four a token of English), and eight a prompt. A query holds a bit for each position of the corpus, and as many again for each
/// level of its parentheses.
///
/// ```
/// # use directrix_corpus::{Chunk, Prompts, Watch};
/// # use directrix_index::{Identity, Input, Options, build};
/// # use directrix_model::{Folder, Model, Processing};
/// # use directrix_sae::{Counted, Sae};
/// use directrix_index::{Query, Search};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let out = tempfile::tempdir()?;
/// # let out = out.path().join("index");
/// # let folder = "../model/tests/fixtures/neo-tiny";
/// # let model = Model::load(&Folder::open(folder)?, Processing::default())?;
/// # let sae = Sae::load(&Folder::open(&format!("{folder}/sae-l0"))?)?.fit(model.config())?;
/// # let prompts = Prompts::from_rows([[1, 2, 3, 4], [5, 2, 3, 8]]);
/// # let input = |name: &str| Input { name: name.into(), hash: String::new() };
/// # let options = Options { counted: Counted::all(), ..Options::default() };
/// # let identity = Identity {
/// #     model: input("neo-tiny"), processing: model.processing(), saes: vec![input("sae-l0")], corpus: input("two prompts"),
/// #     bos: false, column: None, limit: None, options,
/// # };
/// # let chunks = std::iter::once(Ok(Chunk { prompts, cut: 0 }));
/// # let index = build(&model, &[sae], chunks, &identity, &out, &Watch::nobody())?;
/// // Texts and regular expressions need a tokenizer as well.
/// let search = Search::new(index.into(), None);
/// let found = search.find(&Query::parse("[2 3]", search.index())?, &Watch::nobody())?;
/// assert_eq!((found.matches, found.prompts), (2, 2));
/// for firing in search.firing(&found, 0, 3)? {
///     println!("{}: {:.0} % of the matches, lift {:.1}", firing.direction, 100.0 * firing.share, firing.lift);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Search {
    index: Arc<Index>,
    tokenizer: Option<Tokenizer>,
    text: OnceLock<Text>,
}

/// A match, and the activations there of the [directions](Query::directions) that the query names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    /// The prompt.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
    /// Of each direction, in the order of the query; 0 where it does not fire.
    pub activations: Vec<f32>,
}

impl Search {
    /// Of an index, and the tokenizer that its prompts were made with, which texts and regular expressions need.
    pub fn new(index: Arc<Index>, tokenizer: Option<Tokenizer>) -> Search {
        Search { index, tokenizer, text: OnceLock::new() }
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The tokenizer, if there is one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The positions of the corpus that a query means. It must be of this index.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if it has a text and there is no tokenizer, an error if the text does not fit the memory, it
    /// names what the index has not, or files of the index are damaged; [`Error::GivenUp`] if `watch` says stop.
    pub fn find(&self, query: &Query, watch: &Watch) -> Result<Found> {
        let all = self.index.all_prompts().clone();
        let mut set = self.set(&query.node, watch)?;
        let (found, mut left_out, mut prompts) = (set.count(), Vec::new(), 0);
        let options = &self.index.meta().identity.options;
        let excludes = !options.counted.exclude.is_empty();
        let mut walk = Walk::of(&all);
        let mut last = None;
        for position in set.iter() {
            let Some(at) = walk.to(position) else { continue };
            let (place, length) = ((position - at.range.start) as usize, (at.range.end - at.range.start) as usize);
            let token = if excludes { Some(at.token(&all, position)?) } else { None };
            if !options.counts(For::Rest, place, length, token) {
                left_out.push(position);
            } else if last != Some(at.prompt) {
                prompts += 1;
                last = Some(at.prompt);
            }
        }
        left_out.iter().for_each(|position| set.remove(*position));
        let left_out = left_out.len() as u64;
        Ok(Found { set, all, matches: found - left_out, prompts, left_out })
    }

    /// The `k` directions of SAE number `sae` that fire at matches, by [`Firing::g2`].
    ///
    /// # Errors
    /// If there is no such SAE, its activations are damaged, or the matches are of another index.
    pub fn firing(&self, found: &Found, sae: usize, k: usize) -> Result<Vec<Firing>> {
        self.check(found)?;
        firing::firing(self.index.meta(), self.sae(sae)?, found, k)
    }

    /// `k` matches of as many prompts. Where `query` names [directions](Query::directions), those at which the first of them fires
    /// most strongly, strongest first; else the first of each of `k` prompts spread evenly over those that have one.
    ///
    /// # Errors
    /// If the query or the matches are of another index, or files of the index are damaged.
    pub fn matches(&self, found: &Found, query: &Query, k: usize) -> Result<Vec<Match>> {
        self.check(found)?;
        let best = match query.directions().first() {
            None => {
                let places = found.firsts();
                let n = places.len();
                if n > k {
                    (0..k).map(|i| places[(i as u128 * n as u128 / k as u128) as usize]).collect()
                } else {
                    places
                }
            }
            Some(&(sae, direction)) => found.strongest(self.sae(sae)?, direction, k)?,
        };
        let activation = |place: &Place, sae: usize, direction: usize| {
            let (directions, values) = self.sae(sae)?.at(place.prompt, place.position)?;
            Ok(directions.binary_search(&(direction as u32)).map_or(0.0, |at| values[at]))
        };
        let of = |place: Place| {
            let activations = query.directions().iter().map(|(sae, direction)| activation(&place, *sae, *direction));
            let Place { prompt, position } = place;
            Ok(Match { prompt, position, activations: activations.collect::<Result<_>>()? })
        };
        best.into_iter().map(of).collect()
    }

    fn check(&self, found: &Found) -> Result<()> {
        if Arc::ptr_eq(&found.all, self.index.all_prompts()) {
            return Ok(());
        }
        Err(Error::Pattern { problem: "these matches were found in another index; find them in this one".into() })
    }

    fn sae(&self, sae: usize) -> Result<&SaeIndex> {
        let there = self.index.saes().len();
        self.index.saes().get(sae).ok_or(Error::Outside { what: "SAE", number: sae, there })
    }

    /// The positions of a query, those that do not count too.
    fn set(&self, node: &Node, watch: &Watch) -> Result<Set> {
        if watch.is_stopped() {
            return Err(Error::GivenUp);
        }
        let prompts = self.index.all_prompts();
        let of = |positions: Vec<Vec<u64>>| {
            let mut set = Set::new(self.index.meta().positions);
            positions.iter().flatten().for_each(|position| set.insert(*position));
            set
        };
        Ok(match node {
            Node::Tokens(tokens) => of(find_tokens(prompts, tokens, watch)?),
            Node::Text(text) => of(self.text()?.find_text(prompts, text, watch)?),
            Node::Regex(regex) => of(self.text()?.find_regex(prompts, regex, watch)?),
            Node::Fires { sae, direction, above } => {
                let mut set = Set::new(self.index.meta().positions);
                for shard in self.sae(*sae)?.activations(*direction)? {
                    for (position, value) in shard.positions.iter().zip(shard.values) {
                        if value > above {
                            set.insert(shard.first_position + u64::from(*position));
                        }
                    }
                }
                set
            }
            Node::Not(of) => self.set(of, watch)?.not(),
            Node::And(a, b) => self.set(a, watch)?.and(&self.set(b, watch)?),
            Node::Or(a, b) => self.set(a, watch)?.or(&self.set(b, watch)?),
            Node::Within(a, distance, b) => self.set(a, watch)?.and(&around(prompts, &self.set(b, watch)?, *distance)),
        })
    }

    /// The text of the corpus, made when it is first asked for.
    fn text(&self) -> Result<&Text> {
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let tokenizer = self.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
        let text = Text::of(self.index.all_prompts(), tokenizer)?;
        Ok(self.text.get_or_init(|| text))
    }
}

/// The positions of the last of `tokens`, wherever they follow each other in a prompt.
fn find_tokens(prompts: &Prompts, tokens: &[u32], watch: &Watch) -> Result<Vec<Vec<u64>>> {
    let Some((last, before)) = tokens.split_last() else { return Ok(Vec::new()) };
    let pieces = prompts
        .shards
        .iter()
        .enumerate()
        .flat_map(|(number, shard)| (0..shard.offsets.len() - 1).step_by(PIECE).map(move |first| (number, first)));
    let piece = |(number, first): (usize, usize)| {
        if watch.is_stopped() {
            return Err(Error::GivenUp);
        }
        let shard = &prompts.shards[number];
        let mut found = Vec::new();
        let ends = shard.offsets[first..].windows(2).take(PIECE);
        for ends in ends {
            let of_prompt = prompts.tokens(number, ends[0]..ends[1])?;
            for (place, token) in of_prompt.iter().enumerate().skip(before.len()) {
                if token == last && of_prompt[place - before.len()..place] == *before {
                    found.push(shard.first_position + u64::from(ends[0]) + place as u64);
                }
            }
        }
        Ok(found)
    };
    pieces.collect::<Vec<_>>().into_par_iter().map(piece).collect()
}
