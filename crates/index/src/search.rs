//! Where a pattern occurs in the corpus of an index, and which directions fire there.

mod query;
mod set;
mod text;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use directrix_corpus::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;

pub use self::query::Query;

use self::query::Node;
use self::set::Set;
use self::text::Text;
use crate::identity::For;
use crate::index::Prompts;
use crate::{Error, Index, Result, SaeIndex};

/// Prompts whose tokens are looked at together.
const PIECE: usize = 1024;
/// Parts in which found positions are counted, so that their sums are the same on any number of threads.
const PARTS: u64 = 16;

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
/// let found = search.find(&Query::parse("[2 3]", search.index())?)?;
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

/// The positions of a corpus that a query finds.
///
/// A match is a position: several places of a text that end in one token are one. Matches are looked for everywhere; those at
/// positions that do not [count](crate::Options) are told apart and left out of all else, as they are of a direction's density, so that
/// shares and densities are over the same positions.
#[derive(Debug, Clone)]
pub struct Found {
    set: Set,
    all: Arc<Prompts>,
    /// Matches at positions that count.
    pub matches: u64,
    /// Prompts that have one.
    pub prompts: u64,
    /// Matches at positions that do not count.
    pub left_out: u64,
}

/// A position of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The prompt.
    pub prompt: usize,
    /// Position in the prompt.
    pub position: usize,
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

