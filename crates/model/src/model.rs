//! Models.

use std::fmt;
use std::sync::Arc;

use directrix_kernels::Matrix;

use crate::config::Norm;
use crate::family::Checkpoint;
use crate::{Config, Error, Folder, Processing, Result, Tensors, Weights};

/// A decoder-only transformer: its dimensions and (processed) weights.
#[derive(Clone)]
pub struct Model {
    config: Config,
    weights: Arc<Weights>,
    processing: Processing,
    notes: Vec<String>,
}

impl Model {
    /// Loads a model from a Hugging Face folder: `config.json` and its [weights](crate::Tensors::open) (f64, f32, f16 or bf16); or from a
    /// [folder of one file](Folder::of_file), a checkpoint of llama2.c.
    ///
    /// # Errors
    /// If a file is missing or damaged, a tensor is missing, of another shape, not finite or not one of the model's, or the
    /// architecture is not supported.
    pub fn load(folder: &Folder, processing: Processing) -> Result<Model> {
        let (config, mut notes) = Config::with_notes(folder)?;
        let processing = processing.allowed(&config);
        let tensors = Tensors::open(folder, None)?;
        let checkpoint = Checkpoint::new(&config, &tensors);
        let mut weights = (config.family.weights)(&checkpoint)?;
        checkpoint.check_all_read()?;
        notes.extend(checkpoint.into_notes());
        processing.apply(&config, &mut weights);
        Ok(Model { config, weights: Arc::new(weights), processing, notes })
    }

    /// What is to be told of its files: where they contradict each other, and what was taken.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its dimensions.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its weights, as processed.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How its weights were processed: the steps asked for, but for those that TransformerLens leaves out for such a model
    /// (`center_writing_weights` with RMSNorm, `center_unembed` with a soft cap on logits).
    pub fn processing(&self) -> Processing {
        self.processing
    }

    /// Rows as the weights behind a normalisation read them, but for its own weights; and what each was divided by.
    pub(crate) fn normalize(&self, x: &Matrix) -> (Matrix, Vec<f32>) {
        match self.config.norm {
            Norm::Layer { eps } => directrix_kernels::layer_norm(x, eps),
            Norm::Rms { eps } => directrix_kernels::rms_norm(x, eps),
        }
    }

    /// What each head writes: `[rows, n_heads × d_model]` from `[rows, n_heads × d_head]`, output bias not included. Where what
    /// attention writes passes a norm, this is before it.
    pub fn head_results(&self, layer: usize, z: &Matrix) -> Matrix {
        let Config { ref attention, d_model, .. } = self.config;
        let (n_heads, d_head) = (attention.query_heads, attention.d_head);
        let w_o = self.weights.blocks[layer].w_o.view();
        let mut results = Matrix::zeros(z.rows(), n_heads * d_model);
        for head in 0..n_heads {
            let range = head * d_head..(head + 1) * d_head;
            let mut result = Matrix::zeros(z.rows(), d_model);
            directrix_kernels::product(z.view().columns_of(range.clone()), w_o.rows_of(range), &mut result, false);
            for (row, part) in result.iter_rows().enumerate() {
                results.row_mut(row)[head * d_model..][..d_model].copy_from_slice(part);
            }
        }
        results
    }

    /// Logits of rows of the final norm's output: `x W_U + b_U`, softly capped where the model has it.
    pub fn unembed(&self, normalized: &Matrix) -> Matrix {
        let mut logits = self.uncapped(normalized);
        if let Some(cap) = self.config.logit_soft_cap {
            directrix_kernels::soft_cap(cap, &mut logits);
        }
        logits
    }

    /// Logits before any soft cap.
    pub(crate) fn uncapped(&self, normalized: &Matrix) -> Matrix {
        directrix_kernels::affine(normalized.view(), self.weights.w_u.view(), &self.weights.b_u)
    }

    /// Refuses a prompt of no positions or too many, or with a token outside the vocabulary.
    pub(crate) fn check_prompt(&self, prompt: usize, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.config.n_ctx {
            return Err(Error::Length { prompt, positions: tokens.len(), context: self.config.n_ctx });
        }
        tokens.iter().enumerate().try_for_each(|(position, token)| self.check_token(prompt, position, *token))
    }

    pub(crate) fn check_token(&self, prompt: usize, position: usize, token: u32) -> Result<()> {
        let vocabulary = self.config.d_vocab;
        if (token as usize) < vocabulary { Ok(()) } else { Err(Error::Token { prompt, position, token, vocabulary }) }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("config", &self.config)
            .field("processing", &self.processing)
            .finish_non_exhaustive()
    }
}
