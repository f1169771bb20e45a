"""Whatever a transform raises for one record is one bad example; the first of a kind shows its traceback."""

import dataclasses
import logging

import numpy as np
import pytest

from mmjax import data
from mmjax.batch import Labels
from mmjax.data import BadExample
from mmjax.errors import InputError, Interrupted


class PanicException(BaseException):
    """As pyo3 names the panics of Rust code."""


@dataclasses.dataclass(frozen=True)
class Raises(data.Transform):
    """Raises `errors[label]` where the record's label has one, in `decode` or in `augment`."""

    errors: tuple
    where: str = "decode"
    result: object = dataclasses.field(default=None, compare=False)
    optional: bool = False

    def _run(self, where, value):
        if where == self.where and value < len(self.errors) and self.errors[value] is not None:
            raise self.errors[value]
        return value

    def decode(self, record):
        return self._run("decode", record["label"])

    def augment(self, decoded, rng):
        value = self._run("augment", decoded)
        return Labels(np.asarray(value, np.int32), np.asarray(True)) if self.result is None else self.result

    def empty(self):
        return Labels(np.asarray(0, np.int32), np.asarray(False))


def opened(transform, cache=False, num=3):
    return data.Dataset(data.Arrays({"label": list(range(num))}), {"y": transform}, cache=cache).open()


ERRORS = [
    RuntimeError("decoder"), OverflowError("big"), MemoryError(), RecursionError("deep"), TypeError("ragged"),
    UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogate"), Exception("bare"), PanicException("rust"),
    AssertionError(), StopIteration(), KeyError("x\n\x1b[31m"), ValueError("x" * 10**6), Warning("w"),
]  # fmt: skip


@pytest.mark.parametrize("where", ["decode", "augment"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_of_one_record_is_a_bad_example(error, where):
    examples = opened(Raises((None, error), where))
    for rng in (None, np.random.default_rng(0)):
        assert examples.example(0, rng)["y"].values == 0
        with pytest.raises(BadExample) as caught:
            examples.example(1, rng)
    assert caught.value.key == "arrays[1]" and len(str(caught.value)) < 450
    assert f"{where} of the stream 'y' raised {type(error).__name__}" in caught.value.reason


def test_a_cached_bad_record_stays_bad():
    examples = opened(Raises((RuntimeError("once"),)), cache=True)
    for _ in range(2):
        with pytest.raises(BadExample, match="RuntimeError: once"):
            examples.example(0)


@pytest.mark.parametrize(
    "error", [InputError("i"), Interrupted("s"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
)
def test_what_ends_a_run_is_no_bad_example(error):
    with pytest.raises(type(error)):
        opened(Raises((error,))).example(0)


def test_the_first_error_of_a_line_is_logged_with_its_traceback(caplog):
    def broken(record):
        return {}["no such key at 0x7f0123456789"]

    transform = dataclasses.replace(Raises(()), errors=())
    object.__setattr__(transform, "decode", broken)
    examples = opened(transform)
    with caplog.at_level(logging.WARNING):
        for index in (0, 1, 2):
            with pytest.raises(BadExample, match="KeyError"):
                examples.example(index)
    (message,) = caplog.messages
    assert "decode of the stream 'y' raised KeyError" in message and "arrays[0]" in message
    assert 'return {}["no such key' in message and "test_bad_records.py" in message


@pytest.mark.parametrize(
    "result, message",
    [
        (Labels(np.asarray(1, np.int64), np.asarray(True)), r"values int32\[\], .* found int64\[\]"),
        (Labels(np.zeros(2, np.int32), np.asarray(True)), r"values int32\[\], .* found int32\[2\]"),
        (Labels(1, np.asarray(True)), "values like .*, found 1"),
        ("labels", "Labels, found str"),
    ],
)
def test_a_stream_of_another_type_or_shape_is_a_bad_example(result, message):
    with pytest.raises(BadExample, match=f"the stream 'y': expected {message}"):
        opened(Raises((), result=result)).example(0)


def test_collate_never_casts():
    def labels(values):
        return {"y": Labels(np.asarray(values), np.asarray(True))}

    empty = {"y": Labels(np.asarray(0, np.int32), np.asarray(False))}
    one = np.asarray(1, np.int32)
    assert data.collate([labels(one), {}], empty)["y"].values.dtype == np.int32
    for wrong, found in ((np.float32(1), "float64"), (np.int64(1), "int64")):
        with pytest.raises(InputError, match=rf"stream 'y': expected values int32\[\], .* found {found}\[\]"):
            data.collate([labels(one), labels(wrong)], empty)
    with pytest.raises(InputError, match="equal types and shapes in the stream 'y'"):
        data.collate([labels(one), labels(np.zeros(2, np.int32))], empty)
