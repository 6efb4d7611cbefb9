//! Trials: one change and what is looked at; and what they see.

use std::ops::Range;

use directrix_corpus::Prompts;
use directrix_model::{HookPoint, Model, Prediction};
use directrix_sae::Sae;

use crate::change::Writer;
use crate::{Change, Error, Matched, Result};

/// One change at an SAE's site in one prompt, and what is looked at.
#[derive(Debug, Clone)]
pub struct Trial<'a> {
    /// The prompt.
    pub prompt: usize,
    /// The SAE at whose site the change is made.
    pub sae: &'a Sae,
    /// Positions at which it is made.
    pub positions: Range<usize>,
    /// The change.
    pub change: Change,
    /// What is looked at, with the change and without.
    pub look: Look<'a>,
}

/// What a trial looks at.
#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// How a token is predicted.
    Prediction {
        /// Position that predicts.
        position: usize,
        /// The token.
        token: u32,
    },
    /// The loss of predicting every next token of the prompt: the mean over its positions but the last.
    MeanLoss,
    /// How strongly a direction fires.
    Activation {
        /// Its SAE.
        sae: &'a Sae,
        /// The direction.
        direction: u32,
        /// Where.
        position: usize,
    },
    /// How strongly every direction of an SAE fires, summed over those of the trial's positions at which it fires without the change,
    /// from the first that is changed on.
    Activations {
        /// The SAE.
        sae: &'a Sae,
    },
    /// The log-probability of every token.
    LogProbs {
        /// Position that predicts.
        position: usize,
    },
}

/// What a trial saw, with its change or without: what its [`Look`] asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// How the token is predicted.
    Prediction(Prediction),
    /// The mean loss, in nats.
    MeanLoss(f64),
    /// The activation.
    Activation(f32),
    /// The directions that fire without the change, ascending, and the sums of their activations.
    Activations(Vec<(u32, f64)>),
    /// The log-probabilities, in nats, `[d_vocab]`.
    LogProbs(Vec<f64>),
}

/// What a change does: what is seen without it and with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Without the change.
    pub before: Seen,
    /// With it.
    pub after: Seen,
}

