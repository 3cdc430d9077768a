#!/usr/bin/env python3
"""Measures what the server makes of its device, side by side in one run; `make bench` builds what this needs.

Every figure that a goal is set for is a line with the word `ratio`. The raw ceiling is batched forward passes in process
(benches/ceiling.rs); served is `pcqa bench` against a `pcqa-server` on the same cores, in a closed loop with two batches
on their way. A closed loop's throughput is taken from Little's law (requests on their way over mean latency): counting
answers in a window is off by up to a batch at each end. Raw and served take turns, and the means of the turns are
compared, so that a machine that slows down in between does not favour one of them. With --pytorch, forward passes and
training steps (benches/step.rs) of the full-size networks are compared with PyTorch's. What watching costs is measured
in turns too: servers without metrics, with metrics that are read every second, and with metrics and traces.

A start is timed from exec to the log's "ready", with the files in the page cache, against what it cannot do without: the
same tensors read and converted once (ceiling.rs --convert), and the warm-up, as long as the server's log says. Memory is
the process's peak (VmHWM) and what it holds once it is ready (VmRSS), shared libraries included.

Only Python's own library is used.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARIES = ROOT / "target" / "release"
FULL = ROOT / "target" / "bench" / "full"
PARTS = ["media", "behaviour", "memory", "served", "overhead", "pytorch"]
# What three experts and two text towers may take, in GiB.
MOST_GIB = {"f32": 5.6, "bf16": 3.0}


class Server:
    """A pcqa-server on a free port, stopped at the end of the block."""

    def __init__(self, *flags):
        command = [BINARIES / "pcqa-server", "--listen=127.0.0.1:0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            found = re.search(r"listening.*?listen=\S*?([0-9.]+:[0-9]+)", line)
            if found:
                self.address = found.group(1)
                self.metrics = re.search(r"serving metrics.*?address=\S*?([0-9.]+:[0-9]+)", "".join(lines))
                break
        else:
            sys.exit("bench: the server did not start:\n" + "".join(lines))
        # Nobody may be kept waiting by a full pipe.
        subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def __enter__(self):
        subprocess.run(
            [BINARIES / "pcqa", "--server", self.address, "--connect-timeout", "600", "info"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def load(self, *flags):
        """One `pcqa bench`; its result."""
        command = [BINARIES / "pcqa", "--server", self.address, "bench", "--json", "--no-progress", "--seed=7", *flags]
        run = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        # 1 says that requests failed, which the result counts.
        if run.returncode not in (0, 1):
            sys.exit(f"bench: {' '.join(map(str, command))} ended with {run.returncode}")
        return json.loads(run.stdout)["result"]

    def processor_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


class Collector:
    """Takes traces and throws them away (benches/collector.rs)."""

    def __enter__(self):
        command = [BINARIES / "examples" / "collector"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        said, _ = self.process.communicate()
        self.spans = int(said)


class Scrapes:
    """Reads a server's metrics every second until the end of the block, as nobody does who has many servers."""

    def __init__(self, server):
        self.url = f"http://{server.metrics.group(1)}/metrics" if server.metrics else None
        self.ended = threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while self.url and not self.ended.wait(1):
            urllib.request.urlopen(self.url, timeout=10).read()

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class Report:
    """Prints as it goes and keeps everything for the file."""

    def __init__(self):
        self.figures = {}

    def ratio(self, name, what, value, goal):
        self.figures[name] = {"what": what, "ratio": value, "goal": goal}
        print(f"{name}: {what}, ratio {value:.3f} (goal {goal})", flush=True)

    def pairs(self, name, what, below, above, goal):
        """The mean ratio of what was measured in turn: a machine that slows down slows both."""
        ratios = [top / bottom for bottom, top in zip(below, above)]
        error = statistics.stdev(ratios) / len(ratios) ** 0.5
        what = what.format(statistics.mean(below), statistics.mean(above))
        self.ratio(name, f"{what}, standard error of the ratio {error:.3f}", statistics.mean(ratios), goal)

    def figure(self, name, what, value, goal):
        self.figures[name] = {"what": what, "value": value, "goal": goal}
        print(f"{name}: {what} (goal {goal})", flush=True)


def ceiling(bundle, dtype, batch, threads, seconds, *flags, figure="ensemble"):
    """Items per second of batched forward passes in process, or of what else `flags` ask for."""
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "ceiling", "--"]
    command += ["--json", f"--dtype={dtype}", f"--batch={batch}", f"--threads={threads}", f"--seconds={seconds}"]
    command += [f"--bundle={bundle}", *flags] if bundle else flags
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(run.stdout)["figures"][figure]["items_per_second"]


