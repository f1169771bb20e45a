"""WordPiece vocabularies, trained on the data as BERT's."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.records import BadExample, lookup_text
from mmjax.data.sources.base import Source, threadsafe_cache
from mmjax.data.vocabulary import (
    CLS_ID,
    MASK_ID,
    PAD_ID,
    SEP_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    TokenizerSpec,
    TokenizerVocabulary,
    Vocabulary,
    check_size,
)
from mmjax.errors import InputError
from mmjax.ranges import Count, Vocab

# Longer words are split into words of this length, since the time of WordPiece grows with its cube.
_MAX_WORD = 200


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
    check_size(f"the vocabulary trained on {list(spec.fields)}", raw.get_vocab_size(), spec.vocab_size)
    model = models.WordPiece(raw.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD)
    tokenizer = _pipeline(Tokenizer(model), spec.lowercase)
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return WordPieces(tokenizer)


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


class WordPieces(TokenizerVocabulary):
    """An opened WordPiece, of the tokenizers library."""

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
