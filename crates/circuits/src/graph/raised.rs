//! Which token each direction of a graph raises most.

use std::collections::BTreeMap;

use directrix_kernels::{Matrix, product};

use super::{Graph, Node, Replacement};
use crate::Result;

/// Directions looked at together.
const BLOCK: usize = 256;

impl Replacement<'_> {
    /// Of each node, the token whose logit it raises most, by the weights alone, as [`logit_boosts`](crate::logit_boosts); none of nodes
    /// that are no directions, or of SAEs whose site does not write to the residual stream.
    ///
    /// # Errors
    /// If `watch` stopped it.
    pub fn raised(&self, graph: &Graph) -> Result<Vec<Option<u32>>> {
        let mut raised = vec![None; graph.nodes.len()];
        let mut by_sae: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
        for (number, node) in graph.nodes.iter().enumerate() {
            if let Node::Direction { sae, direction, .. } = node.node {
                by_sae.entry(sae).or_default().push((number, direction));
            }
        }
        let w_u = &self.model.weights().w_u;
        for (sae, nodes) in by_sae {
            for block in nodes.chunks(BLOCK) {
                let rows = self.saes[sae].w_dec().gather(block.iter().map(|(_, direction)| *direction as usize));
                let Ok(written) = self.saes[sae].to_residual(self.model, &rows) else { break };
                let mut boosts = Matrix::zeros(block.len(), w_u.columns());
                product(written.view(), w_u.view(), &mut boosts, false);
                for ((number, _), boosts) in block.iter().zip(boosts.iter_rows()) {
                    let most = (0..boosts.len()).max_by(|a, b| boosts[*a].total_cmp(&boosts[*b]).then(b.cmp(a)));
                    raised[*number] = most.map(|token| token as u32);
                }
                if self.watch.is_stopped() {
                    return Err(crate::Error::Stopped);
                }
            }
        }
        Ok(raised)
    }
}
