"""The interface of tokenizers and their vocabularies, and the ids of the special tokens."""

import abc
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.errors import InputError
from mmjax.spec import Spec

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


class TokenizerVocabulary(Vocabulary):
    """A vocabulary whose `_tokenizer`, of tokenizers or transformers, has `get_vocab`."""

    _tokenizer: Any

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self._tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def check_size(name: str, found: int, expected: int) -> None:
    """Raises InputError unless the tokenizer `name` has as many token ids as its spec says."""
    if found != expected:
        raise InputError(
            f"expected vocab_size={expected}, found {found} tokens in {name}. Put vocab_size={found}."
        )
