"""Text to token ids and back: a WordPiece vocabulary trained on the data, or a tokenizer of transformers."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmjax.data.records import BadExample, lookup_text
from mmjax.data.sources.paths import Source, threadsafe_cache
from mmjax.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids are their places here
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL_TOKENS))


@runtime_checkable
class Vocabulary(Protocol):
    """An open tokenizer. Safe to call from several threads."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int

    @property
    def mask_id(self) -> int: ...

    @property
    def unk_id(self) -> int: ...

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """(token ids without special tokens, the index of the word that each is part of)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text; special tokens are left out."""
        ...

    def digest(self) -> str:
        """Equal exactly where every token has the same id."""
        ...


@runtime_checkable
class TokenizerSpec(Protocol):
    """A frozen value that makes a vocabulary when opened."""

    @property
    def vocab_size(self) -> int: ...

    def open(self) -> Vocabulary: ...


@dataclasses.dataclass(frozen=True)
class WordPiece:
    """BERT's kind of vocabulary, trained on the texts of a source. Equal data give equal ids everywhere.

    A word is a run of letters and digits, or one punctuation mark. A ``vocab_size`` that training cannot fill
    means that every word is one token; the error says the size to put.

    Args:
        source: the training records. Those without text are left out.
        fields: paths to text; a list of texts is joined.
        vocab_size: the exact number of tokens, the five special ones (ids 0 to 4) included.
        lowercase: fold case. Accents are always kept: without them Hindi and Japanese lose meaning.
        min_frequency: how often a pair must occur to become one token.
        max_alphabet: the commonest characters are tokens, this many; a word with another one is [UNK].
    """

    source: Source
    fields: tuple[str, ...]
    vocab_size: int
    lowercase: bool = True
    min_frequency: int = 1
    max_alphabet: int = 1000

    def open(self) -> Vocabulary:
        """Train. Raises InputError when the source holds no text or the vocabulary has another size."""
        return _train(self, self.source.open())


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A fast tokenizer in a transformers folder (``tokenizer.json``, ``vocab.txt``). Never the network.

    Where the tokenizer lacks [CLS], [SEP] or [PAD], its begin and end of text take their places.

    Args:
        directory: the folder.
        vocab_size: the exact number of tokens, added ones included.
    """

    directory: str
    vocab_size: int

    def open(self) -> Vocabulary:
        """Load. Raises InputError when the folder is missing or unreadable, or the size is another."""
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
    # The trainer numbers characters in the order of a randomly seeded hash map and breaks ties by number.
    # Handing it the characters first, sorted, as a word's start and as a continuation, makes it a function
    # of the data.
    known = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet if character in inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(spec.vocab_size, len(known)),
        min_frequency=spec.min_frequency,
        special_tokens=known,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    # No normalizer and no pre-tokenizer: what it is trained on are words already.
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
                continue  # a dataset will count and log it; a vocabulary can do without


def _alphabet(words: collections.Counter[str], limit: int) -> list[str]:
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    commonest = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    return sorted(commonest)


def _pipeline(tokenizer: Any, lowercase: bool) -> Any:
    from tokenizers import normalizers, pre_tokenizers

    bert = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), bert])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _check_size(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            f"expected vocab_size={expected}, found {found} tokens in {what}. Put vocab_size={found}."
        )


class _WordPieces:
    pad_id, unk_id, cls_id, sep_id, mask_id = PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.word_ids

    def decode(self, ids: Sequence[int]) -> str:
        special = range(len(SPECIAL_TOKENS))
        return self._tokenizer.decode([int(i) for i in ids if int(i) not in special or int(i) == UNK_ID])

    def digest(self) -> str:
        return _digest(self._tokenizer.get_vocab())


@threadsafe_cache
def _load(spec: Pretrained) -> Vocabulary:
    directory = Path(spec.directory).expanduser()
    if not directory.is_dir():
        raise InputError(
            f"expected a tokenizer's folder, found nothing at {directory.absolute()}. Download it first."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"expected a tokenizer in {directory}, found none that transformers can load: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"expected a fast tokenizer (it tells words) in {directory}, found {type(tokenizer).__name__}"
        )
    _check_size(str(directory), len(tokenizer), spec.vocab_size)
    return _PretrainedVocabulary(tokenizer, str(directory))


class _PretrainedVocabulary:
    def __init__(self, tokenizer: Any, name: str):
        self._tokenizer, self._name = tokenizer, name
        self.size = len(tokenizer)
        self.cls_id = self._first("cls", "bos", "eos")
        self.sep_id = self._first("sep", "eos")
        self.pad_id = self._first("pad", "eos")

    def _first(self, *kinds: str) -> int:
        for kind in kinds:
            if (number := getattr(self._tokenizer, f"{kind}_token_id")) is not None:
                return number
        raise InputError(
            f"expected one of the special tokens {list(kinds)} in the tokenizer of {self._name}, found none"
        )

    @property
    def mask_id(self) -> int:
        return self._first("mask")

    @property
    def unk_id(self) -> int:
        return self._first("unk")

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return encoding["input_ids"], encoding.word_ids()

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def digest(self) -> str:
        return _digest(self._tokenizer.get_vocab())


def _digest(ids: dict[str, int]) -> str:
    return hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()
