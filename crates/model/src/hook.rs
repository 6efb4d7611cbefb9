//! Hook points: named places in the forward pass.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::PositionEncoding;
use crate::{Config, Error, Result};

/// A place in the forward pass, under TransformerLens's name. Ordered as the pass reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HookPoint {
    /// `hook_embed`, `[d_model]`.
    Embed,
    /// `hook_pos_embed`, `[d_model]`; not for rotary positions.
    PosEmbed,
    /// A place inside block `.0`.
    Block(usize, BlockHook),
    /// `ln_final.hook_scale`, `[1]`.
    LnFinalScale,
    /// `ln_final.hook_normalized`, `[d_model]`.
    LnFinalNormalized,
    /// `unembed.hook_in`, `[d_model]`.
    UnembedIn,
    /// `unembed.hook_out`, `[d_vocab]`: the logits, before their soft cap where there is one.
    UnembedOut,
}

macro_rules! block_hooks {
    ($($variant:ident $name:literal $doc:literal;)*) => {
        /// A place inside a block.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum BlockHook { $(#[doc = $doc] $variant,)* }

        impl BlockHook {
            const NAMES: &'static [(BlockHook, &'static str)] = &[$((BlockHook::$variant, $name),)*];
        }
    };
}

block_hooks! {
    ResidPre "hook_resid_pre" "`[d_model]`: the residual stream as the block finds it.";
    AttnIn "hook_attn_in" "`[n_heads, d_model]`: what each head of attention reads, before its norm; not where heads share keys.";
    QInput "hook_q_input" "`[n_heads, d_model]`: what each head's queries read.";
    KInput "hook_k_input" "`[key_heads, d_model]`: what each head's keys read.";
    VInput "hook_v_input" "`[key_heads, d_model]`: what each head's values read.";
    Ln1Scale "ln1.hook_scale" "`[1]`: the divisor of the norm before attention.";
    Ln1Normalized "ln1.hook_normalized" "`[d_model]`: what the norm gives before its weight and bias.";
    K "attn.hook_k" "`[key_heads, d_head]`.";
    KNormScale "attn.k_norm.hook_scale" "`[key_heads, 1]`: the divisors of the norm of keys; only where there is one.";
    KNormNormalized "attn.k_norm.hook_normalized" "`[key_heads, d_head]`: what that norm gives before its weight.";
    RotK "attn.hook_rot_k" "`[key_heads, d_head]`: keys after the rotation; only for rotary positions.";
    V "attn.hook_v" "`[key_heads, d_head]`.";
    Q "attn.hook_q" "`[n_heads, d_head]`.";
    QNormScale "attn.q_norm.hook_scale" "`[n_heads, 1]`: the divisors of the norm of queries; only where there is one.";
    QNormNormalized "attn.q_norm.hook_normalized" "`[n_heads, d_head]`: what that norm gives before its weight.";
    RotQ "attn.hook_rot_q" "`[n_heads, d_head]`: queries after the rotation; only for rotary positions.";
    AttnScores "attn.hook_attn_scores" "`[n_heads, positions]` per query position; `-inf` where nothing is seen.";
    Pattern "attn.hook_pattern" "`[n_heads, positions]` per query position.";
    Z "attn.hook_z" "`[n_heads, d_head]`: what each head read.";
    Result "attn.hook_result" "`[n_heads, d_model]`: what each head writes; computed on demand.";
    Ln1PostScale "ln1_post.hook_scale" "`[1]`: the divisor of the norm of what attention writes; only where there is one.";
    Ln1PostNormalized "ln1_post.hook_normalized" "`[d_model]`: what that norm gives before its weight.";
    AttnOut "hook_attn_out" "`[d_model]`: what attention adds to the residual stream.";
    ResidMid "hook_resid_mid" "`[d_model]`: between attention and MLP; not in parallel blocks.";
    MlpIn "hook_mlp_in" "`[d_model]`: what the MLP's norm reads.";
    Ln2Scale "ln2.hook_scale" "`[1]`: the divisor of the norm before the MLP.";
    Ln2Normalized "ln2.hook_normalized" "`[d_model]`: what the norm gives before its weight and bias.";
    MlpPre "mlp.hook_pre" "`[d_mlp]`: before the activation function; in a gated MLP, the gate.";
    MlpPreLinear "mlp.hook_pre_linear" "`[d_mlp]`: the linear part, which the gate multiplies; only in a gated MLP.";
    MlpPost "mlp.hook_post" "`[d_mlp]`: the neurons.";
    Ln2PostScale "ln2_post.hook_scale" "`[1]`: the divisor of the norm of what the MLP writes; only where there is one.";
    Ln2PostNormalized "ln2_post.hook_normalized" "`[d_model]`: what that norm gives before its weight.";
    MlpOut "hook_mlp_out" "`[d_model]`: what the MLP adds to the residual stream.";
    ResidPost "hook_resid_post" "`[d_model]`: the residual stream as the block leaves it.";
}

