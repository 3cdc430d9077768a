#!/usr/bin/env python3
"""Golden data for tests/model.rs: two tiny ensembles of timm and open_clip modules, with every step of their scores.

Purpose: the networks in src/model are checked against the libraries whose checkpoints they load. Nothing is trained
and no weight is stored: every tensor is filled by the generator that src/train/hash_init.rs documents, which the tests
run again in Rust. Neither is any picture stored: `picture` below has its twin in tests/model.rs.

How to run (Python 3.11, CPU; about ten seconds):

    pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python tests/golden/model/make_model.py

What it writes beside itself:

    golden.json          per ensemble: `manifest` (as in bundle.toml), `modules` (file -> stored type, key -> shape) and
                         `cases` (track, tta, token ids, names of the frames; raw, z, mos as computed here)
    golden.safetensors   `<ensemble>/<case>/…` in f32: `text/<tower>`, `text`, and per expert and view (0 as it is,
                         1 flipped) `<expert>/<view>/{features,vision_pooled,prompt_latent,vision_latent,merged,raw}`

The ensembles differ in width, depth, head counts, mixers, activations, input sizes (EVA02 served at its own side and
resampled to a larger and a smaller one; others at sides that 32 does not divide), key layouts (plain and `text.`
open_clip, Hugging Face) and stored types (f32, f16, bf16).
"""
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, _build_text_tower
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt
from timm.models.efficientvit_mit import EfficientVitLarge
from timm.models.eva import Eva
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

SEED = 7
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
CLIP = dict(mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
VOCABULARY, CONTEXT = 49408, 77


# ---------------------------------------------------------------- the generator of src/train/hash_init.rs
def bits(name, count, seed, first=0):
    """24 random bits for each of `count` elements from `first` on"""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    state ^= (seed * GOLDEN) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.uint32)


def fill(key, shape):
    """(center, scale) of a tensor; the first rule that fits holds."""
    last = key.split(".")[-1]
    if last == "running_var":
        return 1.0, 0.5
    if last == "running_mean":
        return 0.0, 0.1
    if last == "gamma":
        return 0.3, 0.2
    if last in ("positional_embedding", "pos_embed", "cls_token"):
        return 0.0, 0.2
    if key.endswith("token_embedding.weight"):
        return 0.0, 0.5
    if last in ("bias", "in_proj_bias"):
        return 0.0, 0.1
    if len(shape) == 1:
        return 1.0, 0.2
    fan_in = shape[0] if last == "text_projection" else math.prod(shape[1:])
    return 0.0, math.sqrt(3.0 / fan_in)


@torch.no_grad()
def hash_init(module, name, stored, prefix=""):
    """Fills `module` and returns key -> shape as they are in its file; counters of batch norms are left out."""
    shapes = {}
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        center, scale = fill(prefix + key, tensor.shape)
        r = bits(f"{name}/{prefix}{key}", tensor.numel(), SEED).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
        value = np.float32(center) + np.float32(scale) * r
        tensor.copy_(torch.from_numpy(value).view(tensor.shape).to(STORED[stored]).float())
        shapes[prefix + key] = list(tensor.shape)
    module.eval()
    return {"stored": stored, "tensors": shapes}


