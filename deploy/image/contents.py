"""What is in the image: checks of its mounted files and of its configuration."""

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TOP = Path(__file__).parent.parent.parent
PROGRAMS = {"pcqa", "pcqa-server", "pcqa-decoder", "pcqa-train"}
# What a crate leaves in a program: paths of its sources, in messages of panics and in line tables.
CRATE = re.compile(rb"/registry/src/[^/\0]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[0-9A-Za-z.+-]*)/")
DOC = "usr/share/doc/pcqa"


class Wrong(Exception):
    """What a check found."""


def expect(condition: bool, problem: str) -> None:
    if not condition:
        raise Wrong(problem)


def files(root: Path) -> Iterator[Path]:
    """Everything that is neither a directory nor a link."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                yield path


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bill_of(root: Path) -> dict:
    return json.loads((root / DOC / "sbom.cdx.json").read_text())


def shipped(bill: dict) -> list[dict]:
    return [part for part in bill["components"] if part.get("scope") != "excluded"]


def programs_are_ours_alone(root: Path, _: dict) -> None:
    """No shell, compiler, interpreter or package manager, under whatever name: nothing can be executed but our four
    programs and, because it is a library that happens to be one, the loader."""
    found = {path.name for path in (root / "usr/local/bin").iterdir()}
    expect(found == PROGRAMS, f"/usr/local/bin has {sorted(found)}")
    for path in files(root):
        with open(path, "rb") as file:
            start = file.read(4)
        place = path.relative_to(root)
        if start == b"\x7fELF":
            library = re.search(r"\.so(\.|$)", path.name)
            expect(place.parent == Path("usr/local/bin") or library is not None, f"/{place} is a program")
        expect(start[:2] != b"#!", f"/{place} is a script")
    for place in ("bin", "sbin", "usr/bin", "usr/sbin", "etc/apt", "var/lib/apt", "usr/lib/apt", "usr/include"):
        expect(not (root / place).exists(), f"there is a /{place}")


def nobody_can_become_or_change_anything(root: Path, _: dict) -> None:
    for path in files(root):
        mode = path.stat().st_mode
        place = path.relative_to(root)
        expect(not mode & (stat.S_ISUID | stat.S_ISGID), f"/{place} is set-user-ID or set-group-ID")
        expect(not mode & stat.S_IWOTH, f"/{place} may be written by everybody")
        expect(path.stat().st_uid == 0, f"/{place} belongs to {path.stat().st_uid}")
        expect(bool(mode & stat.S_IROTH), f"/{place} cannot be read by the service")


def configuration_is_as_documented(root: Path, config: dict) -> None:
    manifest = tomllib.loads((TOP / "Cargo.toml").read_text())["package"]
    container, labels = config["Config"], config["Config"]["Labels"]
    expect(container["User"] == "65532:65532", f"the user is {container['User']}")
    expect(container["Entrypoint"] == ["/usr/local/bin/pcqa-server"], f"starts {container['Entrypoint']}")
    expect(config["Healthcheck"]["Test"][:2] == ["CMD", "/usr/local/bin/pcqa"], f"checks {config['Healthcheck']}")
    expect("50051/tcp" in container["ExposedPorts"], f"exposes {container['ExposedPorts']}")
    for name, value in {"version": manifest["version"], "licenses": manifest["license"], "title": "pcqa"}.items():
        found = labels.get(f"org.opencontainers.image.{name}")
        expect(found == value, f"label {name} is {found!r}, expected {value!r}")
    expect(re.fullmatch("[0-9a-f]{40}", labels["org.opencontainers.image.revision"]) is not None, "no revision")
    default = re.search("^ARG VERSION=(.*)$", (TOP / "Dockerfile").read_text(), re.MULTILINE)[1]
    expect(default == manifest["version"], f"Dockerfile: VERSION is {default}, Cargo.toml says {manifest['version']}")
    # Nothing of the machine that built.
    expect(not any("PROXY" in part.upper() for part in container["Env"]), f"environment: {container['Env']}")


def bill_follows_its_schema(root: Path, _: dict) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str((root / DOC / "sbom.cdx.json").read_text())
    expect(problem is None, f"not CycloneDX 1.6: {problem}")


def bill_names_every_crate_in_the_programs(root: Path, _: dict) -> None:
    """The programs themselves say what they are made of: by the paths of sources that they contain."""
    listed = {(part["name"], part["version"]) for part in shipped(bill_of(root))
              if part["purl"].startswith("pkg:cargo/")}
    locked = {(entry["name"], entry["version"])
              for entry in tomllib.loads((TOP / "Cargo.lock").read_text())["package"]}
    contained = set()
    for name in PROGRAMS:
        found = CRATE.findall((root / "usr/local/bin" / name).read_bytes())
        contained |= {(crate.decode(), version.decode()) for crate, version in found}
    expect(len(contained) > 100, f"the programs name {len(contained)} crates; line tables would name far more")
    missing = sorted(contained - listed)
    expect(not missing, f"in the programs, not in the bill: {missing}")
    expect(listed <= locked, f"in the bill, not in Cargo.lock: {sorted(listed - locked)}")


def bill_names_every_file_of_the_image(root: Path, _: dict) -> None:
    """Programs with their digests, Debian's packages as dpkg's records have them, libtorch's wheels as locked."""
    bill = bill_of(root)
    for part in bill["metadata"]["component"]["components"]:
        expect(sha256(root / part["name"]) == part["hashes"][0]["content"], f"{part['name']} has another digest")
    named = {Path(part["name"]).name for part in bill["metadata"]["component"]["components"]}
    expect(named == PROGRAMS, f"programs in the bill: {sorted(named)}")

    packages = {part["name"]: part["version"] for part in bill["components"] if part["purl"].startswith("pkg:deb/")}
    records = {}
    for record in (root / "var/lib/dpkg/status.d").iterdir():
        fields = dict(re.findall(r"^(Package|Version): (.*)$", record.read_text(), re.MULTILINE))
        records[fields["Package"]] = fields["Version"]
    expect(packages == records, f"packages differ: {set(packages.items()) ^ set(records.items())}")
    for package in ("libc6", "libavcodec59", "libstdc++6", "ca-certificates"):
        expect(package in packages, f"{package} is not in the bill")

    variants = {"cpu": ["libtorch.lock"], "cuda": ["libtorch.lock", "libtorch-cuda.lock"]}
    variant = bill["metadata"]["component"]["properties"][0]["value"]
    locked = set()
    for lock in variants[variant]:
        text = (TOP / "deploy/setup" / lock).read_text()
        locked |= set(re.findall(r"^(\S+)==(\S+) --hash=sha256:(\w+)$", text, re.MULTILINE))
    wheels = {(part["name"], part["version"], part["hashes"][0]["content"]) for part in bill["components"]
              if part["purl"].startswith("pkg:pypi/")}
    expect(wheels == locked, f"wheels differ: {wheels ^ locked}")
    expect((root / "usr/local/lib/libtorch_cuda.so").exists() == (variant == "cuda"), f"not the libraries of {variant}")


