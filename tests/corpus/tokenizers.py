"""Tokenizers and vocabularies, trained and read from folders."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from mmjax import data
from mmjax.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "sofa", "##s"]


def bert(folder: Path) -> Path:
    """Saves BERT's tokenizer with 8 tokens."""
    import transformers

    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.save_pretrained(folder / "bert")
    return folder / "bert"


def custom(folder: Path, vocabulary: dict[str, int], **special: str) -> Path:
    """Saves a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token", "a")))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "words")
    return folder / "words"


def tokens(path: Path | str, text: str = "cats sofa", size: int = len(WORDS)) -> list[int]:
    """The ids of a text, with those of [CLS], [SEP] and [PAD]."""
    transform = data.TextTransform("txt", data.Pretrained(str(path), vocab_size=size), length=6)
    return transform.decode({"__key__": "rec 7", "txt": text})[0].tokens.tolist()


def right(name: str, give: Callable[[Path], Any], expected: Any) -> Case:
    return Case("tokenizer", name, "right", give, expected=expected)


def refused(name: str, give: Callable[[Path], Any], message: str) -> Case:
    return Case("tokenizer", name, "refused", give, message=message)


def changed(file: str, content: str | bytes | None) -> Callable[[Path], Any]:
    """Reads BERT's tokenizer with one file replaced, or removed."""

    def give(folder: Path) -> Any:
        path = bert(folder)
        if content is None:
            (path / file).unlink()
        else:
            (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tokens(path)

    return give


def edited(file: str, change: Callable[[dict], Any]) -> Callable[[Path], Any]:
    """Reads BERT's tokenizer after a change of the JSON of one file."""

    def give(folder: Path) -> Any:
        path = bert(folder)
        value = json.loads((path / file).read_text())
        change(value)
        (path / file).write_text(json.dumps(value))
        return tokens(path)

    return give


def vocab_txt(folder: Path) -> list[int]:
    """A folder as BERT was published: vocab.txt and a configuration."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return tokens(folder, "CATS sofa")


def own_code(folder: Path) -> bool:
    """A folder that names code of its own, which would write a file: whether it was run."""
    path = bert(folder)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "own.py").write_text(f"open({str(folder / 'run')!r}, 'w')\nclass Own: pass\n")
    try:
        tokens(path)
    except InputError:
        pass
    return (folder / "run").exists()


def fifo(folder: Path) -> list[int]:
    path = bert(folder)
    (path / "tokenizer_config.json").unlink()
    os.mkfifo(path / "tokenizer_config.json")
    return tokens(path)


def sparse(folder: Path) -> list[int]:
    """A file of 1 GiB, which takes no space on the disk."""
    path = bert(folder)
    with open(path / "tokenizer.json", "r+b") as file:
        file.truncate(2**30)
    return tokens(path)


def special_ids(folder: Path) -> dict[str, int]:
    words = custom(folder, {"a": 0, "<end>": 1, "<mask>": 2}, eos_token="<end>", mask_token="<mask>")
    return data.Pretrained(str(words), vocab_size=3).open().special_ids


def no_mask(folder: Path) -> int:
    words = custom(folder, {"a": 0, "<end>": 1}, eos_token="<end>")
    return data.Pretrained(str(words), vocab_size=2).open().mask_id


def without_unknown(folder: Path) -> list[int]:
    """A word that is not in a vocabulary without [UNK], of which the library raises a bare Exception."""
    return tokens(custom(folder, {"a": 0, "<end>": 1}, eos_token="<end>", unk_token="[none]"), "cat", 3)


HOLE = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "cat": 20}
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def with_hole(size: int) -> Callable[[Path], list[int]]:
    return lambda folder: tokens(custom(folder, HOLE, **NAMES), "a cat", size)


def trained(texts: list[Any], size: int, **options: Any) -> Callable[[Path], int]:
    source = data.Arrays({"txt": texts})
    return lambda folder: data.WordPiece(source, ("txt",), vocab_size=size, **options).open().size


CASES: tuple[Case, ...] = (
    right("BERT's tokenizer", lambda folder: tokens(bert(folder)), [2, 5, 7, 6, 3, 0]),
    right("BERT's folder of vocab.txt", vocab_txt, [2, 5, 7, 6, 3, 0]),
    right(
        "special tokens in a text are text",
        lambda folder: tokens(bert(folder), "cat [MASK]"),
        [2, 5, 1, 1, 1, 3],
    ),
    right("ids with a gap, whose size is the highest + 1", with_hole(21), [2, 4, 20, 3, 0, 0]),
    right("code in the folder is not run", own_code, False),
    right("special ids of another tokenizer", special_ids, {"pad": 1, "cls": 1, "sep": 1, "mask": 2}),
    right("trained on texts of which some are bad", trained(["cat", "", 7, None, "\ud800"], 8 + 3), 11),
    refused(
        "ids with a gap, whose size is their number",
        with_hole(6),
        r"ids up to 20 in .*words\. Put vocab_size=21",
    ),
    refused(
        "another size",
        lambda folder: tokens(bert(folder), size=30522),
        r"found 8 tokens in .*Put vocab_size=8",
    ),
    refused("no [MASK]", no_mask, r"a special token 'mask', found only"),
    refused(
        "no special tokens at all",
        lambda folder: tokens(custom(folder, {"a": 0, "cat": 1}), size=2),
        r"one of the special tokens \['pad', 'eos'\]",
    ),
    refused(
        "no tokenizer_config.json",
        changed("tokenizer_config.json", None),
        r"special tokens \['pad', 'eos'\] in .*bert",
    ),
    Case(
        "tokenizer",
        "a word outside a vocabulary without [UNK]",
        "skipped",
        without_unknown,
        message="that the tokenizer can read, found 'cat': .*UNK",
    ),
    refused(
        "no folder", lambda folder: tokens(folder / "none"), "a tokenizer's folder, found none at .*none"
    ),
    refused(
        "a hub's name",
        lambda folder: tokens("bert-base-uncased"),
        "folder, found none at .*Download it first",
    ),
    refused(
        "a file in place of the folder", lambda folder: tokens(__file__), "found none at .*tokenizers.py"
    ),
    refused("an empty folder", lambda folder: tokens(folder), "that transformers can load in"),
    refused("without tokenizer.json", changed("tokenizer.json", None), "bert"),
    refused("a FIFO in the folder", fifo, "bytes at .*tokenizer_config.json, found no regular file"),
    refused("a file of 1 GiB", sparse, "at most .* bytes at .*tokenizer.json, found a larger one"),
    *(
        refused(f"{file}: {name}", changed(file, content), message)
        for file, name, content, message in (
            ("tokenizer.json", "empty", "", "expected JSON in .*tokenizer.json"),
            ("tokenizer.json", "half", '{"version": "1.0", "mod', "expected JSON in .*tokenizer.json"),
            ("tokenizer.json", "not UTF-8", b"\xff\xfe{}", "expected JSON in .*tokenizer.json"),
            ("tokenizer.json", "a list", "[]", r"a JSON object in .*tokenizer.json, found \[\]"),
            ("tokenizer.json", "an empty object", "{}", "that transformers can load in .*bert"),
            ("tokenizer.json", "nested 100,000 times", "[" * 100_000, "expected JSON in .*tokenizer.json"),
            ("tokenizer.json", "HTML of a proxy", "<html>403</html>", "expected JSON in .*tokenizer.json"),
            (
                "tokenizer_config.json",
                "half",
                '{"tokenizer_class"',
                "expected JSON in .*tokenizer_config.json",
            ),
            ("tokenizer_config.json", "a list", "[1]", "a JSON object in .*tokenizer_config.json"),
            ("special_tokens_map.json", "text", "cls", "expected JSON in .*special_tokens_map.json"),
            ("config.json", "null", "null", "a JSON object in .*config.json, found None"),
        )
    ),
    *(
        refused(name, edited("tokenizer.json", change), "bert")
        for name, change in (
            ("a model of unknown type", lambda value: value["model"].update(type="Magic")),
            ("a vocabulary of negative ids", lambda value: value["model"]["vocab"].update(cat=-5)),
            ("a vocabulary of texts", lambda value: value["model"]["vocab"].update(cat="five")),
            ("no model", lambda value: value.pop("model")),
        )
    ),
    refused(
        "a class that does not exist",
        edited(
            "tokenizer_config.json",
            lambda v: v.update(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        ),
        "bert",
    ),
    refused(
        "trained on no text",
        trained(["", " "], 100),
        "expected text in .* to train on, found none in 2 records",
    ),
    refused(
        "trained to too large a size", trained(["cat cat"], 1000), r"found 12 tokens in .*Put vocab_size=12"
    ),
    refused("trained to too small a size", trained(["cat cat"], 3), r"found \d+ tokens in .*Put vocab_size="),
    refused(
        "trained on a field that does not exist",
        lambda folder: data.WordPiece(data.Arrays({"txt": ["a"]}), ("text",), vocab_size=9).open(),
        "found none in 1 records",
    ),
)
