"""Writes src/model/demo/tokenizer.json: CLIP's vocabulary and merges as a minified Hugging Face tokenizer file.

    pip install open_clip_torch==3.3.0
    python tests/golden/text/make_tokenizer.py

Source: bpe_simple_vocab_16e6.txt.gz of that wheel (MIT, from OpenAI's CLIP). The file holds no added tokens, so that a
control token that a user types stays plain text; the control tokens are the last two entries of the vocabulary.
"""

import json
import pathlib

from open_clip.tokenizer import SimpleTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

clip = SimpleTokenizer()
merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.get)
assert len(clip.encoder) == 49408 and len(merges) == 48894
tokenizer = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    },
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": clip.encoder,
        "merges": [" ".join(pair) for pair in merges],
    },
}
path = ROOT / "src/model/demo/tokenizer.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))
print(path, path.stat().st_size)
