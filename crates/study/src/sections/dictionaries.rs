//! Two SAEs of one site: which directions both have.

use directrix_circuits::{Alike, BothIndexed, MatchedPair, Matching, Unmatched, check_site, match_directions};
use directrix_lab::Opened;
use directrix_sae::Sae;
use serde::Serialize;

use super::{Body, SectionKind, count, figure, table};
use crate::findings::Findings;
use crate::study::Study;
use crate::{Result, Shape};

options! {
    /// Directions of two SAEs of one site, matched.
    Dictionaries {
        /// The number of the one SAE; the first that shares its site with another if not said.
        first: Option<usize> = None,
        /// That of the other; the next of the same site if not said.
        second: Option<usize> = None,
        /// Pairs less alike than this are no match.
        least: f64 = 0.3 => 0.0..1.0,
        /// Matched pairs at least this alike are stable.
        stable: f64 = 0.7 => 0.0..=1.0,
    }
}

impl SectionKind for Dictionaries {
    const KIND: &str = "dictionaries";
    const TITLE: &str = "Two dictionaries compared";
    const BY_DEFAULT: bool = false;
    const SAES: usize = 2;

    fn check_study(&self, _study: &Study, opened: &Opened) -> Result<(), String> {
        self.both(opened).map(drop)
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let opened = found.opened;
        // It was checked before the long work.
        let Ok(saes) = self.both(opened) else { return Ok(Body { prose: Vec::new(), blocks: Vec::new() }) };
        let both = saes.map(|number| &opened.saes[number]);
        let indexed = BothIndexed { index: found.index, saes };
        let matched = |alike| match_directions(both, alike, Some(indexed), self.least, found.watch);
        let (by_weights, by_activations) = (matched(Alike::Decoder)?, matched(Alike::Activations)?);
        let names = both.map(Sae::short_name);
        let directions = both.map(Sae::directions);
        let prose = vec![
            self.said(&by_weights, "cosine of the decoder rows", names, directions),
            self.said(&by_activations, "correlation of activations", names, directions),
            agreement(&by_weights, &by_activations),
        ];
        let cosines: Vec<f64> = by_weights.similarities.clone();
        let correlation = |pair: &MatchedPair| pair.activations.map_or(f64::NAN, |of| of.correlation);
        let blocks = vec![
            figure(
                "dictionaries-cosine",
                "How alike matched directions are",
                ("cosine of the decoder rows", "matched pairs"),
                "Directions matched one to one by the cosine of their decoder rows.",
                Shape::histogram(&cosines, 50),
            ),
            figure(
                "dictionaries-both",
                "Alike in weights, alike in activations",
                ("cosine of the decoder rows", "correlation of activations"),
                "The same pairs: activations correlate over all positions of the corpus that count, zeros included.",
                Shape::Scatter {
                    x: by_weights.pairs.iter().map(|pair| pair.decoder_cosine as f64).collect(),
                    y: by_weights.pairs.iter().map(correlation).collect(),
                    hover: by_weights.pairs.iter().map(|p| format!("{} and {}", p.in_first, p.in_second)).collect(),
                },
            ),
            table("dictionaries-cosine", &self.caption("cosine of the decoder rows", names), &self.rows(&by_weights)),
            table(
                "dictionaries-activations",
                &self.caption("correlation of activations", names),
                &self.rows(&by_activations),
            ),
            table(
                "dictionaries-unmatched",
                &format!(
                    "Directions of {} (0) and {} (1) that have no partner by the cosine of the decoder rows: the direction of the other SAE that is nearest to each, which another may have, and the cosine.",
                    names[0], names[1]
                ),
                &by_weights.unmatched.iter().map(UnmatchedRow::of).collect::<Vec<_>>(),
            ),
        ];
        Ok(Body { prose, blocks })
    }
}

#[derive(Serialize)]
struct MatchRow {
    #[serde(flatten)]
    pair: MatchedPair,
    stable: &'static str,
}

/// An [`Unmatched`] whose columns lead nowhere: it is of either SAE, by its place in the section.
#[derive(Serialize)]
struct UnmatchedRow {
    of: usize,
    unmatched: usize,
    nearest: usize,
    cosine: f64,
}

impl UnmatchedRow {
    fn of(row: &Unmatched) -> UnmatchedRow {
        UnmatchedRow { of: row.sae, unmatched: row.direction, nearest: row.nearest, cosine: row.similarity }
    }
}

