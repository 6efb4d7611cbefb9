//! What weights say of edges.

use directrix_corpus::Watch;
use directrix_kernels::Matrix;
use directrix_model::{BlockHook, HookPoint, Model};
use directrix_sae::Sae;
use rayon::prelude::*;

use super::{Edge, Measure, Ranked, Ranking, check_path};
use crate::similarity::each_products;
use crate::{Error, Result};

/// The way from the first SAE to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The residual stream.
    Residual,
    /// What a head reads of the residual stream and writes to it: its OV circuit (Elhage et al. 2021).
    Head {
        /// Block of the head.
        layer: usize,
        /// The head.
        head: usize,
    },
}

/// What the directions of a first SAE write on a path, and what those of a second read there.
pub struct Weights {
    writes: Matrix,
    reads: Matrix,
    measure: Measure,
}

impl Weights {
    /// `W_dec · (path) · W_enc` of all pairs, or the cosine of its two sides. Norms are left aside: with their weights folded in, a virtual
    /// weight is what a unit of the first's activation adds to the second's pre-activation, but for the divisors of the norms in between.
    ///
    /// # Errors
    /// If the SAEs are in the wrong order or the path does not lie between them, the first does not write to the residual stream, or
    /// the second does not read it.
    ///
    /// # Panics
    /// If `measure` is not one of weights.
    pub fn new(model: &Model, [first, second]: [&Sae; 2], path: Path, measure: Measure) -> Result<Weights> {
        assert!(matches!(measure, Measure::Cosine | Measure::VirtualWeight), "{measure:?} is no measure of weights");
        check_path(model, first, second)?;
        let (mut writes, mut reads) = (first.writes(model)?, second.reads(model)?);
        if let Path::Head { layer, head } = path {
            writes = through_head(model, [first, second], &writes, [layer, head])?;
        }
        if measure == Measure::Cosine {
            directrix_kernels::normalise_rows(&mut writes);
            directrix_kernels::normalise_rows(&mut reads);
        }
        Ok(Weights { writes, reads, measure })
    }

    /// The value of an edge.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn of(&self, edge: Edge) -> f64 {
        directrix_kernels::dot(self.writes.row(edge.first), self.reads.row(edge.second))
    }

    /// The values of all edges from one direction of the first SAE: `[directions of the second]`.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn edges_from(&self, first: usize) -> Vec<f64> {
        let row = self.writes.row(first);
        (0..self.reads.rows())
            .into_par_iter()
            .map(|second| directrix_kernels::dot(row, self.reads.row(second)))
            .collect()
    }

    /// The values of all edges to one direction of the second SAE: `[directions of the first]`.
    ///
    /// # Panics
    /// If there is no such direction.
    pub fn edges_to(&self, second: usize) -> Vec<f64> {
        let row = self.reads.row(second);
        (0..self.writes.rows())
            .into_par_iter()
            .map(|first| directrix_kernels::dot(self.writes.row(first), row))
            .collect()
    }

    /// The `k` strongest of all pairs.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a product is not finite, or [`Error::Stopped`].
    pub fn strongest(&self, k: usize, watch: &Watch) -> Result<Vec<Ranked>> {
        let mut ranking = Ranking::new(k);
        each_products(&self.writes, &self.reads, watch, |first, products| {
            for (second, product) in products.iter().enumerate() {
                // In double precision where it may be among the strongest.
                if ranking.has_room_for(f64::from(product.abs()) * (1.0 + 1e-5)) {
                    let edge = Edge { first, second };
                    let (measure, value) = (self.measure, self.of(edge));
                    ranking.show(Ranked { edge, measure, value, n: None, half_width: None });
                }
            }
            Ok(())
        })?;
        Ok(ranking.finish())
    }
}

/// What a head makes of rows of the residual stream, `[rows, d_model]`.
fn through_head(model: &Model, [first, second]: [&Sae; 2], rows: &Matrix, [layer, head]: [usize; 2]) -> Result<Matrix> {
    let config = model.config();
    let attention = &config.attention;
    if layer >= config.n_layers || head >= attention.query_heads {
        let (layers, heads) = (config.n_layers, attention.query_heads);
        return Err(Error::NoHead { layer, head, layers, heads });
    }
    let at = |hook| HookPoint::Block(layer, hook);
    let (writes, reads) = (first.site().writes.hook, second.site().reads.hook);
    // What is written beside the head reaches only what follows the block.
    let reached_from = if config.parallel { BlockHook::MlpOut } else { BlockHook::AttnOut };
    if writes > at(BlockHook::ResidPre) || reads <= at(reached_from) {
        return Err(Error::HeadNotBetween { layer, head, first: writes, second: reads });
    }
    let (block, d) = (&model.weights().blocks[layer], attention.d_head);
    let key_head = head / (attention.query_heads / attention.key_heads);
    let mut values = Matrix::zeros(rows.rows(), d);
    directrix_kernels::product(
        rows.view(),
        block.w_v.view().columns_of(key_head * d..(key_head + 1) * d),
        &mut values,
        false,
    );
    let mut out = Matrix::zeros(rows.rows(), config.d_model);
    directrix_kernels::product(values.view(), block.w_o.view().rows_of(head * d..(head + 1) * d), &mut out, false);
    Ok(out)
}
