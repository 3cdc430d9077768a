#!/usr/bin/env python3
"""Cuts the CPU slice of libtorch (headers, five libraries, their licences, 504 MB) out of downloaded wheels.

usage: libtorch.py WHEEL_DIR OUT_DIR

PyPI's torch wheel is the CUDA build: libtorch_cpu.so from it needs libcudart and libcupti to load, and nothing else
of CUDA. CUDA's own headers come along: src/native/graphs.cpp needs them, and no CUDA toolkit. OUT_DIR appears whole or not at all: it is written beside itself and renamed.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

VERSION = "2.11.0"
CUDA_HEADERS = "nvidia/cu13/include/"
LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}


def licence_of(path: Path) -> bool:
    """Whether a file of a wheel is the licence of its libraries."""
    named = path.name.lower().startswith(("license", "notice"))
    return path.parts[0].endswith(".dist-info") and (named or "licenses" in path.parts[:-1]) or (
        named and path.parts[0] == "nvidia"
    )


def extract(wheel: Path, out: Path, libraries: set[str], headers: bool) -> set[str]:
    """Writes the wheel's share of the slice below `out`; returns the names of the libraries found."""
    found = set()
    distribution = wheel.name.split("-")[0].replace("_", "-")
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = Path(info.filename)
            if info.is_dir():
                continue
            if path.name in libraries:
                target = out / "lib" / path.name
                found.add(path.name)
            elif headers and path.is_relative_to("torch/include"):
                target = out / "include" / path.relative_to("torch/include")
            elif headers and path.is_relative_to(CUDA_HEADERS) and "cupti" not in wheel.name:
                target = out / "include" / path.relative_to(CUDA_HEADERS)
            elif licence_of(path):
                target = out / "licences" / distribution / path.name
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return found


def cut(wheels: Path, work: Path, libraries: set[str], headers: bool) -> None:
    """Writes the slice of all wheels to `work`, and ends the process when one of the libraries is in none."""
    shutil.rmtree(work, ignore_errors=True)
    found = set()
    for wheel in sorted(wheels.glob("*.whl")):
        found |= extract(wheel, work, libraries, headers)
    if found != libraries:
        sys.exit(f"{Path(sys.argv[0]).name}: {wheels} lacks {', '.join(sorted(libraries - found))}")


def keep(work: Path, out: Path) -> None:
    """Gives the finished slice its name, unless somebody else was faster."""
    if not out.exists():
        work.rename(out)
    shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    work = out.with_name(f"{out.name}.part{os.getpid()}")
    cut(wheels, work, LIBRARIES, headers=True)
    (work / "build-version").write_text(VERSION + "\n")
    (work / "lib" / "libtorch.so").symlink_to("libtorch_cpu.so")
    keep(work, out)


if __name__ == "__main__":
    main()
