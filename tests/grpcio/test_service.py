"""Scores through PyPI's grpcio, a client that is not ours.

    python tests/grpcio/test_service.py target/debug/pcqa-server

needs the packages of deploy/setup/tools.in and the ffmpeg command line. Starts the given server on a free port with the
bundle that is compiled in, and stops it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from support import PATIENCE, PROMPT, SERVICE, generate, png, run, serving

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]


def clip(directory, frames):
    """An H.264 clip."""
    path = os.path.join(directory, "clip.mp4")
    source = ["-f", "lavfi", "-i", "testsrc=size=128x96:rate=10", "-frames:v", str(frames)]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *source, "-c:v", "libx264", path], check=True)
    return Path(path).read_bytes()


def numbers(score):
    """What depends on nothing but prompt and media."""
    return score.mos, score.z, [(e.expert, e.raw, e.z) for e in score.experts], score.frames_used


def equal(one, other):
    """Whether two scores are of the same prompt and media: what shared their batches moves z by 1e-4 at most."""
    same = [e.expert for e in one.experts] == [e.expert for e in other.experts] and one.frames_used == other.frames_used
    pairs = [(one.z, other.z), *((a.z, b.z) for a, b in zip(one.experts, other.experts))]
    return same and all(abs(a - b) <= 1e-4 for a, b in pairs)


def refused(call, *arguments, **options):
    """The error that `call` ends with: code, message, and its typed details."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        found = rpc_status.from_call(error)
        details = {}
        for packed in found.details if found else []:
            for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                if packed.Is(kind.DESCRIPTOR):
                    details[kind.DESCRIPTOR.name] = unpacked = kind()
                    packed.Unpack(unpacked)
        return error.code(), error.details(), details
    raise AssertionError("was not refused")


