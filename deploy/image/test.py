#!/usr/bin/env python3
"""Builds the container image twice and tries it: what is in it, how it runs, that it can be built again.

usage: .image-tools/bin/python deploy/image/test.py [--variant cuda] [--once]

As root, with buildah and podman (deploy/setup/setup.sh image demo). Base images are made from Debian's archive and this
machine's Rust, so that no registry is needed. Everything listens on loopback.
"""

import argparse
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import contents

HERE = Path(__file__).parent
TOP = HERE.parent.parent
IMAGE = "localhost/pcqa-test"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# As strict as a container can be: nothing to write to, no capability, no way to get one. The health check is run from
# here, not by podman, which wants systemd for that.
STRICT = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
          "--no-healthcheck"]
PATIENCE = 120
# The time of every file. A commit's own would not do: layers that are cached keep that of the commit they were built for.
EPOCH = "1767225600"


class Failed(Exception):
    """What a check found."""


def say(text: str) -> None:
    print(f"image-test: {text}", flush=True)


def expect(condition: bool, problem: str) -> None:
    if not condition:
        raise Failed(problem)


def run(*command, **more) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, **more)


def out(*command) -> str:
    done = run(*command)
    expect(done.returncode == 0, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout.strip()


# Building


def build(tag: str, variant: str, cached: bool) -> None:
    manifest = tomllib.loads((TOP / "Cargo.toml").read_text())
    arguments = {
        "RUST_IMAGE": "localhost/pcqa-rust",
        "BASE_IMAGE": "localhost/pcqa-debian",
        "VARIANT": variant,
        "VERSION": manifest["package"]["version"],
        "REVISION": out("git", "-C", TOP, "rev-parse", "HEAD"),
        "SOURCE_DATE_EPOCH": EPOCH,
    }
    command = ["buildah", "bud", "--isolation=chroot", "--pull-never", "--format=docker", "--layers",
               f"--timestamp={EPOCH}", *(f"--build-arg={name}={value}" for name, value in arguments.items())]
    if not cached:
        command.append("--no-cache")
    # Whom this machine trusts in place of the public authorities is its own affair: for the build, not in the image.
    if os.path.exists(CERTIFICATES):
        command.append(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro")
    begin = time.monotonic()
    say(f"building {tag}" + (" again, from nothing" if not cached else ""))
    done = subprocess.run([*command, "-t", tag, str(TOP)], stdout=sys.stderr)
    expect(done.returncode == 0, f"the build of {tag} failed")
    say(f"built {tag} in {time.monotonic() - begin:.0f} s")


@contextmanager
def mounted(tag: str):
    """The files of an image."""
    container = out("buildah", "from", "--pull-never", tag)
    try:
        yield Path(out("buildah", "mount", container))
    finally:
        run("buildah", "rm", container)


def same_layers(first: str, second: str) -> None:
    """The same layers, whose names are their digests; else the files in which they differ."""
    layers = [json.loads(out("buildah", "inspect", "--type=image", tag))["OCIv1"]["rootfs"]["diff_ids"]
              for tag in (first, second)]
    if layers[0] == layers[1]:
        say(f"both builds have the layers {' '.join(layer[7:19] for layer in layers[0])}")
        return
    with mounted(first) as a, mounted(second) as b:
        raise Failed("two builds differ:\n" + "\n".join(contents.differences(a, b)))


# Running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running container of the image. It waits for its configuration at a pipe before it does anything."""

    def __init__(self, tag: str, work: Path):
        self.tag, self.work = tag, work
        self.port, self.metrics = free_port(), free_port()
        config = work / "config"
        os.mkfifo(config)
        key, line = new_key(tag)
        self.key = work / "key"
        self.key.write_text(key)
        (work / "keys").write_text(line)
        for file in work.iterdir():
            file.chmod(0o644)
        self.container = out("podman", "run", "--detach", "--network=host", *STRICT, f"--volume={work}:/etc/pcqa:ro",
                             "--env=PCQA_CONFIG=/etc/pcqa/config", f"--env=PCQA_SERVER=http://127.0.0.1:{self.port}",
                             f"--env=PCQA_LISTEN=127.0.0.1:{self.port}", self.tag)
        self.pid = int(self.inspect("{{.State.Pid}}"))
        self.command = json.loads(out("podman", "image", "inspect", tag))[0]["Healthcheck"]["Test"]

    def configure(self) -> None:
        """Lets it start, once it asks for its configuration."""
        settings = (f'keys_file = "/etc/pcqa/keys"\nmetrics_listen = "127.0.0.1:{self.metrics}"\n'
                    f"drain_wait_seconds = 20\ndrain_grace_seconds = {PATIENCE}\n")
        end = time.monotonic() + PATIENCE
        while True:
            try:
                pipe = os.open(self.work / "config", os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError as error:
                # Nobody reads yet.
                expect(error.errno == errno.ENXIO and time.monotonic() < end, f"not configured: {error}\n{self.log()}")
            self.expect_running()
            time.sleep(0.05)
        os.write(pipe, settings.encode())
        os.close(pipe)

    def expect_running(self) -> None:
        expect(self.inspect("{{.State.Running}}") == "true", f"the server has ended:\n{self.log()}")

    def inspect(self, what: str) -> str:
        return out("podman", "container", "inspect", "--format", what, self.container)

    def health(self) -> subprocess.CompletedProcess:
        """Runs the image's own health check in the container."""
        return run("podman", "exec", self.container, *self.command[1:])

    def wait_until_healthy(self) -> None:
        end = time.monotonic() + PATIENCE
        while (found := self.health()).returncode != 0:
            self.expect_running()
            expect(time.monotonic() < end, f"never got healthy: {found.stderr}\n{self.log()}")
            time.sleep(0.2)
        expect(found.stdout == "SERVING\n", f"a healthy server says {found.stdout!r}")

    def client(self, *arguments) -> list[str]:
        """The command that runs `pcqa` outside of the server's container, in one of its own."""
        samples = (TOP / ".samples").resolve()
        return ["podman", "run", "--rm", "--network=host", *STRICT, "--entrypoint=/usr/local/bin/pcqa",
                f"--volume={samples}:/samples:ro", f"--volume={self.key}:/key:ro", self.tag,
                f"--server=http://127.0.0.1:{self.port}", "--key-file=/key", *arguments]

    def waiting_frames(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            found = re.search(r"^pcqa_queue_frames (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def log(self) -> str:
        done = run("podman", "logs", self.container)
        return done.stdout + done.stderr

    def remove(self) -> None:
        done = run("podman", "rm", "--force", "--time=0", self.container)
        if done.returncode != 0:
            say(f"container {self.container[:12]} is still there: {done.stderr}")


def new_key(tag: str) -> tuple[str, str]:
    text = out("podman", "run", "--rm", "--network=none", *STRICT, tag, "key", "--name=test")
    key, line = [line for line in text.splitlines() if not line.startswith("#")]
    return key, line + "\n"


def refuses_to_be_open(tag: str) -> None:
    done = run("podman", "run", "--rm", "--network=none", *STRICT, tag)
    expect(done.returncode == 64 and "allow_unprotected" in done.stderr,
           f"without keys on every address: exit status {done.returncode}: {done.stderr}")


def is_confined(server: Server) -> None:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{server.pid}/status").read_text().splitlines())
    expect(status["Uid"].split() == ["65532"] * 4, f"runs as {status['Uid']}")
    expect(status["Gid"].split() == ["65532"] * 4, f"runs in group {status['Gid']}")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        expect(int(status[name], 16) == 0, f"{name} is {status[name]}")
    expect(status["NoNewPrivs"].strip() == "1", "new privileges can be had")
    root = next(line.split() for line in Path(f"/proc/{server.pid}/mounts").read_text().splitlines()
                if line.split()[1] == "/")
    expect("ro" in root[3].split(","), f"the root filesystem is writable: {root}")


def scores(server: Server) -> None:
    done = run(*server.client("score", "/samples/coffee.png", "/samples/bikes.mp4", "--prompt=a cup of espresso",
                              "--output=jsonl"))
    expect(done.returncode == 0, f"scoring failed: {done.stderr}\n{server.log()}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expect([row["frames"] for row in rows] == [1, 16], f"an image and a clip have {rows}")
    for row in rows:
        say(f"{row['path']}: MOS {row['mos']:.3f} of {row['frames']} frames")


def needs_a_key(server: Server) -> None:
    command = [part for part in server.client("info") if part != "--key-file=/key"]
    done = run(*command)
    expect(done.returncode == 3 and "UNAUTHENTICATED" in done.stderr, f"without a key: {done.stderr}")


def drains(server: Server) -> None:
    """What is in progress when SIGTERM comes is finished, health says so, and the exit status is 0."""
    clips = ["/samples/bikes.mp4", "/samples/bigbuckbunny.mp4"] * 4
    command = server.client("score", *clips, "--prompt=cyclists", "--concurrency=8", "--retries=0", "--output=jsonl")
    client = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + PATIENCE
    while server.waiting_frames() == 0:
        expect(client.poll() is None and time.monotonic() < end, "nothing was ever in line")
        time.sleep(0.01)
    os.kill(server.pid, signal.SIGTERM)
    found = server.health()
    expect(found.returncode == 1 and "NOT_SERVING" in found.stderr,
           f"health of a draining server: exit status {found.returncode}: {found.stderr}")
    stdout, stderr = client.communicate(timeout=2 * PATIENCE)
    answered = len([line for line in stdout.splitlines() if "mos" in json.loads(line)])
    expect(client.returncode == 0 and answered == len(clips), f"{answered} of {len(clips)} scored: {stderr}")
    status = out("podman", "wait", server.container)
    expect(status == "0", f"exit status {status} after SIGTERM\n{server.log()}")
    say(f"SIGTERM came while frames were in line, and all {answered} clips are scored")


# All of it


def try_running(tag: str) -> None:
    check(refuses_to_be_open, tag)
    work = Path(tempfile.mkdtemp())
    work.chmod(0o755)
    server = Server(tag, work)
    try:
        before = server.health()
        expect(before.returncode == 1, f"health before the start: exit status {before.returncode}: {before.stdout}")
        server.configure()
        server.wait_until_healthy()
        say("ok: the health check is 1 before the start and 0 when ready")
        for what in (is_confined, needs_a_key, scores, drains):
            check(what, server)
    finally:
        server.remove()
        shutil.rmtree(work)


passed = 0


def check(what, *arguments) -> None:
    global passed
    what(*arguments)
    passed += 1
    say(f"ok: {what.__name__.replace('_', ' ')}")


def lint() -> None:
    done = run(TOP / ".image-tools/bin/hadolint", TOP / "Dockerfile")
    expect(done.returncode == 0, done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--once", action="store_true", help="do not build a second time to compare")
    args = parser.parse_args()
    os.environ["CONTAINERS_CONF"] = str(HERE / "containers.conf")
    first, second = f"{IMAGE}:{args.variant}", f"{IMAGE}:{args.variant}-again"
    try:
        check(lint)
        subprocess.run([HERE / "bases.sh"], check=True)
        build(first, args.variant, cached=True)
        config = json.loads(out("podman", "image", "inspect", first))[0]
        with mounted(first) as root:
            for what in contents.CHECKS:
                check(what, root, config)
        try_running(first)
        if not args.once:
            build(second, args.variant, cached=False)
            check(same_layers, first, second)
    except (Failed, contents.Wrong) as problem:
        say(f"FAILED: {problem}")
        sys.exit(f"{passed} passed, 1 failed")
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
