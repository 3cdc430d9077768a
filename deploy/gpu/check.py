#!/usr/bin/env python3
"""The steps of deploy/gpu/check.sh, which starts this; house.py has what they share. Every step is a line of the
report; what earlier runs of the same programs found is kept, so that steps can be run one by one. Only Python's own
library is used; PyTorch is looked for in --pytorch."""

import argparse
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

from house import Failed, House, Server, lines

HOLDS, FAILS, NO_GPU = 0, 1, 3
NOTHING_TO_CHECK = 3

# For hosts that have PyTorch without what timm names when it is imported and never calls here.
NEVER_CALLED = """
import importlib.abc, importlib.machinery, sys

class _Any(type):
    def __getattr__(cls, name):
        return _part(name)

def _part(name):
    if name.startswith("__"): raise AttributeError(name)
    return _Any(name, (), {})

class _Parts(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith(__name__ + ".") else None
    def exec_module(self, module):
        module.__getattr__ = _part

__version__ = "99.0.0"
__getattr__ = _part
sys.meta_path.append(_Parts())
"""


def device_check(house, check, *flags):
    """One of benches/device."""
    bundle = [] if check == "info" else house.bundle()
    run = house.run(house.bin("device"), check, f"--device={house.args.device}", house.threads(),
                    f"--max-batch-frames={house.batch}", *bundle, *flags, accept=(0, 1, NOTHING_TO_CHECK))
    page = json.loads(run.stdout.strip().splitlines()[-1])
    if page["ok"] is None:
        return None
    if "error" in page:
        raise Failed(page["error"])
    return page["ok"], page["figures"]


def ceiling(house):
    """Items per second of batched forward passes, by batch; the first mark of the image track is 1,100/s."""
    figures = {}
    dtype = "bf16" if house.on_gpu else "f32"
    plans = [("image", house.batches, []), ("video", house.batches[:3], [])]
    if house.on_gpu:
        plans.append(("image", [1, 16, 64], ["--no-graphs"]))
        plans.append(("image", [1, 16, 64], ["--no-kernels"]))
        plans.append(("image", [64], ["--parts"]))
        plans.append(("image", [64], ["--autotune"]))
    for track, batches, flags in plans:
        listed = ",".join(map(str, batches))
        run = house.run(house.bin("ceiling"), "--json", f"--device={house.args.device}", f"--dtype={dtype}", house.threads(),
                        f"--track={track}", f"--batch={listed}", f"--seconds={house.seconds}", *house.bundle(), *flags)
        for line in run.stdout.strip().splitlines():
            page = json.loads(line)
            for name, row in page["figures"].items():
                key = " ".join([track, f"batch {page['batch']}", name, *flags])
                figures[key] = {"items_per_second": row["items_per_second"], "median_ms": row["median_ms"]}
    return True, figures


def served(house):
    """Through gRPC with JPEGs to decode: closed loop with two batches on their way, then open loop at 80 %."""
    flags = ["--default-timeout-seconds=60"]
    with Server(house, *flags) as server:
        seconds = max(4 * house.seconds, 2)
        closed = server.load(f"--concurrency={2 * house.batch}", f"--duration={seconds}", "--warm-up=2")
        rate = 0.8 * closed["goodput_per_s"]
        opened = server.load(f"--rate={rate:.3f}", f"--duration={seconds}", "--warm-up=2")
        alone = server.load("--concurrency=1", f"--duration={seconds / 2}", "--warm-up=1")
        figures = {"seconds_to_ready": server.ready_seconds, "closed_loop_per_s": closed["goodput_per_s"],
                   "batch_frames": closed["batch_frames"], "stages_ms": closed["stages_ms"], "offered_at_80_percent": rate,
                   "latency_ms_at_80_percent": opened["latency_ms"], "errors_at_80_percent": opened["errors"],
                   "latency_ms_alone": alone["latency_ms"], "stages_ms_alone": alone["stages_ms"]}
    return closed["errors"] == 0 and opened["errors"] == 0, figures


