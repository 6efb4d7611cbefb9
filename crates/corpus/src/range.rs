//! Numbers that people give, and what they must lie in.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

/// Whether a number lies in its range.
///
/// # Errors
/// What to give instead: `give a number from 0 to below 1`.
pub fn in_range(number: f64, range: impl RangeBounds<f64>) -> Result<(), String> {
    if range.contains(&number) { Ok(()) } else { Err(format!("give a number{}", words(&range))) }
}

/// The whole number that a text is, if it lies in its range.
///
/// # Errors
/// What to give instead: `give a whole number from 1 to 1024`.
pub fn whole_number(text: &str, range: impl RangeBounds<u64>) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("give a whole number{}", words(&range)))
}

/// The number that a text is, if it lies in its range.
///
/// # Errors
/// As [`in_range`].
pub fn real_number(text: &str, range: impl RangeBounds<f64>) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("give a number{}", words(&range)))
}

fn words<T: Display>(range: &impl RangeBounds<T>) -> String {
    let low = match range.start_bound() {
        Bound::Included(low) => format!(" from {low}"),
        Bound::Excluded(low) => format!(" above {low}"),
        Bound::Unbounded => String::new(),
    };
    let high = match range.end_bound() {
        Bound::Included(high) if matches!(range.start_bound(), Bound::Excluded(_)) => format!(", at most {high}"),
        Bound::Included(high) => format!(" to {high}"),
        Bound::Excluded(high) if matches!(range.start_bound(), Bound::Excluded(_)) => format!(" and below {high}"),
        Bound::Excluded(high) => format!(" to below {high}"),
        Bound::Unbounded if low.is_empty() => String::new(),
        Bound::Unbounded => " on".into(),
    };
    low + &high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_answered_with_the_range() {
        assert_eq!(whole_number("7", 1..=7), Ok(7));
        for text in ["", "0", "8", "-1", "3-9", "1.5", "1e3", "nan", "18446744073709551616"] {
            assert_eq!(whole_number(text, 1..=7), Err("give a whole number from 1 to 7".into()), "{text}");
        }
        assert_eq!(whole_number("", 1..), Err("give a whole number from 1 on".into()));
        assert_eq!(real_number("1e-3", 0.0..1.0), Ok(0.001));
        for text in ["", "abc", "-0.1", "1", "nan", "inf", "-inf", "1e400"] {
            assert_eq!(real_number(text, 0.0..1.0), Err("give a number from 0 to below 1".into()), "{text}");
        }
        let above = (Bound::Excluded(0.0), Bound::Included(2.0));
        assert_eq!(in_range(0.0, above), Err("give a number above 0, at most 2".into()));
    }
}
