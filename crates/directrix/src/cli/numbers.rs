//! Numbers in flags, each with its range.

use std::num::ParseFloatError;
use std::ops::RangeBounds;
use std::str::FromStr;

use directrix::corpus::{real_number, whole_number};

/// More of anything is no use, and would not end.
pub(crate) const MANY: u64 = 1_000_000;
/// More threads than any machine has cores.
pub(crate) const THREADS: u64 = 1024;

/// A whole number of this range.
pub(crate) fn whole<T: TryFrom<u64>>(
    range: impl RangeBounds<u64> + Clone + Send + Sync,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| {
        let number = whole_number(text, range.clone())?;
        T::try_from(number).map_err(|_| "this machine does not count so far".into())
    }
}

/// A number of this range.
pub(crate) fn real<T: FromStr<Err = ParseFloatError>>(
    range: impl RangeBounds<f64> + Clone + Send + Sync,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| {
        real_number(text, range.clone())?;
        text.parse().map_err(|error: ParseFloatError| error.to_string())
    }
}

/// A position from the start of a prompt or, below 0, from its end.
pub(crate) fn place(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "give a whole number, from 0 on or, counted from the end, from -1 down".into())
}

/// A count, as `500000`, `500k` or `50M`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K', 'M', 'B']) {
        Some(digits) if text.ends_with('M') => (digits, 1e6),
        Some(digits) if text.ends_with('B') => (digits, 1e9),
        Some(digits) => (digits, 1e3),
        None => (text, 1.0),
    };
    let number = digits.parse::<f64>().ok().map(|number| number * factor);
    match number {
        Some(number) if (1.0..=1e15).contains(&number) && (number - number.round()).abs() < 1e-6 => {
            Ok(number.round() as u64)
        }
        _ => Err("give a whole number from 1 to 1000000000000000, as 500000, 500k or 50M".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_may_be_short_and_are_whole() {
        assert_eq!(
            [count("500k"), count("1.5M"), count("2B"), count("7"), count("0.3M")],
            [Ok(500_000), Ok(1_500_000), Ok(2_000_000_000), Ok(7), Ok(300_000)]
        );
        for text in ["", "k", "many", "-1", "0", "nan", "inf", "1.5", "1.0001k", "1e400", "3-9", "9e15"] {
            assert!(count(text).unwrap_err().starts_with("give a whole number"), "{text}");
        }
    }
}
