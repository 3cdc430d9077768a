"""The house of check.py: where everything is, a server to measure, and the report."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

TORCH = "2.11."
PROMPT = "a red fox in the snow"

# Reads nothing and decodes nothing: for hosts without FFmpeg, which score images.
STAND_IN = """#!{python}
import os
os.write(0, b'"Ready"')
while os.read(0, 1 << 16): pass
"""


class Failed(Exception):
    """A step that does not hold, with the reason."""


class House:
    """Where everything is, and what has been found."""

    def __init__(self, args):
        self.args, self.home = args, pathlib.Path(args.home)
        self.out = pathlib.Path(args.out or self.home / "report")
        self.work = pathlib.Path(args.work or self.home / "work")
        for directory in (self.out, self.work):
            directory.mkdir(parents=True, exist_ok=True)
        self.on_gpu = args.device != "cpu"
        self.env = {**os.environ, "NO_COLOR": "1"}
        self.file = self.out / "report.json"
        # What was built, which the programs do not say themselves.
        version = self.home / "version"
        self.version = version.read_text().strip() if version.exists() else "an unknown version"
        found = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.found = found if found.get("version") == self.version else {"version": self.version, "steps": {}}

    def prepare(self):
        if self.on_gpu or not self.starts():
            self.env["LD_LIBRARY_PATH"] = f"{self.torch_libraries()}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        if not self.starts():
            raise Failed(f"{self.bin('device')} does not start; see {self.out / 'log.txt'}")
        decoder = self.work / "no-decoder"
        decoder.write_text(STAND_IN.format(python=sys.executable))
        decoder.chmod(0o755)
        self.decoder = decoder.resolve()
        self.batches = [1, 2, 4] if self.args.tiny else [1, 2, 4, 8, 16, 32, 64]
        self.seconds = 0.3 if self.args.tiny else self.args.seconds
        # What is served of frames at once.
        self.batch = 16 if self.args.tiny else 64

    def starts(self):
        """Whether the programs find libtorch."""
        with open(self.out / "log.txt", "a") as log:
            return subprocess.run([self.bin("device"), "--help"], stdout=log, stderr=log, env=self.env).returncode == 0

    def torch_libraries(self):
        """Of the PyTorch that is here, whose version must be the one that pcqa was built for."""
        script = "import torch, pathlib; print(torch.__version__, pathlib.Path(torch.__file__).parent / 'lib')"
        try:
            run = subprocess.run([self.args.pytorch, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            raise Failed(f"--pytorch {self.args.pytorch}: {error.strerror}")
        if run.returncode:
            raise Failed(f"--pytorch {self.args.pytorch} has no PyTorch")
        version, libraries = run.stdout.split(maxsplit=1)
        if not version.startswith(TORCH):
            raise Failed(f"{self.args.pytorch} has PyTorch {version}, {TORCH}* is needed")
        return libraries.strip()

    def run(self, *command, env=None, accept=(0,)):
        """The output of a command that must end within what is left of the step's time."""
        command = [str(part) for part in command]
        left = self.args.budget - (time.monotonic() - self.begin)
        with open(self.out / "log.txt", "a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            try:
                run = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env or self.env,
                                     timeout=max(left, 1))
            except subprocess.TimeoutExpired:
                raise Failed(f"{pathlib.Path(command[0]).name} was stopped after the step's {self.args.budget:.0f} s")
            log.write(run.stdout)
        if run.returncode not in accept:
            last = [line for line in run.stdout.strip().splitlines() if line][-1:]
            raise Failed(f"{pathlib.Path(command[0]).name} ended with {run.returncode}: {' '.join(last)[:400]}; "
                         f"see {self.out / 'log.txt'}")
        return run

    def bin(self, name):
        return self.home / "bin" / name

    def bundle(self):
        """--bundle for each program: full-size networks with generated weights, made once; the demo with --tiny."""
        if self.args.tiny:
            return []
        directory = pathlib.Path(self.args.bundle or self.work / "full")
        if not (directory / "bundle.toml").exists():
            print(f"gpu-check: generating full-size weights in {directory}", flush=True)
            self.run(self.bin("pcqa-train"), "init", "--preset=full", f"--out={directory}")
        return [f"--bundle={directory}"]

    def threads(self):
        return f"--threads={self.args.threads}"

    def save(self):
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")
        (self.out / "report.md").write_text(page(self.found))


class Server:
    """A pcqa-server on free ports, stopped at the end of the block."""

    def __init__(self, house, *flags, batch=None, bundle=None):
        command = [house.bin("pcqa-server"), "--listen=127.0.0.1:0", f"--device={house.args.device}", house.threads(),
                   f"--decoder={house.decoder}", "--decoder-workers=1", "--metrics-listen=127.0.0.1:0",
                   f"--max-batch-frames={batch or house.batch}", *(bundle or house.bundle()), *flags]
        self.house, self.begin = house, time.monotonic()
        # Port 0 of the metrics is not told: a free one is chosen here.
        port = free_port()
        command = [f"--metrics-listen=127.0.0.1:{port}" if str(part).startswith("--metrics-listen") else part
                   for part in command]
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        log = open(house.out / "log.txt", "a")
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        log.flush()
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True, env=house.env)
        self.address, self.let_go = None, 0
        too_long = threading.Timer(house.args.budget, self.process.kill)
        too_long.start()
        for line in self.process.stderr:
            log.write(line)
            found = re.search(r"listening.*?listen=\S*?([0-9.]+:[0-9]+)", line)
            self.address = self.address or (found and found.group(1))
            if re.search(r"\bready\b.*device=", line):
                break
        else:
            too_long.cancel()
            raise Failed(f"pcqa-server ended with {self.process.wait()}; see {house.out / 'log.txt'}")
        too_long.cancel()
        self.ready_seconds = time.monotonic() - self.begin

        def drain():
            for line in self.process.stderr:
                log.write(line)
                self.let_go += "the bundle before is let go" in line
            log.close()

        threading.Thread(target=drain, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def load(self, *flags, new_prompts=0, accept=(0,)):
        """One `pcqa bench`; its result. Of its prompts this share are ones that come for the first time."""
        command = [self.house.bin("pcqa"), "--server", f"http://{self.address}", "bench", "--json", "--no-progress", "--seed=7",
                   "--size=512", "--pictures=128", "--format=jpeg", f"--prompt={PROMPT}",
                   f"--new-prompts={new_prompts}", "--connections=4", *flags]
        return json.loads(self.house.run(*command, accept=accept).stdout)["result"]

    def metric(self, name, **labels):
        """Sum of a metric's series that have these labels."""
        total = 0.0
        for line in urllib.request.urlopen(self.metrics_url, timeout=10).read().decode().splitlines():
            if re.match(rf"{name}[ {{]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def lines(value, name=""):
    """Nested figures as rows of a table."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from lines(inner, f"{name} · {key}" if name else key)
    else:
        shown = f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
        yield f"| {name} | {shown} |"


def page(found):
    rows = ["# pcqa on a GPU", "", f"Of {found['version']}.", ""]
    for name, entry in found["steps"].items():
        result = {True: "holds", False: "does not hold", None: "nothing to check here"}[entry["ok"]]
        rows += [f"## {name}: {result}", "", f"{entry['seconds']:.0f} s on {entry['device']}, {entry['when']}.", ""]
        if entry.get("error"):
            rows += [entry["error"], ""]
        if entry.get("figures"):
            rows += ["| figure | value |", "|---|---|", *lines(entry["figures"]), ""]
    return "\n".join(rows)
