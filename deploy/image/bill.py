#!/usr/bin/env python3
"""Writes the image's bill of materials (CycloneDX 1.6), its list of licences and their texts.

Run by the Dockerfile in the crate's root, after the build. What is listed is what is shipped: the crates that cargo
links into the programs, Rust's standard library, the packages that rootfs.sh took files of, the wheels that libtorch
was cut from, and data that is compiled in. Crates that only the build ran have the scope `excluded`. A component
without a licence text ends the build.

OUT gets sbom.cdx.json, licences.tsv (component, licence, folder of its texts) and licences/.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

TARGET = "x86_64-unknown-linux-gnu"
# Where the image has OUT.
HOME = "/usr/share/doc/pcqa"
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright|patents)", re.IGNORECASE)
# A crate without a licence text has that of another one by the same authors. Others share their repository with one.
SISTERS = {"ffmpeg-sys-next": "ffmpeg-next"}
# MIT, by whom: of crates that carry a link in the place of their licence, and of data.
HOLDERS = dict.fromkeys(["plotters", "plotters-backend", "plotters-svg"], "2019 Hao Hou <haohou302@gmail.com>")
HOLDERS["clip-vocabulary"] = "2021 OpenAI"
# Compiled into the programs beside crates: name, version, licence.
DATA = [("clip-vocabulary", "2021", "MIT"), ("ftfy-tables", "6.3.1", "Apache-2.0")]
# Less is no text of a licence.
SHORTEST = 100


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def component(name: str, version: str, purl: str, digest: str | None = None, **more) -> dict:
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl} | more
    if digest:
        found["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return found


def expression(text: str) -> list:
    """Cargo's older way to say OR, in SPDX's."""
    return [{"expression": re.sub(r"\s*/\s*", " OR ", text)}]


class Licences:
    """The folder of texts and the list of who has which."""

    def __init__(self, out: Path):
        self.out = out / "licences"
        self.rows = []

    def add(self, purl: str, licence: str, folder: str, files: list[Path]) -> None:
        """`files` are the texts of a component. Without any it has Apache's, which names nobody, or is MIT of somebody
        who is known here."""
        target = self.out / folder
        target.mkdir(parents=True)
        for file in sorted(files):
            shutil.copyfile(file, target / file.name)
        name = re.split("[/@]", purl)[1]
        if not files and "Apache-2.0" in licence:
            shutil.copyfile("LICENSE", target / "LICENSE-APACHE")
        elif not files and name in HOLDERS:
            text = Path(__file__).with_name("mit.txt").read_text().replace("{holder}", HOLDERS[name])
            (target / "LICENSE").write_text(text)
        elif not files:
            sys.exit(f"bill.py: {purl} comes without a licence text")
        self.list(purl, licence, f"{HOME}/licences/{folder}")

    def list(self, purl: str, licence: str, folder: str) -> None:
        self.rows.append(f"{purl}\t{licence}\t{folder}\n")


def texts_beside(manifest: Path) -> list[Path]:
    """Licence files of a crate, in its root or a folder for them."""
    places = [manifest.parent, *(manifest.parent / name for name in ("LICENSES", "licenses", "LICENSE"))]
    files = (file for place in places if place.is_dir() for file in place.iterdir())
    return sorted({file.name: file for file in files if file.is_file() and is_text(file)}.values())


def is_text(file: Path) -> bool:
    inside = file.parent.name.upper() in ("LICENSES", "LICENSE")
    named = LICENCE_FILE.match(file.name) is not None and file.suffix != ".rs"
    return (inside or named) and file.stat().st_size > SHORTEST


def repository(package: dict) -> str:
    """Its home without what names a folder in it."""
    return "/".join((package["repository"] or package["name"]).removesuffix(".git").split("/")[:5])


def tree(edges: str) -> set[tuple[str, str]]:
    """Names and versions of the crates along these edges, with the features that are on."""
    lines = run("cargo", "tree", "--locked", "--offline", "--edges", edges, "--target", TARGET, "--prefix", "none",
                "--format", "{p}").splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in (line.split() for line in lines if line)}


def crates(licences: Licences) -> tuple[list[dict], list[dict]]:
    """Components and their dependencies."""
    metadata = json.loads(run("cargo", "metadata", "--locked", "--offline", "--format-version", "1",
                              "--filter-platform", TARGET))
    packages = {(package["name"], package["version"]): package for package in metadata["packages"]}
    root = next(package for package in metadata["packages"] if package["id"] == metadata["resolve"]["root"])
    digests = {(entry["name"], entry["version"]): entry.get("checksum")
               for entry in tomllib.loads(Path("Cargo.lock").read_text())["package"]}
    linked, ran = tree("normal,no-proc-macro"), tree("normal,build")
    purls = {package["id"]: f"pkg:cargo/{package['name']}@{package['version']}" for package in packages.values()}
    components = []
    for key in sorted((linked | ran) - {(root["name"], root["version"])}):
        package = packages[key]
        purl = purls[package["id"]]
        licence = package["license"] or "LicenseRef-file"
        components.append(component(*key, purl, digests[key], scope="required" if key in linked else "excluded",
                                    licenses=expression(licence)))
        if key in linked:
            files = texts_beside(Path(package["manifest_path"])) or texts_of_sister(package, packages.values())
            licences.add(purl, licence, f"cargo/{'-'.join(key)}", files)
    chosen = {entry["purl"] for entry in components} | {purls[root["id"]]}
    edges = []
    for node in metadata["resolve"]["nodes"]:
        if purls[node["id"]] in chosen:
            to = sorted({purls[other["pkg"]] for other in node["deps"]} & chosen)
            edges.append({"ref": purls[node["id"]], "dependsOn": to})
    return components, sorted(edges, key=lambda edge: edge["ref"])


def texts_of_sister(package: dict, packages) -> list[Path]:
    for other in sorted(packages, key=lambda other: (other["name"], other["version"])):
        related = other["name"] == SISTERS.get(package["name"]) or repository(other) == repository(package)
        if related and (files := texts_beside(Path(other["manifest_path"]))):
            return files
    return []


def standard_library(licences: Licences) -> dict:
    version = run("rustc", "--version").split()[1]
    purl, licence = f"pkg:generic/rust-std@{version}", "MIT OR Apache-2.0"
    doc = Path(run("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    licences.add(purl, licence, "rust-std", [doc / "COPYRIGHT-library.html", *(doc / "licenses").iterdir()])
    return component("rust-std", version, purl, licenses=expression(licence))


def debian(packages: Path, licences: Licences) -> list[dict]:
    components = []
    for line in packages.read_text().splitlines():
        name, version, architecture, source, digest = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro=debian-12"
        licence = f"as in Debian's copyright file of {name}"
        components.append(component(name, version, purl, digest, licenses=[{"license": {"name": licence}}],
                                    properties=[{"name": "pcqa:debian:source", "value": source}]))
        licences.list(purl, licence, f"/usr/share/doc/{name}")
    return components


def wheels(lock: Path, texts: Path, licences: Licences) -> list[dict]:
    pins = re.findall(r"^([\w.-]+)==(\S+) --hash=sha256:(\w+)$", lock.read_text(), re.MULTILINE)
    components = []
    for name, version, digest in sorted(set(pins)):
        purl = f"pkg:pypi/{name}@{version}"
        licence = {"license": {"id": "BSD-3-Clause"} if name == "torch" else {"name": "NVIDIA's, see its text"}}
        components.append(component(name, version, purl, digest, licenses=[licence]))
        files = list((texts / name).iterdir()) if (texts / name).is_dir() else []
        licences.add(purl, next(iter(licence["license"].values())), f"wheels/{name}", files)
    return components


def data(licences: Licences) -> list[dict]:
    components = []
    for name, version, licence in DATA:
        purl = f"pkg:generic/{name}@{version}"
        licences.add(purl, licence, f"data/{name}", [])
        components.append(component(name, version, purl, type="data", licenses=expression(licence)))
    return components


def program(bin_directory: Path, variant: str, licences: Licences) -> dict:
    """What the bill is of."""
    manifest = tomllib.loads(Path("Cargo.toml").read_text())["package"]
    purl = f"pkg:cargo/pcqa@{manifest['version']}"
    licences.add(purl, manifest["license"], "pcqa", [Path("LICENSE")])
    files = [{"type": "file", "bom-ref": f"usr/local/bin/{file.name}", "name": f"usr/local/bin/{file.name}",
              "hashes": [{"alg": "SHA-256", "content": sha256(file)}]} for file in sorted(bin_directory.iterdir())]
    return component("pcqa", manifest["version"], purl, type="application", components=files,
                     licenses=expression(manifest["license"]),
                     properties=[{"name": "pcqa:variant", "value": variant}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", required=True)
    for name in ("packages", "wheels", "wheel-licences", "bin", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    licences = Licences(args.out)
    subject = program(args.bin, args.variant, licences)
    components, edges = crates(licences)
    components += [standard_library(licences), *debian(args.packages, licences),
                   *wheels(args.wheels, args.wheel_licences, licences), *data(licences)]
    root = next(edge for edge in edges if edge["ref"] == subject["purl"])
    root["dependsOn"] = sorted({*root["dependsOn"], *(entry["purl"] for entry in components
                                                      if not entry["purl"].startswith("pkg:cargo/"))})
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject,
        },
        "components": components,
        "dependencies": edges,
    }
    (args.out / "sbom.cdx.json").write_text(json.dumps(bill, indent=1, ensure_ascii=False) + "\n")
    (args.out / "licences.tsv").write_text("component\tlicence\ttexts\n" + "".join(sorted(licences.rows)))


if __name__ == "__main__":
    main()
