//! A set of positions of the corpus: a bit for each.

use std::ops::Range;

const BITS: u64 = u64::BITS as u64;

/// A set of positions, counted over the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    words: Vec<u64>,
    /// Positions of the corpus.
    len: u64,
}

impl Set {
    /// None of `len` positions.
    pub(crate) fn new(len: u64) -> Set {
        Set { words: vec![0; len.div_ceil(BITS) as usize], len }
    }

    pub(crate) fn insert(&mut self, position: u64) {
        self.words[(position / BITS) as usize] |= 1 << (position % BITS);
    }

    pub(crate) fn insert_range(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = ((range.start / BITS) as usize, ((range.end - 1) / BITS) as usize);
        let from = u64::MAX << (range.start % BITS);
        let to = u64::MAX >> (BITS - 1 - (range.end - 1) % BITS);
        if first == last {
            self.words[first] |= from & to;
        } else {
            self.words[first] |= from;
            self.words[first + 1..last].fill(u64::MAX);
            self.words[last] |= to;
        }
    }

    pub(crate) fn remove(&mut self, position: u64) {
        self.words[(position / BITS) as usize] &= !(1 << (position % BITS));
    }

    pub(crate) fn contains(&self, position: u64) -> bool {
        let word = self.words.get((position / BITS) as usize);
        word.is_some_and(|word| word >> (position % BITS) & 1 == 1)
    }

    /// Those that are in both.
    pub(crate) fn and(mut self, other: &Set) -> Set {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
        self
    }

    /// Those that are in one or the other.
    pub(crate) fn or(mut self, other: &Set) -> Set {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        self
    }

    /// Those that are not in it.
    pub(crate) fn not(mut self) -> Set {
        self.words.iter_mut().for_each(|word| *word = !*word);
        if let Some(last) = self.words.last_mut().filter(|_| !self.len.is_multiple_of(BITS)) {
            *last &= u64::MAX >> (BITS - self.len % BITS);
        }
        self
    }

    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// All, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().enumerate().flat_map(|(number, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| u64::from(left.trailing_zeros()))?;
                left &= left - 1;
                Some(number as u64 * BITS + bit)
            })
        })
    }

    /// The first that is not before `position`.
    pub(crate) fn first_from(&self, position: u64) -> Option<u64> {
        self.next(position, self.len, 0)
    }

    /// Those of `within`, as ranges of positions that follow each other, ascending.
    pub(crate) fn runs(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = within.start;
        std::iter::from_fn(move || {
            let start = self.next(at, within.end, 0)?;
            let end = self.next(start, within.end, u64::MAX).unwrap_or(within.end);
            at = end;
            Some(start..end)
        })
    }

    /// The first position from `at` to before `end` that is in the set, or with all bits turned around that is not.
    fn next(&self, at: u64, end: u64, turned: u64) -> Option<u64> {
        let mut from = at;
        while from < end {
            let left = (self.words[(from / BITS) as usize] ^ turned) >> (from % BITS);
            if left != 0 {
                return Some(from + u64::from(left.trailing_zeros())).filter(|found| *found < end);
            }
            from = (from / BITS + 1) * BITS;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(len: u64, members: &BTreeSet<u64>) -> Set {
        let mut set = Set::new(len);
        members.iter().for_each(|member| set.insert(*member));
        set
    }

    fn members(set: &Set) -> BTreeSet<u64> {
        set.iter().collect()
    }

    proptest! {
        #[test]
        fn sets_are_those_of_mathematics(
            len in 1..300_u64,
            a in prop::collection::btree_set(0..300_u64, 0..80),
            b in prop::collection::btree_set(0..300_u64, 0..80),
            range in (0..300_u64, 0..300_u64),
        ) {
            let [a, b]: [BTreeSet<u64>; 2] = [a, b].map(|of| of.into_iter().filter(|i| *i < len).collect());
            let (left, right) = (set(len, &a), set(len, &b));
            prop_assert_eq!(left.count(), a.len() as u64);
            prop_assert!((0..400).all(|i| left.contains(i) == a.contains(&i)));
            prop_assert_eq!(members(&left.clone().and(&right)), a.intersection(&b).copied().collect());
            prop_assert_eq!(members(&left.clone().or(&right)), a.union(&b).copied().collect());
            prop_assert_eq!(members(&left.clone().not()), (0..len).filter(|i| !a.contains(i)).collect());
            prop_assert!((0..400).all(|i| left.first_from(i) == a.range(i..).next().copied()));
            let (from, to) = (range.0.min(len), range.1.min(len));
            let mut more = left.clone();
            more.insert_range(from..to);
            prop_assert_eq!(members(&more), a.iter().copied().chain(from..to).collect());
            let runs: Vec<Range<u64>> = left.runs(from..to.max(from)).collect();
            prop_assert!(runs.is_sorted_by(|a, b| a.end < b.start) && runs.iter().all(|run| !run.is_empty()));
            let inside: BTreeSet<u64> = runs.into_iter().flatten().collect();
            prop_assert_eq!(inside, a.iter().copied().filter(|i| (from..to).contains(i)).collect());
            let mut none = left.clone();
            a.iter().for_each(|member| none.remove(*member));
            prop_assert_eq!(none.count(), 0);
        }
    }
}
