//! What is wanted to what is open.
//!
//! A model, an SAE or a corpus is named in one way everywhere: by its path; by `embedded:` and the name of one that is
//! part of the program; or, where nothing has that path, by the latter's name alone. [`folder`] and [`corpus`] find them.
//!
//! ```
//! use directrix_model::{Model, Processing};
//!
//! let folder = directrix_lab::folder("embedded:tinystories-2l")?;
//! let model = Model::load(&folder, Processing::default())?;
//! assert_eq!(model.config().n_layers, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod embedded;
mod error;
mod source;

pub use embedded::{CORPUS, MODEL, SAES};
pub use error::{Error, Result};
pub use source::{corpus, folder};
