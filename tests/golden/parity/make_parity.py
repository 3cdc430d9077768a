#!/usr/bin/env python3
"""Golden data for `make parity`: what timm's and open_clip's full-size networks say, for weights that need no file.

Every tensor is filled by the generator that src/train/hash_init.rs documents (here over the module's name and the
library's key, without a file's prefix), every picture is `picture` of ../model/make_model.py. tests/parity makes both
again in Rust, runs the networks of src/model, and compares. Only pooled embeddings are kept.

How to run (Python 3.11, CPU; 7 minutes on two cores, 4 GiB: one network at a time):

    pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6 \
        pillow==12.0.0
    python tests/golden/parity/make_parity.py

What it writes beside itself:

    golden.json          `versions`; `seed`; `networks`: where from, key -> shape as in its file, cases; `whole`: the
                         manifest of the paper's image ensemble over some of these networks and its heads, the result
    golden.safetensors   `<network>/<case>` in f32

The whole path is an image of 512 pixels that is resized, three experts and two text towers, Eq. 4. Its statistics are
made up.
"""
import copy
import gc
import json
import pathlib
import platform
import sys

import numpy as np
import open_clip
import PIL
import timm
import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, _build_text_tower
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "model"))
from make_model import CLIP, IMAGENET, Head, bits, expert, features, fill, picture  # noqa: E402

SEED = 1
CHUNK = 1 << 22

# Name in the report, module that the generator is asked for, timm's name, kind, pooled width, sides.
BACKBONES = [
    ("ConvNeXt-S", "backbone_image_convnext", "convnext_small", "convnext", 768, (448, 300)),
    ("EfficientViT-L1", "efficientvit_l1", "efficientvit_l1", "efficientvit", 512, (448, 300)),
    ("EfficientViT-L2", "backbone_image_efficientvit", "efficientvit_l2", "efficientvit", 512, (448, 300)),
    ("EfficientViT-L3", "efficientvit_l3", "efficientvit_l3", "efficientvit", 1024, (448, 300)),
    ("EVA02-B/14", "backbone_image_eva02", "eva02_base_patch14_448", "eva02", 768, (448, 336, 518)),
]
# Name in the report, module, open_clip's name, activation, prefix of its keys in a file.
TOWERS = [
    ("EVA02-CLIP-B-16", "text_eva02_b_16", "EVA02-B-16", "gelu", "text."),
    ("EVA02-CLIP-L-14", "text_eva02_l_14", "EVA02-L-14", "gelu", "text."),
    ("EVA02-CLIP-E-14", "text_eva02_e_14", "EVA02-E-14", "gelu", "text."),
    ("ViT-H-14-quickgelu", "text_openclip", "ViT-H-14-quickgelu", "quick_gelu", ""),
    ("EVA02-CLIP-E-14-plus", "text_eva", "EVA02-E-14-plus", "gelu", "text."),
]
PROMPT = "An astronaut riding a horse on Mars, cinematic lighting, 8k, highly detailed"
PROMPTS = {"usual": PROMPT, "empty": "", "too long": "(((masterpiece))) a photo of a cat, trending on artstation, " * 12}
WHOLE_PICTURE, WHOLE_PICTURE_SIDE, SIDE = "img/v0", 512, 448
WHOLE_TOWERS = {"text_openclip": "openclip", "text_eva": "eva"}
# mu, sigma
WHOLE_EXPERTS = {"image_convnext": (0.05, 0.5), "image_efficientvit": (-0.1, 0.4), "image_eva02": (0.2, 0.6)}
MOS = dict(dataset="none", mean=2.5, std=0.8, min=1.0, max=5.0)


@torch.no_grad()
def hash_init(module, name):
    """Fills `module`, a chunk at a time, and returns key -> shape; counters of batch norms are left out."""
    shapes = {}
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        center, scale = fill(key, tensor.shape)
        flat = tensor.view(-1)
        for first in range(0, flat.numel(), CHUNK):
            count = min(CHUNK, flat.numel() - first)
            r = bits(f"{name}/{key}", count, SEED, first).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
            flat[first:first + count] = torch.from_numpy(np.float32(center) + np.float32(scale) * r)
        shapes[key] = list(tensor.shape)
    module.eval()
    return shapes


def normalised(pixels, statistics):
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    return (x - torch.tensor(statistics["mean"]).view(3, 1, 1)) / torch.tensor(statistics["std"]).view(3, 1, 1)


def whole_picture():
    return Image.fromarray(picture(WHOLE_PICTURE, WHOLE_PICTURE_SIDE)).resize((SIDE, SIDE), Image.BICUBIC)


