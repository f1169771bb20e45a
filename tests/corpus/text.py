"""Texts: encodings, sizes, scripts."""

import functools
import json
import unicodedata
from typing import Any

from corpus.case import Case
from mmjax import data
from mmjax.errors import InputError

THAI = "แมวสีดำนอนบนโซฟา"
KANA = "わたしはねこがすきです"
HEX = "0123456789abcdef" * 20
URL = f"https://example.org/a-b_c/{HEX}?q=1&r=2"
FAMILY = "👩\u200d👩\u200d👧\u200d👦"  # an emoji of four, joined by zero-width joiners
TEXTS = (
    "a black cat sleeps on the sofa",
    "eine schwarze Katze schläft auf dem Sofa",
    THAI * 8,
    KANA * 18,
    "ខ្មៅ ឆ្មា",
    "一只黑猫",
    "고양이가 잔다",
    "قطة سوداء تنام",
    "חתול שחור ישן",
    "काली बिल्ली",
    f"{FAMILY} 👍🏽 🇩🇪 ❤️",
    "naïve café",
    "[MASK] [PAD]",
    URL,
)


@functools.cache
def tokenizer() -> data.WordPiece:
    source = data.Arrays({"txt": list(TEXTS)})
    try:
        data.WordPiece(source, ("txt",), vocab_size=100_000).open()
    except InputError as error:
        size = int(str(error).rpartition("=")[2].rstrip("."))
    return data.WordPiece(source, ("txt",), vocab_size=size)


def transform(length: int = 16, **options: Any) -> data.TextTransform:
    return data.TextTransform("txt", tokenizer(), length=length, **options)


def read(value: Any, length: int = 16, **options: Any) -> str:
    """The text of the tokens of a value, or of what makes it, in a record's field `txt`."""
    value = value() if callable(value) else value
    text = transform(length, **options).decode({"__key__": "rec 7", "txt": value})[0]
    return tokenizer().open().decode(text.tokens[text.mask])


def right(name: str, value: Any, expected: str, length: int = 16, **options: Any) -> Case:
    return Case("text", name, "right", lambda folder: read(value, length, **options), expected=expected)


def skipped(name: str, value: Any, message: str, **options: Any) -> Case:
    return Case("text", name, "skipped", lambda folder: read(value, **options), message=message)


def counts(folder) -> list[int]:
    counted = transform(5).count("cat ☃ sofa sofa Ж")
    return [counted.tokens, counted.unknown, counted.truncated]


def from_json(folder) -> str:
    """A text that is one half of a surrogate pair, as JSON can escape it."""
    record = {"__key__": "rec 7", "json": json.dumps({"a": "cat \ud83d"}).encode()}
    return data.TextTransform("json.a", tokenizer(), length=8).decode(record)


def prompt(text: str):
    return lambda folder: transform().encode(text)


def first_and_last(folder) -> list[str]:
    """A text of 2 million spaces between two words, which a cut at a fixed length would lose."""
    text = transform().encode("cat" + " " * 200_000 + "sofa")
    return tokenizer().open().decode(text.tokens[text.mask]).split()


