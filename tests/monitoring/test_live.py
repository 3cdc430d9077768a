"""Puts pcqa-server under load, has a real Prometheus scrape it, and evaluates every panel and every rule.

    python tests/monitoring/test_live.py target/debug/pcqa-server

needs the packages of deploy/setup/tools.in, Debian's prometheus, openssl and the ffmpeg command line. Everything
listens on loopback, and ends with this.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import expressions
from expressions import CHART, ROOT
from load import PATIENCE, Load
from test_service import generate

# A window of $__rate_interval that holds many scrapes.
WINDOW = "10s"
# A fast machine is done long before Prometheus has looked often enough, a slow one long after.
SECONDS_OF_LOAD, ROUNDS = 15, 2
# As a ServiceMonitor sets them.
TARGET = {"namespace": "art", "pod": "pcqa-0", "service": "pcqa", "container": "pcqa", "endpoint": "metrics"}
# What this load cannot provoke: there must be data, but they may all be 0.
QUIET = {"overview.json: Faults: A", "recording.yaml: job:pcqa_requests_faulty:ratio_rate5m"}
# What appears with its first event only, and has none here.
ABSENT = 'code=~"Internal|Unknown|DataLoss"'
PROVOKED = {
    "PcqaHighShedRate",
    "PcqaDecoderCrashLoop",
    "PcqaBundleReloadFailed",
    "PcqaTrustReloadFailed",
    "PcqaCertificateExpiry",
}
# Nobody's fault: the latency of a debug build under this load, how much memory a machine has, what a week looks like
# that is seconds old.
POSSIBLE = {"PcqaLatencyOverObjective", "PcqaDeviceMemoryHigh", "PcqaScoreDrift"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what):
    """Waits for `condition` to give something, and gives it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {PATIENCE} s")


def answer(url):
    """The body of an answer with status 200, or nothing."""
    try:
        with urllib.request.urlopen(url, timeout=10) as got:
            return got.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None


@contextlib.contextmanager
def program(arguments, log, environment=None):
    """A process that does not outlive the block; its output is in the file `log`, and shown where the block fails."""
    with open(log, "wb") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out, env=environment)
    try:
        yield process
    except BaseException:
        print(f"--- the end of {log.name}:\n" + "\n".join(log.read_text().splitlines()[-20:]), file=sys.stderr)
        raise
    finally:
        process.kill()
        process.wait()


