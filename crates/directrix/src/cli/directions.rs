//! Numbers of directions as they are typed.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Directions by number: `3`, `1-50`, `3,17,20-30`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directions {
    typed: String,
    ranges: Vec<RangeInclusive<usize>>,
}

impl Directions {
    /// Each once, in the order typed.
    pub(crate) fn each(&self) -> impl Iterator<Item = usize> {
        let mut seen = BTreeSet::new();
        self.ranges.iter().cloned().flatten().filter(move |direction| seen.insert(*direction))
    }

    /// The one, if one was typed and no list or range.
    pub(crate) fn one(&self) -> Option<usize> {
        self.typed.parse().ok()
    }
}

impl fmt::Display for Directions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.typed)
    }
}

impl FromStr for Directions {
    type Err = &'static str;

    fn from_str(typed: &str) -> Result<Directions, &'static str> {
        let number = |text: &str| text.parse::<u32>().ok().map(|number| number as usize);
        let part = |part: &str| match part.split_once('-') {
            None => number(part).map(|one| one..=one),
            Some((first, last)) => Some(number(first)?..=number(last)?).filter(|range| !range.is_empty()),
        };
        let ranges: Option<Vec<_>> = typed.split(',').map(part).collect();
        let ranges = ranges.ok_or("give numbers from 0 on and rising ranges of them, as 3 or 3,17,20-30")?;
        Ok(Directions { typed: typed.into(), ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::Directions;

    #[test]
    fn lists_and_ranges_name_each_direction_once() {
        let each = |typed: &str| typed.parse::<Directions>().unwrap().each().collect::<Vec<_>>();
        assert_eq!(each("3"), [3]);
        assert_eq!(each("17,3-5,4,0"), [17, 3, 4, 5, 0]);
        assert_eq!("7".parse::<Directions>().unwrap().one(), Some(7));
        assert_eq!("7-7".parse::<Directions>().unwrap().one(), None);
        for typed in ["", ",", "a", "-1", "3-", "-", "9-3", "1-2-3", "1.5", "nan", "99999999999", "3, 4"] {
            assert!(typed.parse::<Directions>().is_err(), "{typed}");
        }
    }
}