/// The stage of a block that visits a hook point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockStage {
    /// Attention.
    Attention,
    /// The neurons.
    Mlp,
    /// What the neurons write.
    MlpOut,
    /// None of its own: whatever comes next.
    Next,
}

/// The hook points of a block in the order of the pass, by the stage that visits them.
const BLOCK: [(BlockStage, &[BlockHook]); 4] = {
    use BlockHook as B;
    [
        (
            BlockStage::Attention,
            &[
                B::ResidPre,
                B::AttnIn,
                B::QInput,
                B::KInput,
                B::VInput,
                B::Ln1Scale,
                B::Ln1Normalized,
                B::K,
                B::KNormScale,
                B::KNormNormalized,
                B::RotK,
                B::V,
                B::Q,
                B::QNormScale,
                B::QNormNormalized,
                B::RotQ,
                B::AttnScores,
                B::Pattern,
                B::Z,
                B::Result,
                B::Ln1PostScale,
                B::Ln1PostNormalized,
                B::AttnOut,
            ],
        ),
        (BlockStage::Mlp, &[B::ResidMid, B::MlpIn, B::Ln2Scale, B::Ln2Normalized, B::MlpPre, B::MlpPreLinear]),
        (BlockStage::MlpOut, &[B::MlpPost, B::Ln2PostScale, B::Ln2PostNormalized, B::MlpOut]),
        (BlockStage::Next, &[B::ResidPost]),
    ]
};

impl BlockHook {
    /// Its stage's place in the block, and its own in that stage.
    fn place(self) -> (usize, usize) {
        let within =
            |(stage, (_, hooks)): (usize, &(_, &[BlockHook]))| Some((stage, hooks.iter().position(|h| *h == self)?));
        BLOCK.iter().enumerate().find_map(within).expect("every hook point of a block is in its table")
    }

    pub(crate) fn stage(self) -> BlockStage {
        BLOCK[self.place().0].0
    }

    /// Why the blocks of a model have no such hook point, if they have none.
    fn lacking(self, config: &Config) -> Option<&'static str> {
        let (is_there, why) = match self {
            BlockHook::RotQ | BlockHook::RotK => {
                (config.encoding == PositionEncoding::Rotary, "its positions are not rotary")
            }
            BlockHook::AttnIn => (
                config.heads_are_single(),
                "several of its query heads share a key head; see hook_q_input, hook_k_input, hook_v_input",
            ),
            BlockHook::QNormScale | BlockHook::QNormNormalized | BlockHook::KNormScale | BlockHook::KNormNormalized => {
                (config.attention.qk_norms, "its queries and keys pass no norm")
            }
            BlockHook::Ln1PostScale
            | BlockHook::Ln1PostNormalized
            | BlockHook::Ln2PostScale
            | BlockHook::Ln2PostNormalized => (config.post_norms, "what its attention and MLP write passes no norm"),
            BlockHook::MlpPreLinear => (config.mlp.gated, "its MLP has no gate"),
            BlockHook::ResidMid => (!config.parallel, "attention and MLP are parallel in its blocks"),
            _ => (true, ""),
        };
        (!is_there).then_some(why)
    }
}

impl HookPoint {
    fn order(self) -> (usize, (usize, usize)) {
        match self {
            HookPoint::Embed => (0, (0, 0)),
            HookPoint::PosEmbed => (0, (0, 1)),
            HookPoint::Block(layer, hook) => (layer + 1, hook.place()),
            HookPoint::LnFinalScale => (usize::MAX, (0, 0)),
            HookPoint::LnFinalNormalized => (usize::MAX, (0, 1)),
            HookPoint::UnembedIn => (usize::MAX, (0, 2)),
            HookPoint::UnembedOut => (usize::MAX, (0, 3)),
        }
    }
}