class Tests:
    """Each method named test_… is one test."""

    def __init__(self, program, pb, stub_of, channel, process, directory):
        self.program, self.pb, self.stub_of, self.channel = program, pb, stub_of, channel
        self.stub, self.process, self.directory = stub_of(channel), process, directory

    def image(self, prompt, image):
        return self.stub.ScoreImage(self.pb.ScoreImageRequest(prompt=prompt, image=image)).score

    def test_image(self):
        first, again, other = self.image(PROMPT, png(1)), self.image(PROMPT, png(1)), self.image(PROMPT, png(2))
        assert numbers(first) == numbers(again)
        assert first.z != other.z
        assert first.frames_used == 1 and len(first.experts) >= 1
        assert abs(first.z - sum(e.z for e in first.experts) / len(first.experts)) < 1e-9
        assert first.timings.total.ToTimedelta().total_seconds() > 0

    def test_video(self):
        for frames, used in [(3, 3), (40, 16)]:
            request = self.pb.ScoreVideoRequest(prompt=PROMPT, video=clip(self.directory, frames))
            assert self.stub.ScoreVideo(request).score.frames_used == used

    def test_stream(self):
        request = self.pb.ScoreStreamRequest
        items = [
            request(item_id="image", prompt=PROMPT, image=png(1)),
            request(item_id="bad", prompt=PROMPT, image=b"words"),
            request(item_id="clip", prompt=PROMPT, video=clip(self.directory, 3)),
            request(item_id="none", prompt=PROMPT),
        ]
        answers = {answer.item_id: answer for answer in self.stub.ScoreStream(iter(items))}
        assert equal(answers["image"].score, self.image(PROMPT, png(1)))
        assert answers["clip"].score.frames_used == 3
        assert (answers["bad"].error.code, answers["bad"].error.field) == (3, "image")
        assert (answers["none"].error.code, answers["none"].error.field) == (3, "media")

    def test_rank(self):
        images = [png(seed) for seed in range(4)]
        ranked = self.stub.RankImages(self.pb.RankImagesRequest(prompt=PROMPT, images=images)).ranked
        assert sorted(image.index for image in ranked) == [0, 1, 2, 3]
        scores = [image.score.mos for image in ranked]
        assert scores == sorted(scores, reverse=True)
        for image in ranked:
            assert equal(image.score, self.image(PROMPT, images[image.index]))

    def test_model(self):
        model = self.stub.GetModel(self.pb.GetModelRequest()).model
        assert model.name and len(model.digest) == 64 and model.limits.max_frames_used == 16
        tracks = {expert.track for expert in model.experts}
        assert tracks == {self.pb.TRACK_IMAGE, self.pb.TRACK_VIDEO}

    def test_bad_input_names_its_field(self):
        image, video, rank = self.pb.ScoreImageRequest, self.pb.ScoreVideoRequest, self.pb.RankImagesRequest
        cases = [
            (self.stub.ScoreImage, image(prompt=PROMPT), ["image"]),
            (self.stub.ScoreImage, image(image=png(1)), ["prompt"]),
            (self.stub.ScoreImage, image(prompt=PROMPT, image=png(1)[:60]), ["image"]),
            (self.stub.ScoreImage, image(prompt="p" * 1_000_000, image=png(1)), ["prompt"]),
            (self.stub.ScoreImage, image(prompt=PROMPT, image=clip(self.directory, 2)), ["image"]),
            (self.stub.ScoreVideo, video(prompt=PROMPT, video=png(1)), ["video"]),
            (self.stub.ScoreVideo, video(prompt=PROMPT, video=b"#EXTM3U\nfile:///etc/passwd\n"), ["video"]),
            (self.stub.RankImages, rank(prompt=PROMPT), ["images"]),
            (self.stub.RankImages, rank(prompt=PROMPT, images=[b"", png(1), b"?"]), ["images[0]", "images[2]"]),
        ]
        for call, request, fields in cases:
            code, message, details = refused(call, request)
            assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, message)
            assert [v.field for v in details["BadRequest"].field_violations] == fields, (fields, message)
            assert message.startswith(fields[0] + ": "), message

    def test_every_image_of_many_is_named(self):
        images = [b"these are only words"] * 32
        code, message, details = refused(self.stub.RankImages, self.pb.RankImagesRequest(prompt=PROMPT, images=images))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, message)
        assert message.startswith("images[0]: ") and message.endswith("and 29 more"), message
        fields = [v.field for v in details["BadRequest"].field_violations]
        assert fields == [f"images[{index}]" for index in range(32)], fields

    def test_text_that_is_not_utf8(self):
        raw = self.channel.unary_unary(f"/{SERVICE}/ScoreImage")
        code, message, details = refused(raw, b"\x0a\x02\xff\xfe\x12\x01x")
        assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, message)
        assert [v.field for v in details["BadRequest"].field_violations] == ["prompt"]

    def test_message_over_the_limit(self):
        request = self.pb.ScoreImageRequest(prompt=PROMPT, image=bytes(64 << 20))
        code, message, _ = refused(self.stub.ScoreImage, request)
        assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, message)
        assert message.endswith(f"the limit is {64 << 20}"), message

    def test_deadline(self):
        # The server's own: the client waits without end.
        request = self.pb.ScoreImageRequest(prompt=PROMPT, image=png(1, 2000, 1000))
        with (
            serving(self.program, "--default-timeout-seconds=0.001") as server,
            grpc.insecure_channel(server.address, options=OPTIONS) as channel,
        ):
            code, message, _ = refused(self.stub_of(channel).ScoreImage, request, wait_for_ready=True)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, (code, message)
        # Whoever rings first says so: the call, or the line before the device.
        assert "deadline" in message, message

    def test_cancel(self):
        call = self.stub.ScoreImage.future(self.pb.ScoreImageRequest(prompt=PROMPT, image=png(1)))
        call.cancel()
        assert call.code() == grpc.StatusCode.CANCELLED
        self.image(PROMPT, png(1))

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ["", SERVICE]:
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        code, _, _ = refused(health.Check, health_pb2.HealthCheckRequest(service="another"))
        assert code == grpc.StatusCode.NOT_FOUND

    def test_reflection(self):
        database = ProtoReflectionDescriptorDatabase(self.channel)
        assert SERVICE in database.get_services()
        file = database.FindFileContainingSymbol(SERVICE)
        assert [service.name for service in file.service] == ["ScoringService"]

    def test_zz_end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=PATIENCE) == 0


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as directory, serving(sys.argv[1]) as server:
        pb, pb_grpc = generate(directory)
        with grpc.insecure_channel(server.address, options=OPTIONS) as channel:
            run(Tests(sys.argv[1], pb, pb_grpc.ScoringServiceStub, channel, server.process, directory))


if __name__ == "__main__":
    main()
