"""Writes tests/golden/text/vectors.json: prompts with the text and the ids that open_clip 3.3.0 makes of them.

    pip install open_clip_torch==3.3.0 ftfy==6.3.1
    python tests/golden/text/make_vectors.py

A vector is `[prompt, cleaned text, ids]`; ids run from start to end of text without padding, cut to 77. open_clip reads
a typed control token as one; the `plain` vectors are encoded without that rule, as this project does for every prompt.
"""

import json
import pathlib

import regex
from open_clip.tokenizer import SimpleTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONTEXT = 77

GROUPS = {
    "everyday": [
        "", " ", "a", "cat", "a red fox", "A Red Fox", "the  quick\tbrown\n\nfox ", "an oil painting of a harbour at dawn",
        "two dogs playing chess on a wooden table", "low angle shot, 35mm film, grain, f/1.8, ISO 400",
        "isometric cutaway of a tiny bakery, soft light, pastel colours", "portrait of an old sailor, Rembrandt lighting",
        "a teapot shaped like an elephant; a cup shaped like a whale", "video of waves breaking, slow motion, 120 fps",
        "UPPER CASE SHOUTING PROMPT", "cAmElCaSe", "a-hyphenated-word_and_underscores", "e-mail me@example.org, see https://example.org/a?b=c&d=e#f",
        "supercalifragilisticexpialidocious antidisestablishmentarianism", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "qxjkvbpygfw",
        "counterintuitively hyperphotorealistic ultradetailed", "Self-portrait, c. 1889 (after Van Gogh)", "no comma no problem",
    ],
    "contractions": [
        "it's a dog's life", "we've they'll I'm you're he'd don't", "IT'S WE'LL I'M", "rock 'n' roll", "o'clock's", "'s't're've'm'll'd", "''s", "the artist's' studio",
        "it\u2019s a cat\u2019s cradle", "'\u017f and 'K", "won't've", "y'all'd've", "l'ombre d'un arbre", "'tis", "dogs' bowls",
    ],
    "numbers": [
        "3 cats, 12 dogs and 100000 ants", "1234567890", "v1.5 2.0beta 3rd", "16:9 4:3 21:9", "1/2 3,000.50 -7 +5", "50% off $9.99 €5 £3 ¥100", "2024-01-31T23:59", "a1b2c3",
        "\u00bd \u00b2 \u2167 \u2460", "\u0661\u0662\u0663 \u0967\u0968", "\uff11\uff12\uff13", "1e-5 0xff", "#ff8800", "№ 5",
    ],
    "prompt syntax": [
        "(((masterpiece))), best quality", "(blue eyes:1.3), [red|green] hair, {smile}", "<lora:add_detail:0.7> 1girl, solo", "castle --ar 16:9 --v 6 --stylize 750", "cat AND dog BREAK bird",
        "a photo of [cat:dog:0.5]", "((wet)) (stone:0.8) [[dry]]", "embedding:easynegative", "score_9, score_8_up", "__animal__ in __place__", "a::2 b::-0.5", "\\(escaped\\) brackets", "{a|b|c}", "%%%$$$###@@@", "?!?!...!!!", "~~~***~~~", "=-=-=-=", "|||", "``code``", "^_^ :-) ;-P <3",
    ],
    "quotes": [
        "\u201ccurly\u201d \u2018quotes\u2019", "\u00abguillemets\u00bb \u2039single\u203a", "\u201elow\u201c \u201ahigh\u2018", "\"straight\" 'single'", "\u2032prime\u2033 6\u203211\u2033", "\u02bcmodifier\u02bc", "en\u2013dash em\u2014dash \u2026", "\u201b\u201f",
    ],
    "html": [
        "salt &amp; pepper", "salt &amp;amp; pepper", "&amp;amp;amp;amp;lt;", "&lt;b&gt;bold&lt;/b&gt;", "<b>5 &gt; 3</b>", "a < b &amp; c", "<i>x</i>\nsecond &EACUTE; line", "first &EACUTE; line\n<i>x</i>",
        "caf&eacute; P&EACUTE;REZ &ntilde; &NTILDE;", "&#233;&#xe9;&#XE9;", "&#128;&#x93;&#159;", "&#0; &#x110000; &#xD800;", "&#13;&#10;&#9;", "&#1;&#11;&#31;&#127;", "&#59; &#38;amp;", "&eacute &copy 2020 &notit; &notin;", "&bogus; &; &# &#x; &#xZ;", "AT&T R&D a&b", "&nbsp;&nbsp;wide&nbsp;", "&CounterClockwiseContourIntegral; &fjlig; &NotEqualTilde;", "&FRAC12; &LTIMES; &SZLIG;", "&hearts;&spades;", "&#65abc; &#0000000000065;", "&quot;quoted&quot; &apos;", "&#99999999999999999999;", "&ThickSpace;x", "&shy;", "&#xFDD0;&#xFFFF;", "&times3 &timesb",
    ],
    "languages": [
        "ein Mädchen mit Äpfeln und Öl, Straße", "une forêt enchantée à l'aube, œuvre naïve", "El niño comió piñas en la montaña", "Žluťoučký kůň úpěl ďábelské ódy", "Zażółć gęślą jaźń", "İstanbul'da ışıklı bir gece", "Þórður á hestbaki", "năm con mèo đang ngủ", "Привет, мир! Кошка на окне", "Ἀθῆναι καὶ ΟΔΥΣΣΕΥΣ", "ΣΑΣ ΣΑΣ. Σ Α'Σ", "Ո՞վ է", "შავი კატა", "猫が窓辺で寝ている", "ﾈｺ ｶﾞ ﾊﾟ", "雪山上的日出,超高清", "고양이가 잠을 잔다", "\u1100\u1161\u11a8", "قطة تنام على النافذة", "חתול ישן על החלון", "खिड़की पर बिल्ली", "แมวนอนบนหน้าต่าง", "ድመት", "ཞི་མི", "mixed 猫 and кошка and قطة", "Å Å ﬁ", "ǅ ǆ ĳ ŉ ﬅ ﬆ ﬃ", "straße STRASSE ẞ", "ſ long s", "K kelvin", "Đorđe Škoda Łódź",
    ],
    "emoji and symbols": [
        "😀", "a 🐱 in a 📦", "👩\u200d👩\u200d👧\u200d👦 family", "👍🏽👍🏿", "🇩🇪🇯🇵", "☃ ☂ ★ ♥ ♪", "❤\ufe0f", "→ ← ↑ ↓ ⇒", "∑ ∫ √ ∞ ≈ ≠", "𝒜 𝓫 𝔠 ℋ", "© ® ™", "°C ± × ÷", "•list •of •points", "🏴\U000e0067\U000e0062\U000e007f", "¯\\_(ツ)_/¯", "░▒▓█", "♀\ufe0f♂", "①②③",
    ],
    "characters": [
        "e\u0301 = \u00e9", "q\u0323\u0307 q\u0307\u0323", "zero\u200bwidth\u200dand\u2060joiners", "soft\u00adhyphen", "no\u00a0break\u202fspace", "ideographic\u3000space", "\u2003em\u2003space\u1680ogham", "line\u2028sep\u2029par\u0085next", "cr\rcrlf\r\nlf\n", "nul\x00bell\x07del\x7f", "\x1b[31mred\x1b[0m", "\x1b[1;32mgreen \x1b[K", "\x1b]not csi", "tab\tvtab\x0bff\x0c", "\x1cfs\x1dgs\x1ers\x1fus", "\ufeffbom", "\u206a\ufff9x\ufffa", "\ufffcobject \ufffdreplacement", "ｆｕｌｌ　ｗｉｄｔｈ　ＡＢＣ！", "￣￥￦", "\u202eright to left\u202c", "\U00010348 \U0001f9ff", "\ue000private", "a\u0300\u0301\u0302\u0303", "\u00b4 \u00a8 \u00b8", "\u1e9b\u0323",
    ],
    "mojibake": [
        "cafÃ©", "schÃ¶ne GrÃ¼ÃŸe", "â€œquotesâ€\x9d", "itâ€™s", "GÃ idhlig", "Ã la carte", "voilÃ  le travail", "Ã s vezes", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "æ—¥æœ¬", "ðŸ˜€ smile", "â€œlost â€�", "cafÃ\x83Â©", "10Â°C", "Â£5 Â©", "├⌐t├⌐", "caf√©", "LietuviÅ³", "Tiáº¿ng Viá»‡t", "ÄŒeÅ¡tina", "í\xa0½í¸\x80", "nul À\x80 byte", "mixed Ã© and 日", "c1 \x93quoted\x94 日", "\x80\x99", "Ångström isn't", "À l'école «très» bien", "â\x80¦ ok", "РїСЂРёРІРµС‚", "Î•Î»Î»Î·Î½Î¹ÎºÎ¬",
    ],
    "long": [
        " ".join(["a very detailed scene"] * 40), " ".join(["cat"] * 74), " ".join(["cat"] * 75), " ".join(["cat"] * 76), " ".join(["cat"] * 77), "a" * 300, "猫" * 60, "!?" * 200, "1" * 75, "1" * 76, "supercalifragilistic" * 12, " ".join(["word"] * 73) + " supercalifragilistic",
    ],
    "plain": [
        "<end_of_text>", "<start_of_text> a cat <end_of_text> a dog", "<END_OF_TEXT>", "<|endoftext|> <|startoftext|>", "x<end_of_text>y", "&lt;start_of_text&gt; &lt;end_of_text&gt;x", "<pad> <unk> </w> [CLS]", "cat</w>",
    ],
}

clip = SimpleTokenizer()
plain = SimpleTokenizer()
plain.cache.clear()
plain.pat = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""", regex.IGNORECASE)


def vector(prompt, tokenizer):
    ids = [clip.sot_token_id, *tokenizer.encode(prompt), clip.eot_token_id]
    if len(ids) > CONTEXT:
        ids = ids[: CONTEXT - 1] + [clip.eot_token_id]
    return [prompt, clip.clean_fn(prompt), ids]


vectors = {group: [vector(p, plain if group == "plain" else clip) for p in prompts] for group, prompts in GROUPS.items()}
prompts = [p for group in GROUPS.values() for p in group]
assert len(prompts) == len(set(prompts))
lines = [f' {json.dumps(g)}: [\n' + ",\n".join("  " + json.dumps(v) for v in vs) + "\n ]" for g, vs in vectors.items()]
path = pathlib.Path(__file__).with_name("vectors.json")
path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(path, len(prompts), path.stat().st_size)
