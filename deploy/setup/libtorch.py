#!/usr/bin/env python3
"""Cuts the CPU slice of libtorch (headers and five libraries, 499 MB) out of downloaded wheels.

usage: libtorch.py WHEEL_DIR OUT_DIR

PyPI's torch wheel is the CUDA build: libtorch_cpu.so from it needs libcudart and libcupti to load, and nothing else
of CUDA. OUT_DIR appears whole or not at all: it is written beside itself and renamed.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

VERSION = "2.11.0"
LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}


def extract(wheel: Path, out: Path) -> set[str]:
    """Writes the wheel's share of the slice below `out`; returns the names of the libraries found."""
    found = set()
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = Path(info.filename)
            if path.name in LIBRARIES:
                target = out / "lib" / path.name
                found.add(path.name)
            elif info.filename.startswith("torch/include/") and not info.is_dir():
                target = out / "include" / path.relative_to("torch/include")
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return found


def main() -> None:
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    work = out.with_name(f"{out.name}.part{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    found = set()
    for wheel in sorted(wheels.glob("*.whl")):
        found |= extract(wheel, work)
    if found != LIBRARIES:
        sys.exit(f"libtorch.py: {wheels} lacks {', '.join(sorted(LIBRARIES - found))}")
    (work / "build-version").write_text(VERSION + "\n")
    (work / "lib" / "libtorch.so").symlink_to("libtorch_cpu.so")
    if not out.exists():
        work.rename(out)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