impl<'a> Trial<'a> {
    /// A change at one position, and the prediction of the token that follows there.
    ///
    /// # Errors
    /// If nothing follows.
    pub fn at(sae: &'a Sae, prompts: &Prompts, prompt: usize, position: usize, change: Change) -> Result<Trial<'a>> {
        let tokens = tokens_of(prompts, prompt)?;
        let Some(&token) = tokens.get(position + 1) else {
            return Err(no_position(prompt, position + 1, tokens.len()));
        };
        let look = Look::Prediction { position, token };
        Ok(Trial { prompt, sae, positions: position..position + 1, change, look })
    }

    /// A change before the last token of a prompt, the answer, and the prediction of it.
    ///
    /// # Errors
    /// If there is no position before the answer.
    pub fn answer(sae: &'a Sae, prompts: &Prompts, prompt: usize, change: Change) -> Result<Trial<'a>> {
        match tokens_of(prompts, prompt)?.len() {
            0 | 1 => Err(Error::Short { prompt }),
            len => Trial::at(sae, prompts, prompt, len - 2, change),
        }
    }

    /// A change at every position of a prompt, and its mean loss.
    ///
    /// # Errors
    /// If the prompt does not exist.
    pub fn everywhere(sae: &'a Sae, prompts: &Prompts, prompt: usize, change: Change) -> Result<Trial<'a>> {
        let positions = 0..tokens_of(prompts, prompt)?.len();
        Ok(Trial { prompt, sae, positions, change, look: Look::MeanLoss })
    }

    /// The same along random rows, and of random directions, both drawn for this prompt; none where there is nothing to draw
    /// them.
    pub(crate) fn controls(&self, matched: Option<&Matched>) -> [Option<Trial<'a>>; 2] {
        let Some(matched) = matched else { return [None, None] };
        let seed = self.prompt as u64;
        let changes = [self.change.along_random_rows(seed), self.change.of_random_directions(matched, seed)];
        changes.map(|change| Some(Trial { change: change?, ..self.clone() }))
    }

    /// The last position that is computed again: nothing that is looked at depends on what follows it.
    pub(crate) fn until(&self, len: usize) -> usize {
        match self.look {
            // The last position predicts nothing, so a change there shows nowhere.
            Look::MeanLoss => len - 2,
            Look::Prediction { position, .. } | Look::Activation { position, .. } | Look::LogProbs { position } => {
                position
            }
            Look::Activations { .. } => self.positions.end.saturating_sub(1),
        }
    }

    /// Positions of the prompt that the unchanged pass must reach.
    pub(crate) fn needs(&self, len: usize) -> usize {
        match self.look {
            Look::MeanLoss => len,
            _ => self.until(len) + 1,
        }
    }

    /// The changed positions that are computed again.
    pub(crate) fn changed(&self, len: usize) -> Range<usize> {
        self.positions.start..self.positions.end.min(self.until(len) + 1)
    }

    /// The hook point that the change is added at.
    pub(crate) fn added_at(&self, model: &Model) -> HookPoint {
        let seen_from = match self.look {
            Look::Activation { sae, .. } | Look::Activations { sae } => sae.site().reads.hook,
            _ => HookPoint::UnembedIn,
        };
        Writer::hook(model, self.sae, seen_from)
    }

    pub(crate) fn check(&self, prompts: &Prompts) -> Result<()> {
        let (prompt, len) = (self.prompt, tokens_of(prompts, self.prompt)?.len());
        if matches!(self.look, Look::MeanLoss) && len < 2 {
            return Err(Error::Short { prompt });
        }
        let last = self.positions.end.saturating_sub(1).max(self.until(len));
        if last >= len {
            return Err(no_position(prompt, last, len));
        }
        self.change.check(self.sae)?;
        if let Look::Activation { sae, direction, .. } = self.look {
            sae.check(direction as usize)?;
        }
        Ok(())
    }
}

fn tokens_of(prompts: &Prompts, prompt: usize) -> Result<&[u32]> {
    if prompt < prompts.len() {
        return Ok(prompts.get(prompt));
    }
    Err(directrix_model::Error::Prompt { prompt, prompts: prompts.len() }.into())
}

fn no_position(prompt: usize, position: usize, positions: usize) -> Error {
    directrix_model::Error::Position { prompt, position: position.to_string(), positions }.into()
}

impl Seen {
    /// The prediction.
    ///
    /// # Errors
    /// [`Error::Look`] if something else was looked at.
    pub fn prediction(&self) -> Result<Prediction> {
        match self {
            Seen::Prediction(prediction) => Ok(*prediction),
            _ => Err(Error::Look { wanted: "a prediction" }),
        }
    }

    /// The loss, in nats: of the prediction, or the mean.
    ///
    /// # Errors
    /// [`Error::Look`] if neither was looked at.
    pub fn loss(&self) -> Result<f64> {
        match self {
            Seen::MeanLoss(loss) => Ok(*loss),
            Seen::Prediction(prediction) => Ok(-prediction.log_prob),
            _ => Err(Error::Look { wanted: "a loss" }),
        }
    }

    /// The activation.
    ///
    /// # Errors
    /// [`Error::Look`] if something else was looked at.
    pub fn activation(&self) -> Result<f32> {
        match self {
            Seen::Activation(activation) => Ok(*activation),
            _ => Err(Error::Look { wanted: "an activation" }),
        }
    }

    /// The sums of activations.
    ///
    /// # Errors
    /// [`Error::Look`] if something else was looked at.
    pub fn activations(&self) -> Result<&[(u32, f64)]> {
        match self {
            Seen::Activations(sums) => Ok(sums),
            _ => Err(Error::Look { wanted: "the activations of all directions" }),
        }
    }

    /// The log-probabilities, `[d_vocab]`.
    ///
    /// # Errors
    /// [`Error::Look`] if something else was looked at.
    pub fn log_probs(&self) -> Result<&[f64]> {
        match self {
            Seen::LogProbs(log_probs) => Ok(log_probs),
            _ => Err(Error::Look { wanted: "log-probabilities" }),
        }
    }
}

impl Effect {
    /// How much the loss rises, in nats.
    ///
    /// # Errors
    /// As [`Seen::loss`].
    pub fn loss_increase(&self) -> Result<f64> {
        Ok(self.after.loss()? - self.before.loss()?)
    }
}
