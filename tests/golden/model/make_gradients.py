#!/usr/bin/env python3
"""Golden data for tests/model/gradients.rs: gradients of tiny experts in training mode, by timm and PyTorch.

Purpose: networks that learn are checked against the libraries whose checkpoints they start from: the gradient of every
parameter, the batch norms' running statistics after one pass, and the embeddings in evaluation mode. Nothing is trained
and no weight is stored; weights and pictures come from the generators that make_model.py describes.

Everything is computed in f64 (but for attention in EfficientViT, which timm does in f32), so that what differs is the
error of the other side.

How to run (Python 3.11, CPU; a few seconds; packages as for make_model.py):

    python tests/golden/model/make_gradients.py

What it writes beside itself:

    gradients.json          per case: `expert` (as in bundle.toml), `frames` (of each item), `modules` (file -> stored
                            type, key -> shape), `targets`, and `loss`, the mean squared error of the raw scores
    gradients.safetensors   `<case>/features` in evaluation mode; `<case>/backbone/<key>` and `<case>/head/<key>`, the
                            gradients; `<case>/buffers/<key>`, running means and variances after the pass; all f32
"""
import json
import pathlib

import numpy as np
import torch
from make_model import Head, SEED, backbone, bits, expert, features, fill, hash_init, picture
from safetensors.torch import save_file
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer

TEXT_DIM = 12
CONVNEXT = dict(depths=(1, 1, 2, 1), dims=(8, 8, 12, 16), num_classes=0)
EFFICIENTVIT = dict(widths=(4, 4, 8, 8, 16), depths=(1, 1, 1, 1, 1), head_dim=8, head_widths=(8, 8), num_classes=0)
RESNET = dict(layers=(2, 1, 1, 1), channels=(4, 4, 8, 8), num_classes=3)
VIT = dict(img_size=32, patch_size=8, embed_dim=16, num_heads=2, num_classes=0)

# one frame an item, but for the clips
CASES = {
    "convnext": (expert("convnext", "image", "convnext", 64, CONVNEXT, "concat", (12, 12), 10), [1, 1, 1, 1]),
    "efficientvit": (expert("efficientvit", "image", "efficientvit", 64, EFFICIENTVIT, "dot", (12, 12), 10,
                            adapter_activation="relu"), [1, 1, 1, 1]),
    "eva02": (expert("eva02", "image", "eva02", 42, dict(embed_dim=16, depth=2), "dot", (12, 12), 10, heads=2,
                     rope_reference=4, head_activation="quick_gelu"), [1, 1, 1, 1]),
    "resnet": (expert("resnet", "image", "resnet", 64, RESNET, "concat", (12, 12), 10), [1, 1, 1, 1]),
    "vit": (expert("vit", "image", "vit", 48, dict(depth=2, global_pool="token", **VIT), "dot", (12, 12), 10, heads=2),
            [1, 1, 1, 1]),
    "vit_mean": (expert("vit_mean", "image", "vit", 32, dict(depth=1, global_pool="avg", **VIT), "dot", (12, 12), 10,
                        heads=2), [1, 1, 1, 1]),
    "clips": (expert("clips", "video", "convnext", 32, CONVNEXT, "dot", (12, 12), 10), [3, 1, 2]),
}


def trunk_of(e):
    if e["kind"] == "resnet":
        return ResNet(Bottleneck, **e["options"])
    if e["kind"] == "vit":
        return VisionTransformer(**e["options"])
    return backbone(e)


def embed(e, trunk, x):
    return trunk.forward_features(x).mean((2, 3)) if e["kind"] == "resnet" else features(e["kind"], trunk, x)


def text_of(case, items):
    center, scale = fill("text", (items, TEXT_DIM))
    r = bits(f"gradients/{case}/text", items * TEXT_DIM, SEED).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return torch.from_numpy(np.float32(center) + np.float32(scale) * r).view(items, TEXT_DIM).double()


def run(case, e, counts, tensors):
    trunk = trunk_of(e)
    modules = {"backbone": hash_init(trunk, f"gradients/{case}", "F32")}
    head = Head(e, trunk.num_features if e["kind"] != "efficientvit" else e["options"]["widths"][-1], TEXT_DIM)
    modules["head"] = hash_init(head, f"gradients/{case}.head", "F32")
    if e["kind"] in ("eva02", "vit") and e["side"] != trunk.patch_embed.img_size[0]:
        # Through the stored positions, so that they have the gradient.
        stored = trunk.pos_embed
        trunk.set_input_size(img_size=(e["side"], e["side"]))
        grid = e["side"] // trunk.patch_embed.patch_size[0]
        del trunk.pos_embed
        trunk.stored_pos_embed = stored
    trunk, head = trunk.double(), head.double()
    if hasattr(trunk, "stored_pos_embed"):
        from timm.layers import resample_abs_pos_embed
        trunk.pos_embed = resample_abs_pos_embed(trunk.stored_pos_embed, (grid, grid), num_prefix_tokens=1)
    norm = e["manifest"]["backbone"]
    names = [f"{case}/{item}/{frame}" for item, count in enumerate(counts) for frame in range(count)]
    x = torch.from_numpy(np.stack([picture(f"{name}/{e['side']}", e["side"]) for name in names]))
    x = x.permute(0, 3, 1, 2).double() / 255
    x = (x - torch.tensor(norm["mean"]).double().view(3, 1, 1)) / torch.tensor(norm["std"]).double().view(3, 1, 1)
    text = text_of(case, len(counts))
    targets = [0.5, -1.0, 1.5, 0.0][:len(counts)]

    with torch.no_grad():
        tensors[f"{case}/features"] = embed(e, trunk.eval(), x)
    trunk.train()
    vision = embed(e, trunk, x).split(counts)
    raw = torch.cat([head(v, text[i:i + 1])["raw"] for i, v in enumerate(vision)])
    loss = (raw - torch.tensor(targets).double()).square().mean()
    loss.backward()
    for part, module in (("backbone", trunk), ("head", head)):
        for key, parameter in module.named_parameters():
            if parameter.grad is not None:
                tensors[f"{case}/{part}/{key.removeprefix('stored_')}"] = parameter.grad
    for key, buffer in trunk.named_buffers():
        if "running" in key:
            tensors[f"{case}/buffers/{key}"] = buffer
    print(case, f"loss {float(loss):.6f}", sum(p.numel() for p in trunk.parameters()), "parameters")
    return dict(expert=e["manifest"], frames=[[n for n in names if n.startswith(f"{case}/{i}/")] for i in range(len(counts))],
                modules=modules, targets=targets, loss=float(loss))


def main():
    torch.set_num_threads(1)
    here, tensors = pathlib.Path(__file__).parent, {}
    cases = {case: run(case, e, counts, tensors) for case, (e, counts) in CASES.items()}
    save_file({k: v.detach().float().contiguous().clone() for k, v in tensors.items()}, here / "gradients.safetensors")
    (here / "gradients.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
