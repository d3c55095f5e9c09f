"""The table of role patterns: paths of modules in diffusers' transformers → roles.

The first pattern that is found in the path decides. A path without a pattern has no role, and no method touches its
module. A family can put patterns of its own before these (`qdit.models.generic.family`).
"""

import re
from collections.abc import Sequence

Pattern = tuple[str, str | None]
"""(regular expression, role). None: a module that has weights, but is never called itself."""

_TEXT = r"(context|txt|text|encoder)"
_ADDED = r"add_[qkv]_proj|to_(add_|added_)[qkv]|(add|encoder|context|txt)_(q|k|v|kv|qkv)(_proj)?"
_MLP = r"(ff|ffn|feed_forward|mlp|img_mlp|ff_i|moe|feedforward)"
_FIRST = (
    r"(net\.0\.proj|net\.0|linear_in|linear_1|linear_3|fc1|w1|w3|gate_proj|up_proj|gate_up_proj|gate|up|in_layer|0)"
)
_LAST = r"(net\.2|linear_out|linear_2|fc2|w2|down_proj|down|out_layer|2)"

PATTERNS: tuple[Pattern, ...] = (
    (r"\.pooler\.[kqvc]_proj$", None),
    # Embeddings of the timestep, of guidance, of a pooled text and of classes.
    (r"class_embedder|label_emb|y_embedder\.embedding_table", "label_embed"),
    (r"guidance_embedder|guidance_in|guidance_cond", "guidance_embed"),
    (r"time(step)?_text_embed\.text_embedder|pooled|(style|extra)_embedder|vector_in", "pooled_embed"),
    (r"resolution_embedder|aspect_ratio_embedder|fps_embed", "size_embed"),
    (
        r"(timestep|time)_?(step)?_?embedder|time_embedding|time_step_proj|(^|\.)t_embedder|distilled_guidance",
        "time_embed",
    ),
    # Modulation: shift, scale and gate of a block, of the text stream, of all blocks, of the last layer.
    (rf"\.norm\d?_{_TEXT}(_[a-z]+)?\.linear|{_TEXT}_mod(ulation)?\.|norm_added_cond\.linear", "txt_adaln"),
    (r"\.norm\d?\.linear|img_mod\.|\.(adaLN_)?modulation\.|\.norm\d?\.(1|linear_1)$|\.adaln", "adaln"),
    (r"norm_out\.linear|proj_out_1$|adaLN_final|final_layer\.(adaLN_)?mod", "final_adaln"),
    (r"adaln_single|time_proj$|time_embed\.linear|time_mod|stream_modulation|t_block|adaln_t", "t_block"),
    # Inputs: text, images as conditions, patches.
    (r"refiner.*\.norm_out\.linear", "adaln"),
    (r"image_embed|image_proj|img_proj|vision_proj|clip_proj|image_context", "image_proj"),
    # Attention.
    (r"to_qkv_mlp_proj|\.qkv_mlp|linear1$", "qkv_fc1"),
    (rf"(attn|attention|cross_attn).*\.({_ADDED})$", "txt_qkv"),
    (r"(attn|attention).*\.(to_add_out|to_added_out|add_out_proj|txt_out)", "txt_attn_out"),
    (r"(attn2|cross_attn|cross_attention|crossattn)\.(to_q|q_proj|q|wq|q_linear)$", "cross_q"),
    (r"(attn2|cross_attn|cross_attention|crossattn)\.(to_(k|v|kv)|[kv]_proj|[kv]|w[kv]|kv_linear)$", "cross_kv"),
    (r"(attn2|cross_attn|cross_attention|crossattn)\.(to_out(\.0)?|o_proj|o|wo|proj|out_layer)$", "cross_out"),
    (
        r"(attn\d?|self_attn|self_attention|attention)\.(to_(q|k|v|qkv)|[qkv]_proj|[qkv]|qkv|w[qkv]|to_(query|key|value))$",
        "qkv",
    ),
    (r"(attn\d?|self_attn|self_attention|attention)\.(to_out(\.0)?|o_proj|o|wo|proj|out_layer|out_proj)$", "attn_out"),
    # Feed-forward.
    (rf"(ff_context|txt_mlp|ff_t|mlp_context|{_TEXT}_(ff|mlp))\.(.*\.)?(out_projection|{_LAST})$", "txt_fc2"),
    (rf"(ff_context|txt_mlp|ff_t|mlp_context|{_TEXT}_(ff|mlp))\.(.*\.)?{_FIRST}$", "txt_fc1"),
    (rf"\.{_MLP}\.(.*\.)?(out_projection)$", "fc2"),
    (rf"\.{_MLP}\.conv_inverted$", "conv_fc1"),
    (rf"\.{_MLP}\.conv_point$", "conv_fc2"),
    (rf"\.{_MLP}\.(.*\.)?{_LAST}$", "fc2"),
    (rf"\.{_MLP}\.(.*\.)?{_FIRST}$", "fc1"),
    (r"blocks\.\d+\.(proj_mlp|linear_mlp)$", "fc1"),
    (r"blocks\.\d+\.(proj_out|linear2|to_out)$", "out_fc2"),
    (r"skip_(linear|proj)", "skip"),
    # Outer layers.
    (r"(caption|context|txt|text|cap|y)_?(embed|embedder|projection|proj|in|_proj)?(\.|$)", "caption_proj"),
    (r"^(x_embedder|img_in|proj_in|patch_embed|patch_embedding|pos_embed|patchify_proj)(\.proj)?$", "patch_embed"),
    (r"^(proj_out|proj_out_2|final_layer\.(linear|out_layer)|norm_out\.linear_2|linear_out)$", "final"),
)


def role_of(path: str, patterns: Sequence[Pattern] = PATTERNS) -> str | None:
    """Role of the module at a path; None if no pattern is found in it."""
    return next((role for pattern, role in patterns if re.search(pattern, path)), None)
