#!/usr/bin/env python3
"""Golden checkpoints for tests/convert: one tiny text tower, in every form in which its likes are published.

Purpose: `pcqa-train convert` and `fetch` read files that PyTorch, open_clip, EVA-CLIP and transformers wrote. These are
such files, written by those libraries. All hold the same tower, whose tensors the generator of src/train/hash_init.rs
filled (module "tower", seed 7, open_clip's plain keys), so that the tests know every value; the rest of each model is
random.

How to run (Python 3.11, CPU; a few seconds):

    pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/convert/make_checkpoints.py

What it writes beside itself:

    open_clip.pt                an open_clip CLIP, its state dict
    eva_clip_f16.pt             a CustomTextCLIP (as BAAI's EVA-CLIP) in half precision, inside what a trainer saves
    flat.pt                     the same CLIP, whose tensors are views of one storage, as Parameters, keys with `module.`
    transformers.bin            a transformers CLIPModel
    transformers.safetensors    a transformers CLIPTextModelWithProjection
    legacy.pt                   PyTorch's format of before 1.6
    transposed.pt               a tensor that is not stored row by row
"""
import collections
import pathlib
import shutil
import sys
import tempfile

import torch
from open_clip.model import CLIP, CustomTextCLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "model"))
from make_model import hash_init  # noqa: E402

HERE = pathlib.Path(__file__).parent
WIDTH, LAYERS, HEADS, DIM, VOCABULARY, CONTEXT = 16, 2, 2, 12, 40, 10
VISION = CLIPVisionCfg(layers=1, width=8, head_width=8, patch_size=4, image_size=8)
TEXT = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS)


def is_text(key):
    return not key.startswith(("visual.", "logit_scale"))


class Tower(nn.Module):
    """The text side of a CLIP with plain keys, to be filled."""

    def __init__(self, model):
        super().__init__()
        self.values = {key: value for key, value in model.state_dict().items() if is_text(key)}

    def state_dict(self):
        return self.values


def hugging_face(plain):
    """transformers' names of the tensors of `plain`."""
    named = {
        "text_model.embeddings.token_embedding.weight": plain["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": plain["positional_embedding"],
        "text_projection.weight": plain["text_projection"].T.contiguous(),
    }
    for part in ("weight", "bias"):
        named[f"text_model.final_layer_norm.{part}"] = plain[f"ln_final.{part}"]
        for layer in range(LAYERS):
            ours, theirs = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
            names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
                     "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
            for a, b in names.items():
                named[f"{theirs}.{b}.{part}"] = plain[f"{ours}.{a}.{part}"]
            for p, value in zip("qkv", plain[f"{ours}.attn.in_proj_{part}"].chunk(3)):
                named[f"{theirs}.self_attn.{p}_proj.{part}"] = value.contiguous()
    return named


def main():
    torch.manual_seed(1)
    clip = CLIP(DIM, VISION, TEXT)
    hash_init(Tower(clip), "tower", "F32")
    state = clip.state_dict()
    plain = {key: value for key, value in state.items() if is_text(key)}
    torch.save(state, HERE / "open_clip.pt")
    torch.save(state, HERE / "legacy.pt", _use_new_zipfile_serialization=False)

    custom = CustomTextCLIP(DIM, VISION, TEXT)
    custom.load_state_dict({f"text.{key}": value for key, value in plain.items()}, strict=False)
    saved = {"epoch": 3, "loss": 0.25, "name": "tiny", "module": custom.half().state_dict(), "betas": (0.9, 0.98)}
    torch.save(saved, HERE / "eva_clip_f16.pt")

    flat, views, at = torch.cat([value.flatten() for value in state.values()]), collections.OrderedDict(), 0
    for key, value in state.items():
        view = flat[at:at + value.numel()].view(value.shape)
        views[f"module.{key}"], at = nn.Parameter(view), at + value.numel()
    torch.save({"state_dict": views}, HERE / "flat.pt")

    text = CLIPTextConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=DIM,
                          num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=CONTEXT,
                          bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1)
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                              image_size=8, patch_size=4, projection_dim=DIM)
    models = {"transformers.bin": CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(),
                                                       projection_dim=DIM)),
              "transformers.safetensors": CLIPTextModelWithProjection(text)}
    for name, model in models.items():
        missing, unexpected = model.load_state_dict(hugging_face(plain), strict=False)
        assert not unexpected and not [key for key in missing if key.startswith("text")], (missing, unexpected)
        if name.endswith(".bin"):
            torch.save(model.state_dict(), HERE / name)
        else:
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                shutil.copyfile(pathlib.Path(folder) / "model.safetensors", HERE / name)

    turned = dict(plain, text_projection=plain["text_projection"].T.contiguous().T)
    torch.save(turned, HERE / "transposed.pt")


if __name__ == "__main__":
    main()
