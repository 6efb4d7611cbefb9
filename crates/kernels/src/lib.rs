//! The dozen numeric operations everything in Directrix is made of.
//!
//! Numbers live in row-major `f32` buffers: a [`Matrix`] owns one, a [`View`] borrows one, whole or in part; a [`Weight`] may
//! be stored in halves. The operations are plain functions on them, which choose AVX-512, AVX2 or plain code when they run. What an SAE gives for a batch of positions is a [`SparseActivations`].
//!
//! Every operation works on rows, and a row's result depends on nothing but that row: not on how many rows there are,
//! where it stands among them, or how many threads share the work. So a prompt gives the same bits alone or in a batch.
//!
//! ```
//! use directrix_kernels::{Matrix, product};
//!
//! let x = Matrix::from_rows(&[[1.0, 2.0], [3.0, 4.0]]);
//! let w = Matrix::from_rows(&[[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]);
//! let mut y = Matrix::zeros(2, 3);
//! product(x.view(), w.view(), &mut y, false);
//! assert_eq!(y.row(1), [3.0, 4.0, -7.0]);
//! ```

mod activation;
mod attention;
mod backward;
mod decode;
mod encode;
mod gradient;
mod lanes;
mod matrix;
mod norm;
mod predict;
mod product;
mod screen;
mod sparse;
mod transpose;
mod weight;

pub use activation::{Activation, activate, soft_cap};
pub use attention::{AttentionRows, AttentionShape, AttentionStage, EditScores, attention};
pub use backward::{SeeScores, activation_gradient, attention_gradient, norm_gradient};
pub use decode::decode;
pub use encode::{Encoder, Keep, NotFinite, encode};
pub use gradient::{
    Adam, Outer, TILE, descend, normalise_rows, sampled_product, sparse_product, sparse_product_at, weighted_sum,
};
pub use matrix::{Matrix, View};
pub use norm::{dot, layer_norm, log_sum_exp, rms_norm};
pub use predict::{Predicted, Unembedding, predict};
pub use product::{affine, product};
pub use screen::{Instructions, Screen};
pub use sparse::{ByDirection, SparseActivations};
pub use weight::{Factor, Half, StoredHalves, Weight};
