//! A ragged batch of prompts.

use std::ops::Range;

/// A ragged batch of prompts: the token ids of all positions in one vector, and where each prompt begins. No padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    tokens: Vec<u32>,
    /// One more than there are prompts: it starts with 0 and ends with the number of positions.
    offsets: Vec<usize>,
}

impl Prompts {
    /// A batch without prompts.
    pub fn new() -> Prompts {
        Prompts { tokens: Vec::new(), offsets: vec![0] }
    }

    /// A batch of the given prompts, in their order.
    pub fn from_rows(rows: impl IntoIterator<Item = impl AsRef<[u32]>>) -> Prompts {
        let mut prompts = Prompts::new();
        for row in rows {
            prompts.push(row.as_ref());
        }
        prompts
    }

    /// Appends one prompt.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.offsets.push(self.tokens.len());
    }

    /// Appends all prompts of another batch.
    pub fn extend(&mut self, other: &Prompts) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(&other.tokens);
        self.offsets.extend(other.offsets[1..].iter().map(|offset| start + offset));
    }

    /// The number of prompts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of positions of all prompts together.
    pub fn positions(&self) -> usize {
        self.tokens.len()
    }

    /// The number of positions of the longest prompt; 0 without prompts.
    pub fn longest(&self) -> usize {
        self.iter().map(<[u32]>::len).max().unwrap_or(0)
    }

    /// The token ids of one prompt.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Prompts::len).
    pub fn get(&self, index: usize) -> &[u32] {
        &self.tokens[self.offsets[index]..self.offsets[index + 1]]
    }

    /// The prompts' token ids, prompt by prompt.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u32]> + ExactSizeIterator + Clone {
        self.offsets.windows(2).map(|ends| &self.tokens[ends[0]..ends[1]])
    }

    /// The token ids of all positions: prompt `i` is `tokens()[offsets()[i]..offsets()[i + 1]]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each prompt begins in [`tokens`](Prompts::tokens), and at last the number of positions.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The prompts of an index range, as a batch of their own.
    ///
    /// # Panics
    /// If the range ends behind [`len`](Prompts::len) or before it starts.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Prompts {
        let ends = &self.offsets[range.start..=range.end];
        let start = ends[0];
        Prompts {
            tokens: self.tokens[start..ends[range.len()]].to_vec(),
            offsets: ends.iter().map(|offset| offset - start).collect(),
        }
    }
}

impl Default for Prompts {
    fn default() -> Prompts {
        Prompts::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Prompts;

    #[test]
    fn an_empty_batch_has_one_offset() {
        let prompts = Prompts::default();
        assert_eq!((prompts.len(), prompts.positions(), prompts.longest()), (0, 0, 0));
        assert_eq!(prompts.offsets(), [0]);
        assert_eq!(prompts.range(0..0), prompts);
    }

    #[test]
    fn rows_lie_one_after_another() {
        let prompts = Prompts::from_rows([&[5, 6][..], &[], &[7, 8, 9]]);
        assert_eq!(prompts.tokens(), [5, 6, 7, 8, 9]);
        assert_eq!(prompts.offsets(), [0, 2, 2, 5]);
        assert_eq!(prompts.get(2), [7, 8, 9]);
        assert_eq!(prompts.longest(), 3);
    }

    proptest! {
        #[test]
        fn a_batch_equals_its_parts(
            rows in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..5), 0..12),
            split in any::<prop::sample::Index>(),
        ) {
            let whole = Prompts::from_rows(&rows);
            prop_assert_eq!(whole.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), rows.clone());
            let split = split.index(rows.len() + 1);
            let mut joined = whole.range(0..split);
            let rest = whole.range(split..rows.len());
            prop_assert_eq!(&rest, &Prompts::from_rows(&rows[split..]));
            joined.extend(&rest);
            prop_assert_eq!(joined, whole);
        }
    }
}