impl Dictionaries {
    /// The numbers of the two SAEs.
    fn both(&self, opened: &Opened) -> Result<[usize; 2], String> {
        let saes = &opened.saes;
        let there = |number: usize| {
            let there = saes.len();
            if number < there {
                Ok(number)
            } else {
                Err(format!("names SAE {number}, but `saes` names {there}, counted from 0"))
            }
        };
        let partner_of = |first: usize| {
            let after = (0..saes.len()).filter(|other| *other != first);
            let same = after.filter(|other| saes[*other].site() == saes[first].site());
            same.min_by_key(|other| (*other < first, *other))
        };
        let none = || {
            "needs two SAEs of one site, and `saes` names none; add one trained with another seed, objective or for longer".to_owned()
        };
        let [first, second] = match (self.first, self.second) {
            (Some(first), Some(second)) => [there(first)?, there(second)?],
            (Some(one), None) => [there(one)?, partner_of(one).ok_or_else(none)?],
            (None, Some(other)) => [partner_of(there(other)?).ok_or_else(none)?, other],
            (None, None) => {
                let first = (0..saes.len()).find(|first| partner_of(*first).is_some()).ok_or_else(none)?;
                [first, partner_of(first).ok_or_else(none)?]
            }
        };
        if first == second {
            return Err(format!("`first` and `second` are both {first}; give two SAEs"));
        }
        check_site(&saes[first], &saes[second]).map_err(|e| e.to_string())?;
        Ok([first, second])
    }

    fn is_stable(&self, similarity: f64) -> bool {
        similarity >= self.stable
    }

    fn rows(&self, matching: &Matching) -> Vec<MatchRow> {
        let row = |(pair, similarity): (&MatchedPair, &f64)| MatchRow {
            pair: *pair,
            stable: if self.is_stable(*similarity) { "stable" } else { "" },
        };
        matching.pairs.iter().zip(&matching.similarities).map(row).collect()
    }

    /// How many directions both have.
    fn said(&self, matching: &Matching, by: &str, [one, other]: [&str; 2], directions: [usize; 2]) -> String {
        let stable = matching.similarities.iter().filter(|similarity| self.is_stable(**similarity)).count();
        let alone = [0, 1].map(|sae| matching.unmatched.iter().filter(|row| row.sae == sae).count());
        format!(
            "By {by}, {} of {one} and {} of {other} make {} more alike than {}, of which {stable} are stable (at least {}): {:.1} % of {one}. {} of {one} and {} of {other} have no partner.",
            count(directions[0], "direction"),
            directions[1],
            count(matching.pairs.len(), "pair"),
            self.least,
            self.stable,
            100.0 * stable as f64 / directions[0] as f64,
            alone[0],
            alone[1]
        )
    }

    fn caption(&self, by: &str, [one, other]: [&str; 2]) -> String {
        format!(
            "Directions of {one} (in first) and {other} (in second), matched one to one so that the sum of {by} is the largest there is over all one-to-one matchings of pairs above {}; stable from {} on. Correlation: Pearson's, over the n positions of the corpus that count, zeros included, with the half width of its 95 % interval clustered by prompt.",
            self.least, self.stable
        )
    }
}

/// How far both matchings agree.
fn agreement(by_weights: &Matching, by_activations: &Matching) -> String {
    let partners: std::collections::BTreeMap<usize, usize> =
        by_activations.pairs.iter().map(|pair| (pair.in_first, pair.in_second)).collect();
    let both: Vec<&MatchedPair> =
        by_weights.pairs.iter().filter(|pair| partners.contains_key(&pair.in_first)).collect();
    let same = both.iter().filter(|pair| partners[&pair.in_first] == pair.in_second).count();
    if both.is_empty() {
        return "No direction has a partner by both, so that they cannot be compared.".into();
    }
    format!(
        "Of {} of the first SAE that have a partner by both, {same} have the same one ({:.0} %).",
        count(both.len(), "direction"),
        100.0 * same as f64 / both.len() as f64
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_matchings_are_compared_where_both_have_a_partner() {
        let of = |pairs: &[(usize, usize)]| Matching {
            pairs: pairs
                .iter()
                .map(|(in_first, in_second)| MatchedPair {
                    in_first: *in_first,
                    in_second: *in_second,
                    decoder_cosine: 0.9,
                    encoder_cosine: 0.9,
                    activations: None,
                })
                .collect(),
            similarities: vec![0.9; pairs.len()],
            unmatched: Vec::new(),
        };
        assert!(
            agreement(&of(&[(0, 1), (1, 0), (2, 2)]), &of(&[(0, 1), (1, 3)]))
                .contains("Of 2 directions of the first SAE that have a partner by both, 1 have the same one (50 %)")
        );
        assert!(agreement(&of(&[(0, 1)]), &of(&[])).contains("cannot be compared"));
        let options = Dictionaries::default();
        let said = options.said(&of(&[(0, 1)]), "cosine", ["a", "b"], [4, 5]);
        assert!(said.contains("4 directions of a and 5 of b make 1 pair more alike than 0.3, of which 1 are stable (at least 0.7): 25.0 % of a"), "{said}");
    }
}
