//! Which positions of a prompt count.

use serde::{Deserialize, Serialize};

/// Which positions count for what is said of directions and SAEs. The model is unlike itself at the first positions of a prompt
/// (attention has nothing to look at but BOS), and nothing is predicted at the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// This many positions at the start of every prompt do not count.
    pub skip_first: usize,
    /// Whether the last position of every prompt, which predicts nothing, does not count.
    pub skip_last: bool,
    /// Positions at which one of these tokens is do not count.
    pub exclude: Vec<u32>,
}

impl Counted {
    /// Every position counts.
    pub fn all() -> Counted {
        Counted { skip_first: 0, skip_last: false, exclude: Vec::new() }
    }

    /// Whether place `place` of a prompt of `length` positions counts, where `token` is.
    pub fn counts(&self, place: usize, length: usize, token: u32) -> bool {
        place >= self.skip_first && !(self.skip_last && place + 1 == length) && !self.exclude.contains(&token)
    }

    /// Which positions do not count, in words; `token` shows a token.
    pub fn left_out(&self, token: impl Fn(u32) -> String) -> String {
        self.left_out_of(["", ""], token)
    }

    /// The same, of the first and the last positions with a remark each.
    pub fn left_out_of(&self, [of_first, of_last]: [&str; 2], token: impl Fn(u32) -> String) -> String {
        let mut parts = Vec::new();
        match self.skip_first {
            0 => {}
            1 => parts.push(format!("the first position of every prompt{of_first}")),
            n => parts.push(format!("the first {n} positions of every prompt{of_first}")),
        }
        if self.skip_last {
            let last = if parts.is_empty() { "the last position of every prompt" } else { "the last" };
            parts.push(format!("{last}{of_last}"));
        }
        if !self.exclude.is_empty() {
            let tokens: Vec<String> = self.exclude.iter().map(|id| token(*id)).collect();
            parts.push(format!("positions that hold {}", tokens.join(", ")));
        }
        match parts.split_last() {
            None => "nothing".into(),
            Some((only, [])) => only.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
        }
    }
}

impl Default for Counted {
    /// All but the first ten and the last.
    fn default() -> Counted {
        Counted { skip_first: 10, skip_last: true, exclude: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::Counted;

    #[test]
    fn what_does_not_count_is_said() {
        let said = |counted: &Counted| counted.left_out(|token| format!("#{token}"));
        assert_eq!(said(&Counted::all()), "nothing");
        assert_eq!(said(&Counted::default()), "the first 10 positions of every prompt and the last");
        let some = Counted { skip_first: 0, skip_last: true, exclude: vec![0, 7] };
        assert_eq!(said(&some), "the last position of every prompt and positions that hold #0, #7");
        assert!(some.counts(0, 3, 1) && !some.counts(2, 3, 1) && !some.counts(0, 3, 7));
    }
}