class Server:
    """A pcqa-server with TLS, keys, a bundle of its own and little room."""

    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        self.port, self.metrics = free_port(), f"127.0.0.1:{free_port()}"
        self.bundle, self.process = directory / "bundle", None
        shutil.copytree(ROOT / "src/model/demo", self.bundle)
        (self.bundle / "MODEL_CARD.md").unlink()
        limits = {"nightly": "", "limited": " max_calls=1 max_frames_per_second=1"}
        self.keys = {name: self.new_key(name, text) for name, text in limits.items()}
        wanted = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 5 -subj /CN=localhost"
        files = ["-keyout", directory / "server.key", "-out", directory / "server.pem"]
        arguments = ["openssl", "req", "-x509", *wanted.split(), "-addext", "subjectAltName=DNS:localhost", *files]
        subprocess.run(arguments, check=True, capture_output=True)
        self.certificate = (directory / "server.pem").read_bytes()

    def new_key(self, name, limits):
        made = subprocess.run([self.binary, "key", "--name", name], check=True, capture_output=True, text=True)
        key, line = (line for line in made.stdout.splitlines() if not line.startswith("#"))
        with open(self.directory / "keys.txt", "a") as file:
            file.write(line + limits + "\n")
        return key

    def known_metrics(self):
        """The names that Prometheus gives to the series of everything that the program says it has."""
        table = subprocess.run([self.binary, "metrics"], check=True, capture_output=True, text=True).stdout
        found = set()
        for name, kind in re.findall(r"^\| `(pcqa_\w+)` \| (counter|gauge|histogram) \|", table, re.MULTILINE):
            found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
        assert len(found) > 20, f"{self.binary} metrics: {table}"
        return found

    @contextlib.contextmanager
    def serving(self):
        flags = [
            f"--listen=127.0.0.1:{self.port}",
            f"--metrics-listen={self.metrics}",
            f"--bundle={self.bundle}",
            f"--tls-certificate={self.directory}/server.pem",
            f"--tls-key={self.directory}/server.key",
            f"--keys-file={self.directory}/keys.txt",
            "--metrics-sources=nightly,web",
            "--max-rank-images=4",
            "--max-queue-frames=64",
            "--max-batch-frames=16",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PCQA_")}
        # Threads that spin are in the way of the others on a machine that has much to do.
        environment["GOMP_SPINCOUNT"] = "10000"
        with program([self.binary, *flags], self.directory / "server.log", environment) as self.process:
            until(
                lambda: self.process.poll() is not None or answer(f"http://{self.metrics}/readyz"),
                "the server is ready",
            )
            assert self.process.poll() is None, "the server ended"
            yield self

    def count(self, series):
        """What a counter says, or 0."""
        lines = (answer(f"http://{self.metrics}/metrics") or "").splitlines()
        return sum(float(line[len(series) :]) for line in lines if line.startswith(f"{series} "))

    def reload(self, outcome):
        """Has the bundle loaded again, which ends in `outcome`."""
        counted = f'pcqa_bundle_reloads_total{{outcome="{outcome}"}}'
        before = self.count(counted)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.count(counted) > before, f"a reload ends in {outcome}")

    def reload_in_every_way(self):
        manifest, part = self.bundle / "bundle.toml", self.bundle / "tokenizer.json"
        self.reload("unchanged")
        manifest.write_text(manifest.read_text().replace('version = "1"', 'version = "2"', 1))
        self.reload("loaded")
        whole = part.read_bytes()
        part.write_bytes(whole[:100])
        manifest.write_text(manifest.read_text().replace('version = "2"', 'version = "3"', 1))
        self.reload("failed")
        part.write_bytes(whole)

    def break_keys(self):
        """Adds a line to the keys that is none: the old ones hold."""
        counted = 'pcqa_trust_reloads_total{files="keys",outcome="failed"}'
        with open(self.directory / "keys.txt", "a") as file:
            file.write("broken\n")
        until(lambda: self.count(counted) > 0, "broken keys are refused")