def latency(house):
    """Small batches, for callers that wait: open loop at 80 % of what they reach; p99 should be at most 50 ms."""
    batch = 16
    with Server(house, "--default-timeout-seconds=60", batch=batch) as server:
        seconds = max(4 * house.seconds, 2)
        closed = server.load(f"--concurrency={2 * batch}", f"--duration={seconds}", "--warm-up=1")
        rate = 0.8 * closed["goodput_per_s"]
        opened = server.load(f"--rate={rate:.3f}", f"--duration={2 * seconds}", "--warm-up=1")
        figures = {"max_batch_frames": batch, "closed_loop_per_s": closed["goodput_per_s"], "offered_at_80_percent": rate,
                   "latency_ms_at_80_percent": opened["latency_ms"], "stages_ms_at_80_percent": opened["stages_ms"],
                   "errors_at_80_percent": opened["errors"]}
    return closed["errors"] == 0 and opened["errors"] == 0, figures


def cancel(house):
    """Callers that give up under load leave nothing behind, and the next ones are served as ever."""
    with Server(house) as server:
        before = server.load("--concurrency=8", "--duration=2", "--warm-up=1")
        patience = max(before["latency_ms"]["p50"] / 2000, 0.001)
        given_up = server.load(f"--concurrency={4 * house.batch}", "--duration=4", "--warm-up=0", f"--timeout={patience:.4f}",
                               accept=(0, 1))
        time.sleep(2)
        queued = server.metric("pcqa_queue_frames")
        after = server.load("--concurrency=8", "--duration=2", "--warm-up=1")
        figures = {"patience_s": patience, "given_up": given_up["errors"], "scored_in_time": given_up["scores"],
                   "queued_frames_after": queued, "errors_after": after["errors"],
                   "goodput_before": before["goodput_per_s"], "goodput_after": after["goodput_per_s"]}
    return given_up["errors"] > 0 and queued == 0 and after["errors"] == 0 and after["scores"] > 0, figures


def reload(house):
    """Another bundle three times over, under load: no call fails, and of the ones before nothing stays in memory."""
    made = house.work / "exported"
    if house.args.tiny:
        house.run(house.bin("pcqa-train"), "export", "--force", f"--out={made}")
    source = (made if house.args.tiny else pathlib.Path(house.bundle()[0].split("=", 1)[1])).resolve()
    link, memory, errors, scores = house.work / "served", [], 0, 0

    def turn(version):
        """`link` leads to a bundle of this version with the files of `source`."""
        bundle = house.work / f"version-{version}"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir()
        for file in source.iterdir():
            if file.name != "bundle.toml":
                (bundle / file.name).symlink_to(file)
        text = re.sub(r'(?m)^version = ".*"$', f'version = "check {version}"', (source / "bundle.toml").read_text(), count=1)
        (bundle / "bundle.toml").write_text(text)
        new = house.work / "served.new"
        new.unlink(missing_ok=True)
        new.symlink_to(bundle.resolve())
        new.rename(link)

    turn(0)
    with Server(house, bundle=[f"--bundle={link}"]) as server:
        for version in range(4):
            if version:
                turn(version)
                server.process.send_signal(signal.SIGHUP)
            while True:
                result = server.load("--concurrency=4", "--duration=1", "--warm-up=0")
                errors, scores = errors + result["errors"], scores + result["scores"]
                if server.metric("pcqa_bundle_reloads_total", outcome="failed") or server.process.poll() is not None:
                    raise Failed(f"version {version} was not loaded; see {house.out / 'log.txt'}")
                if server.let_go == version:
                    break
                if time.monotonic() - house.begin > house.args.budget:
                    raise Failed(f"version {version} was not served in time; see {house.out / 'log.txt'}")
            used = server.metric("pcqa_device_memory_bytes", device=house.args.device, state="used") if house.on_gpu else 0
            memory.append((server.resident(), used))
    figures = {"scores": scores, "errors": errors}
    ok = errors == 0 and scores > 0
    for name, values, share in zip(("resident", "device"), zip(*memory), (0.05, 0)):
        figures[f"{name}_mib"] = [round(value / 2**20) for value in values]
        # The first time is another: some is taken once for good.
        ok = ok and values[-1] <= (1 + share) * values[1] + 64 * 2**20
    return ok, figures


