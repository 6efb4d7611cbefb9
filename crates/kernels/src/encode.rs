//! From a site's activations straight to sparse: the dense `[positions, directions]` matrix never exists.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::product::product;
use crate::{Matrix, SparseActivations, View};

/// What an encoder needs: `pre = x w + bias`, and the threshold a pre-activation must exceed to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    /// Encoder weights, `[d_in, directions]`.
    pub weights: View<'a>,
    /// One number per direction; an input bias is folded in as `b_enc - b_dec w`.
    pub bias: &'a [f32],
}

/// A pre-activation was NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// Row of the input.
    pub row: usize,
    /// Direction whose pre-activation it is.
    pub direction: usize,
}

const ROWS: usize = 128;
const COLUMNS: usize = 1024;

/// `relu(x w + bias)`, kept where positive.
pub(crate) fn encode(x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
    let blocks: Vec<_> = (0..x.rows()).step_by(ROWS).map(|start| start..(start + ROWS).min(x.rows())).collect();
    let encoded: Vec<SparseActivations> = blocks
        .into_par_iter()
        .map(|rows| {
            let first = rows.start;
            encode_block(x.rows_of(rows), encoder).map_err(|e| NotFinite { row: first + e.row, ..e })
        })
        .collect::<Result<_, _>>()?;
    let mut all = SparseActivations::default();
    for block in &encoded {
        all.extend(block);
    }
    Ok(all)
}

fn encode_block(x: View, encoder: Encoder) -> Result<SparseActivations, NotFinite> {
    let directions = encoder.weights.columns();
    let mut active: Vec<Vec<(u32, f32)>> = vec![Vec::new(); x.rows()];
    let mut start = 0;
    while start < directions {
        // A last tile of at most 64 columns would be summed in another order by the product: join it to its neighbour.
        let end = if directions - start <= COLUMNS + 64 { directions } else { start + COLUMNS };
        let mut pre = Matrix::repeat(&encoder.bias[start..end], x.rows());
        product(x, encoder.weights.columns_of(start..end), &mut pre, true);
        for (row, active) in active.iter_mut().enumerate() {
            keep_positive(pre.row(row), start, active).map_err(|direction| NotFinite { row, direction })?;
        }
        start = end;
    }
    let mut sparse = SparseActivations::default();
    for active in active {
        sparse.push(active);
    }
    Ok(sparse)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn keep_positive(pre: &[f32], first: usize, active: &mut Vec<(u32, f32)>) -> Result<(), usize> {
    for (i, chunk) in pre.chunks(16).enumerate() {
        if chunk.iter().filter(|x| **x > 0.0 || x.is_nan()).count() == 0 {
            continue;
        }
        for (j, &x) in chunk.iter().enumerate() {
            let direction = first + i * 16 + j;
            if !x.is_finite() && x != f32::NEG_INFINITY {
                return Err(direction);
            }
            if x > 0.0 {
                active.push((direction as u32, x));
            }
        }
    }
    Ok(())
}
