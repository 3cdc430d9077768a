"""A server's process, stubs, pictures and a list of tests, for clients in Python. What is tested may not enter."""

import contextlib
import importlib
import os
import queue
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "pcqa.v1.ScoringService"
PROMPT = "a lighthouse in the fog"
PATIENCE = 120


def generate(directory):
    """Makes the stubs of our proto files in `directory` and imports them."""
    proto = ROOT / "proto"
    arguments = ["protoc", f"-I{proto}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    well_known = Path(protoc.__file__).parent / "_proto"
    code = protoc.main([*arguments, f"-I{well_known}", str(proto / "pcqa/v1/scoring.proto")])
    assert code == 0, "protoc failed"
    sys.path.insert(0, directory)
    return importlib.import_module("pcqa.v1.scoring_pb2"), importlib.import_module("pcqa.v1.scoring_pb2_grpc")


def clean_environment():
    """This process's variables but for options of ours that happen to be set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PCQA_")}


class Server:
    """A server's process, its address and the lines of its log."""

    def __init__(self, program, flags):
        given = ["--listen=127.0.0.1:0", "--default-timeout-seconds=120", *flags]
        self.process = subprocess.Popen([program, *given], stderr=subprocess.PIPE, text=True, env=clean_environment())
        self.log, self._lines = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self.logged(" listening ").split("listen=")[1].strip()
        self.logged(" ready ")

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            self._lines.put(line)

    def logged(self, what):
        """The next line of the log that has `what` in it."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no {what!r} in the log:\n" + "".join(self.log)) from None
            if what in line:
                return line

    def end(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serving(program, *flags):
    """A server that is ready, on a free port unless `flags` say another."""
    server = Server(program, flags)
    try:
        yield server
    finally:
        server.end()


def eventually(what, condition):
    """Waits until `condition` holds."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < PATIENCE, f"never: {what}"
        time.sleep(0.02)


def png(seed, width=48, height=32):
    """A small RGB picture."""
    return png_of(
        width,
        height,
        lambda y: bytes((seed * 40 + x * 5 + y * 3 * c) % 256 for x in range(width) for c in range(3)),
    )


def noise(width, height):
    """An RGB picture that no compression makes smaller: 3 bytes per pixel."""
    return png_of(width, height, lambda _: os.urandom(3 * width))


def png_of(width, height, row):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row(y) for y in range(height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )


def run(tests):
    """Runs every method named test_… in the order of their names, and ends the process."""
    passed, failed = 0, 0
    for name in sorted(name for name in dir(tests) if name.startswith("test_")):
        begin = time.monotonic()
        try:
            getattr(tests, name)()
            passed += 1
            print(f"ok      {name} ({time.monotonic() - begin:.2f} s)", flush=True)
        except Exception as error:  # noqa: BLE001: a test may fail in any way
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