def soak(house):
    """Memory of the process and of the GPU under load: no more in the last third than in the middle one."""
    length = house.args.soak
    with Server(house) as server:
        samples, over = [], threading.Event()

        def watch():
            while not over.wait(length / 60):
                used = server.metric("pcqa_device_memory_bytes", device=house.args.device, state="used")
                samples.append((server.resident(), used if house.on_gpu else 0))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            result = server.load(f"--concurrency={house.batch}", f"--duration={length}", "--warm-up=2", new_prompts=0.5)
        finally:
            over.set()
            watcher.join()
    third = len(samples) // 3
    if third < 3:
        raise Failed(f"{len(samples)} samples of memory are too few")
    figures = {"seconds": length, "scores": result["scores"], "errors": result["errors"]}
    ok = result["errors"] == 0 and result["scores"] > 0
    for index, name in enumerate(("resident", "device")):
        middle, last = (statistics.median(sample[index] for sample in part)
                        for part in (samples[third:2 * third], samples[-third:]))
        figures[f"{name}_mib"] = [round(middle / 2**20), round(last / 2**20)]
        ok = ok and last <= 1.02 * middle + 64 * 2**20
    return ok, figures


def pytorch_env(house):
    """Where the bench scripts find timm, and stand-ins for what there is not."""
    paths = [str(house.home / "python")]
    for package in ("torchvision", "PIL"):
        if subprocess.run([house.args.pytorch, "-c", f"import {package}"], capture_output=True).returncode:
            stand_in = house.work / f"no-{package}" / package
            stand_in.mkdir(parents=True, exist_ok=True)
            (stand_in / "__init__.py").write_text(NEVER_CALLED)
            paths.append(str(stand_in.parent))
    return {**os.environ, "PYTHONPATH": ":".join([*paths, os.environ.get("PYTHONPATH", "")])}


def script(house, name):
    beside = house.home / name
    return beside if beside.exists() else pathlib.Path(__file__).resolve().parents[2] / "benches" / name


def pytorch(house, *flags):
    """The full-size backbones in PyTorch with timm, beside the ceiling's figures."""
    env, figures = pytorch_env(house), {}
    dtype = "bf16" if house.on_gpu else "f32"
    only = ["convnext"] if house.args.tiny else ["convnext", "efficientvit", "eva02"]
    for batch in [1] if house.args.tiny else [64] if flags else [1, 16, 64]:
        run = house.run(house.args.pytorch, script(house, "pytorch_ceiling.py"), "--json", f"--device={house.args.device}",
                        f"--dtype={dtype}", f"--batch={batch}", house.threads(), f"--seconds={house.seconds}",
                        *[f"--only={name}" for name in only], *flags, env=env)
        rows = json.loads(run.stdout.strip().splitlines()[-1])["figures"]
        ours = house.found["steps"].get("ceiling", {}).get("figures", {}).get(f"image batch {batch} ensemble")
        for name, row in rows.items():
            figures[f"batch {batch} {name}"] = {"items_per_second": row["items_per_second"], "median_ms": row["median_ms"]}
        if ours and "ensemble" in rows:
            figures[f"batch {batch} pcqa/pytorch"] = ours["items_per_second"] / rows["ensemble"]["items_per_second"]
    return True, figures


def step(house):
    """A training step of each expert in mixed precision, pcqa and PyTorch."""
    env, figures = pytorch_env(house), {}
    dtype, batch = ("bf16", 32) if house.on_gpu else ("f32", 1)
    for backbone in ["convnext"] if house.args.tiny else ["convnext", "efficientvit", "eva02"]:
        options = ["--json", f"--backbone={backbone}", f"--batch={batch}", f"--device={house.args.device}", f"--dtype={dtype}",
                   house.threads(), f"--side={64 if house.args.tiny else 448}", f"--steps={1 if house.args.tiny else 10}"]
        ours = json.loads(house.run(house.bin("step"), *options).stdout)["figures"][backbone]
        theirs = house.run(house.args.pytorch, script(house, "pytorch_step.py"), *options, env=env).stdout
        theirs = json.loads(theirs)["figures"][backbone]
        figures[backbone] = {"batch": batch, "pcqa_ms": ours["median_ms"], "pytorch_ms": theirs["median_ms"],
                             "pytorch/pcqa": theirs["median_ms"] / ours["median_ms"]}
    return True, figures


STEPS = {
    "info": lambda house: device_check(house, "info"),
    "parity": lambda house: device_check(house, "parity"),
    "neighbours": lambda house: device_check(house, "neighbours"),
    "graphs": lambda house: device_check(house, "graphs"),
    "kernels": lambda house: device_check(house, "kernels"),
    "ahead": lambda house: device_check(house, "ahead"),
    "memory": lambda house: device_check(house, "memory"),
    "ceiling": ceiling,
    "engine": lambda house: device_check(house, "engine", f"--seconds={max(2 * house.seconds, 1)}"),
    "served": served,
    "latency": latency,
    "cancel": cancel,
    "reload": reload,
    "soak": soak,
    "pytorch": pytorch,
    "compile": lambda house: pytorch(house, "--compile"),
    "step": step,
}


