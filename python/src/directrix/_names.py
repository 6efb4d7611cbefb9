"""Names of activations, in TransformerLens's short forms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from ._directrix import ModelError

_KINDS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_NAMES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_ATTENTION = {"k", "v", "q", "z", "rot_k", "rot_q", "result", "pattern", "attn_scores"}
_MLP = {"pre", "post", "mid", "pre_linear"}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """A hook point's name by TransformerLens's short forms.

    `get_act_name("post", 1)` and `get_act_name("post1")` are `blocks.1.mlp.hook_post`, `get_act_name("scale", 4, "ln1")` is
    `blocks.4.ln1.hook_scale`, `get_act_name("embed")` is `hook_embed`. A whole name is itself.
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    together = re.fullmatch(r"([a-z_]+)(\d+)([a-z]?.*)", name)
    if together:
        name, layer, layer_type = together.group(1), together.group(2), together.group(3) or layer_type
    name = _NAMES.get(name, name)
    if name in _ATTENTION:
        layer_type = "attn"
    elif name in _MLP:
        layer_type = "mlp"
    elif layer_type is not None:
        layer_type = _KINDS.get(layer_type, layer_type)
    if name in ("scale", "normalized") and layer is None:
        return f"ln_final.hook_{name}"
    block = "" if layer is None else f"blocks.{layer}."
    return f"{block}{layer_type + '.' if layer_type else ''}hook_{name}"


def known(name: str, names: Iterable[str], what: str = "hook point") -> str:
    """`name`, if it is one of `names`.

    Raises:
        ModelError: if it is not, with the names that are like it.
    """
    names = list(names)
    if name in names:
        return name
    like = get_close_matches(name, names, n=3, cutoff=0.6)
    ask = f"; did you mean {' or '.join(like)}?" if like else f"; it has {', '.join(names[:4])}, …"
    raise ModelError(f"the model has no {what} `{name}`{ask}")
