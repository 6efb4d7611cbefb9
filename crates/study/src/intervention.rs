//! An intervention on one prompt as a reader sees it: what it says of the losses, the next token and other directions.

use directrix_circuits::{ChangeAt, Hooks, Observed, PartMeans, most_changed};
use directrix_corpus::Watch;
use directrix_lab::Opened;
use serde::Serialize;

use crate::Result;
use crate::figure::visible_token;

/// A prompt observed without and with changes.
pub struct Intervention<'a> {
    opened: &'a Opened,
    tokens: Vec<u32>,
    changes: Vec<ChangeAt<'a>>,
    before: Observed,
    after: Observed,
}

/// A token that is likely next, before or after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextRow {
    /// The token.
    pub token: String,
    /// Its probability, unchanged.
    pub before: f64,
    /// With the changes.
    pub after: f64,
    /// The difference.
    pub change: f64,
    /// Tokens with a higher logit, unchanged.
    pub rank_before: usize,
    /// With the changes.
    pub rank_after: usize,
}

/// A direction whose activation changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangedRow {
    /// The SAE.
    pub sae: String,
    /// The direction.
    pub direction: u32,
    /// Where it changes most.
    pub position: usize,
    /// The token there.
    pub token: String,
    /// Its activation there, unchanged.
    pub before: f32,
    /// With the changes.
    pub after: f32,
    /// The difference.
    pub change: f32,
}

impl<'a> Intervention<'a> {
    /// Runs a prompt without and with changes as [`ChangeAt`] spells them, and looks at the prediction at `position`, or the last but
    /// one.
    ///
    /// # Errors
    /// If a change is spelled wrongly or takes a mean and there are no `means`; if the prompt has no such position; as
    /// [`Observed::of`].
    pub fn of(
        opened: &'a Opened,
        tokens: &[u32],
        changes: &[String],
        position: Option<usize>,
        means: Option<&PartMeans>,
        watch: &Watch,
    ) -> Result<Intervention<'a>> {
        let parse = |text: &String| {
            let change = ChangeAt::parse(text, &opened.model, &opened.saes)?;
            change.check(tokens.len())?;
            Ok(change)
        };
        let changes = changes.iter().map(parse).collect::<directrix_circuits::Result<Vec<_>>>()?;
        let position = position.unwrap_or(tokens.len().saturating_sub(2));
        let observe = |changes: &[ChangeAt<'a>], before: Option<&Observed>| {
            let hooks = Hooks::of(&opened.model, changes, means)?;
            Observed::of(&opened.model, &opened.saes, tokens, position, &hooks, before, watch)
        };
        let before = observe(&[], None)?;
        let after = observe(&changes, Some(&before))?;
        Ok(Intervention { opened, tokens: tokens.to_vec(), changes, before, after })
    }

    /// What was done, and what it did to the losses and to the token that follows.
    pub fn summary(&self) -> String {
        let changes: Vec<String> = self.changes.iter().map(ChangeAt::sentence).collect();
        let mut said =
            vec![format!("Changed: {}.", if changes.is_empty() { "nothing".into() } else { changes.join("; ") })];
        if let Some((before, after)) = self.before.mean_loss().zip(self.after.mean_loss()) {
            said.push(format!(
                "The mean loss over {} positions goes from {before:.3} to {after:.3} nats.",
                self.before.losses.len()
            ));
        }
        if let Some(&token) = self.tokens.get(self.before.position + 1) {
            let [before, after] = [&self.before, &self.after].map(|of| of.prediction(token));
            said.push(format!(
                "At position {}, the log-probability of what follows, {}, goes from {:.3} to {:.3} and its rank from {} to {}.",
                self.before.position,
                visible_token(&self.opened.token(token)),
                before.log_prob,
                after.log_prob,
                before.rank,
                after.rank
            ));
        }
        said.join(" ")
    }

    /// The `k` most likely next tokens before and after.
    pub fn next(&self, k: usize) -> Vec<NextRow> {
        let mut likely = self.before.likely(k);
        let new: Vec<u32> = self.after.likely(k).into_iter().filter(|token| !likely.contains(token)).collect();
        likely.extend(new);
        let row = |token| {
            let [before, after] = [&self.before, &self.after].map(|of| of.prediction(token));
            let [one, other] = [before, after].map(|of| of.log_prob.exp());
            NextRow {
                token: self.opened.token(token),
                before: one,
                after: other,
                change: other - one,
                rank_before: before.rank,
                rank_after: after.rank,
            }
        };
        likely.into_iter().map(row).collect()
    }

    /// The `k` directions whose activation at some position changes most.
    pub fn directions(&self, k: usize) -> Vec<ChangedRow> {
        let row = |of: directrix_circuits::Changed| ChangedRow {
            sae: self.opened.saes[of.sae].short_name().into(),
            direction: of.direction,
            position: of.position,
            token: self.opened.token(self.tokens[of.position]),
            before: of.before,
            after: of.after,
            change: of.after - of.before,
        };
        most_changed(&self.before, &self.after, k).into_iter().map(row).collect()
    }

    /// The rise of the loss of each token but the first, nats.
    pub fn loss_increases(&self) -> Vec<f32> {
        self.after.losses.iter().zip(&self.before.losses).map(|(after, before)| after - before).collect()
    }
}
