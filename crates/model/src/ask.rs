//! What a run is asked for.

use directrix_corpus::Watch;

use crate::{HookPoint, Positions, Spot};

/// What a run is asked for. It computes nothing else.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub(crate) hooks: Vec<(HookPoint, Positions)>,
    pub(crate) logits: Option<Positions>,
    pub(crate) losses: bool,
    pub(crate) targets: Vec<Target>,
    pub(crate) watch: Watch,
}

/// A token whose prediction is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Prompt of the batch, or case when resuming.
    pub prompt: usize,
    /// Position that predicts: the token stands at the next one.
    pub position: usize,
    /// The token.
    pub token: u32,
}

impl Target {
    pub(crate) fn spot(&self) -> Spot {
        Spot { prompt: self.prompt, position: self.position }
    }
}

impl Ask {
    /// Nothing yet.
    pub fn nothing() -> Ask {
        Ask::default()
    }

    /// The values at `hooks`, at every position.
    pub fn capture(hooks: impl IntoIterator<Item = HookPoint>) -> Ask {
        hooks.into_iter().fold(Ask::default(), |ask, hook| ask.with_capture(hook, Positions::All))
    }

    /// The values at `hook` at some positions.
    #[must_use]
    pub fn with_capture(mut self, hook: HookPoint, positions: Positions) -> Ask {
        self.hooks.push((hook, positions));
        self
    }

    /// The logits at some positions.
    #[must_use]
    pub fn with_logits(mut self, positions: Positions) -> Ask {
        self.logits = Some(positions);
        self
    }

    /// The loss of predicting every next token.
    #[must_use]
    pub fn with_losses(mut self) -> Ask {
        self.losses = true;
        self
    }

    /// How these tokens are predicted.
    #[must_use]
    pub fn with_predictions(mut self, targets: impl IntoIterator<Item = Target>) -> Ask {
        self.targets.extend(targets);
        self
    }

    /// The run looks at `watch` several times in every block, and ends with [`Error::Stopped`](crate::Error::Stopped) when
    /// it says so.
    #[must_use]
    pub fn watched(mut self, watch: &Watch) -> Ask {
        self.watch = watch.clone();
        self
    }
}
