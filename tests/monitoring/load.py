"""Calls of every kind, so that every metric moves: good ones, and everything that may go wrong."""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grpcio"))
from test_service import OPTIONS, clip, png  # noqa: E402: another test's helpers

PATIENCE = 180
BURST = 48


class Load:
    """One server under load. `keys` are those that it lets in, by name; the one called limited may do little."""

    def __init__(self, address, certificate, keys, stubs, directory):
        self.pb, self.stub_of = stubs
        trusted = grpc.ssl_channel_credentials(certificate)
        # A name for each, so that gRPC does not let them share a connection.
        options = [[*OPTIONS, ("grpc.primary_user_agent", name)] for name in ("steady", "burst")]
        self.channels = [grpc.secure_channel(address, trusted, options=given) for given in options]
        self.steady, self.burst = (self.stub_of(channel) for channel in self.channels)
        self.keys = keys
        self.video = clip(directory, 8)
        self.images = [png(seed, 96, 64) for seed in range(BURST)]
        self.random = random.Random(1)

    def close(self):
        for channel in self.channels:
            channel.close()

    def metadata(self, key="nightly", source=None):
        return [
            ("authorization", f"Bearer {self.keys.get(key, key)}"),
            *([("x-pcqa-source", source)] if source else []),
        ]

    def image(self, prompt, image):
        return self.pb.ScoreImageRequest(prompt=prompt, image=image)

    def good(self):
        """One call of each rpc, by different sources; one of two prompts has been there before."""
        image, other = self.random.sample(self.images, 2)
        known, fresh = self.metadata(source="nightly"), self.metadata(source="a stranger")
        self.steady.ScoreImage(self.image("a lighthouse", image), metadata=known, timeout=PATIENCE)
        self.steady.ScoreImage(self.image(f"lighthouse {time.time()}", image), metadata=fresh, timeout=PATIENCE)
        video = self.pb.ScoreVideoRequest(prompt="a lighthouse", video=self.video)
        self.steady.ScoreVideo(video, metadata=self.metadata(), timeout=PATIENCE)
        ranked = self.pb.RankImagesRequest(prompt="a lighthouse", images=[image, other])
        self.steady.RankImages(ranked, metadata=known, timeout=PATIENCE)
        item = self.pb.ScoreStreamRequest
        items = [item(item_id="i", prompt="fog", image=image), item(item_id="v", prompt="fog", video=self.video)]
        list(self.steady.ScoreStream(iter(items), metadata=known, timeout=PATIENCE))
        self.steady.GetModel(self.pb.GetModelRequest(), metadata=known, timeout=PATIENCE)

    def bad(self):
        """Media that cannot be decoded, and callers that may not or not so much."""
        video = self.pb.ScoreVideoRequest
        cut = self.video[: len(self.video) // 2]
        for image in (b"words", self.images[0][:80]):
            failing(self.steady.ScoreImage, self.image("fog", image), self.metadata())
        failing(self.steady.ScoreVideo, video(prompt="fog", video=cut), self.metadata())
        model = self.pb.GetModelRequest()
        failing(self.steady.GetModel, model, [])
        failing(self.steady.GetModel, model, [("authorization", "Basic word")])
        failing(self.steady.GetModel, model, self.metadata(key="pcqa_wrong"))
        for _ in range(4):
            image = self.image("fog", self.images[0])
            failing(self.steady.ScoreImage, image, self.metadata(key="limited"), succeeds=True)

    def flood(self):
        """So many bytes at once that receiving them takes a while. They are no image."""
        self.crowd(PATIENCE, images=[bytes(8 << 20)] * 16)

    def crowd(self, timeout, leave_after=None, images=()):
        """More images at once than there are places, with little time; they leave after `leave_after` seconds."""
        calls = [
            self.burst.ScoreImage.future(self.image("fog", image), metadata=self.metadata(), timeout=timeout)
            for image in images or self.images
        ]
        if leave_after is not None:
            time.sleep(leave_after)
            for call in calls:
                call.cancel()
        wait(calls)

    def overtake(self):
        """Bulk work with just enough time, and then a crowd that goes before it: it expires in line."""
        begin = time.monotonic()
        self.crowd(PATIENCE)
        timeout = (time.monotonic() - begin) / 2
        requests = [self.image("fog", image) for image in self.images[:8]]
        for request in requests:
            request.priority = self.pb.PRIORITY_BULK
        calls = [self.steady.ScoreImage.future(one, metadata=self.metadata(), timeout=timeout) for one in requests]
        self.crowd(PATIENCE)
        wait(calls)

    def crash_decoders(self, server, times):
        """Kills decoders, and sends a video each time, so that they are replaced."""
        for _ in range(times):
            for process in decoders(server):
                os.kill(process, signal.SIGKILL)
            video = self.pb.ScoreVideoRequest(prompt="fog", video=self.video)
            failing(self.steady.ScoreVideo, video, self.metadata(), succeeds=True)

    @contextlib.contextmanager
    def going_on(self):
        """Good calls without end while the block runs. What fails in them fails here."""
        ends, errors = threading.Event(), []

        def calls():
            while not ends.is_set():
                try:
                    self.good()
                except grpc.RpcError as error:
                    # The crowd may have taken the last place.
                    if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                        errors.append(error)

        thread = threading.Thread(target=calls)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()
        assert not errors, f"a good call failed: {errors[0]}"


def wait(calls):
    """Waits for calls, however they end."""
    for call in calls:
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            call.result(timeout=PATIENCE)


def failing(call, request, metadata, succeeds=False):
    """Makes a call that fails, or one that may."""
    try:
        call(request, metadata=metadata, timeout=PATIENCE)
    except grpc.RpcError:
        return
    assert succeeds, f"was taken: {type(request).__name__}"


def decoders(server):
    """The decoder processes of a server."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if int(fields["PPid"]) == server and fields["Name"].startswith("pcqa-decoder"):
                yield int(fields["Pid"])
