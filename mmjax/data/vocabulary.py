"""Tokenizers: a WordPiece vocabulary trained on the data, or a pretrained tokenizer of transformers."""

import abc
import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.records import BadExample, lookup_text
from mmjax.data.sources.base import Source, threadsafe_cache
from mmjax.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # in the order of their ids
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL_TOKENS))


class Vocabulary(abc.ABC):
    """An opened tokenizer. Safe to call from several threads.

    size: number of token ids.
    special_ids: the ids of those of the special tokens "pad", "unk", "cls", "sep" and "mask" that it has.
    """

    size: int
    special_ids: Mapping[str, int]

    @property
    def pad_id(self) -> int:
        """The id of [PAD]; like the properties below, it raises InputError if there is no such token."""
        return self._special_id("pad")

    @property
    def unk_id(self) -> int:
        return self._special_id("unk")

    @property
    def cls_id(self) -> int:
        return self._special_id("cls")

    @property
    def sep_id(self) -> int:
        return self._special_id("sep")

    @property
    def mask_id(self) -> int:
        return self._special_id("mask")

    def _special_id(self, name: str) -> int:
        if name not in self.special_ids:
            raise InputError(
                f"expected a tokenizer with a special token {name!r}, found only {sorted(self.special_ids)}"
            )
        return self.special_ids[name]

    @abc.abstractmethod
    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Returns the token ids, without special tokens, and the index of each token's word."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, without special tokens."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Returns a hash, equal for two vocabularies exactly if every token has the same id in both."""


class TokenizerSpec(abc.ABC):
    """A frozen value that describes a vocabulary; making one reads no data.

    vocab_size: the exact number of token ids, and so of rows in a model's embedding table.
    """

    vocab_size: int

    @abc.abstractmethod
    def open(self) -> Vocabulary:
        """Loads or trains the vocabulary; equal specs share one. Raises InputError if it has another size."""


@dataclasses.dataclass(frozen=True)
class WordPiece(TokenizerSpec):
    """Trains a WordPiece vocabulary, as BERT's, on a source. Equal data give equal ids in every process.

    A word is a run of letters and digits, or one punctuation mark. Training ends early when every word is one
    token. If `vocab_size` is larger than that, the error names the size to set.

    source: the training records. Records without text are ignored.
    fields: paths to text; a list of texts is joined.
    vocab_size: the exact number of tokens, including the five special ones (ids 0 to 4).
    lowercase: fold case. Accents are always kept, since Hindi and Japanese need them.
    min_frequency: how often a pair of tokens must occur to be merged.
    max_alphabet: number of characters, the most frequent ones, that are tokens; a word with another
        character is [UNK].
    """

    source: Source
    fields: tuple[str, ...]
    vocab_size: int
    lowercase: bool = True
    min_frequency: int = 1
    max_alphabet: int = 1000

    def open(self) -> Vocabulary:
        return _train(self, self.source.open())


@dataclasses.dataclass(frozen=True)
class Pretrained(TokenizerSpec):
    """Loads a fast tokenizer from a transformers folder (`tokenizer.json`, `vocab.txt`), without the network.

    If the tokenizer lacks [CLS], [SEP] or [PAD], its begin-of-text and end-of-text tokens replace them.

    directory: the folder.
    vocab_size: the exact number of tokens, including added ones.
    """

    directory: str
    vocab_size: int

    def open(self) -> Vocabulary:
        return _load(self)


@threadsafe_cache
def _train(spec: WordPiece, records: Any) -> Vocabulary:
    from tokenizers import Tokenizer, decoders, models, trainers

    empty = _pipeline(Tokenizer(models.WordPiece(unk_token="[UNK]")), spec.lowercase)
    words = collections.Counter(
        word
        for text in _texts(spec, records)
        for word, _ in empty.pre_tokenizer.pre_tokenize_str(empty.normalizer.normalize_str(text))
    )
    if not words:
        raise InputError(
            f"expected text in {list(spec.fields)} to train on, found none in {len(records)} records"
        )
    alphabet = _alphabet(words, spec.max_alphabet)
    inner = {character for word in words for character in word[1:]}
    # The trainer numbers characters in the order of a randomly seeded hash map, and breaks ties by number.
    # Characters passed as special tokens, as a word's start and as a continuation, have a fixed order, which
    # makes training deterministic.
    known = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet if character in inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(spec.vocab_size, len(known)),
        min_frequency=spec.min_frequency,
        special_tokens=known,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    # It is trained on words, which need no normalizer or pre-tokenizer.
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.train_from_iterator((word for word in sorted(words) for _ in range(words[word])), trainer)
    _check_size(f"the vocabulary trained on {list(spec.fields)}", raw.get_vocab_size(), spec.vocab_size)
    tokenizer = _pipeline(Tokenizer(models.WordPiece(raw.get_vocab(), unk_token="[UNK]")), spec.lowercase)
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _WordPieces(tokenizer)


def _texts(spec: WordPiece, records: Any) -> Iterator[str]:
    for index in range(len(records)):
        for field in spec.fields:
            try:
                yield lookup_text(records[index], field)
            except BadExample:
                continue  # the dataset counts and logs it


def _alphabet(words: collections.Counter[str], limit: int) -> list[str]:
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:limit])


def _pipeline(tokenizer: Any, lowercase: bool) -> Any:
    from tokenizers import normalizers, pre_tokenizers

    bert = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), bert])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _check_size(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            f"expected vocab_size={expected}, found {found} tokens in {name}. Put vocab_size={found}."
        )


class _TokenizerVocabulary(Vocabulary):
    _tokenizer: Any

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self._tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


class _WordPieces(_TokenizerVocabulary):
    special_ids = {"pad": PAD_ID, "unk": UNK_ID, "cls": CLS_ID, "sep": SEP_ID, "mask": MASK_ID}

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.word_ids

    def decode(self, ids: Sequence[int]) -> str:
        special = range(len(SPECIAL_TOKENS))
        return self._tokenizer.decode([int(i) for i in ids if int(i) not in special or int(i) == UNK_ID])


@threadsafe_cache
def _load(spec: Pretrained) -> Vocabulary:
    directory = Path(spec.directory).expanduser()
    if not directory.is_dir():
        raise InputError(
            f"expected a tokenizer's folder, found none at {directory.absolute()}. Download it first."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected a tokenizer that transformers can load in {directory}, found none: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"expected a fast tokenizer (it gives each token's word) in {directory}, found "
            f"{type(tokenizer).__name__}"
        )
    _check_size(str(directory), len(tokenizer), spec.vocab_size)
    return _PretrainedVocabulary(tokenizer, str(directory))


class _PretrainedVocabulary(_TokenizerVocabulary):
    def __init__(self, tokenizer: Any, name: str):
        self._tokenizer = tokenizer
        self.size = len(tokenizer)
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
        encoding = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return encoding["input_ids"], encoding.word_ids()

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