def littles_law(result, concurrency):
    if result["errors"] or not result["latency_ms"]["mean"]:
        sys.exit(f"bench: a closed loop has errors: {json.dumps(result['by_code'])}")
    return concurrency / result["latency_ms"]["mean"] * 1000


def served_of_raw(report, name, bundle, dtype, batch, args):
    """The server against the ceiling of the same batch size."""
    flags = [f"--dtype={dtype}", f"--threads={args.threads}", f"--max-batch-frames={max(batch, 16)}"]
    flags += ["--default-timeout-seconds=600", "--max-timeout-seconds=600"]
    flags += [f"--bundle={bundle}"] if bundle else []
    # As many on their way as two batches take, and never more in a batch than the ceiling had.
    concurrency = 2 * batch
    raw, served = [], []
    for _ in range(args.turns):
        raw.append(ceiling(bundle, dtype, batch, args.threads, args.seconds))
        with Server(*flags) as server:
            per_batch = batch / raw[-1]
            result = server.load(
                f"--concurrency={concurrency}",
                f"--duration={max(args.seconds, 6 * per_batch)}",
                f"--warm-up={max(2, 2 * per_batch)}",
                "--size=512",
                "--pictures=64",
                "--format=jpeg",
                # The ceiling's prompts are encoded beforehand, and warming up is too short for many.
                "--prompt=a red fox in the snow",
                "--new-prompts=0",
                "--timeout=600",
            )
            served.append(littles_law(result, concurrency))
    raw, served = sum(raw) / len(raw), sum(served) / len(served)
    fill = result["batch_frames"]
    what = f"{dtype}, batch {batch}: raw {raw:.3f} images/s, served {served:.3f} images/s in batches of {fill:.1f}"
    report.ratio(f"{name} {dtype} served/raw", what, served / raw, ">= 0.95 for full")


def behaviour(report, args):
    """What the demo bundle's server does between idle and twice what it can do."""
    media = ["--size=512", "--pictures=64", "--format=jpeg", "--new-prompts=0.5"]
    timing = [f"--duration={args.seconds}", "--warm-up=3"]
    with Server(f"--threads={args.threads}") as server:
        alone = server.load("--concurrency=1", *media, *timing)
        outside = alone["outside_ms"]["p50"]
        report.figure("demo overhead", f"median outside decode, resize and device at concurrency 1: {outside:.3f} ms",
                      outside, "<= 1 ms")
        busy = server.load("--concurrency=32", *media, *timing)
        what = f"{alone['goodput_per_s']:.1f} images/s at concurrency 1, {busy['goodput_per_s']:.1f} at 32"
        report.ratio("demo concurrency 32/1", what, busy["goodput_per_s"] / alone["goodput_per_s"], ">= 3 where the cores allow")
        saturation = busy["goodput_per_s"]
        most = server.load(f"--rate={0.8 * saturation}", *media, *timing)
        latency = most["latency_ms"]
        what = f"open loop at 80 %: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, {most['errors']} errors"
        report.ratio("demo 80 % p99/p50", what, latency["p99"] / latency["p50"], "<= 5, no errors")
        before = server.resident_mib()
        over = server.load(f"--rate={2 * saturation}", *media, *timing)
        after = server.resident_mib()
        again = server.load(f"--rate={2 * saturation}", *media, *timing)
        final = server.resident_mib()
        shed = over["by_code"].get("RESOURCE_EXHAUSTED", {"count": 0, "latency_ms": {"p99": float("nan")}})
        others = over["errors"] - shed["count"]
        what = (f"open loop at 200 %: goodput {over['goodput_per_s']:.1f} of {saturation:.1f} images/s, {shed['count']} shed, "
                f"{others} other errors, the second time {again['goodput_per_s']:.1f} images/s")
        report.ratio("demo 200 % goodput", what, over["goodput_per_s"] / saturation, ">= 0.9")
        report.figure("demo 200 % shed", f"refusals' p99 {shed['latency_ms']['p99']:.1f} ms", shed["latency_ms"]["p99"], "<= 50 ms")
        what = f"resident memory {before:.0f} MiB before, {after:.0f} and {final:.0f} MiB after the two floods"
        report.ratio("demo 200 % memory", what, final / after, "about 1")