def every_component_has_its_licence(root: Path, _: dict) -> None:
    rows = [line.split("\t") for line in (root / DOC / "licences.tsv").read_text().splitlines()[1:]]
    folders = {purl: folder for purl, _, folder in rows}
    bill = bill_of(root)
    for part in [bill["metadata"]["component"], *shipped(bill)]:
        expect(part["purl"] in folders, f"{part['purl']} is not in licences.tsv")
        expect(bool(part.get("licenses")), f"{part['purl']} has no licence in the bill")
        texts = list((root / folders[part["purl"]].lstrip("/")).iterdir())
        expect(any(text.stat().st_size > 100 for text in texts), f"{part['purl']} has no text")
    # What Debian's copyright files refer to.
    expect((root / "usr/share/common-licenses/GPL-2").exists(), "no common licences")


def authorities_are_debians(root: Path, config: dict) -> None:
    """Exactly those of the ca-certificates package: none that only the machine that built trusts."""
    bundle = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    count = bundle.count("BEGIN CERTIFICATE")
    expect(100 < count < 200, f"{count} authorities")
    machine = Path("/usr/local/share/ca-certificates")
    for own in machine.rglob("*.crt") if machine.is_dir() else []:
        body = "".join(own.read_text().split())
        expect(body not in "".join(bundle.split()), f"{own.name} of this machine is in the image")


CHECKS = [
    programs_are_ours_alone,
    nobody_can_become_or_change_anything,
    configuration_is_as_documented,
    bill_follows_its_schema,
    bill_names_every_crate_in_the_programs,
    bill_names_every_file_of_the_image,
    every_component_has_its_licence,
    authorities_are_debians,
]


def differences(a: Path, b: Path) -> Iterator[str]:
    """One line for each path that is not the same in both: content, kind, mode, owner, time."""
    for place in sorted(set(described(a)) ^ set(described(b))):
        yield place


def described(root: Path) -> Iterator[str]:
    for directory, folders, names in os.walk(root):
        for path in (Path(directory, name) for name in folders + names):
            facts = path.lstat()
            content = os.readlink(path) if path.is_symlink() else sha256(path) if path.is_file() else ""
            yield (f"/{path.relative_to(root)} mode {facts.st_mode:o} owner {facts.st_uid}:{facts.st_gid} "
                   f"time {facts.st_mtime_ns} {content}")
