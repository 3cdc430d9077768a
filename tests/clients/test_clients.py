"""Runs the clients of deploy/clients, and every command and snippet that its README and the README's chapter "Clients"
show, against servers of their own.

    python tests/clients/test_clients.py target/debug/pcqa-server

needs deploy/setup/setup.sh test demo clients.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grpcio"))

from network import Balancer, Names, certificates  # noqa: E402
from support import PATIENCE, PROMPT, ROOT, clean_environment, eventually, generate  # noqa: E402
from support import noise, png, run, serving  # noqa: E402

HERE = ROOT / "deploy/clients"
SERVICE_CONFIG = HERE / "service-config.json"
# As the README's snippets have them.
ADDRESS, CA, IMAGE, IMAGE_PROMPT = "127.0.0.1:50051", "ca.pem", ".samples/coffee.png", "a cup of espresso"
SECURE_ADDRESS = "localhost:50051"
# What the set-up has done already.
INSTALLING = re.compile(r"^(pip install|npm ci|apt-get).*\n", re.MULTILINE)
LOG = "--log=info,pcqa=debug"


def chapter(file, title=None):
    """The text of a Markdown file, or of one of its chapters."""
    text = (ROOT / file).read_text()
    return text if title is None else text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text, language):
    """The fenced blocks of `text` in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def calls(server, rpc="ScoreImage"):
    """How many calls a server has answered; it logs them at the level of LOG."""
    return sum("answered" in line and rpc in line for line in list(server.log))