def overhead(report, args):
    """What metrics and traces take of the demo bundle's throughput: by the clock, and by the server's processor time,
    which other programs disturb less."""
    load = ["--concurrency=16", "--size=256", "--pictures=64", "--format=jpeg", "--new-prompts=0.5"]
    metrics = ["--metrics-listen=127.0.0.1:0"]
    rates = {"plain": [], "metrics": [], "traces": []}
    costs = {name: [] for name in rates}
    with Collector() as collector, contextlib.ExitStack() as stack:
        traces = [*metrics, f"--otlp-endpoint={collector.endpoint}", "--trace-sample-ratio=0.01"]
        flags = {"plain": [], "metrics": metrics, "traces": traces}
        servers = {name: stack.enter_context(Server(f"--threads={args.threads}", *flags[name])) for name in rates}
        for server in servers.values():
            stack.enter_context(Scrapes(server))
            server.load(*load, "--duration=3", "--warm-up=3")
        for turn in range(10 * args.turns):
            # Whoever is first has the cooler machine: each is first in turn.
            names = list(servers)
            for name in names[turn % 3:] + names[: turn % 3]:
                before = servers[name].processor_seconds()
                result = servers[name].load(*load, f"--duration={args.seconds}", "--warm-up=0")
                rates[name].append(littles_law(result, 16))
                used = servers[name].processor_seconds() - before
                costs[name].append(1000 * used / result["scores"])
    if not collector.spans:
        sys.exit("bench: the collector was sent no spans")
    for name, goal in (("metrics", ">= 0.98"), ("traces", ">= 0.97")):
        spans = f", {collector.spans} spans sent" if name == "traces" else ""
        what = f"{{:.1f}} images/s without, {{:.1f}} with{spans}"
        report.pairs(f"demo {name}, rate", what, rates["plain"], rates[name], goal)
        what = "{:.3f} ms of processor an image with, {:.3f} without"
        report.pairs(f"demo {name}, processor", what, costs[name], costs["plain"], goal)


