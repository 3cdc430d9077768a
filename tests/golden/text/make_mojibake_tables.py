"""Writes src/text/mojibake.json: the tables of ftfy 6.3.1 (Apache-2.0) that src/text/mojibake.rs works with.

    pip install ftfy==6.3.1
    python tests/golden/text/make_mojibake_tables.py

- `bad`: the pattern that calls a text suspicious (ftfy.badness), without its comments and layout, and with Python's
  meaning of \\s and \\w written out.
- `first_of_2`, `first_of_3`, `first_of_4`, `continuation`, `continuation_strict`: characters that UTF-8 bytes look like
  when they were read as a single-byte encoding (ftfy.chardata.UTF8_CLUES), each class expanded and sorted.
- `encodings`: in the order of the attempts, the 128 characters that bytes 0x80 to 0xff decode to.
"""

import json
import pathlib
import re

import ftfy.bad_codecs  # registers the sloppy codecs
from ftfy import badness, chardata

ROOT = pathlib.Path(__file__).resolve().parents[3]


def plain(pattern):
    """A verbose pattern without comments and without blanks outside of character classes."""
    out, in_class = [], False
    for line in pattern.splitlines():
        for c in line:
            if not in_class and c == "#":
                break
            if not in_class and c.isspace() and c != "\xa0":
                continue
            if c == "[" and not in_class:
                in_class = True
            elif c == "]" and in_class:
                in_class = False
            out.append(c)
        assert not in_class, line
    text = "".join(out)
    assert not re.search(r"&&|--|~~", text)
    return text.replace(r"\s", r"[\s\x1c-\x1f]").replace(r"\w", r"[\p{L}\p{N}_]")


def members(name):
    cls = re.compile("[" + chardata.UTF8_CLUES[name] + "]")
    return "".join(c for c in map(chr, range(0x10000)) if cls.match(c))


clues = {name.removeprefix("utf8_"): members(name) for name in chardata.UTF8_CLUES}
first = [set(clues[f"first_of_{n}"]) for n in (2, 3, 4)]
assert not (first[0] & first[1] or first[0] & first[2] or first[1] & first[2])
tables = {"bad": plain(badness.BADNESS_RE.pattern), **clues}
tables["encodings"] = [
    {"name": name, "high": bytes(range(0x80, 0x100)).decode(name)} for name in chardata.CHARMAP_ENCODINGS
]
path = ROOT / "src/text/mojibake.json"
path.write_text(json.dumps(tables, indent=1) + "\n")
print(path, path.stat().st_size)
