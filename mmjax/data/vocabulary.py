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
from mmjax.data.sources.files import FileStamp, fingerprint
from mmjax.errors import InputError, excerpt, one_line
from mmjax.ranges import Count, Vocab
from mmjax.spec import Spec

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # in the order of their ids
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL_TOKENS))
# Longer words are split into words of this length, since the time of WordPiece grows with its cube.
_MAX_WORD = 200
_JSON_OBJECTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "vocab.json",
)
_MAX_SAVED_BYTES = 2**28  # of a tokenizer.json
_REMEDY = "restore its folder from a copy of the run, or delete it, to train the tokenizer on the data again"


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
        """The id of [UNK]."""
        return self._special_id("unk")

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self._special_id("cls")

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self._special_id("sep")

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
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

    def save(self, folder: Path) -> bool:
        """Writes files to an empty folder from which a `SavedTokenizer` opens an equal vocabulary.

        Returns:
          False: this kind of vocabulary cannot be saved, and the folder stays empty.
        """
        return False


class TokenizerSpec(Spec, abc.ABC):
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

    A word is a run of up to 200 letters and digits, or one punctuation mark. Training ends early when every
    word is one token. If `vocab_size` is larger than that, the error names the size to set.

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
    vocab_size: Vocab
    lowercase: bool = True
    min_frequency: Count = 1
    max_alphabet: Count = 1000

    def open(self) -> Vocabulary:
        return _train(self, self.source.open())


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
    model = models.WordPiece(raw.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD)
    tokenizer = _pipeline(Tokenizer(model), spec.lowercase)
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
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.FixedLength(_MAX_WORD)]
    )
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

    def save(self, folder: Path) -> bool:
        self._tokenizer.save(str(folder / "tokenizer.json"))
        return True


def _saved_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file() or file.stat().st_size > _MAX_SAVED_BYTES:
        raise InputError(
            f"expected the saved tokenizer {file} of at most {_MAX_SAVED_BYTES:,} bytes, found "
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
    _check_size(file, tokenizer.get_vocab_size(), vocab_size)
    return _WordPieces(tokenizer)


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
    _check_size(str(directory), size, spec.vocab_size)
    return _PretrainedVocabulary(tokenizer, str(directory))


def _check_files(directory: Path) -> None:
    """Raises InputError unless a tokenizer's files are regular, not too large, and valid JSON."""
    for file in sorted(directory.iterdir()):
        if file.suffix not in (".json", ".txt", ".model"):
            continue
        if not file.is_file() or file.stat().st_size > _MAX_SAVED_BYTES:
            found = "a larger one" if file.is_file() else "no regular file"
            raise InputError(
                f"expected a tokenizer's file of at most {_MAX_SAVED_BYTES:,} bytes at {file}, found {found}"
            )
        if file.suffix != ".json":
            continue
        try:
            value = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"expected JSON in {file}, found other text: {one_line(str(error))}") from error
        if file.name in _JSON_OBJECTS and not isinstance(value, dict):
            raise InputError(f"expected a JSON object in {file}, found {excerpt(value)}")


class _PretrainedVocabulary(_TokenizerVocabulary):
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
