//! Sampling from a model, with a key-value cache.

use directrix_corpus::Watch;
use directrix_kernels::Matrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::pass::{Edits, KeyValues, Part, Pass, Plan, Returns, Stage, StageName};
use crate::positions::Lengths;
use crate::{Error, HookPoint, Hooked, Model, Result, Spot};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Draw among this many most likely tokens only.
    pub top_k: Option<usize>,
    /// Seed: the same seed gives the same tokens.
    pub seed: u64,
    /// Most tokens to draw.
    pub count: usize,
    /// The token that ends a text, if any.
    pub stop: Option<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: None, seed: 0, count: 100, stop: None }
    }
}

impl Model {
    /// Continues `prompt` until the sampling's stop or count, or the end of the context; calls `seen` with each new
    /// token as it is drawn, and returns them all. `hooked` change numbers on the way: at the positions of the prompt, then at each new
    /// one that they name.
    ///
    /// # Errors
    /// If the prompt is empty, too long or holds a token outside the vocabulary, a logit is not finite, or `watch` says stop; as
    /// [`run_hooked`](Model::run_hooked).
    pub fn generate(
        &self,
        prompt: &[u32],
        sampling: Sampling,
        hooked: &[Hooked],
        watch: &Watch,
        mut seen: impl FnMut(u32),
    ) -> Result<Vec<u32>> {
        self.check_prompt(0, prompt)?;
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut cache = KeyValues(vec![None; self.config().n_layers]);
        let (mut tokens, mut done) = (prompt.to_vec(), 0);
        while tokens.len() < prompt.len() + sampling.count && tokens.len() < self.config().n_ctx {
            let at = Spot { prompt: 0, position: tokens.len() - 1 };
            let part = Part { tokens: &tokens[done..], start: done, before: 0..done };
            let wanted = Returns { finals: vec![at], keep_keys: true, longest: tokens.len(), ..Returns::default() };
            let (lengths, mut edits) = (Lengths::new(vec![tokens.len()]), Edits::new());
            for hooked in hooked {
                let spots = lengths.spots(&hooked.positions)?.into_iter().filter(|spot| spot.position >= done);
                let rows = hooked.row_edits(self.config(), &spots.collect::<Vec<_>>())?;
                edits.entry(hooked.hook).or_default().extend(rows);
            }
            let plan = Plan::new(self.config(), StageName::Embed, vec![part], edits, wanted);
            let passed = Pass { model: self, plan, before: Some(&cache), watch }.run(Stage::Embed)?;
            append(&mut cache, passed.keys);
            done = tokens.len();
            let logits = self.unembed(&passed.finals);
            if logits.first_not_finite().is_some() {
                return Err(Error::not_finite(HookPoint::UnembedOut, at));
            }
            let token = draw(logits.row(0), sampling, &mut random);
            tokens.push(token);
            seen(token);
            if Some(token) == sampling.stop {
                break;
            }
        }
        Ok(tokens.split_off(prompt.len()))
    }
}

fn append(cache: &mut KeyValues, new: KeyValues) {
    let joined = |old: &Matrix, new: &Matrix| {
        Matrix::new([old.data(), new.data()].concat(), old.rows() + new.rows(), new.columns())
    };
    for (old, new) in cache.0.iter_mut().zip(new.0) {
        *old = match (old.take(), new) {
            (Some((k, v)), Some((new_k, new_v))) => Some((joined(&k, &new_k), joined(&v, &new_v))),
            (old, new) => new.or(old),
        };
    }
}

fn draw(logits: &[f32], sampling: Sampling, random: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if sampling.temperature <= 0.0 {
        return order[0] as u32;
    }
    order.truncate(sampling.top_k.unwrap_or(usize::MAX).max(1));
    let top = logits[order[0]];
    let weights: Vec<f64> = order.iter().map(|&t| (((logits[t] - top) / sampling.temperature) as f64).exp()).collect();
    let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
    for (&token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return token as u32;
        }
    }
    order[order.len() - 1] as u32
}