def picture(name, side):
    """u8 [side, side, 3]: integer gradients and 5 bits of noise"""
    noise = bits(name, side * side * 3, 0).reshape(side, side, 3) & 31
    x, y, c = np.arange(side)[None, :, None], np.arange(side)[:, None, None], np.arange(3)[None, None, :]
    gradient = ((x * (c + 1) * 256) // side + (y * (3 - c) * 256) // side) >> 1
    return ((gradient + noise) & 255).astype(np.uint8)


# ---------------------------------------------------------------- modules
EVA = dict(patch_size=14, img_size=56, qkv_fused=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, scale_mlp=True,
           use_rot_pos_emb=True)


def backbone(expert):
    kind, options = expert["kind"], expert["options"]
    if kind == "convnext":
        return ConvNeXt(**options)
    if kind == "efficientvit":
        return EfficientVitLarge(**options)
    reference = expert.get("rope_reference", 16)
    return Eva(num_classes=0, num_heads=expert.get("heads") or options["embed_dim"] // 64,
               ref_feat_shape=(reference, reference), **EVA, **options)


def features(kind, module, x):
    y = module.forward_features(x)
    return y.mean((2, 3)) if kind == "efficientvit" else module.forward_head(y, pre_logits=True)


def text_tower(tower):
    heads = tower.get("heads") or tower["width"] // 64
    quick = tower["activation"] == "quick_gelu"
    if tower["layout"] == "hugging_face":
        config = CLIPTextConfig(
            vocab_size=VOCABULARY, hidden_size=tower["width"], intermediate_size=4 * tower["width"],
            projection_dim=tower["dim"], num_hidden_layers=tower["layers"], num_attention_heads=heads,
            max_position_embeddings=CONTEXT, hidden_act=tower["activation"], bos_token_id=49406, eos_token_id=49407)
        return CLIPTextModelWithProjection(config)
    config = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, width=tower["width"], heads=heads,
                         layers=tower["layers"])
    return _build_text_tower(tower["dim"], config, quick_gelu=quick)


ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class Head(nn.Module):
    def __init__(self, expert, channels, text_dim):
        super().__init__()
        self.expert = expert
        prompt, vision = expert["latents"]
        self.prompt_adapter = nn.Linear(text_dim, prompt)
        self.vision_adapter = nn.Linear(channels, vision)
        if expert["track"] == "video":
            self.temporal = nn.Module()
            self.temporal.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
            self.temporal.conv2 = nn.Conv1d(channels, channels, 3, padding=1)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(prompt if expert["mixer"] == "dot" else prompt + vision, expert["hidden"])
        self.mlp.fc2 = nn.Linear(expert["hidden"], 1)

    def forward(self, x, text):
        """[T, C] and [1, D] to every step"""
        act = {name: ACTIVATIONS[self.expert["manifest"].get(f"{name}_activation", default)]
               for name, default in (("temporal", "relu"), ("adapter", "none"), ("head", "gelu"))}
        v = x
        if self.expert["track"] == "video":
            y = x.T[None]
            y = act["temporal"](self.temporal.conv1(y))
            y = act["temporal"](self.temporal.conv2(y))
            v = y.mean(-1)
        p, q = act["adapter"](self.prompt_adapter(text)), act["adapter"](self.vision_adapter(v))
        m = p * q if self.expert["mixer"] == "dot" else torch.cat([q, p], -1)
        f = self.mlp.fc2(act["head"](self.mlp.fc1(m)))[:, 0]
        return dict(features=x, vision_pooled=v, prompt_latent=p, vision_latent=q, merged=m, raw=f)


# ---------------------------------------------------------------- the two ensembles
def expert(name, track, kind, side, options, mixer, latents, hidden, stored="F32", heads=None, rope_reference=None,
           **activations):
    normalisation = CLIP if kind == "eva02" else IMAGENET
    spec = {"kind": kind, "weights": f"{name}.safetensors", **normalisation}
    if heads:
        spec["heads"] = heads
    if rope_reference:
        spec["rope_reference"] = rope_reference
    manifest = {"name": name, "track": track, "backbone": spec, "head": f"{name}.head.safetensors", "input_size": side,
                "mixer": mixer, **activations}
    extra = {"heads": heads, **({"rope_reference": rope_reference} if rope_reference else {})}
    return dict(name=name, track=track, kind=kind, side=side, options=options, mixer=mixer, latents=latents,
                hidden=hidden, stored=stored, manifest=manifest, **extra)


def tower(name, layout, width, layers, dim, activation, stored, heads=None):
    spec = {"name": name, "weights": f"{name}.safetensors", "activation": activation}
    if heads:
        spec["heads"] = heads
    return dict(name=name, layout=layout, width=width, layers=layers, dim=dim, activation=activation, stored=stored,
                heads=heads, manifest=spec)


CONVNEXT_A = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 40), num_classes=0)
CONVNEXT_B = dict(depths=(2, 1, 1, 2), dims=(12, 16, 20, 32), num_classes=5)
EFFICIENTVIT_A = dict(widths=(8, 8, 16, 16, 32), depths=(1, 1, 1, 1, 2), head_dim=8, head_widths=(8, 8), num_classes=0)
EFFICIENTVIT_B = dict(widths=(8, 16, 16, 32, 48), depths=(2, 2, 1, 2, 1), head_dim=16, head_widths=(8, 8), num_classes=3)

