"""Writes events.bin: two records of TensorBoard 2.21's own writer, for src/train/events.rs.

    python tests/golden/train/make_events.py
"""

import pathlib

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def main():
    values = [Summary.Value(tag="loss/train", simple_value=0.25), Summary.Value(tag="srcc", simple_value=0.0)]
    events = [
        Event(wall_time=1.5, file_version="brain.Event:2"),
        Event(wall_time=2.5, step=300, summary=Summary(value=values)),
    ]
    with pathlib.Path(__file__).with_name("events.bin").open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()


main()
