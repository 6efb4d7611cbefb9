//! What is to be known of a graph.

use directrix_model::{BlockHook, HookPoint};
use directrix_sae::Sae;

use super::Replacement;

impl Replacement<'_> {
    /// What is linearised, what cannot reach what, and what was left out; `directions` are those active and those whose inputs were found.
    pub(super) fn notes(&self, (active, found): (usize, usize), unfinished: usize) -> Vec<String> {
        let config = self.model.config();
        let mut notes = Vec::new();
        let stands_for = |layer: usize| {
            let hooks = [BlockHook::MlpPost, BlockHook::MlpOut].map(|hook| HookPoint::Block(layer, hook));
            self.saes.iter().any(|sae| hooks.contains(&sae.site().writes.hook))
        };
        let linear: Vec<String> =
            (0..config.n_layers).filter(|layer| !stands_for(*layer)).map(|layer| layer.to_string()).collect();
        if !linear.is_empty() {
            notes.push(format!(
                "No SAE stands for the MLP of layer {}: it is taken as linear, with its slope on this prompt.",
                linear.join(", ")
            ));
        }
        let bent = self.saes.iter().filter(|sae| is_behind_neurons(sae)).map(|sae| sae.short_name());
        let bent: Vec<&str> = bent.collect();
        if !bent.is_empty() {
            notes.push(format!(
                "Directions of {} read what their MLP made: their inputs come through its activation function, which is taken as \
                 linear, with its slope on this prompt. Inputs of transcoders need no such thing.",
                bent.join(", ")
            ));
        }
        if config.parallel {
            for (one, other) in self.saes.iter().zip(self.saes.iter().skip(1)) {
                let (writes, reads) = (&one.site().writes, &other.site().reads);
                let at_attention =
                    matches!(writes.hook, HookPoint::Block(_, BlockHook::Z | BlockHook::Result | BlockHook::AttnOut));
                if at_attention && writes.layer() == reads.layer() {
                    notes.push(format!(
                        "Attention and MLP of a block are parallel in this model: nothing goes from {} to {}.",
                        one.short_name(),
                        other.short_name()
                    ));
                }
            }
        }
        if config.logit_soft_cap.is_some() {
            notes.push("Logits are those before their soft cap.".into());
        }
        if unfinished > 0 {
            notes.push(format!(
                "{active} directions are active, and the inputs of the {found} most influential were found; {unfinished} others that \
                 have influence are no nodes, and what they add counts as left out."
            ));
        }
        notes
    }
}

/// Whether what an SAE reads is what neurons made, in the same block.
fn is_behind_neurons(sae: &Sae) -> bool {
    use BlockHook as B;
    matches!(sae.site().reads.hook, HookPoint::Block(_, B::MlpPost | B::Ln2PostNormalized | B::MlpOut | B::ResidPost))
}