class Prometheus:
    """A Prometheus that scrapes the server and evaluates the chart's rules every second."""

    def __init__(self, directory, scraped):
        self.directory, self.url = directory, f"http://127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(CHART / "rules/*.yaml")],
            "scrape_configs": [{"job_name": "pcqa", "static_configs": [{"targets": [scraped], "labels": TARGET}]}],
        }
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(config))

    @contextlib.contextmanager
    def running(self):
        flags = [
            f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/tsdb",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with program(["prometheus", *flags], self.directory / "prometheus.log") as process:
            until(lambda: process.poll() is not None or answer(f"{self.url}/-/ready"), "Prometheus is ready")
            assert process.poll() is None, "Prometheus ended"
            yield self

    def ask(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as got:
                return json.load(got)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{json.load(error)['error']}: {parameters.get('query')}") from None

    def values(self, query, begin, end):
        """All finite values of a query over time, and how many series there are."""
        series = self.ask("query_range", query=query, start=begin, end=end, step="1s")["result"]
        values = [float(value) for one in series for _, value in one["values"]]
        return [value for value in values if math.isfinite(value)], len(series)

    def alerts(self):
        """The names of the alerts that fire or are about to."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}


@dataclass
class Checks:
    """What is wrong, found so far."""

    prometheus: Prometheus
    begin: float
    end: float
    faults: list

    def is_known(self, expression, known):
        unknown = expressions.names(expression.text) - known
        if unknown:
            self.faults.append(f"{expression.place}: there is no metric {', '.join(sorted(unknown))}")

    def has_selectors(self, expression):
        """Everything that an expression is about is there, what only a fallback hides included."""
        for name, matchers in expressions.selectors(expressions.substituted(expression.text, WINDOW)):
            if ABSENT not in matchers and not self.prometheus.values(name + matchers, self.begin, self.end)[1]:
                self.faults.append(f"{expression.place}: no series is {name}{matchers}")

    def has_data(self, expression, text):
        values, series = self.prometheus.values(text, self.begin, self.end)
        if not values:
            self.faults.append(f"{expression.place}: {'only NaN' if series else 'empty'}: {text}")
        elif expression.place not in QUIET and not any(values):
            self.faults.append(f"{expression.place}: always 0: {text}")

    def of_panels(self, known):
        found = list(expressions.of_panels())
        for expression in found:
            self.is_known(expression, known)
            self.has_selectors(expression)
            self.has_data(expression, expressions.substituted(expression.text, WINDOW))
        return len(found)

    def of_rules(self, known):
        found = [
            (rule, expressions.Expression(f"{name}: {rule.get('record') or rule['alert']}", rule["expr"]))
            for name, rule in expressions.rules()
        ]
        for rule, expression in found:
            self.is_known(expression, known)
            self.has_selectors(expression)
            if "record" in rule:
                self.has_data(expression, rule["expr"])
            elif not self.prometheus.values(expressions.compared(rule["expr"]), self.begin, self.end)[0]:
                self.faults.append(f"{expression.place}: compares nothing")
        return len(found)

    def of_alerts(self):
        now = self.prometheus.alerts()
        if not PROVOKED <= now:
            self.faults.append(f"what was provoked is not noticed: {', '.join(sorted(PROVOKED - now))}")
        if not now <= PROVOKED | POSSIBLE:
            self.faults.append(f"nobody provoked {', '.join(sorted(now - PROVOKED - POSSIBLE))}")


def run(binary):
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory, begin = Path(name), time.time()
        server = Server(binary, directory)
        known = server.known_metrics() | expressions.recorded() | expressions.BUILT_IN
        pb, pb_grpc = generate(name)
        prometheus = Prometheus(directory, server.metrics)
        stack.enter_context(prometheus.running())
        stack.enter_context(server.serving())
        load = Load(f"localhost:{server.port}", server.certificate, server.keys, (pb, pb_grpc.ScoringServiceStub), name)
        stack.callback(load.close)
        # What happens before the first look at a counter is in no rate.
        looked = "count_over_time(pcqa_ready[1m]) >= 2"
        until(lambda: prometheus.ask("query", query=looked)["result"], "Prometheus has looked twice")
        say(begin, "under load")
        provoke(load, server)
        say(begin, "evaluating")
        checks = Checks(prometheus, begin, time.time(), [])
        panels, rules = checks.of_panels(known), checks.of_rules(known)
        checks.of_alerts()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(PATIENCE)
        until(lambda: "PcqaNoReadyReplica" in prometheus.alerts(), "it is noticed that no replica is ready")
        say(begin, f"{panels} expressions of panels and {rules} of rules, {len(checks.faults)} faults")
        return checks.faults


def provoke(load, server):
    """Everything that is counted happens."""
    load.crash_decoders(server.process.pid, times=8)
    with load.going_on():
        begin = time.monotonic()
        # The series of a key begins with its first event, which no rate shows.
        load.bad()
        # The faster the machine, the earlier they have to leave to be missed.
        for leave_after in (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0):
            load.crowd(PATIENCE, leave_after)
            if server.count("pcqa_items_cancelled_total"):
                break
        server.reload_in_every_way()
        server.break_keys()
        rounds = 0
        while rounds < ROUNDS or time.monotonic() < begin + SECONDS_OF_LOAD:
            rounds += 1
            load.bad()
            load.flood()
            load.crowd(timeout=0.2)
            load.overtake()


def say(begin, what):
    print(f"{time.time() - begin:5.1f} s  {what}", flush=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    faults = run(str(Path(sys.argv[1]).resolve()))
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