class Tests:
    """Each method named test_… is one test."""

    def __init__(self, program, directory):
        self.program, self.directory = program, directory
        self.pb, self.rpc = generate(str(directory))
        certificates(directory)
        made = subprocess.run([program, "key", "--name", "ci"], check=True, capture_output=True, text=True).stdout
        self.key, self.key_line = [line for line in made.splitlines() if not line.startswith("#")]
        (directory / "keys").write_text(self.key_line + "\n")
        self.small = self.file("small.png", png(1))
        # 2.9 MB: over the 256 KiB and 1 MiB that clients can send again where nobody tells them otherwise.
        self.large = self.file("large.png", noise(1100, 880))
        # 480 kB each.
        self.many = [self.file(f"{index}.png", noise(400, 400)) for index in range(8)]
        self.example = self.load_example()

    def file(self, name, content):
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    @staticmethod
    def load_example():
        spec = importlib.util.spec_from_file_location("score", HERE / "python/score.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def secure(self):
        """Flags of a server that asks for a key, over TLS."""
        files = {"tls-certificate": "server.pem", "tls-key": "server.key", "keys-file": "keys"}
        return [f"--{flag}={self.directory / name}" for flag, name in files.items()]

    def environment(self, **more):
        search = f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}"
        return clean_environment() | {"PATH": search, "PYTHONPATH": str(self.directory), "GRPC_GO_RETRY": "on"} | more

    def clients(self):
        """The command that starts each client of deploy/clients. The README's commands have built that in Go."""
        return {
            "python": [sys.executable, str(HERE / "python/score.py")],
            "node": ["node", str(HERE / "node/score.js")],
            "go": [str(ROOT / "target/go/score")],
        }

    def score(self, client, *arguments, **variables):
        """Runs a client to its end: exit status, (MOS, file) of every line, standard error."""
        done = subprocess.run(
            [*client, *arguments], cwd=ROOT, env=self.environment(**variables), capture_output=True, text=True,
            timeout=PATIENCE,
        )
        lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
        return done.returncode, [(float(mos), file) for mos, file in lines], done.stderr

    def mos(self, server, prompt, file):
        """What the stubs say."""
        with grpc.insecure_channel(server.address) as channel:
            request = self.pb.ScoreImageRequest(prompt=prompt, image=(ROOT / file).read_bytes())
            return self.rpc.ScoringServiceStub(channel).ScoreImage(request).score.mos

    @contextlib.contextmanager
    def two_servers(self, *flags):
        """Two replicas at two addresses of one name, and the target that finds them."""
        with serving(self.program, LOG, *flags) as one:
            port = one.address.rsplit(":", 1)[1]
            with serving(self.program, LOG, *flags, f"--listen=127.0.0.2:{port}") as other:
                yield one, other, Names("127.0.0.1", "127.0.0.2").target(port)

    def test_1_the_commands_and_snippets_of_the_readmes(self):
        ours, theirs = chapter("README.md", "Clients"), chapter("deploy/clients/README.md")
        commands = [(language, block) for text in (ours, theirs) for language in ("sh", "python") for block in
                    blocks(text, language) if language == "sh" or text is ours]
        assert len(commands) >= 6, len(commands)
        with serving(self.program) as plain, serving(self.program, *self.secure()) as secure:
            expected = self.mos(plain, IMAGE_PROMPT, IMAGE)
            scored = 0
            for language, block in commands:
                block = INSTALLING.sub("", block)
                block = block.replace(SECURE_ADDRESS, f"localhost:{secure.address.rsplit(':', 1)[1]}")
                block = block.replace(ADDRESS, plain.address).replace(CA, str(self.directory / CA))
                shell = ["bash", "-euo", "pipefail", "-c", block]
                done = subprocess.run(
                    shell if language == "sh" else [sys.executable, "-c", block],
                    cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
                    env=self.environment(PYTHONPATH=str(ROOT / "target/python"), PCQA_API_KEY=self.key),
                )
                assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
                if IMAGE_PROMPT in block:
                    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", done.stdout)]
                    assert any(abs(number - expected) < 1e-3 for number in numbers), f"{block}\n{done.stdout}"
                    scored += 1
            assert scored >= 5, f"{scored} of {len(commands)} have scored"

    def test_1_what_the_readme_quotes_is_in_the_files(self):
        text = chapter("deploy/clients/README.md")
        quoted = {"python": "python/score.py", "js": "node/score.js", "go": "go/score.go", "json": "service-config.json"}
        for language, file in quoted.items():
            found = blocks(text, language)
            assert found, f"nothing of {file} is quoted"
            for block in found:
                assert block in (HERE / file).read_text(), f"not in {file}:\n{block}"

    def test_the_service_config_is_the_retry_policy_of_the_readme(self):
        life = " ".join(chapter("README.md", "Operations").split())
        assert "`UNAVAILABLE`" in life and "up to 5 attempts in all with 0.2 s, 0.4 s, 0.8 s … up to 2 s" in life
        policy = {
            "maxAttempts": 5,
            "initialBackoff": "0.2s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        methods = {}
        for config in json.loads(SERVICE_CONFIG.read_text())["methodConfig"]:
            assert config["retryPolicy"] == policy, config
            methods |= {name["method"]: config.get("timeout") for name in config["name"]}
        rpcs = self.pb.DESCRIPTOR.services_by_name["ScoringService"].methods_by_name
        assert set(methods) == set(rpcs), methods
        assert methods["ScoreStream"] is None, "a stream lasts as long as its items"

    def test_the_deadline_is_the_one_of_the_service_config(self):
        copy = self.directory / "deploy/clients"
        shutil.copytree(HERE, copy, symlinks=True)
        (self.directory / "proto").symlink_to(ROOT / "proto")
        config = copy / SERVICE_CONFIG.name
        config.write_text(config.read_text().replace('"timeout": "30s"', '"timeout": "0.001s"'))
        clients = {
            "python": [sys.executable, str(copy / "python/score.py")],
            "node": ["node", str(copy / "node/score.js")],
            "go": [*self.clients()["go"], f"-service-config={config}"],
        }
        with serving(self.program) as server:
            for name, client in clients.items():
                status, _, problems = self.score(client, server.address, PROMPT, self.large)
                assert status == 1 and problems.lower().startswith("deadline"), (name, problems)

    def test_one_and_many(self):
        broken = self.file("broken.png", b"no picture")
        with serving(self.program) as server:
            small = self.mos(server, PROMPT, self.small)
            for name, client in self.clients().items():
                status, scores, problems = self.score(client, server.address, PROMPT, self.small)
                assert status == 0 and len(scores) == 1 and abs(scores[0][0] - small) < 1e-3, (name, scores, problems)
                status, scores, problems = self.score(client, server.address, PROMPT, *self.many, broken)
                assert status == 1 and sorted(file for _, file in scores) == sorted(self.many), (name, scores, problems)
                assert f"{broken}: image: " in problems, (name, problems)
                status, scores, problems = self.score(client, server.address, PROMPT, broken)
                assert status == 1 and not scores and problems.lower().startswith("invalid"), (name, problems)

    def test_key_and_tls(self):
        with serving(self.program, *self.secure()) as server:
            target, ca = f"localhost:{server.address.rsplit(':', 1)[1]}", str(self.directory / CA)
            for name, client in self.clients().items():
                call = [*client, self.flag(name, "tls-ca"), ca]
                status, scores, problems = self.score(call, target, PROMPT, self.small, PCQA_API_KEY=self.key)
                assert status == 0 and len(scores) == 1, (name, problems)
                status, scores, problems = self.score(call, target, PROMPT, *self.many, PCQA_API_KEY=self.key)
                assert status == 0 and len(scores) == len(self.many), (name, problems)
                for variables, images in [({}, [self.small]), ({"PCQA_API_KEY": "pcqa_wrong"}, self.many)]:
                    status, scores, problems = self.score(call, target, PROMPT, *images, **variables)
                    assert status == 1 and problems.lower().startswith("unauthenticated"), (name, problems)

    def test_the_server_repeats_the_request_s_id_in_answer_and_log(self):
        with serving(self.program, LOG) as server, self.example.connect(server.address) as channel:
            service = self.rpc.ScoringServiceStub(channel)
            for image in (png(1), b"no picture"):
                sent = self.example.metadata()
                ids = [value for name, value in sent if name == "x-request-id"]
                call = service.ScoreImage.future(self.pb.ScoreImageRequest(prompt=PROMPT, image=image), metadata=sent)
                eventually("answered", call.done)
                answered = [*call.initial_metadata(), *call.trailing_metadata()]
                assert [value for name, value in answered if name == "x-request-id"] == ids, answered
                eventually("logged", lambda: any("answered" in line and ids[0] in line for line in list(server.log)))

    def test_tls_is_of_a_version_that_is_still_good(self):
        with serving(self.program, *self.secure()) as server:
            port = int(server.address.rsplit(":", 1)[1])
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = ssl.create_default_context(cafile=self.directory / CA)
                context.set_alpn_protocols(["h2"])
                context.minimum_version = context.maximum_version = version
                with (
                    socket.create_connection(("127.0.0.1", port)) as plain,
                    context.wrap_socket(plain, server_hostname="localhost") as connection,
                ):
                    assert connection.selected_alpn_protocol() == "h2"
                    assert connection.version() == version.name.replace("_", "."), connection.version()

    @staticmethod
    def flag(name, flag):
        return f"-{flag}" if name == "go" else f"--{flag}"

    def test_what_is_shed_is_sent_again_when_the_server_says(self):
        # Slower than any client sends: the first is let in, and each of the others two seconds after the one before.
        limited, images = self.directory / "limited", self.many[:4]
        limited.write_text(f"{self.key_line} max_frames_per_second=0.5\n")
        for name, client in self.clients().items():
            metrics = free_port()
            with serving(self.program, f"--keys-file={limited}", f"--metrics-listen=127.0.0.1:{metrics}") as server:
                variables = {"PCQA_API_KEY": self.key}
                status, scores, problems = self.score(client, server.address, PROMPT, *images, **variables)
                assert status == 0 and sorted(file for _, file in scores) == images, (name, problems)
                page = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode()
                assert re.search(r'pcqa_key_limited_total\{key="ci",reason="rate"\} [1-9]', page), f"{name} was never refused"

    def test_the_end_of_a_replica_under_a_request_is_hidden(self):
        with serving(self.program) as survivor:
            for images in ([self.large], self.many):
                for name, client in self.clients().items():
                    # The second time there is nobody for a while.
                    for refused in (0, 1):
                        with serving(self.program) as replica:
                            self.survives(name, client, images, replica, survivor, refused)

    def survives(self, name, client, images, replica, survivor, refused):
        def fail():
            replica.process.kill()
            balancer.backend = survivor.address

        # In the middle of the upload, when it is certain that the first replica had the call.
        balancer = Balancer(replica.address, cut_after=2_000_000, then=fail, refused=refused)
        status, scores, problems = self.score(client, balancer.address, PROMPT, *images)
        assert status == 0 and sorted(file for _, file in scores) == sorted(images), (name, problems)
        assert replica.process.wait(PATIENCE) < 0 and balancer.connections >= 2 + refused, (name, balancer.connections)

    def test_it_is_not_hidden_without_retries_or_room_for_the_request(self):
        config = ("grpc.service_config", SERVICE_CONFIG.read_text())
        request = self.pb.ScoreImageRequest(prompt=PROMPT, image=Path(self.large).read_bytes())
        with serving(self.program) as server:
            for options in ([], [config]):
                balancer = Balancer(server.address, cut_after=2_000_000)
                with grpc.insecure_channel(balancer.address, options) as channel:
                    self.unavailable(self.rpc.ScoringServiceStub(channel), request)

    @staticmethod
    def unavailable(service, request):
        try:
            service.ScoreImage(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return
        raise AssertionError("the call should have failed")

    def test_a_restart_of_the_only_server_is_waited_for_where_the_call_says_so(self):
        request = self.pb.ScoreImageRequest(prompt=PROMPT, image=png(1))
        with serving(self.program) as old, self.example.connect(old.address) as channel:
            service = self.rpc.ScoringServiceStub(channel)
            service.ScoreImage(request)
            old.end()
            self.unavailable(service, request)
            waiting = service.ScoreImage.future(request, wait_for_ready=True, timeout=PATIENCE)
            with serving(self.program, f"--listen={old.address}"):
                assert waiting.result().score.frames_used == 1

    def test_calls_go_round_and_leave_a_server_that_drains(self):
        request = self.pb.ScoreImageRequest(prompt=PROMPT, image=png(1))
        with self.two_servers("--drain-wait-seconds=600") as (one, other, target):
            with self.example.connect(target) as channel:
                service = self.rpc.ScoringServiceStub(channel)

                def round_trips(count):
                    before = calls(one), calls(other)
                    for _ in range(count):
                        service.ScoreImage(request, timeout=PATIENCE)
                    eventually("logged", lambda: calls(one) + calls(other) >= sum(before) + count)
                    return calls(one) - before[0], calls(other) - before[1]

                eventually("both are called", lambda: min(round_trips(2)) > 0)
                assert round_trips(10) == (5, 5)
                one.process.send_signal(signal.SIGTERM)
                eventually("only the other is called", lambda: round_trips(6) == (0, 6))
                self.mos(one, PROMPT, self.small)

    def test_every_client_finds_the_servers_behind_a_name(self):
        with self.two_servers() as (one, other, target):
            # Without it grpc-js asks no name server but the system's.
            ask = {"GRPC_NODE_USE_ALTERNATIVE_RESOLVER": "true"}
            for name, client in self.clients().items():
                status, _, problems = self.score(client, target, PROMPT, self.small, **ask)
                assert status == 0, (name, problems)
            eventually("all are logged", lambda: calls(one) + calls(other) == 3)
            # At one of two addresses nobody answers.
            one.end()
            for name, client in self.clients().items():
                status, _, problems = self.score(client, target, PROMPT, self.small, **ask)
                assert status == 0, (name, problems)

    def test_files_are_read_when_there_is_room(self):
        images = [self.many[0]] * 500
        total = len(images) * os.path.getsize(self.many[0])
        for name, client in self.clients().items():
            with serving(self.program) as server:
                command = [*client, server.address, PROMPT, *images]
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                try:
                    process.stdout.readline()
                    # From now on the server takes nothing.
                    server.process.send_signal(signal.SIGSTOP)
                    read = self.bytes_read_in_the_end(process)
                    assert read < total / 2, f"{name}: read {read} of {total} bytes that nobody could take"
                finally:
                    process.kill()
                    process.wait()

    @staticmethod
    def bytes_read_in_the_end(process):
        """What a process has read, once it reads no more."""
        read = -1
        while True:
            facts = Path(f"/proc/{process.pid}/io").read_text()
            now = int(re.search(r"rchar: (\d+)", facts)[1])
            if now == read:
                return read
            read = now
            time.sleep(1)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        run(Tests(sys.argv[1], Path(directory)))


if __name__ == "__main__":
    main()