ENSEMBLES = {
    "a": dict(
        l2_norm=True, mos=dict(dataset="none", mean=2.5, std=0.8, min=1.0, max=5.0),
        towers=[tower("plain", "plain", 16, 2, 24, "quick_gelu", "F16", heads=2),
                tower("custom", "custom", 12, 3, 20, "gelu", "BF16", heads=3)],
        experts=[
            expert("image_convnext", "image", "convnext", 64, CONVNEXT_A, "concat", (32, 32), 24),
            expert("image_efficientvit", "image", "efficientvit", 64, EFFICIENTVIT_A, "dot", (32, 32), 24),
            expert("image_eva02", "image", "eva02", 56, dict(embed_dim=48, depth=2), "dot", (32, 32), 24, heads=3,
                   rope_reference=2),
            expert("video_convnext", "video", "convnext", 64, CONVNEXT_A, "concat", (32, 32), 24),
            expert("video_efficientvit", "video", "efficientvit", 64, EFFICIENTVIT_A, "dot", (32, 32), 24)]),
    "b": dict(
        l2_norm=False, mos=dict(dataset="none", mean=50.0, std=12.0, min=0.0, max=100.0),
        towers=[tower("hugging_face", "hugging_face", 24, 2, 20, "quick_gelu", "F32", heads=2),
                tower("wide", "plain", 64, 1, 12, "gelu", "F32")],
        experts=[
            expert("image_convnext", "image", "convnext", 70, CONVNEXT_B, "dot", (20, 20), 16, stored="BF16",
                   head_activation="relu"),
            expert("image_efficientvit", "image", "efficientvit", 90, EFFICIENTVIT_B, "concat", (20, 28), 16,
                   adapter_activation="gelu"),
            expert("image_eva02_up", "image", "eva02", 84, dict(embed_dim=64, depth=1), "concat", (16, 24), 12,
                   stored="BF16", head_activation="quick_gelu"),
            expert("image_eva02_down", "image", "eva02", 42, dict(embed_dim=32, depth=3), "dot", (16, 16), 12, heads=2,
                   adapter_activation="relu"),
            expert("video_convnext", "video", "convnext", 70, CONVNEXT_B, "dot", (20, 20), 16,
                   temporal_activation="gelu"),
            expert("video_efficientvit", "video", "efficientvit", 64, EFFICIENTVIT_B, "dot", (20, 20), 16,
                   stored="F16", temporal_activation="none")]),
}

PROMPTS = {
    "plain": "An astronaut riding a horse on Mars, cinematic lighting, 8k, highly detailed",
    "empty": "",
    "long": "(((masterpiece))) a photo of a cat, trending on artstation, " * 12,
}
# name, track, tta, prompt, frames of the clip
CASES = [("image", "image", False, "plain", 1), ("image_empty_prompt_tta", "image", True, "empty", 1),
         ("image_long_prompt", "image", False, "long", 1), ("video_1", "video", False, "empty", 1),
         ("video_3_tta", "video", True, "plain", 3), ("video_16", "video", False, "long", 16),
         ("video_40_tta", "video", True, "plain", 40)]