def run_step(house, name):
    house.begin = time.monotonic()
    entry = {"ok": False, "device": house.args.device, "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    try:
        outcome = STEPS[name](house)
        entry["ok"], entry["figures"] = (None, {}) if outcome is None else outcome
    except (Failed, OSError, ValueError, KeyError) as error:
        entry["error"] = f"{type(error).__name__}: {error}" if not isinstance(error, Failed) else str(error)
    entry["seconds"] = time.monotonic() - house.begin
    house.found["steps"][name] = entry
    house.save()
    word = {True: "holds", False: "DOES NOT HOLD", None: "nothing to check here"}[entry["ok"]]
    print(f"gpu-check: {name}: {word}, {entry['seconds']:.0f} s {entry.get('error', '')}", flush=True)
    for line in list(lines(entry.get("figures", {})))[:60]:
        print(f"  {line.strip('| ')}", flush=True)
    return entry["ok"]


def device(text):
    if text != "cpu" and not re.fullmatch(r"cuda:[0-9]+", text):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected cpu or cuda:N")
    return text


def main():
    parser = argparse.ArgumentParser(prog="deploy/gpu/check.sh", description="Checks and measures pcqa on a GPU.",
                                     epilog=f"Steps, all of them where none is named: {', '.join(STEPS)}. In the "
                                            "repository, `build` makes the programs and `pack` an archive for other hosts.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="what to run")
    parser.add_argument("--home", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda:0", type=device, help="cpu or cuda:N (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="the demo bundle and short measurements")
    parser.add_argument("--bundle", help="a full-size bundle (default: one with generated weights)")
    parser.add_argument("--pytorch", default="python3", metavar="PYTHON", help="a Python with PyTorch 2.11")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of one operation")
    parser.add_argument("--seconds", type=float, default=2, help="least time of one measurement (default: %(default)s)")
    parser.add_argument("--soak", type=float, default=120, help="length of the soak in seconds (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=480, help="most seconds of one step (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="where the report goes")
    parser.add_argument("--work", metavar="DIR", help="where generated weights go, 3.4 GB")
    args = parser.parse_args()
    unknown = [name for name in args.steps if name not in STEPS]
    if unknown:
        parser.error(f"there is no step {', '.join(unknown)}; the steps are {', '.join(STEPS)}")
    if args.bundle and args.tiny:
        parser.error("argument --bundle: --tiny has a bundle of its own")
    if min(args.seconds, args.soak, args.budget, args.threads) <= 0:
        parser.error("--seconds, --soak, --budget and --threads: expected numbers over 0")
    for name in ("out", "work"):
        if getattr(args, name) and not pathlib.Path(getattr(args, name)).is_dir() and os.path.exists(getattr(args, name)):
            parser.error(f"argument --{name}: {getattr(args, name)} is no directory")
    if args.bundle and not (pathlib.Path(args.bundle) / "bundle.toml").exists():
        parser.error(f"argument --bundle: {args.bundle} has no bundle.toml")
    # As with a failure: what was found stays in the report.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILS))

    house, begin = House(args), time.monotonic()
    alone = open(house.out / ".lock", "w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        parser.error(f"another run writes its report in {house.out}: --out names another place")
    try:
        house.prepare()
        house.begin = time.monotonic()
        if house.on_gpu:
            device_check(house, "info")
    except Failed as error:
        print(f"gpu-check: nothing can be checked on {args.device}: {error}", file=sys.stderr)
        sys.exit(NO_GPU if house.on_gpu else FAILS)
    wanted = args.steps or list(STEPS)
    results = [run_step(house, name) for name in wanted]
    checked = [result for result in results if result is not None]
    nothing = f", {len(results) - len(checked)} had nothing to check" if len(checked) < len(results) else ""
    print(f"gpu-check: {sum(checked)} of {len(checked)} steps hold{nothing}, {time.monotonic() - begin:.0f} s in all; "
          f"report: {house.out / 'report.md'}")
    sys.exit(HOLDS if all(checked) else FAILS)


if __name__ == "__main__":
    main()