/// How a direction fires at matches, beside all positions that count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Firing {
    /// The direction.
    pub direction: usize,
    /// Matches at which it fires.
    pub fires: u64,
    /// Share of the matches at which it fires.
    pub share: f64,
    /// Its mean activation over the matches at which it fires.
    pub mean: f64,
    /// Share of the positions at which it fires that are matches.
    pub precision: f64,
    /// Share of all positions at which it fires.
    pub density: f64,
    /// `share / density`: how many times as often it fires at a match as at any position.
    pub lift: f64,
    /// The log-likelihood ratio of its firing as often at matches as elsewhere, below 0 where it fires less often at matches:
    ///
    /// `G² = 2 Σ O ln(O / E)` over the four counts O of positions at which it fires or not, matches or not, where E is what
    /// each would be were firing and matching independent (Dunning 1993, Accurate Methods for the Statistics of Surprise and Coincidence).
    ///
    /// Lift alone favours directions that fire once or twice, and share those that fire everywhere; this weighs how
    /// far the share is from the density by how many positions say so. Positions of a prompt are no
    /// independent draws, so it ranks and is no test.
    pub g2: f64,
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
    /// names what the index has not, or files of the index are damaged.
    pub fn find(&self, query: &Query) -> Result<Found> {
        let all = self.index.all_prompts().clone();
        let mut set = self.set(&query.node)?;
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
    /// If there is no such SAE, or its activations are damaged.
    pub fn firing(&self, found: &Found, sae: usize, k: usize) -> Result<Vec<Firing>> {
        let sae = self.sae(sae)?;
        let tallies = self.tally(found, sae)?;
        let counted = self.index.meta().counted.max(found.matches);
        let firing = tallies.into_iter().enumerate().filter(|(_, tally)| tally.fires > 0).map(|(direction, tally)| {
            let Tally { fires, sum } = tally;
            let active = sae.direction(direction).active.max(fires);
            let (share, density) = (fires as f64 / found.matches as f64, active as f64 / counted as f64);
            Firing {
                direction,
                fires,
                share,
                mean: sum / fires as f64,
                precision: fires as f64 / active as f64,
                density,
                lift: share / density,
                g2: g2(fires, found.matches, active, counted),
            }
        });
        let mut firing: Vec<Firing> = firing.collect();
        firing.sort_by(|a, b| b.g2.total_cmp(&a.g2).then(a.direction.cmp(&b.direction)));
        firing.truncate(k);
        Ok(firing)
    }

    /// `k` matches of as many prompts. Where `query` names [directions](Query::directions), those at which the first of them fires
    /// most strongly, strongest first; else the first of each of `k` prompts spread evenly over those that have one.
    ///
    /// # Errors
    /// If the query is of another index, or files of the index are damaged.
    pub fn matches(&self, found: &Found, query: &Query, k: usize) -> Result<Vec<Match>> {
        let best = match query.directions().first() {
            None => {
                let mut places: Vec<Place> = found.places().collect();
                places.dedup_by_key(|place| place.prompt);
                let n = places.len();
                if n > k {
                    (0..k).map(|i| places[(i as u128 * n as u128 / k as u128) as usize]).collect()
                } else {
                    places
                }
            }
            Some(&(sae, direction)) => self.strongest(found, self.sae(sae)?, direction, k)?,
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

    /// Of each prompt the match at which a direction fires most strongly, of these the strongest.
    fn strongest(&self, found: &Found, sae: &SaeIndex, direction: usize, k: usize) -> Result<Vec<Place>> {
        let fires = sae.activations(direction)?;
        let mut fires = fires
            .iter()
            .flat_map(|shard| {
                shard.positions.iter().zip(shard.values).map(|(p, v)| (shard.first_position + u64::from(*p), *v))
            })
            .peekable();
        let mut best: Vec<(f32, Place)> = Vec::new();
        for (position, place) in found.positions() {
            while fires.next_if(|(at, _)| *at < position).is_some() {}
            let activation = fires.peek().filter(|(at, _)| *at == position).map_or(0.0, |(_, value)| *value);
            match best.last_mut() {
                Some(last) if last.1.prompt == place.prompt && last.0 >= activation => {}
                Some(last) if last.1.prompt == place.prompt => *last = (activation, place),
                _ => best.push((activation, place)),
            }
        }
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(best.into_iter().take(k).map(|(_, place)| place).collect())
    }

    fn sae(&self, sae: usize) -> Result<&SaeIndex> {
        let there = self.index.saes().len();
        self.index.saes().get(sae).ok_or(Error::Outside { what: "SAE", number: sae, there })
    }

    /// The positions of a query, those that do not count too.
    fn set(&self, node: &Node) -> Result<Set> {
        let prompts = self.index.all_prompts();
        let of = |positions: Vec<Vec<u64>>| {
            let mut set = Set::new(self.index.meta().positions);
            positions.iter().flatten().for_each(|position| set.insert(*position));
            set
        };
        Ok(match node {
            Node::Tokens(tokens) => of(find_tokens(prompts, tokens)?),
            Node::Text(text) => of(self.text()?.find_text(prompts, text)?),
            Node::Regex(regex) => of(self.text()?.find_regex(prompts, regex)?),
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
            Node::Not(of) => self.set(of)?.not(),
            Node::And(a, b) => self.set(a)?.and(&self.set(b)?),
            Node::Or(a, b) => self.set(a)?.or(&self.set(b)?),
            Node::Within(a, distance, b) => self.set(a)?.and(&around(prompts, &self.set(b)?, *distance)),
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

    /// How often each direction fires at the positions found, and the sum of its activations there.
    fn tally(&self, found: &Found, sae: &SaeIndex) -> Result<Vec<Tally>> {
        let positions = self.index.meta().positions;
        let parts = (found.matches / 4096).clamp(1, PARTS);
        let part = |part: u64| {
            let mut tallies = vec![Tally::default(); sae.directions()];
            for (number, shard) in found.all.shards.iter().enumerate() {
                let own =
                    |position: u64| position.clamp(shard.first_position, shard.first_position + shard.tokens.len());
                let within = own(positions * part / parts)..own(positions * (part + 1) / parts);
                for run in found.set.runs(within) {
                    let rows = (run.start - shard.first_position) as u32..(run.end - shard.first_position) as u32;
                    let (directions, values) = sae.rows(number, rows)?;
                    for (direction, value) in directions.iter().zip(values) {
                        let tally = &mut tallies[*direction as usize];
                        tally.fires += 1;
                        tally.sum += f64::from(*value);
                    }
                }
            }
            Ok(tallies)
        };
        let parts: Vec<Vec<Tally>> = (0..parts).into_par_iter().map(part).collect::<Result<_>>()?;
        let mut parts = parts.into_iter();
        let mut sums = parts.next().unwrap_or_default();
        for part in parts {
            for (sum, part) in sums.iter_mut().zip(part) {
                sum.fires += part.fires;
                sum.sum += part.sum;
            }
        }
        Ok(sums)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    fires: u64,
    sum: f64,
}

impl Found {
    /// All matches at positions that count, in the order of the corpus.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.positions().map(|(_, place)| place)
    }

    /// Whether a position is a match, and counts.
    pub fn contains(&self, place: Place) -> bool {
        let Ok(at) = self.all.place(place.prompt) else { return false };
        let position = self.all.shards[at.shard].first_position + u64::from(at.start) + place.position as u64;
        place.position < (at.end - at.start) as usize && self.set.contains(position)
    }

    /// The same as [`places`](Found::places), with their positions in the corpus.
    fn positions(&self) -> impl Iterator<Item = (u64, Place)> {
        let mut walk = Walk::of(&self.all);
        self.set.iter().filter_map(move |position| {
            let at = walk.to(position)?;
            Some((position, Place { prompt: at.prompt, position: (position - at.range.start) as usize }))
        })
    }
}

/// A walk along the prompts.
struct Walk<'a> {
    prompts: &'a Prompts,
    shard: usize,
    /// The prompt, counted from the shard's first.
    own: usize,
}

/// The prompt of a position.
struct At {
    shard: usize,
    prompt: usize,
    /// Its positions in the corpus.
    range: Range<u64>,
}

impl Walk<'_> {
    fn of(prompts: &Prompts) -> Walk<'_> {
        Walk { prompts, shard: 0, own: 0 }
    }

    /// The prompt of a position that is not before the last one asked for.
    fn to(&mut self, position: u64) -> Option<At> {
        loop {
            let shard = self.prompts.shards.get(self.shard)?;
            let prompts = shard.offsets.len() - 1;
            let end = |own: usize| shard.first_position + u64::from(shard.offsets[own + 1]);
            // One step is the common one; after a gap it is a search.
            if self.own < prompts && end(self.own) <= position {
                self.own += 1;
            }
            if self.own < prompts && end(self.own) <= position {
                let ends = &shard.offsets[self.own + 1..];
                self.own += ends.partition_point(|end| shard.first_position + u64::from(*end) <= position);
            }
            if self.own < prompts {
                let start = shard.first_position + u64::from(shard.offsets[self.own]);
                let prompt = shard.first_prompt + self.own;
                return Some(At { shard: self.shard, prompt, range: start..end(self.own) });
            }
            (self.shard, self.own) = (self.shard + 1, 0);
        }
    }
}

impl At {
    fn token(&self, prompts: &Prompts, position: u64) -> Result<u32> {
        let own = (position - prompts.shards[self.shard].first_position) as u32;
        Ok(prompts.tokens(self.shard, own..own + 1)?[0])
    }
}

/// The positions of the last of `tokens`, wherever they follow each other in a prompt.
fn find_tokens(prompts: &Prompts, tokens: &[u32]) -> Result<Vec<Vec<u64>>> {
    let Some((last, before)) = tokens.split_last() else { return Ok(Vec::new()) };
    let pieces = prompts
        .shards
        .iter()
        .enumerate()
        .flat_map(|(number, shard)| (0..shard.offsets.len() - 1).step_by(PIECE).map(move |first| (number, first)));
    let piece = |(number, first): (usize, usize)| {
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

/// All positions that are at most `distance` from one of the set in the same prompt.
fn around(prompts: &Prompts, set: &Set, distance: u64) -> Set {
    let mut all = Set::new(prompts.shards.last().map_or(0, |shard| shard.first_position + shard.tokens.len()));
    let mut walk = Walk::of(prompts);
    for position in set.iter() {
        let Some(At { range, .. }) = walk.to(position) else { continue };
        let (from, to) = (position.saturating_sub(distance), position.saturating_add(distance).saturating_add(1));
        all.insert_range(from.max(range.start)..to.min(range.end));
    }
    all
}

/// [`Firing::g2`] of a direction that fires at `both` of `matches` and at `active` of `all` positions.
fn g2(both: u64, matches: u64, active: u64, all: u64) -> f64 {
    let [both, matches, active, all] = [both, matches, active, all].map(|count| count as f64);
    let term = |observed: f64, expected: f64| if observed > 0.0 { observed * (observed / expected).ln() } else { 0.0 };
    let elsewhere = all - matches;
    let sum = term(both, matches * active / all)
        + term(matches - both, matches * (all - active) / all)
        + term(active - both, elsewhere * active / all)
        + term(elsewhere - (active - both), elsewhere * (all - active) / all);
    let is_less = both * all < matches * active;
    // What rounding leaves of 0 may be below it.
    let size = 2.0 * sum.max(0.0);
    if is_less { -size } else { size }
}
