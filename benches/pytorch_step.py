#!/usr/bin/env python3
"""The competitor of benches/step.rs: one training step of the same full-size experts in PyTorch with timm's backbones,
random weights.

    pip install torch==2.11.0 timm==1.0.31
    python benches/pytorch_step.py --backbone convnext --batch 4 --side 448 --threads 2
    python benches/pytorch_step.py --backbone convnext --batch 32 --device cuda:0 --dtype bf16

Every backbone is measured in PyTorch's usual layout and with channels_last, and the better one counts. AdamW is torch's
fused one, its fastest. bf16 is automatic mixed precision (torch.autocast); parameters stay in f32 as in step.rs.
"""

import argparse
import json
import statistics
import time

import timm
import torch
from torch import nn

BACKBONES = {
    "convnext": ("convnext_small", 768),
    "efficientvit": ("efficientvit_l2", 512),
    "eva02": ("eva02_base_patch14_448", 768),
    "resnet": ("resnet50", 2048),
    "vit": ("vit_base_patch16_224", 768),
}
TEXT, LATENT = 2048, 1024


class Expert(nn.Module):
    def __init__(self, family, side):
        super().__init__()
        name, channels = BACKBONES[family]
        sized = {"img_size": side} if family in ("eva02", "vit") else {}
        self.family = family
        self.backbone = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        self.prompt_adapter, self.vision_adapter = nn.Linear(TEXT, LATENT), nn.Linear(channels, LATENT)
        self.fc1 = nn.Linear(2 * LATENT if family == "convnext" else LATENT, LATENT)
        self.fc2 = nn.Linear(LATENT, 1)

    def forward(self, frames, text):
        features = self.backbone.forward_features(frames)
        if self.family in ("efficientvit", "resnet"):
            v = features.mean((2, 3))
        else:
            v = self.backbone.forward_head(features, pre_logits=True)
        p, q = self.prompt_adapter(text), self.vision_adapter(v)
        merged = torch.cat([q, p], -1) if self.family == "convnext" else p * q
        return self.fc2(nn.functional.gelu(self.fc1(merged)))[:, 0]


def measure(family, args, layout):
    on_gpu = args.device != "cpu"

    def clock():
        if on_gpu:
            torch.cuda.synchronize()
        return time.process_time() if args.threads == 1 and not on_gpu else time.perf_counter()

    expert = Expert(family, args.side).train().to(args.device)
    expert.backbone = expert.backbone.to(memory_format=layout)
    optimiser = torch.optim.AdamW(expert.parameters(), lr=2e-5, weight_decay=1e-2, fused=True)
    frames = torch.randn(args.batch, 3, args.side, args.side, device=args.device).contiguous(memory_format=layout)
    text, targets = (torch.randn(*shape, device=args.device) for shape in ((args.batch, TEXT), (args.batch,)))
    mixed = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.dtype == "bf16")
    steps, warm_up = [], 3 if on_gpu else 1
    for _ in range(args.steps + warm_up):
        times = [clock()]
        with mixed:
            raw = expert(frames, text)
        loss = nn.functional.mse_loss(raw.float(), targets)
        times.append(clock())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        times.append(clock())
        nn.utils.clip_grad_norm_(expert.parameters(), 1.0)
        optimiser.step()
        times.append(clock())
        steps.append([(b - a) * 1e3 for a, b in zip(times, times[1:])])
    return steps[warm_up:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, action="append", help="whose expert learns; all where absent")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--side", type=int, default=448, help="side of the images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="format that the backbone computes in")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one operation")
    parser.add_argument("--steps", type=int, default=3, help="steps that are measured, after one that is not")
    parser.add_argument("--layout", choices=("usual", "channels_last"), help="measure this layout only")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    layouts = {"usual": torch.contiguous_format, "channels_last": torch.channels_last}
    if args.layout:
        layouts = {args.layout: layouts[args.layout]}

    figures = {}
    for family in args.backbone or BACKBONES:
        results = {name: measure(family, args, layout) for name, layout in layouts.items()}
        totals = {name: statistics.median(sum(step) for step in steps) for name, steps in results.items()}
        layout = min(totals, key=totals.get)
        steps = results[layout]
        figures[family] = {
            "median_ms": totals[layout], "best_ms": min(sum(step) for step in steps), "layout": layout,
            **{f"{part}_ms": statistics.median(step[i] for step in steps)
               for i, part in enumerate(("forward", "backward", "optimiser"))}}
        if not args.json:
            print(f"{family:14}", json.dumps(figures[family]), flush=True)
    if args.json:
        print(json.dumps({"torch": torch.__version__, "batch": args.batch, "side": args.side, "threads": args.threads,
                          "figures": figures}))


if __name__ == "__main__":
    main()
