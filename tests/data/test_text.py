"""Vocabularies, TextTransform and LabelTransform."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mmjax import data
from mmjax.errors import InputError

TEXTS = [
    "bin blue at f two now",
    "lay red by a one soon",
    "bin red at a two soon",
    "Über 日本語 हिन्दी, café!",
]


def texts(values=TEXTS):
    return data.Arrays({"text": list(values)})


def full_size(source, fields=("text",), **options) -> int:
    """The size at which every word is one token, which the error names."""
    with pytest.raises(InputError) as caught:
        data.WordPiece(source, fields, vocab_size=100_000, **options).open()
    return int(str(caught.value).rpartition("=")[2].rstrip("."))


def wordpiece(source=None, **options):
    source = source or texts()
    return data.WordPiece(source, ("text",), vocab_size=full_size(source, **options), **options)


def transformed(transform, value):
    return transform.augment(transform.decode({"__key__": "k", "text": value}), None)


def bad_reason(transform, record) -> str:
    with pytest.raises(data.BadExample) as caught:
        transform.decode({"__key__": "k"} | record)
    return str(caught.value)


def test_special_ids_and_decoding():
    vocabulary = wordpiece().open()
    assert (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id) == (0, 2, 3, 4)
    assert vocabulary.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    ids, words = vocabulary.encode("Bin  BLUE, café 日本")
    assert min(ids) >= 5 and max(ids) < vocabulary.size and words == [0, 1, 2, 3, 4, 5]
    assert vocabulary.decode([2, *ids, 3, 0]) == "bin blue , café 日 本"
    assert vocabulary.encode("xylophone ☃")[0].count(data.UNK_ID) == 2


def test_equal_vocabularies_alone_have_equal_digests():
    def digest(text):
        return wordpiece(texts([text])).open().digest()

    assert digest("a red fox") == digest("red a fox") != digest("a red fax")


def test_accents_and_vowel_signs_are_kept_and_case_optionally():
    vocabulary = wordpiece().open()
    assert vocabulary.decode(vocabulary.encode("ÜBER हिन्दी")[0]) == "über हिन्दी"
    cased = wordpiece(lowercase=False).open()
    assert cased.decode(cased.encode("Über")[0]) == "Über"


def test_words_are_single_tokens_in_a_full_vocabulary_and_pieces_in_a_smaller_one():
    spec = wordpiece()
    vocabulary = spec.open()
    for text in TEXTS[:3]:
        assert vocabulary.encode(text)[1] == list(range(6))
    smaller = data.WordPiece(spec.source, ("text",), vocab_size=spec.vocab_size - 20).open()
    ids, words = smaller.encode(TEXTS[0])
    assert len(ids) > 6 and sorted(set(words)) == list(range(6))
    assert smaller.decode(ids) == TEXTS[0]


def test_another_vocab_size_is_refused():
    right = wordpiece().vocab_size
    for wrong in (10, right + 1):
        with pytest.raises(
            InputError, match=rf"expected vocab_size={wrong}, found \d+ tokens .* Put vocab_size="
        ):
            data.WordPiece(texts(), ("text",), vocab_size=wrong).open()


def test_max_alphabet_limits_the_characters():
    small = wordpiece(max_alphabet=3).open()
    assert small.size < wordpiece().vocab_size
    assert data.UNK_ID in small.encode("日")[0]


def test_training_without_text_is_refused():
    with pytest.raises(InputError, match=r"expected text in \['text'\] to train on, found none in 2 records"):
        data.WordPiece(texts(["", " "]), ("text",), vocab_size=9).open()


PRINT_VOCABULARY = """
import json, sys
from mmjax import data
spec = data.WordPiece(data.Jsonl(sys.argv[1]), ("text",), vocab_size=40)
print(json.dumps([spec.open().decode([i]) for i in range(5, 40)]))
"""


def test_equal_data_give_equal_vocabularies_in_every_process(make):
    path = make.jsonl([{"text": text} for text in TEXTS[:3]])
    run = [sys.executable, "-c", PRINT_VOCABULARY, path]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate()[0] for process in processes]
    assert len(json.loads(printed[0])) == 35 and len(set(printed)) == 1


def test_text_has_special_tokens_and_is_truncated_and_padded():
    transform = data.TextTransform("text", wordpiece(), length=6)
    whole = transformed(transform, "bin blue")
    assert whole.tokens.tolist()[0] == 2 and whole.tokens.tolist()[3:] == [3, 0, 0]
    assert whole.mask.tolist() == [True] * 4 + [False] * 2 and whole.words.tolist() == [-1, 0, 1, -1, -1, -1]
    cut = transformed(transform, "bin blue at f two now")
    assert cut.tokens[-1] == 3 and cut.mask.all() and cut.words.tolist() == [-1, 0, 1, 2, 3, -1]
    assert [a.dtype for a in (cut.tokens, cut.mask, cut.token_types, cut.words)] == [
        np.int32,
        bool,
        np.int32,
        np.int32,
    ]
    empty = transform.empty()
    assert empty.tokens.shape == cut.tokens.shape and not empty.mask.any() and (empty.words == -1).all()


def test_one_of_several_fields_is_chosen_at_random_only_in_training_and_on_request():
    record = {"__key__": "k", "a": "bin", "b": ["red", "blue"]}
    tokenizer = wordpiece()
    first = data.TextTransform(("none", "a", "b"), tokenizer, 5)
    assert len(first.decode(record)) == 1
    both = data.TextTransform(("none", "a", "b"), tokenizer, 6, choose="random", join=" ")
    decoded = both.decode(record)
    seen = {
        tokenizer.open().decode(both.augment(decoded, np.random.default_rng(seed)).tokens)
        for seed in range(20)
    }
    assert seen == {"bin", "red blue"}
    assert tokenizer.open().decode(both.augment(decoded, None).tokens) == "bin"


@pytest.mark.parametrize(
    "record, message",
    [
        ({"text": ""}, "k: expected text in 'text', found only white space"),
        ({"text": b" \n"}, "found only white space"),
        ({"text": b"caf\xe9"}, "k: expected UTF-8 text in 'text', found the byte 0xe9 at 3"),
        ({"text": "\ud800"}, "expected text in 'text' that UTF-8 can encode"),
        ({"text": []}, "k: expected at least one text in 'text', found an empty list"),
        ({"text": 5}, "k: expected text or a list of texts in 'text', found a int"),
        ({"text": "\u200b\x00"}, "for which the tokenizer gives no token"),
        ({"json": b'{"a": 1}'}, "k: expected the field 'text', found only ['json']"),
    ],
)
def test_bad_texts_are_bad_examples(record, message):
    assert message in bad_reason(data.TextTransform("text", wordpiece(), 6), record)


def test_missing_json_keys_list_the_existing_ones():
    transform = data.TextTransform("json.names.de", wordpiece(), 6)
    message = bad_reason(transform, {"json": b'{"names": {"en": "x", "fr": "y"}}'})
    assert message == "k: expected 'de' of 'json.names.de' in 'json.names', found the keys ['en', 'fr']"


def test_invalid_settings_are_refused():
    with pytest.raises(InputError, match="length"):
        data.TextTransform("text", wordpiece(), 2)
    with pytest.raises(InputError, match="choose"):
        data.TextTransform("text", wordpiece(), 5, choose="last")


@pytest.fixture
def bert_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "word", "##s"]
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(
        tmp_path / "bert"
    )
    return str(tmp_path / "bert")


def test_pretrained_reads_a_folder_and_checks_its_size(bert_folder):
    vocabulary = data.Pretrained(bert_folder, vocab_size=8).open()
    assert vocabulary.size == 8 and vocabulary.mask_id == 4 and vocabulary.pad_id == 0
    assert vocabulary.encode("two words") == ([5, 6, 7], [0, 1, 1])
    assert vocabulary.decode([2, 5, 6, 7, 3]) == "two words"
    assert vocabulary.digest() != wordpiece().open().digest()
    framed = transformed(data.TextTransform("text", data.Pretrained(bert_folder, 8), 6), "two words")
    assert framed.tokens.tolist() == [2, 5, 6, 7, 3, 0]
    with pytest.raises(InputError, match="expected vocab_size=9, found 8 tokens in .*bert"):
        data.Pretrained(bert_folder, vocab_size=9).open()


def test_special_ids_are_those_of_the_tokenizer_and_a_missing_one_is_refused(bert_folder, tmp_path):
    vocabulary = data.Pretrained(bert_folder, vocab_size=8).open()
    assert vocabulary.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path / "end")
    vocabulary = data.Pretrained(str(tmp_path / "end"), vocab_size=2).open()
    assert vocabulary.special_ids == {"pad": 1, "cls": 1, "sep": 1}
    with pytest.raises(InputError, match=r"a special token 'mask', found only \['cls', 'pad', 'sep'\]"):
        _ = vocabulary.mask_id


def test_pretrained_uses_no_network(bert_folder, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert data.Pretrained(bert_folder, vocab_size=8).open().size == 8


def test_counts_tell_unknown_and_truncated_tokens():
    counts = data.TextTransform("text", wordpiece(), 5).count("bin ☃ blue at f")
    assert (counts.tokens, counts.unknown, counts.truncated) == (5, 1, 2)


def test_words_of_more_than_a_hundred_letters_give_pieces():
    thai = "แมวสีดำนอนบนโซฟา" * 8
    vocabulary = wordpiece(texts([thai, "bin"])).open()
    assert vocabulary.decode(vocabulary.encode(thai)[0]) == thai
    ids, words = vocabulary.encode(thai * 2 + " bin")
    assert vocabulary.unk_id not in ids and sorted(set(words)) == [0, 1, 2]


def test_long_texts_are_cut_without_another_result(monkeypatch):
    from mmjax.data import text as module

    long = "bin blue " + "red " * 5000
    whole = transformed(data.TextTransform("text", wordpiece(), 40), long)
    monkeypatch.setattr(module, "_CHARACTERS_PER_TOKEN", 10**6)
    np.testing.assert_array_equal(
        transformed(data.TextTransform("text", wordpiece(), 40), long).tokens, whole.tokens
    )


def test_pretrained_refuses_a_missing_or_empty_folder(tmp_path):
    with pytest.raises(InputError, match="expected a tokenizer's folder, found none at .*none"):
        data.Pretrained(str(tmp_path / "none"), vocab_size=8).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match="expected a tokenizer that transformers can load in .*empty, found none"
    ):
        data.Pretrained(str(tmp_path / "empty"), vocab_size=8).open()


@pytest.mark.parametrize("value, index", [(2, 2), (np.uint8(1), 1), ("b", 1), (b"b\n", 1)])
def test_labels_are_indices_or_names(value, index):
    transform = data.LabelTransform("y", classes=("a", "b", "c"))
    label = transform.augment(transform.decode({"__key__": "k", "y": value}), None)
    assert label.values == index and label.values.dtype == np.int32 and label.mask
    assert not transform.empty().mask and transform.empty().values.shape == ()


@pytest.mark.parametrize(
    "value, message",
    [
        ("d", "k: expected classes among ['a', 'b'] in 'y', found ['d']"),
        (2, "k: expected a class number from 0 to 1 in 'y', found 2"),
        (-1, "found -1"),
        (0.5, "found 0.5"),
        ([1], "expected a class number from 0 to 1 in 'y', found [1]"),
    ],
)
def test_bad_labels_are_bad_examples(value, message):
    assert message in bad_reason(data.LabelTransform("y", classes=("a", "b")), {"y": value})


def test_the_51_words_of_grid_are_one_token_each(shared_data, make):
    source = data.WebDataset(str(shared_data / "grid_s1" / "val.tar"))
    size = full_size(source, ("json.text",))
    vocabulary = data.WordPiece(source, ("json.text",), vocab_size=size).open()
    reader = source.open()
    sentences = [data.lookup(reader[i], "json.text") for i in range(len(reader))]
    assert all(len(vocabulary.encode(sentence)[0]) == 6 for sentence in sentences)
