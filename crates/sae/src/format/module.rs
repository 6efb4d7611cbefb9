//! Hook points by the names that transformers' modules have.

use directrix_model::{BlockHook, HookPoint};

/// A module of a transformer's block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Block,
    Attention,
    Mlp,
}

/// The hook point that is the output of a module, `gpt_neox.layers.2.mlp` or `h.5`, if it is one.
pub(super) fn output(module: &str) -> Option<HookPoint> {
    if ["embed_tokens", "embed_in", "wte"].contains(&module.rsplit('.').next()?) {
        return Some(HookPoint::Embed);
    }
    let (layer, part) = parse(module)?;
    let hook = match part {
        Part::Block => BlockHook::ResidPost,
        Part::Attention => BlockHook::AttnOut,
        Part::Mlp => BlockHook::MlpOut,
    };
    Some(HookPoint::Block(layer, hook))
}

/// The hook point that is the input of a module: only a block's. What attention and MLP read is a norm's output with its weights
/// applied, which is no hook point.
pub(super) fn input(module: &str) -> Option<HookPoint> {
    match parse(module)? {
        (layer, Part::Block) => Some(HookPoint::Block(layer, BlockHook::ResidPre)),
        _ => None,
    }
}

fn parse(module: &str) -> Option<(usize, Part)> {
    let inside = ["model.", "transformer.", "gpt_neox."].iter().find_map(|root| module.strip_prefix(root));
    let (list, rest) = inside.unwrap_or(module).split_once('.')?;
    let (layer, part) = rest.split_once('.').map_or((rest, ""), |(layer, part)| (layer, part));
    let part = match part {
        "" => Part::Block,
        "attn" | "attention" | "self_attn" => Part::Attention,
        "mlp" => Part::Mlp,
        _ => return None,
    };
    ["layers", "h"].contains(&list).then_some((layer.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use super::{input, output};

    #[test]
    fn modules_are_hook_points_where_their_numbers_are() {
        let name = |hook: Option<directrix_model::HookPoint>| hook.map(|hook| hook.to_string()).unwrap_or_default();
        for (module, out, inside) in [
            ("layers.10", "blocks.10.hook_resid_post", "blocks.10.hook_resid_pre"),
            ("h.5", "blocks.5.hook_resid_post", "blocks.5.hook_resid_pre"),
            ("layers.3.mlp", "blocks.3.hook_mlp_out", ""),
            ("gpt_neox.layers.2.mlp", "blocks.2.hook_mlp_out", ""),
            ("model.layers.0.self_attn", "blocks.0.hook_attn_out", ""),
            ("transformer.h.1.attn", "blocks.1.hook_attn_out", ""),
            ("embed_tokens", "hook_embed", ""),
            ("layers.x", "", ""),
            ("layers.3.mlp.act", "", ""),
            ("layers", "", ""),
            ("", "", ""),
        ] {
            assert_eq!((name(output(module)), name(input(module))), (out.into(), inside.into()), "{module}");
        }
    }
}
