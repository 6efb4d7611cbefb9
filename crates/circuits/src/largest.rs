//! The largest of many numbers.

/// The numbers of the `k` largest values, largest first, and the values; of equal ones the first. What is not a number is left out.
pub fn largest(values: impl Iterator<Item = f64>, k: usize) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = values.enumerate().filter(|(_, value)| !value.is_nan()).collect();
    let by = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if all.len() > k {
        all.select_nth_unstable_by(k, by);
        all.truncate(k);
    }
    all.sort_by(by);
    all
}