def media(report):
    """The exact resize against fast_image_resize, which is not exact, and decoding on every core; criterion's medians."""
    subprocess.run(["cargo", "bench", "--quiet", "--locked", "--bench", "media", "--", "1024x1024"], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    medians = {}
    for file in (ROOT / "target" / "criterion").glob("**/new/estimates.json"):
        about = json.loads((file.parent / "benchmark.json").read_text())
        medians[about["full_id"]] = json.loads(file.read_text())["median"]["point_estimate"] / 1e6
    ours, theirs = (medians[f"resize 1024x1024 to 448/{name}"] for name in ("pcqa", "fast_image_resize"))
    what = f"1024² to 448²: exact {ours:.2f} ms, fast_image_resize {theirs:.2f} ms"
    report.ratio("resize pcqa/fast_image_resize", what, ours / theirs, "<= 3")
    for name in ("png", "jpeg"):
        # Every thread of an iteration has four pictures.
        one, two = (medians[f"decode {name} 1024x1024 and resize to 448/threads/{threads}"] for threads in (1, 2))
        what = f"decode {name} and resize: {4000 / one:.1f} pictures/s on 1 thread, {8000 / two:.1f} on 2"
        report.ratio(f"decode {name} scaling", what, 2 * one / two, "2 where cores and memory allow")


def pytorch(report, args):
    """The full-size backbones against PyTorch running timm."""
    for dtype in args.dtype:
        batch = args.full_batch
        raw = ceiling(FULL, dtype, batch, args.threads, args.seconds)
        command = [args.pytorch, ROOT / "benches" / "pytorch_ceiling.py", "--json", f"--dtype={dtype}"]
        command += [f"--batch={batch}", f"--threads={args.threads}", f"--seconds={args.seconds}"]
        command += [f"--only={name}" for name in ("convnext", "efficientvit", "eva02")]
        run = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        theirs = json.loads(run.stdout)["figures"]["ensemble"]["items_per_second"]
        what = f"{dtype}, batch {batch}: raw {raw:.3f} images/s, PyTorch {theirs:.3f} images/s"
        report.ratio(f"full {dtype} raw/pytorch", what, raw / theirs, ">= 1.0")


def training(report, args):
    """A training step of each of the paper's full-size experts against PyTorch running timm, in f32."""
    for backbone in ("convnext", "efficientvit", "eva02"):
        options = [f"--backbone={backbone}", f"--batch={args.full_batch}", f"--threads={args.threads}", "--json"]
        ours = ["cargo", "bench", "--quiet", "--locked", "--bench", "step", "--", *options]
        theirs = [args.pytorch, str(ROOT / "benches" / "pytorch_step.py"), *options]
        times = []
        for command in (ours, theirs):
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            times.append(json.loads(run.stdout)["figures"][backbone]["median_ms"] / 1000)
        what = f"{backbone}, batch {args.full_batch}: {times[0]:.2f} s a step, PyTorch {times[1]:.2f} s"
        report.ratio(f"full step {backbone}", what, times[1] / times[0], ">= 1.0")


def start(bundle, dtype, threads):
    """One start: seconds to ready, seconds of these for the warm-up, peak and steady memory in GiB."""
    command = [BINARIES / "pcqa-server", "--listen=127.0.0.1:0", "--log=info,pcqa::engine=debug"]
    command += [f"--bundle={bundle}", f"--dtype={dtype}", f"--threads={threads}"]
    begin, warm_up = time.monotonic(), 0
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
    try:
        for line in process.stderr:
            if found := re.search(r"warmed up.*\bms=(\d+)", line):
                warm_up += int(found.group(1)) / 1000
            if re.search(r"\bready\b", line):
                seconds = time.monotonic() - begin
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                peak, steady = (int(re.search(rf"{name}:\s+(\d+)", status).group(1)) / 2**20 for name in ("VmHWM", "VmRSS"))
                return seconds, warm_up, peak, steady
        sys.exit("bench: the server did not get ready")
    finally:
        process.kill()
        process.wait()


def memory(report, args):
    """What the paper's image ensemble, three experts and two text towers, needs to be served."""
    bundle = image_bundle()
    for dtype in args.dtype:
        turns = []
        for _ in range(args.turns):
            convert = 1 / ceiling(bundle, dtype, 1, args.threads, args.seconds, "--convert", figure="read and convert")
            seconds, warm_up, peak, steady = start(bundle, dtype, args.threads)
            turns.append((seconds / (convert + warm_up), seconds, convert, warm_up, peak, steady))
        # The quietest turn: other programs lengthen a start, and its parts, by chance.
        ratio, seconds, convert, warm_up, peak, steady = min(turns)
        what = f"3 experts and 2 text towers in {dtype}: at most {peak:.2f} GiB, {steady:.2f} GiB when ready"
        report.figure(f"full {dtype} memory", what, max(turn[4] for turn in turns), f"<= {MOST_GIB[dtype]} GiB")
        what = f"ready after {seconds:.2f} s, to read and convert takes {convert:.2f} s, the warm-up {warm_up:.2f} s"
        report.ratio(f"full {dtype} start", what, ratio, "<= 1.3")


def image_bundle():
    """The full-size bundle without its video experts: the same files."""
    full, image = full_bundle(), FULL.with_name("image")
    tables, is_video = [], False
    for table in re.split(r"^(?=\[)", (full / "bundle.toml").read_text(), flags=re.MULTILINE):
        # What belongs to an expert follows it.
        if not table.startswith("[experts."):
            is_video = bool(re.search(r'^(name|expert) = "video_|^\[files\."\w+_video_', table, re.MULTILINE))
        if not is_video:
            tables.append(table)
    image.mkdir(exist_ok=True)
    for file in full.iterdir():
        if "_video_" not in file.name and file.name != "bundle.toml" and not (image / file.name).exists():
            (image / file.name).symlink_to(file)
    (image / "bundle.toml").write_text("".join(tables))
    return image


def full_bundle():
    """Full-size networks with generated weights, once."""
    if not (FULL / "bundle.toml").exists():
        print("bench: generating a full-size bundle (3.3 GB)", file=sys.stderr, flush=True)
        FULL.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([BINARIES / "pcqa-train", "init", "--preset=full", f"--out={FULL}"], check=True, stdout=subprocess.DEVNULL)
    return FULL


def main():
    global BINARIES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", nargs="+", choices=["demo", "full"], default=["demo", "full"])
    parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of one operation")
    parser.add_argument("--demo-batch", type=int, default=16)
    parser.add_argument("--full-batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15, help="least time of each measurement")
    parser.add_argument("--turns", type=int, default=2, help="how often raw and served take turns")
    parser.add_argument("--pytorch", metavar="PYTHON", help="a Python with torch, timm and open_clip, to compare with")
    parser.add_argument("--report", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; default: all")
    parser.add_argument("--binaries", metavar="DIRECTORY", type=pathlib.Path, default=BINARIES,
                        help="where pcqa-server, pcqa and examples/collector are; debug ones try out the parts that need only them")
    args = parser.parse_args()
    BINARIES = args.binaries
    report, begin = Report(), time.time()
    if "demo" in args.bundle:
        if "media" in args.only:
            media(report)
        if "behaviour" in args.only:
            behaviour(report, args)
        if "overhead" in args.only:
            overhead(report, args)
        for dtype in args.dtype if "served" in args.only else []:
            served_of_raw(report, "demo", None, dtype, args.demo_batch, args)
    if "full" in args.bundle:
        if "memory" in args.only:
            memory(report, args)
        for dtype in args.dtype if "served" in args.only else []:
            served_of_raw(report, "full", full_bundle(), dtype, args.full_batch, args)
        if args.pytorch and "pytorch" in args.only:
            pytorch(report, args)
            training(report, args)
    if args.report:
        machine = {"cores": os.cpu_count(), "threads": args.threads, "seconds": time.time() - begin}
        pathlib.Path(args.report).write_text(json.dumps({"machine": machine, "figures": report.figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