@torch.no_grad()
def backbone(spec, vectors, whole):
    name, module, of, kind, width, sides = spec
    network = timm.create_model(of, pretrained=False, num_classes=0)
    statistics = CLIP if kind == "eva02" else IMAGENET
    shapes, cases = hash_init(network, module), []
    if module.removeprefix("backbone_") in WHOLE_EXPERTS:
        whole[module] = features(kind, network, normalised(whole_picture(), statistics))
    for side in sides:
        sized = network
        if kind == "eva02":
            # Of a copy, since positions that were resampled once are not to be resampled again.
            sized = copy.deepcopy(network)
            sized.set_input_size(img_size=(side, side))
        case = {"vector": f"{name}/{side}", "picture": f"parity/{side}", "side": side}
        y = features(kind, sized, normalised(picture(case["picture"], side), statistics))
        assert y.shape == (1, width), y.shape
        vectors[case["vector"]] = y[0].contiguous().clone()
        cases.append(case)
        print(case["vector"], f"rms {float(y.square().mean().sqrt()):.4f}", flush=True)
    tensors = {key: shape for key, shape in shapes.items() if not key.startswith("head.") or key.startswith("head.norm.")}
    return dict(name=name, library=f"timm {of}", file=f"{module}.safetensors", prefix="", tensors=tensors, cases=cases,
                backbone=dict(kind=kind, weights=f"{module}.safetensors", **statistics))


@torch.no_grad()
def tower(spec, vectors, whole):
    name, module, of, activation, prefix = spec
    config = open_clip.get_model_config(of)
    assert config.get("quick_gelu", False) == (activation == "quick_gelu")
    text = {key: value for key, value in config["text_cfg"].items() if key in CLIPTextCfg.__dataclass_fields__}
    network = _build_text_tower(config["embed_dim"], CLIPTextCfg(**text), quick_gelu=activation == "quick_gelu")
    shapes, tokenizer, cases = hash_init(network, module), SimpleTokenizer(), []
    for prompt, words in PROMPTS.items():
        ids = tokenizer([words])
        y = network(ids)
        case = {"vector": f"{name}/{prompt}", "prompt": words, "tokens": ids[0, :int(ids[0].argmax()) + 1].tolist()}
        vectors[case["vector"]] = y[0].contiguous().clone()
        cases.append(case)
        if module in WHOLE_TOWERS and words == PROMPT:
            whole[module] = F.normalize(y, dim=-1)
        print(case["vector"], f"rms {float(y.square().mean().sqrt()):.4f}", flush=True)
    weights = {"name": WHOLE_TOWERS.get(module, module), "weights": f"{module}.safetensors", "activation": activation}
    return dict(name=name, library=f"open_clip {of}", file=f"{module}.safetensors", prefix=prefix, tensors=shapes,
                cases=cases, tower=weights)


@torch.no_grad()
def whole_path(networks, parts):
    text = torch.cat([parts[name] for name in WHOLE_TOWERS], -1)
    experts, heads, calibration, raws, zs = [], [], [], [], []
    for name, (mu, sigma) in WHOLE_EXPERTS.items():
        network = next(one for one in networks if one["file"] == f"backbone_{name}.safetensors")
        kind, x = network["backbone"]["kind"], parts[f"backbone_{name}"]
        spec = expert(name, "image", kind, SIDE, {}, "concat" if kind == "convnext" else "dot", (1024, 1024), 1024)
        head = Head(spec, x.shape[1], text.shape[1])
        shapes = hash_init(head, f"head_{name}")
        heads.append({"file": f"head_{name}.safetensors", "tensors": shapes})
        experts.append({**spec["manifest"], "backbone": network["backbone"], "head": f"head_{name}.safetensors"})
        raws.append(float(head(x, text)["raw"]))
        zs.append((raws[-1] - mu) / sigma)
        calibration.append({"expert": name, "tta": False, "input_size": SIDE, "dtypes": ["f32"], "mu": mu, "sigma": sigma})
    towers = [one["tower"] for name in WHOLE_TOWERS for one in networks if one["file"] == f"{name}.safetensors"]
    manifest = dict(
        schema=1, name="parity", version="1", trained=False, licence="CC0-1.0", provenance="hash-init", max_frames=16,
        mos=MOS, text=dict(tokenizer="tokenizer.json", context_length=77, l2_norm=True, towers=towers),
        experts=experts, calibration=calibration)
    z = sum(zs) / len(zs)
    return dict(manifest=manifest, heads=heads, prompt=PROMPT, picture=WHOLE_PICTURE, side=WHOLE_PICTURE_SIDE, raw=raws,
                z=z, mos=MOS["mean"] + MOS["std"] * z)


def main():
    torch.set_num_threads(2)
    vectors, parts, networks = {}, {}, []
    for build, specs in ((backbone, BACKBONES), (tower, TOWERS)):
        for spec in specs:
            networks.append(build(spec, vectors, parts))
            gc.collect()
    whole = whole_path(networks, parts)
    versions = {"torch": torch.__version__, "timm": timm.__version__, "open_clip": open_clip.__version__,
                "Pillow": PIL.__version__, "Python": platform.python_version()}
    save_file(vectors, HERE / "golden.safetensors")
    # One line for each network and its tensors.
    lines = ",\n".join(json.dumps(network, separators=(",", ":")) for network in networks)
    rest = json.dumps({"versions": versions, "seed": SEED, "whole": whole}, separators=(",", ":"))
    (HERE / "golden.json").write_text(f'{rest[:-1]},"networks":[\n{lines}\n]}}\n')
    print("raw", [f"{raw:.6f}" for raw in whole["raw"]], f"z {whole['z']:.6f}", f"mos {whole['mos']:.6f}")


if __name__ == "__main__":
    main()
