"""Names of the weights files that VBench's dimensions need, and where they come from.

VBench's own environment imports this file beside the driver. So it imports only the standard library.
"""

from collections.abc import Mapping

CLIP = "https://openaipublic.blob.core.windows.net/clip/models"
HUB = "https://huggingface.co"
DINO = "https://raw.githubusercontent.com/facebookresearch/dino/main"
GRIT = ("grit_model/grit_b_densecap_objectdet.pth", "bert-base-uncased/config.json", "bert-base-uncased/vocab.txt")
VICLIP = ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz")

SOURCES: Mapping[str, str] = {
    "dino_model/dino_vitbase16_pretrain.pth": (
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    ),
    **{
        f"dino_model/facebookresearch_dino_main/{name}": f"{DINO}/{name}"
        for name in ("hubconf.py", "vision_transformer.py", "utils.py")
    },
    "clip_model/ViT-B-32.pt": (f"{CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"),
    "clip_model/ViT-L-14.pt": (f"{CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt"),
    "amt_model/amt-s.pth": f"{HUB}/lalala125/AMT/resolve/main/amt-s.pth",
    "raft_model/models/raft-things.pth": "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth": (
        "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true"
    ),
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth": (
        "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth"
    ),
    "grit_model/grit_b_densecap_objectdet.pth": (
        f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/grit_b_densecap_objectdet.pth"
    ),
    "caption_model/tag2text_swin_14m.pth": (
        f"{HUB}/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth"
    ),
    **{
        f"bert-base-uncased/{name}": f"{HUB}/google-bert/bert-base-uncased/resolve/main/{name}"
        for name in ("config.json", "vocab.txt", "model.safetensors")
    },
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth": (
        f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/l16_ptk710_ftk710_ftk400_f16_res224.pth"
    ),
    "ViCLIP/ViClip-InternVid-10M-FLT.pth": (
        f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth"
    ),
    "ViCLIP/bpe_simple_vocab_16e6.txt.gz": (
        "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz"
    ),
}
"""File below the folder of weights → where VBench's own programs get it (raft-things.pth: inside that zip)."""

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "subject_consistency": tuple(name for name in SOURCES if name.startswith("dino_model/")),
    "overall_consistency": VICLIP,
    "temporal_style": VICLIP,
    "appearance_style": ("clip_model/ViT-B-32.pt",),
    "scene": ("caption_model/tag2text_swin_14m.pth", *GRIT[1:], "bert-base-uncased/model.safetensors"),
    "spatial_relationship": GRIT,
    "color": GRIT,
    "human_action": ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",),
    "multiple_objects": GRIT,
    "object_class": GRIT,
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "temporal_flickering": (),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
}
"""Dimension → files that it needs below the folder of weights; in the order of Q-DiT's Table 3."""