def sample(total, most=16):
    return list(range(total)) if total <= most else [((2 * i + 1) * total) // (2 * most) for i in range(most)]


def calibration(experts):
    """Arbitrary, but another one for each expert and setting."""
    return [{"expert": e["name"], "tta": tta, "input_size": e["side"], "dtypes": ["f32", "bf16"],
             "mu": round(0.05 * i - 0.1 + 0.01 * tta, 4), "sigma": round(0.4 + 0.1 * i + 0.02 * tta, 4)}
            for tta in (False, True) for i, e in enumerate(experts)]


@torch.no_grad()
def run(name, ensemble, tensors):
    modules, towers, experts = {}, {}, {}
    text_dim = sum(t["dim"] for t in ensemble["towers"])
    for t in ensemble["towers"]:
        towers[t["name"]] = text_tower(t)
        prefix = "text." if t["layout"] == "custom" else ""
        modules[t["manifest"]["weights"]] = hash_init(towers[t["name"]], f"{name}/{t['name']}", t["stored"], prefix)
    for e in ensemble["experts"]:
        trunk = backbone(e)
        modules[e["manifest"]["backbone"]["weights"]] = hash_init(trunk, f"{name}/{e['name']}", e["stored"])
        channels = e["options"].get("embed_dim") or (e["options"].get("dims") or e["options"]["widths"])[-1]
        head = Head(e, channels, text_dim)
        modules[e["manifest"]["head"]] = hash_init(head, f"{name}/{e['name']}.head", "F32")
        if e["kind"] == "eva02" and e["side"] != EVA["img_size"]:
            trunk.set_input_size(img_size=(e["side"], e["side"]))
        experts[e["name"]] = (trunk, head)
    statistics = calibration(ensemble["experts"])
    manifest = dict(
        schema=1, name=f"golden-{name}", version="1", trained=False, licence="CC0-1.0", provenance="hash-init",
        max_frames=16, mos=ensemble["mos"],
        text=dict(tokenizer="tokenizer.json", context_length=CONTEXT, l2_norm=ensemble["l2_norm"],
                  towers=[t["manifest"] for t in ensemble["towers"]]),
        experts=[e["manifest"] for e in ensemble["experts"]], calibration=statistics)
    tokenizer, cases = SimpleTokenizer(), []
    for case, track, tta, prompt, total in CASES:
        at = f"{name}/{case}"
        ids = tokenizer([PROMPTS[prompt]])
        parts = []
        for t in ensemble["towers"]:
            u = towers[t["name"]](ids)
            u = u.text_embeds if hasattr(u, "text_embeds") else u
            tensors[f"{at}/text/{t['name']}"] = u
            parts.append(F.normalize(u, dim=-1) if ensemble["l2_norm"] else u)
        text = tensors[f"{at}/text"] = torch.cat(parts, -1)
        frames, raws, zs = [f"{case}/{i}" for i in sample(total)], [], []
        for e in ensemble["experts"]:
            if e["track"] != track:
                continue
            trunk, head = experts[e["name"]]
            norm = e["manifest"]["backbone"]
            x = torch.from_numpy(np.stack([picture(f"{frame}/{e['side']}", e["side"]) for frame in frames]))
            x = x.permute(0, 3, 1, 2).float() / 255
            x = (x - torch.tensor(norm["mean"]).view(3, 1, 1)) / torch.tensor(norm["std"]).view(3, 1, 1)
            views = [x, x.flip(-1)] if tta else [x]
            fs = []
            for view, pixels in enumerate(views):
                steps = head(features(e["kind"], trunk, pixels), text)
                fs.append(float(steps["raw"]))
                tensors.update({f"{at}/{e['name']}/{view}/{step}": value for step, value in steps.items()})
            entry = next(s for s in statistics if s["expert"] == e["name"] and s["tta"] == tta)
            raws.append(sum(fs) / len(fs))
            zs.append((raws[-1] - entry["mu"]) / entry["sigma"])
        z = sum(zs) / len(zs)
        end = int(ids[0].argmax())
        cases.append(dict(
            name=case, track=track, tta=tta, tokens=ids[0, :end + 1].tolist(), clip_frames=total, frames=frames,
            raw=raws, z_by_expert=zs, z=z, mos=ensemble["mos"]["mean"] + ensemble["mos"]["std"] * z,
            disagreement=math.sqrt(sum((one - z) ** 2 for one in zs) / len(zs))))
    return dict(manifest=manifest, modules=modules, cases=cases)


def main():
    torch.set_num_threads(1)
    here, tensors = pathlib.Path(__file__).parent, {}
    golden = {name: run(name, ensemble, tensors) for name, ensemble in ENSEMBLES.items()}
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, here / "golden.safetensors")
    (here / "golden.json").write_text(json.dumps({"seed": SEED, "ensembles": golden}, separators=(",", ":")) + "\n")
    for name, ensemble in golden.items():
        for case in ensemble["cases"]:
            print(name, case["name"], "raw", [f"{raw:.4f}" for raw in case["raw"]], f"mos {case['mos']:.4f}")


if __name__ == "__main__":
    main()
