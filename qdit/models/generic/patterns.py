"""Common role patterns: each is a regular expression for paths of modules in diffusers' transformers, with a role.

The first pattern that matches a part of the path gives the role. If no pattern matches, the module has no role, and no
method quantizes it. The patterns of a family are tried before these (`qdit.models.generic.family`).
"""

import re
from collections.abc import Sequence

Pattern = tuple[str, str | None]
"""(regular expression, role). None: a module that has weights, but is never called itself."""

_TEXT = r"(context|txt|text|encoder)"
_ADDED = r"add_[qkv]_proj|to_(add_|added_)[qkv]|(add|encoder|context|txt)_(q|k|v|kv|qkv)(_proj)?"
_SELF = r"(attn\d?|self_attn|self_attention|attention)"
_CROSS = r"(attn2|cross_attn|cross_attention|crossattn)"
_OUT = r"(to_out(\.0)?|o_proj|o|wo|proj|out_layer|out_proj)"
_MLP = r"(ff|ffn|feed_forward|mlp|img_mlp|ff_i|moe|feedforward|audio_ff)"
_TEXT_MLP = rf"(ff_context|txt_mlp|ff_t|mlp_context|{_TEXT}_(ff|mlp))"
_FIRST = (
    r"(net\.0\.proj|net\.0|linear_in|linear_[13]|(linear_)?fc1|w[13]|gate_up_proj|gate(_layer)?|up|in_layer|0|proj"
    r"|proj_in)"
)
_LAST = r"(net\.2|linear_out|linear_2|(linear_)?fc2|w2|down|out_layer|out|proj_out|2|3|out_projection)"
_TIME = (
    r"(timestep|time)_?(step)?_?embedder|time_embedding|time_step_proj|(^|\.)t_embedd(er|ing)|delta_embedder|time_mlp"
)

PATTERNS: tuple[Pattern, ...] = (
    (r"\.pooler\.[kqvc]_proj$", None),
    # Embeddings of the timestep, of guidance, of sizes, of a pooled text and of classes.
    (r"class_embedder|label_emb|y_embedder\.embedding_table", "label_embed"),
    (r"guidance_embedder|guidance_in|guidance_cond", "guidance_embed"),
    (r"time(step)?_text_embed\.text_embedder|pooled|(style|extra)_embedder|vector_in|\.pooler\.", "pooled_embed"),
    (r"resolution_embedder|aspect_ratio_embedder|fps_embed|time_condition_embed\.condition_embedder", "size_embed"),
    (_TIME, "time_embed"),
    (r"distilled_guidance|^time_embed_r\.linear_\d|^time_in\.|^to_timestep_embed|^timestep_proj\.", "time_embed"),
    # Modulation: shift, scale and gate of a block, of the text stream, of all blocks, of the last layer.
    (rf"\.norm\d?_{_TEXT}(_[a-z]+)?\.linear|{_TEXT}_mod(ulation)?\.|norm_added_cond\.linear", "txt_adaln"),
    (r"\.norm\d?\.linear|img_mod\.|\.(adaLN_)?modulation\.|\.norm\d?\.(1|linear_1)$|\.\d+\.adaln", "adaln"),
    (r"\.[a-z]+_modulation\.out_layer$|refiner.*\.norm_out\.linear", "adaln"),
    (r"norm_out\.linear|proj_out_1$|final_norm\.linear|adaLN_final|final_layer\.(adaLN_)?mod", "final_adaln"),
    (r"adaln_single|time_proj$|time_embed\.linear|time_mod|stream_modulation|t_block|^adaln_(t|proj)", "t_block"),
    (r"^(adaLN_)?modulation\.|^time_projection|av_cross_attn_\w+\.linear$|_scale_shift\.linear$", "t_block"),
    # Images as conditions.
    (r"img_emb\.|glyph_projector|image_embed|image_proj|img_proj|vision_proj|clip_proj|image_context", "image_proj"),
    # Attention.
    (r"to_qkv_mlp_proj|\.qkv_mlp|linear1$", "qkv_fc1"),
    (rf"txt_attn_qkv$|(attn|attention).*\.({_ADDED})$", "txt_qkv"),
    (r"txt_attn_proj$|(attn|attention).*\.(to_add_out|to_added_out|add_out_proj|txt_out)", "txt_attn_out"),
    (rf"{_CROSS}\.(to_q|q_proj|q|wq|q_linear)$", "cross_q"),
    (rf"{_CROSS}\.(to_(k|v|kv)|[kv]_proj|[kv]|w[kv]|kv_linear)$", "cross_kv"),
    (rf"{_CROSS}\.{_OUT}$", "cross_out"),
    (rf"{_SELF}\.(to_(q|k|v|qkv)|[qkv]_proj|[qkv]|qkv|w[qkv]|to_(query|key|value))$", "qkv"),
    (rf"img_attn_qkv$|{_SELF}\.(img_qkv_proj|[qkv]_proj_cam|to_gate|gate_proj|beta_proj|output_gate)$", "qkv"),
    (rf"img_attn_proj$|{_SELF}\.({_OUT}|out_proj_cam)$", "attn_out"),
    # Feed-forward.
    (rf"{_TEXT_MLP}\.(.*\.)?{_LAST}$", "txt_fc2"),
    (rf"{_TEXT_MLP}\.(.*\.)?{_FIRST}$", "txt_fc1"),
    (rf"\.{_MLP}\.(conv_inverted|inverted_conv\.conv)$", "fc1"),
    (rf"\.{_MLP}\.(conv_point|point_conv\.conv)$", "fc2"),
    (rf"\.\d+\.(.*\.)?down_proj$|\.ff_out$|\.{_MLP}\.(.*\.)?{_LAST}$", "fc2"),
    (rf"\.\d+\.(.*\.)?(gate_proj|up_proj)$|\.ff_in$|\.{_MLP}\.(.*\.)?{_FIRST}$", "fc1"),
    (r"blocks\.\d+\.(proj_mlp|linear_mlp)$", "fc1"),
    (r"blocks\.\d+\.(proj_out|linear2|to_out)$", "out_fc2"),
    (r"skip_(linear|proj)", "skip"),
    # Outer layers.
    (r"(caption|context|txt|text|cap|y)_?(embed|embedder|projection|proj|in|_proj)?(_\d)?(\.|$)", "caption_proj"),
    (r"text_embedding|prior_projector|llm_cond_proj|encoder_proj$|^condition_embedder$|to_cond_embed", "caption_proj"),
    (r"^(x_embedder|img_in|proj_in|patch_embed|patch_embedding|pos_embed|patchify_proj)(\.proj)?$", "patch_embed"),
    (r"^(all_)?x_embedders?\.|^(input_proj|audio_proj_in)$|^(visual|audio)_embeddings\.in_layer$", "patch_embed"),
    (r"^(proj_out|proj_out_2|final_layer\.(linear|out_layer)|norm_out\.linear_2|linear_out)$", "final"),
    (r"^(final_linear|audio_proj_out|(audio_)?out_layer\.out_layer|head\.head|all_final_layer\..*linear)$", "final"),
)


def role_of(path: str, patterns: Sequence[Pattern] = PATTERNS) -> str | None:
    """Role of the module at a path. None if no pattern matches a part of the path."""
    return next((role for pattern, role in patterns if re.search(pattern, path)), None)
