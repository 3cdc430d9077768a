"""Scores images for a prompt: one on a call of its own, several on one stream.

    python score.py [--tls-ca FILE] TARGET PROMPT IMAGE...

TARGET is 127.0.0.1:50051, or dns:///NAME:50051 for every address of a name. An API key is read from PCQA_API_KEY.
Needs requirements.txt, and the stubs that grpc_tools.protoc makes of proto/pcqa/v1/scoring.proto.
"""

import argparse
import os
import queue
import sys
import threading
import time
import uuid
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from pcqa.v1 import scoring_pb2 as pb
from pcqa.v1 import scoring_pb2_grpc as rpc

SERVICE_CONFIG = Path(__file__).resolve().parents[1] / "service-config.json"
ATTEMPTS = 5


def connect(target, ca=None):
    """A channel: one for the life of the program, for all its threads."""
    options = [
        ("grpc.service_config", SERVICE_CONFIG.read_text()),
        # What is larger is not retried, and the default of 256 KiB is less than most images.
        ("grpc.per_rpc_retry_buffer_size", 64 << 20),
    ]
    if ca is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options)


def metadata():
    """Who calls, and a name for the call that the server's log and its answer repeat."""
    key = os.environ.get("PCQA_API_KEY")
    return [("x-request-id", str(uuid.uuid4()))] + ([("authorization", f"Bearer {key}")] if key else [])


def retry_delay(error):
    """Seconds after which the server will have room again; None for what fails however often it is sent."""
    status, info = rpc_status.from_call(error), RetryInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


def score_one(service, prompt, file):
    """The score of one image. The service config has its deadline and its retries; RESOURCE_EXHAUSTED is waited for."""
    request = pb.ScoreImageRequest(prompt=prompt, image=Path(file).read_bytes())
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return service.ScoreImage(request, metadata=metadata()).score
        except grpc.RpcError as error:
            delay = retry_delay(error)
            if delay is None or attempt == ATTEMPTS:
                raise
            time.sleep(delay)


def score_many(service, prompt, files):
    """(file, Score or ItemError) of many images, as they finish.

    A stream that has begun ends with its replica: what is unanswered then goes on the next one, until ATTEMPTS of them
    in a row have brought nothing.
    """
    unanswered, attempt = dict(enumerate(files)), 1
    while unanswered:
        try:
            for index, outcome in one_stream(service, prompt, dict(unanswered)):
                yield unanswered.pop(index), outcome
                attempt = 1
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == ATTEMPTS:
                raise
            time.sleep(min(0.1 * 2**attempt, 2.0))
            attempt += 1


def one_stream(service, prompt, files):
    """(index, Score or ItemError) of `files`. Each is read when the server has room for it and no sooner."""
    to_send, unreadable = queue.Queue(), []
    for index in files:
        to_send.put(index)

    def requests():
        while (index := to_send.get()) is not None:
            try:
                image = Path(files[index]).read_bytes()
            except OSError as error:
                unreadable.append(error)  # grpcio would say no more than that the iterator failed
                raise
            yield pb.ScoreStreamRequest(item_id=str(index), prompt=prompt, image=image, priority=pb.PRIORITY_BULK)

    left = len(files)
    try:
        for answer in service.ScoreStream(requests(), metadata=metadata()):
            index = int(answer.item_id)
            if answer.error.HasField("retry_delay"):
                delay = answer.error.retry_delay.ToTimedelta().total_seconds()
                threading.Timer(delay, to_send.put, [index]).start()
                continue
            left -= 1
            if left == 0:
                to_send.put(None)
            yield index, getattr(answer, answer.WhichOneof("outcome"))
    except grpc.RpcError:
        if unreadable:
            raise unreadable[0] from None
        raise
    finally:
        to_send.put(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls-ca", metavar="FILE", help="authorities, one of which signed the server's certificate")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    arguments = parser.parse_args()
    prompt, images = arguments.prompt, arguments.images
    failed = 0
    with connect(arguments.target, arguments.tls_ca) as channel:
        service = rpc.ScoringServiceStub(channel)
        try:
            if len(images) == 1:
                outcomes = [(images[0], score_one(service, prompt, images[0]))]
            else:
                outcomes = score_many(service, prompt, images)
            for file, outcome in outcomes:
                if isinstance(outcome, pb.Score):
                    print(f"{outcome.mos:.4f} {file}", flush=True)
                else:
                    failed += 1
                    print(f"{file}: {outcome.message}", file=sys.stderr)
        except grpc.RpcError as error:
            failed += 1
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        except OSError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