impl Ord for HookPoint {
    fn cmp(&self, other: &HookPoint) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for HookPoint {
    fn partial_cmp(&self, other: &HookPoint) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl HookPoint {
    /// The shape of one position's row, given the longest prompt of the batch.
    pub fn shape(self, config: &Config, longest: usize) -> Vec<usize> {
        let Config { d_model, d_vocab, ref attention, ref mlp, .. } = *config;
        let (heads, d_head) = (attention.query_heads, attention.d_head);
        match self {
            HookPoint::LnFinalScale => vec![1],
            HookPoint::UnembedOut => vec![d_vocab],
            HookPoint::Block(_, hook) => match hook {
                BlockHook::Ln1Scale | BlockHook::Ln2Scale | BlockHook::Ln1PostScale | BlockHook::Ln2PostScale => {
                    vec![1]
                }
                BlockHook::K | BlockHook::V | BlockHook::RotK | BlockHook::KNormNormalized => {
                    vec![attention.key_heads, d_head]
                }
                BlockHook::Q | BlockHook::RotQ | BlockHook::QNormNormalized | BlockHook::Z => vec![heads, d_head],
                BlockHook::KNormScale => vec![attention.key_heads, 1],
                BlockHook::QNormScale => vec![heads, 1],
                BlockHook::AttnScores | BlockHook::Pattern => vec![heads, longest],
                BlockHook::KInput | BlockHook::VInput => vec![attention.key_heads, d_model],
                BlockHook::AttnIn | BlockHook::QInput | BlockHook::Result => vec![heads, d_model],
                BlockHook::MlpPre | BlockHook::MlpPreLinear | BlockHook::MlpPost => vec![mlp.d_mlp],
                _ => vec![d_model],
            },
            _ => vec![d_model],
        }
    }

    /// Every hook point of a model, in the order the pass reaches them.
    pub fn all(config: &Config) -> Vec<HookPoint> {
        let blocks = (0..config.n_layers)
            .flat_map(|layer| BlockHook::NAMES.iter().map(move |(hook, _)| HookPoint::Block(layer, *hook)));
        [HookPoint::Embed, HookPoint::PosEmbed]
            .into_iter()
            .chain(blocks)
            .chain([HookPoint::LnFinalScale, HookPoint::LnFinalNormalized, HookPoint::UnembedIn, HookPoint::UnembedOut])
            .filter(|hook| hook.check(config).is_ok())
            .collect()
    }

    /// The block this is in.
    pub fn layer(self) -> Option<usize> {
        match self {
            HookPoint::Block(layer, _) => Some(layer),
            _ => None,
        }
    }

    /// Whether the model has this hook point.
    pub(crate) fn check(self, config: &Config) -> Result<()> {
        let why = match self {
            HookPoint::Block(layer, _) if layer >= config.n_layers => format!("it has {} blocks", config.n_layers),
            HookPoint::PosEmbed if config.encoding != PositionEncoding::Learned => "its positions are rotary".into(),
            HookPoint::Block(_, hook) => match hook.lacking(config) {
                Some(why) => why.into(),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        Err(Error::NoSuchHook { hook: self.to_string(), why })
    }
}

const TOP_LEVEL: [(HookPoint, &str); 6] = [
    (HookPoint::Embed, "hook_embed"),
    (HookPoint::PosEmbed, "hook_pos_embed"),
    (HookPoint::LnFinalScale, "ln_final.hook_scale"),
    (HookPoint::LnFinalNormalized, "ln_final.hook_normalized"),
    (HookPoint::UnembedIn, "unembed.hook_in"),
    (HookPoint::UnembedOut, "unembed.hook_out"),
];

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let HookPoint::Block(layer, hook) = self {
            return write!(f, "blocks.{layer}.{hook}");
        }
        f.write_str(TOP_LEVEL.iter().find(|(hook, _)| hook == self).map_or("", |(_, name)| name))
    }
}

impl fmt::Display for BlockHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(BlockHook::NAMES.iter().find(|(hook, _)| hook == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for HookPoint {
    type Err = Error;

    fn from_str(name: &str) -> Result<HookPoint> {
        let in_block = || {
            let (layer, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
            let hook = BlockHook::NAMES.iter().find(|(_, n)| *n == rest)?.0;
            Some(HookPoint::Block(layer.parse::<u32>().ok()? as usize, hook))
        };
        let top_level = || TOP_LEVEL.iter().find(|(_, n)| *n == name).map(|(hook, _)| *hook);
        top_level().or_else(in_block).ok_or_else(|| Error::HookName {
            name: name.into(),
            examples: "hook_embed, blocks.0.hook_resid_pre, blocks.0.attn.hook_z, blocks.1.mlp.hook_post".into(),
        })
    }
}

impl From<HookPoint> for String {
    fn from(hook: HookPoint) -> String {
        hook.to_string()
    }
}

impl TryFrom<String> for HookPoint {
    type Error = Error;

    fn try_from(name: String) -> Result<HookPoint> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_the_hook_points_they_name() {
        for (hook, _) in BlockHook::NAMES {
            let point = HookPoint::Block(3, *hook);
            assert_eq!(point.to_string().parse::<HookPoint>().unwrap(), point);
        }
        for (point, name) in TOP_LEVEL {
            assert_eq!(name.parse::<HookPoint>().unwrap(), point);
            assert_eq!(point.to_string(), name);
        }
        for point in [HookPoint::Embed, HookPoint::Block(0, BlockHook::ResidPost)] {
            assert!(point < HookPoint::Block(1, BlockHook::ResidPre));
        }
        for wrong in ["", "blocks.", "blocks.x.hook_z", "blocks.0.hook_z", "hook_resid_pre"] {
            assert!(wrong.parse::<HookPoint>().is_err(), "{wrong}");
        }
    }
}
