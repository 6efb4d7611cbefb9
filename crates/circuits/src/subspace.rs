//! Subspaces of a site: the span of some rows.

use directrix_kernels::Matrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A row that has less than this share of its norm outside the span of those before it adds no dimension.
const DEPENDENT: f64 = 1e-5;

/// A subspace of the values at a site, by an orthonormal basis.
#[derive(Debug, Clone, PartialEq)]
pub struct Subspace {
    /// Orthonormal rows.
    basis: Vec<Vec<f64>>,
    width: usize,
}

impl Subspace {
    /// The span of some rows, `[rows, width]`: those of chosen directions of `W_dec` for example. Rows that depend on those before
    /// them add no dimension.
    pub fn span(rows: &Matrix) -> Subspace {
        let mut subspace = Subspace { basis: Vec::new(), width: rows.columns() };
        rows.iter_rows().for_each(|row| subspace.extend(row.iter().map(|x| *x as f64).collect()));
        subspace
    }

    /// The span of rows distributed evenly over all directions: `dimensions` of them, or `width` if that is fewer. The same seed gives
    /// the same.
    pub fn random(dimensions: usize, width: usize, seed: u64) -> Subspace {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut subspace = Subspace { basis: Vec::new(), width };
        while subspace.dimensions() < dimensions.min(width) {
            subspace.extend(StandardNormal.sample_iter(&mut random).take(width).collect());
        }
        subspace
    }

    /// Adds a row to the basis, orthogonalised twice (Giraud, Langou and Rozložník 2005: twice is enough).
    fn extend(&mut self, mut row: Vec<f64>) {
        let before = norm(&row);
        for _ in 0..2 {
            for known in &self.basis {
                let share = dot(&row, known);
                row.iter_mut().zip(known).for_each(|(x, k)| *x -= share * k);
            }
        }
        let left = norm(&row);
        if left > DEPENDENT * before {
            row.iter_mut().for_each(|x| *x /= left);
            self.basis.push(row);
        }
    }

    /// Dimensions.
    pub fn dimensions(&self) -> usize {
        self.basis.len()
    }

    /// Numbers in a row of the site.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row of the site with what is orthogonal to the subspace replaced by what `rest` has there, or by zero without it:
    /// `rest + P (row − rest)`.
    ///
    /// # Panics
    /// If a row is of another width.
    pub fn kept(&self, row: &[f32], rest: Option<&[f32]>) -> Vec<f32> {
        assert!(row.len() == self.width && rest.is_none_or(|rest| rest.len() == self.width));
        let mut kept: Vec<f64> = rest.map_or_else(|| vec![0.0; row.len()], |r| r.iter().map(|x| *x as f64).collect());
        let from_rest: Vec<f64> = row.iter().zip(&kept).map(|(x, r)| *x as f64 - r).collect();
        for known in &self.basis {
            let share = dot(&from_rest, known);
            kept.iter_mut().zip(known).for_each(|(x, k)| *x += share * k);
        }
        kept.into_iter().map(|x| x as f32).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows, some of which are sums of others.
    fn rows() -> impl Strategy<Value = Matrix> {
        (1..6_usize, 1..9_usize, any::<u64>(), 0..3_usize).prop_map(|(n, width, seed, dependent)| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut rows: Vec<Vec<f32>> =
                (0..n).map(|_| StandardNormal.sample_iter(&mut random).take(width).collect()).collect();
            for i in 0..dependent {
                rows.push(rows[i % n].iter().zip(&rows[(i + 1) % n]).map(|(a, b)| 2.0 * a - b).collect());
            }
            Matrix::from_rows(&rows)
        })
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_the_rows_span_and_the_rest_is_orthogonal_to_them(rows in rows(), seed in any::<u64>()) {
            let span = Subspace::span(&rows);
            prop_assert!(span.dimensions() <= rows.rows().min(rows.columns()));
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut drawn = || -> Vec<f32> { StandardNormal.sample_iter(&mut random).take(rows.columns()).collect() };
            let (row, rest) = (drawn(), drawn());
            for rest in [None, Some(&rest[..])] {
                let kept = span.kept(&row, rest);
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
                for spanning in rows.iter_rows() {
                    // Along the rows it is the row's, across them the rest's.
                    prop_assert!((dot(spanning, &kept) - dot(spanning, &row)).abs() < 1e-4);
                    prop_assert!(span.kept(spanning, None).iter().zip(spanning).all(|(a, b)| (a - b).abs() < 1e-4));
                }
                let again = span.kept(&kept, rest);
                prop_assert!(again.iter().zip(&kept).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }

        #[test]
        fn random_subspaces_have_their_dimensions_and_follow_from_the_seed(n in 0..9_usize, width in 1..9_usize, seed in any::<u64>()) {
            let one = Subspace::random(n, width, seed);
            prop_assert_eq!((one.dimensions(), one.width()), (n.min(width), width));
            prop_assert_eq!(&one, &Subspace::random(n, width, seed));
            for (i, a) in one.basis.iter().enumerate() {
                for (j, b) in one.basis.iter().enumerate() {
                    prop_assert!((dot(a, b) - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_adds_no_dimension() {
        let span = Subspace::span(&Matrix::from_rows(&[[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]));
        assert_eq!(span.dimensions(), 1);
        assert_eq!(span.kept(&[3.0, 4.0], None), [3.0, 4.0]);
        assert_eq!(span.kept(&[4.0, -3.0], Some(&[4.0, -3.0])), [4.0, -3.0]);
    }
}
