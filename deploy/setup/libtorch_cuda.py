#!/usr/bin/env python3
"""Cuts what a GPU needs beside the CPU slice of libtorch (libraries and licences, 2.9 GB) out of downloaded wheels.

usage: libtorch_cuda.py WHEEL_DIR OUT_DIR

The libraries find each other in one directory: put them beside those of the CPU slice. libcuda.so.1 is the driver's and
comes from the machine. Left out is what only clusters (transports of nvshmem and cufile) or Python need.
"""

import os
import sys
from pathlib import Path

import libtorch

LIBRARIES = {
    # torch
    "libtorch_cuda.so",
    "libtorch_cuda_linalg.so",
    "libtorch_nvshmem.so",
    "libc10_cuda.so",
    "libcaffe2_nvrtc.so",
    # what these are linked to
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusolver.so.12",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvJitLink.so.13",
    "libnvrtc.so.13",
    "libnvshmem_host.so.3",
    # what those open by name
    "libcudnn_adv.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_engines_precompiled.so.9",
    "libcudnn_engines_runtime_compiled.so.9",
    "libcudnn_graph.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn_ops.so.9",
    "libnvrtc-builtins.so.13.0",
}


def main() -> None:
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    work = out.with_name(f"{out.name}.part{os.getpid()}")
    libtorch.cut(wheels, work, LIBRARIES, headers=False)
    libtorch.keep(work, out)


if __name__ == "__main__":
    main()
