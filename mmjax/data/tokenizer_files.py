"""Tokenizers read from folders: transformers' own, and the vocabularies that runs save."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.data.sources.base import threadsafe_cache
from mmjax.data.sources.files import FileStamp, fingerprint
from mmjax.data.vocabulary import SPECIAL_TOKENS, TokenizerSpec, TokenizerVocabulary, Vocabulary, check_size
from mmjax.data.word_piece import WordPieces
from mmjax.errors import InputError, excerpt, one_line
from mmjax.ranges import Vocab

_JSON_OBJECTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "vocab.json",
)
_MAX_BYTES = 2**28  # of a tokenizer.json
_REMEDY = "restore its folder from a copy of the run, or delete it, to train the tokenizer on the data again"


@dataclasses.dataclass(frozen=True)
class Pretrained(TokenizerSpec):
    """Loads a fast tokenizer from a transformers folder (`tokenizer.json`, `vocab.txt`), without the network.

    If the tokenizer lacks [CLS], [SEP] or [PAD], its begin-of-text and end-of-text tokens replace them. Code
    in the folder is never run. Names of special tokens in a text, such as "[MASK]", are read as text. Apart
    from that the ids are those of the tokenizer: BERT's makes one [UNK] of a word of more than 100 letters.

    directory: the folder.
    vocab_size: the highest id + 1. Without gaps, that is the number of tokens, including added ones.
    """

    directory: str
    vocab_size: Vocab

    def open(self) -> Vocabulary:
        return _load(self)


@dataclasses.dataclass(frozen=True)
class SavedTokenizer(TokenizerSpec):
    """A vocabulary that `Vocabulary.save` wrote, such as that of a run whose training data are gone.

    folder: the folder, with `tokenizer.json`; that of a `Pretrained` also has transformers' files.
    vocab_size: the exact number of tokens.
    """

    folder: str
    vocab_size: Vocab

    def open(self) -> Vocabulary:
        if (Path(self.folder) / "tokenizer_config.json").exists():
            return Pretrained(self.folder, self.vocab_size).open()
        return _load_word_pieces(fingerprint([_saved_file(Path(self.folder))]), self.vocab_size)


def _saved_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file() or file.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"expected the saved tokenizer {file} of at most {_MAX_BYTES:,} bytes, found "
            f"{'a larger file' if file.is_file() else 'no such file'}: {_REMEDY}"
        )
    return file


@threadsafe_cache
def _load_word_pieces(files: tuple[FileStamp, ...], vocab_size: int) -> Vocabulary:
    from tokenizers import Tokenizer, models

    file = files[0].path
    try:
        tokenizer = Tokenizer.from_str(Path(file).read_text("utf-8"))
    except Exception as error:  # the tokenizers library raises no other type for files that it cannot read
        raise InputError(
            f"expected a tokenizer as the tokenizers library writes it in {file}, found other text: "
            f"{one_line(str(error))}: {_REMEDY}"
        ) from error
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    if not isinstance(tokenizer.model, models.WordPiece) or list(ids.values()) != list(range(len(ids))):
        raise InputError(
            f"expected a WordPiece with {list(SPECIAL_TOKENS)} as its first ids in {file}, found "
            f"{type(tokenizer.model).__name__} with {ids}: {_REMEDY}"
        )
    check_size(file, tokenizer.get_vocab_size(), vocab_size)
    return WordPieces(tokenizer)


@threadsafe_cache
def _load(spec: Pretrained) -> Vocabulary:
    directory = Path(spec.directory).expanduser()
    if not directory.is_dir():
        raise InputError(
            f"expected a tokenizer's folder, found none at {directory.absolute()}. Download it first."
        )
    _check_files(directory)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises no other type for files that it cannot read
        raise InputError(
            f"expected a tokenizer that transformers can load in {directory}, found none: "
            f"{type(error).__name__}: {one_line(str(error))}"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"expected a fast tokenizer (it gives each token's word) in {directory}, found "
            f"{type(tokenizer).__name__}"
        )
    ids = tokenizer.get_vocab().values()
    if (size := max(ids, default=-1) + 1) > len(ids) and size != spec.vocab_size:
        raise InputError(
            f"expected vocab_size={spec.vocab_size}, found {len(ids)} tokens with ids up to {size - 1} in "
            f"{directory}. Put vocab_size={size}."
        )
    check_size(str(directory), size, spec.vocab_size)
    return _PretrainedVocabulary(tokenizer, str(directory))


def _check_files(directory: Path) -> None:
    """Raises InputError unless a tokenizer's files are regular, not too large, and valid JSON."""
    for file in sorted(directory.iterdir()):
        if file.suffix not in (".json", ".txt", ".model"):
            continue
        if not file.is_file() or file.stat().st_size > _MAX_BYTES:
            found = "a larger one" if file.is_file() else "no regular file"
            raise InputError(
                f"expected a tokenizer's file of at most {_MAX_BYTES:,} bytes at {file}, found {found}"
            )
        if file.suffix != ".json":
            continue
        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"expected JSON in {file}, found other text: {one_line(str(error))}") from error
        if file.name in _JSON_OBJECTS and not isinstance(value, dict):
            raise InputError(f"expected a JSON object in {file}, found {excerpt(value)}")


class _PretrainedVocabulary(TokenizerVocabulary):
    def __init__(self, tokenizer: Any, name: str):
        self._tokenizer = tokenizer
        self.size = max(tokenizer.get_vocab().values()) + 1
        substitutes = {"pad": ("eos",), "unk": (), "cls": ("bos", "eos"), "sep": ("eos",), "mask": ()}
        self.special_ids = {}
        for kind, others in substitutes.items():
            ids = (getattr(tokenizer, f"{k}_token_id") for k in (kind, *others))
            if (number := next((i for i in ids if i is not None), None)) is not None:
                self.special_ids[kind] = number
        for kind in ("pad", "cls", "sep"):
            if kind not in self.special_ids:
                expected = f"expected one of the special tokens {[kind, *substitutes[kind]]}"
                raise InputError(f"{expected} in the tokenizer of {name}, found none")

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer(
            text, add_special_tokens=False, truncation=False, split_special_tokens=True, verbose=False
        )
        return encoding["input_ids"], encoding.word_ids()

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: Path) -> bool:
        self._tokenizer.save_pretrained(str(folder))
        return True
