#!/usr/bin/env python3
"""The competitor of benches/ceiling.rs: the same full-size networks as timm and open_clip build them, with random
weights, in PyTorch.

    pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0
    python benches/pytorch_ceiling.py --dtype f32 --batch 8 --threads 2
    python benches/pytorch_ceiling.py --device cuda:0 --dtype bf16 --batch 64 --compile

On a GPU cuDNN looks for its fastest convolutions, TF32 is off, frames come as bytes and are normalised there, and one
upload a batch is part of the time, as in ceiling.rs. --compile is torch.compile, --mode its mode.

Every backbone is measured in PyTorch's usual layout and with channels_last, and the better one counts. "ensemble" is
the sum of the backbones: an image's way with its prompt embedding known. Text towers are measured as open_clip runs
them, on 77 tokens, and cut behind the end of the prompt. Run ceiling.rs with --parts for the same rows.
"""

import argparse
import json
import statistics
import time

import timm
import torch

SIDE = 448
BACKBONES = {
    "convnext": "convnext_small",
    "efficientvit": "efficientvit_l2",
    "eva02": "eva02_base_patch14_448",
}
TEXT_TOWERS = {"text_openclip": "ViT-H-14-quickgelu", "text_eva": "EVA02-E-14-plus"}
PROMPT = "an astronaut riding a horse on mars, cinematic lighting"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
REPEATS = 3


def measure(run, args):
    """Times in ms of at least REPEATS runs, after one that does not count. With one thread it is the processor's time,
    which other programs disturb least."""
    on_gpu = args.device != "cpu"
    clock = time.process_time if args.threads == 1 and not on_gpu else time.perf_counter
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    for _ in range(3 if on_gpu else 1):
        run()
    wait()
    begin, times = time.perf_counter(), []
    while len(times) < REPEATS or time.perf_counter() - begin < args.seconds:
        start = clock()
        run()
        wait()
        times.append((clock() - start) * 1e3)
    return times


def embedding(family, model, frames):
    """The pooled embedding of the last stage."""
    features = model.forward_features(frames)
    if family == "efficientvit":
        return features.mean(dim=(2, 3))
    return model.forward_head(features, pre_logits=True)


def backbone(family, args):
    model = timm.create_model(BACKBONES[family], pretrained=False, num_classes=0, img_size=SIDE) if family == "eva02" \
        else timm.create_model(BACKBONES[family], pretrained=False, num_classes=0)
    model = model.eval().to(args.device, DTYPES[args.dtype])
    frames = torch.randn(args.batch, 3, SIDE, SIDE).to(args.device, DTYPES[args.dtype])
    results = {}
    layouts = (torch.contiguous_format, torch.channels_last)
    # Compiling takes minutes, and torch.compile chooses layouts by itself.
    for layout in layouts[1:] if args.compile else layouts:
        model, frames = model.to(memory_format=layout), frames.contiguous(memory_format=layout)
        forward = lambda: embedding(family, model, frames)
        if args.compile:
            forward = torch.compile(lambda x: embedding(family, model, x), mode=args.mode)
            run = lambda: forward(frames)
        else:
            run = forward
        results[str(layout).removeprefix("torch.")] = measure(run, args)
    layout = min(results, key=lambda name: statistics.median(results[name]))
    return layout, results[layout]


def cut(tower, tokens):
    """open_clip's TextTransformer.forward without what follows the longest prompt."""
    length = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :length]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ tower.text_projection


def upload(args):
    """A batch's way to the GPU: bytes from pinned memory, to f32, normalised once for each of two sets of statistics."""
    frames = torch.randint(0, 256, (args.batch, SIDE, SIDE, 3), dtype=torch.uint8).pin_memory()
    mean, std = torch.rand(3, device=args.device), torch.rand(3, device=args.device) + 0.5

    def run():
        scaled = frames.to(args.device, non_blocking=True).float().div_(255)
        return [((scaled - mean) / std).to(DTYPES[args.dtype]).permute(0, 3, 1, 2) for _ in range(2)]

    return measure(run, args)


def text_tower(name, args):
    import open_clip
    from open_clip.model import CLIPTextCfg, _build_text_tower

    config = open_clip.get_model_config(TEXT_TOWERS[name])
    text = CLIPTextCfg(**config["text_cfg"])
    tower = _build_text_tower(config["embed_dim"], text, quick_gelu=config.get("quick_gelu", False))
    tower = tower.eval().to(args.device, DTYPES[args.dtype])
    tokens = open_clip.tokenize([f"{PROMPT}, {item}" for item in range(args.batch)]).to(args.device)
    whole = measure(lambda: tower(tokens), args)
    return whole, measure(lambda: cut(tower, tokens), args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="number format")
    parser.add_argument("--batch", type=int, default=8, help="items a batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile instead of eager")
    parser.add_argument("--mode", default="default", help="torch.compile's mode")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one operation")
    parser.add_argument("--seconds", type=float, default=10.0, help="least time to measure each figure for")
    parser.add_argument("--only", choices=[*BACKBONES, *TEXT_TOWERS], action="append", help="measure this network only")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    wanted = args.only or [*BACKBONES, *TEXT_TOWERS]
    rows = {}
    with torch.inference_mode():
        for family in filter(wanted.__contains__, BACKBONES):
            layout, times = backbone(family, args)
            rows[f"image_{family}"] = {"layout": layout, "times": times}
        if args.device != "cpu":
            rows["upload"] = {"layout": "channels_last", "times": upload(args)}
        for name in filter(wanted.__contains__, TEXT_TOWERS):
            whole, shortened = text_tower(name, args)
            rows[f"{name}, 77 tokens"] = {"layout": "contiguous_format", "times": whole}
            rows[name] = {"layout": "contiguous_format", "times": shortened}

    figures = {}
    for name, row in rows.items():
        median = statistics.median(row["times"])
        figures[name] = {"items_per_second": args.batch / median * 1e3, "median_ms": median,
                         "best_ms": min(row["times"]), "repeats": len(row["times"]), "layout": row["layout"]}
    backbones = [figures[f"image_{family}"]["median_ms"] for family in BACKBONES if f"image_{family}" in figures]
    if len(backbones) == len(BACKBONES):
        backbones += [figures["upload"]["median_ms"]] if "upload" in figures else []
        figures["ensemble"] = {"items_per_second": args.batch / sum(backbones) * 1e3, "median_ms": sum(backbones)}
    if args.json:
        print(json.dumps({"torch": torch.__version__, "device": args.device, "compile": args.compile,
                          "dtype": args.dtype, "batch": args.batch, "threads": args.threads, "figures": figures}))
        return
    print(f"PyTorch {torch.__version__}, {args.device}, {args.dtype}, batch {args.batch}, {args.threads} threads")
    for name, figure in figures.items():
        best = f", the best {figure['best_ms']:.1f}, of {figure['repeats']}, {figure['layout']}" if "layout" in figure else ""
        print(f"{name:24} {figure['items_per_second']:9.3f} items/s  {figure['median_ms']:9.1f} ms a batch{best}")


if __name__ == "__main__":
    main()
