"""What stands between clients and servers, for tests: names, a balancer that can break, certificates."""

import socket
import struct
import subprocess
import threading


class Names:
    """A name server on loopback, as of a headless Service: every name has the same addresses."""

    def __init__(self, *addresses):
        self._addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def target(self, port):
        """The target of a channel that asks this server."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/pcqa-headless.test:{port}"

    def _serve(self):
        while True:
            question, asker = self._socket.recvfrom(4096)
            self._socket.sendto(self._answer(question), asker)

    def _answer(self, question):
        end = question.index(b"\0", 12) + 5
        (kind,) = struct.unpack(">H", question[end - 4 : end - 2])
        addresses = self._addresses if kind == 1 else ()
        # An answer from who should know, to one question; each address belongs to the question's name for a second.
        header = question[:2] + struct.pack(">HHHHH", 0x8580, 1, len(addresses), 0, 0)
        record = struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4)
        return header + question[12:end] + b"".join(record + socket.inet_aton(address) for address in addresses)


class Balancer:
    """Passes bytes to `backend` ("host:port"). Once `cut_after` bytes of a caller have come, all of its connections are
    cut and `then` is called: whoever connects meanwhile waits for it. Of those who come after it, the first `refused`
    are turned away."""

    def __init__(self, backend, cut_after=None, then=lambda: None, refused=0):
        self.backend, self.connections = backend, 0
        self._left, self._then, self._refused = cut_after, then, refused
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            caller, _ = self._listener.accept()
            threading.Thread(target=self._connection, args=[caller], daemon=True).start()

    def _connection(self, caller):
        with self._lock:
            self.connections += 1
            refused = self._left is None and self._refused > 0
            self._refused -= refused
            host, port = self.backend.split(":")
        if refused:
            caller.close()
            return
        try:
            server = socket.create_connection((host, int(port)))
        except OSError:
            caller.close()
            return
        threading.Thread(target=self._pass, args=[server, caller, lambda _: None], daemon=True).start()
        self._pass(caller, server, self._count)

    def _pass(self, source, sink, count):
        try:
            while data := source.recv(1 << 16):
                count(len(data))
                sink.sendall(data)
        except (OSError, ConnectionAbortedError):
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _count(self, many):
        with self._lock:
            if self._left is None:
                return
            self._left -= many
            if self._left > 0:
                return
            self._left = None
            self._then()
        raise ConnectionAbortedError


def certificates(directory):
    """ca.pem, and server.pem and server.key for localhost that it signed, in `directory`."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", "-days", "2")
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (directory / "names").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