CASES: tuple[Case, ...] = (
    *(
        right(f"words of the training texts: {text[:12]}", text, text.lower(), 512)
        for text in (THAI, KANA, "قطة سوداء تنام", "חתול שחור ישן", "고양이가 잔다", "काली बिल्ली", "ខ្មៅ ឆ្មា")
    ),
    right("Thai of 128 letters", THAI * 8, THAI * 8, 512),
    right("Thai of 112 letters, not trained on", THAI * 7, THAI * 7, 512),
    right(
        "Thai of 1600 letters",
        THAI * 100,
        " ".join((THAI * 100)[i : i + 200] for i in range(0, 1600, 200)),
        2000,
    ),
    right("kana of 198 letters", KANA * 18, KANA * 18, 512),
    right("word of 101 letters", "cat" * 33 + "so", "cat" * 33 + "so", 512),
    right(
        "URL of 350 letters",
        URL,
        f"https : / / example . org / a - b _ c / {HEX[:200]} {HEX[200:]} ? q = 1 & r = 2",
        600,
    ),
    right("Chinese without spaces", "一只黑猫", "一 只 黑 猫"),
    right("decomposed accents", unicodedata.normalize("NFD", "naïve café"), "naïve café"),
    right("no-break and ideographic spaces", "black\u00a0cat\u3000sofa", "black cat sofa"),
    right("tabs and line breaks", "black\tcat\r\nsofa\u2028", "black cat sofa"),
    right("NUL in a text", "bl\0ack c\0at", "black cat"),
    right("zero-width space and byte order mark", "\ufeffbla\u200bck cat", "black cat"),
    right("right-to-left marks", "\u202eblack\u202c cat", "black cat"),
    right("emoji of several code points", f"{FAMILY} cat", "👩👩👧👦 cat"),
    right("capitals that fold to two letters", "SOFA", "sofa"),
    right("special tokens as words", "cat [MASK] [PAD] sofa", "cat [ mask ] [ pad ] sofa"),
    right("UTF-8 bytes", "schläft".encode(), "schläft"),
    right("list of texts", ["cat", "sofa"], "cat sofa", join=" "),
    right("text longer than its positions", "cat " * 1000, "cat cat cat", 5),
    right("words, pretokenized", ["cat", "sofa", THAI * 8], f"cat sofa {THAI * 8}", 512, pretokenized=True),
    right("50 MB of words", lambda: b"cat " * 12_500_000, "cat cat cat", 5),
    Case(
        "text", "50 MB of one word", "right", lambda folder: read("cat" * 16_000_000, 64)[:3], expected="cat"
    ),
    Case(
        "text",
        "50 MB of bytes with a wide character",
        "right",
        lambda f: read("cat 👍🏽 ".encode() * 4_000_000, 4),
        expected="cat 👍🏽",
    ),
    Case(
        "text",
        "a million words, pretokenized",
        "right",
        lambda f: read(["cat"] * 1_000_000, 5, pretokenized=True),
        expected="cat cat cat",
    ),
    Case("text", "200,000 spaces between words", "right", first_and_last, expected=["cat", "sofa"]),
    Case("text", "unknown and truncated tokens are counted", "right", counts, expected=[5, 2, 2]),
    skipped("empty", "", "found only white space"),
    skipped("white space of many kinds", " \t\u00a0\u3000\u2028\n", "found only white space"),
    skipped("50 MB of spaces", lambda: b" " * 50_000_000, "found only white space"),
    skipped("only NUL", "\0\0", "for which the tokenizer gives no token"),
    skipped("only zero-width spaces", "\u200b" * 100_000, "for which the tokenizer gives no token"),
    skipped("only unknown letters", "Жжж ☃", "in which no word is known"),
    skipped("only unknown letters, pretokenized", ["Ж", "☃"], "in which no word is known", pretokenized=True),
    skipped("lone surrogate", "cat \udcff", r"that UTF-8 can encode, found '\\udcff' at 4"),
    skipped(
        "lone surrogate, pretokenized",
        ["cat", "\ud800"],
        r"that UTF-8 can encode, found '\\ud800' at 0",
        pretokenized=True,
    ),
    skipped("Latin-1 bytes", "schläft".encode("latin-1"), "the byte 0xe4 at 4"),
    skipped("UTF-16 bytes", "cat".encode("utf-16"), "the byte 0xff at 0"),
    skipped("truncated UTF-8", "schlä".encode()[:-1], "the byte 0xc3 at 4"),
    skipped("number", 7, "found a int"),
    skipped("NaN of a table", float("nan"), "found a float"),
    skipped("list with a number", ["cat", 7], "found a list"),
    skipped("dict", {"en": "cat"}, "found a dict"),
    skipped("empty list", [], "found an empty list"),
    skipped("list of empty texts", ["", " "], "found only white space", join=" "),
    skipped("words that are numbers", [1, 2], "expected a list of words", pretokenized=True),
    skipped(
        "class index of a label that is a float", 0.5, "a class number in 'txt', found 0.5", classes=("cat",)
    ),
    skipped("class index outside the classes", 3, "from 0 to 0 in 'txt', found 3", classes=("cat",)),
    Case("text", "lone surrogate in JSON", "skipped", from_json, message="UTF-8 can encode"),
    Case(
        "text",
        "prompt with a lone surrogate",
        "skipped",
        prompt("cat \ud800"),
        message=r"UTF-8 can encode, found '\\ud800' at 4",
    ),
    Case("text", "prompt of unknown letters", "skipped", prompt("Ж" * 5000), message="no word is known"),
)
