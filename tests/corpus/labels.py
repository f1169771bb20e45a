"""Labels, several labels, boxes and tags; and what transforms of one's own raise for one record."""

import dataclasses
import functools
import logging
from typing import Any

import numpy as np

from corpus.case import Case
from mmjax import data
from mmjax.batch import Labels

NAMES = ("cat", "dog", "owl")
NAN, INF = float("nan"), float("inf")


def bad(family: str, name: str, transform: data.Transform, value: Any, message: str) -> Case:
    """A record whose value, or whose fields if it is a dict of them, the transform must not use."""
    fields = value if isinstance(value, dict) and value.keys() & {"y", "boxes", "tags"} else {"y": value}

    def give(folder):
        return transform.decode({"__key__": "k"} | fields)

    return Case(family, name, "skipped", give, message=f"^k: .*{message}")


def read(family: str, name: str, transform: data.Transform, fields: dict[str, Any], expected: Any) -> Case:
    def give(folder):
        decoded = transform.decode({"__key__": "k"} | fields)
        return np.asarray(decoded[0] if isinstance(decoded, tuple) else decoded, float)

    return Case(family, name, "right", give, expected=np.asarray(expected, float), within=1e-6)


NAMED, NUMBERED = data.LabelTransform("y", classes=NAMES), data.LabelTransform("y")
RANGE, ANY = "expected a class number from 0 to 2 in 'y', found", "from 0 to 2147483647 in 'y', found"
LABELS = [
    ("the number of classes", NAMED, 3, RANGE + " 3"),
    ("negative", NAMED, -1, RANGE + " -1"),
    ("negative without names", NUMBERED, -1, ANY + " -1"),
    ("a broken number", NAMED, 0.5, RANGE + " 0.5"),
    ("NaN", NAMED, NAN, RANGE + " nan"),
    ("infinity", NUMBERED, INF, ANY + " inf"),
    ("beyond int32", NUMBERED, 2**31, ANY + " 2147483648"),
    ("beyond int64", NUMBERED, 2**64, ANY),
    ("beyond floats", NUMBERED, 10**400, ANY),
    ("a bool", NAMED, True, RANGE + " True"),
    ("a bool of NumPy's", NUMBERED, np.True_, ANY),
    ("null", NAMED, None, "expected a value at 'y', found null"),
    ("a list of one", NAMED, [1], RANGE),
    ("an array of one", NUMBERED, np.array([1]), ANY),
    ("an object", NAMED, {"name": "cat"}, RANGE),
    ("a complex number", NUMBERED, 1j, ANY),
    ("another name", NAMED, "cow", r"among \['cat', 'dog', 'owl'\] in 'y', found \['cow'\]"),
    ("another case", NAMED, "Cat", r"found \['Cat'\]"),
    ("an empty name", NAMED, "", r"found \[''\]"),
    ("a name with control characters", NAMED, "cat\n\x1b[31m", r"found \['cat.n.x1b\[31m'\]"),
    ("a name of 10 MB", NAMED, "cat" * 3_000_000, "found"),
    ("no UTF-8", NAMED, b"\xff\xfe", "found"),
    ("half a surrogate pair", NAMED, "\udc80", "found"),
    ("a word without names", NUMBERED, "cat", ANY + " 'cat'"),
    ("a number with an underscore", NUMBERED, "1_0", ANY + " '1_0'"),
    ("a million digits", NUMBERED, "9" * 10**6, ANY),
    ("no field", NAMED, {"y": None}, "found null"),
]

SEVERAL = data.MultiLabelTransform("y", NAMES)
SEVERAL_RANGE = r"expected classes among \['cat', 'dog', 'owl'\] in 'y', or numbers from 0 to 2, found "
BAD_SEVERAL = [
    ("another name", ["cat", "cow"], SEVERAL_RANGE + "'cow'"),
    ("the number of classes", [3], SEVERAL_RANGE + "3"),
    ("negative", [-1], SEVERAL_RANGE + "-1"),
    ("a bool", [True, False, True], SEVERAL_RANGE + "True"),
    ("a broken number", [0.5], SEVERAL_RANGE + "0.5"),
    ("NaN", [NAN], SEVERAL_RANGE + "nan"),
    ("a number beyond floats", [10**400], SEVERAL_RANGE),
    ("a ragged list", [["cat"], "dog"], SEVERAL_RANGE + r"\['cat'\]"),
    ("an unhashable name", [{"a": []}], SEVERAL_RANGE),
    ("a text", "cat", "expected a list of classes in 'y', found 'cat'"),
    ("an object", {"cat": 1}, "expected a list of classes in 'y'"),
    ("too few bools", np.array([True, False]), r"expected 3 bools in 'y', found the shape \[2\]"),
    ("a matrix", np.zeros((2, 2), int), "expected a list of classes in 'y'"),
    ("floats of probabilities", np.array([0.1, 0.7, 0.2]), SEVERAL_RANGE + "np.float64.0.1."),
]

BOXES = data.BoxesTransform("boxes", labels="names", classes=NAMES, max_boxes=3)
GOOD = [0.1, 0.2, 0.4, 0.2]
FOUR = "expected a list of boxes of four numbers in 'boxes', found"
INSIDE = "expected boxes inside the image, in fractions from 0 to 1, format='xywh', in 'boxes', found"
BAD_BOXES = [
    ("in pixels", [[10, 20, 30, 40]], ["cat"], INSIDE),
    (
        "right of the image",
        [GOOD, [0.7, 0.1, 0.8, 0.2]],
        ["cat"] * 2,
        INSIDE + r" \[0.7, 0.1, 0.8, 0.2\] as box 1",
    ),
    ("left of the image", [[-0.5, 0.1, 0.8, 0.2]], ["cat"], INSIDE),
    ("no width", [[0.1, 0.1, 0.0, 0.2]], ["cat"], INSIDE),
    ("corners in place of sizes", [[0.5, 0.5, 0.9, 0.9]], ["cat"], INSIDE),
    ("negative sizes", [[0.5, 0.5, -0.2, 0.2]], ["cat"], INSIDE),
    ("NaN", [[NAN, 0.1, 0.2, 0.2]], ["cat"], INSIDE),
    ("infinity", [[0.1, 0.1, INF, 0.2]], ["cat"], INSIDE),
    ("beyond float32", [[0.1, 0.1, 1e300, 0.2]], ["cat"], INSIDE),
    ("eight numbers", [GOOD * 2], ["cat"] * 2, FOUR),
    ("five numbers", [[*GOOD, 0.9]], ["cat"], FOUR),
    ("ragged", [GOOD, [0.1, 0.2]], ["cat"] * 2, FOUR),
    ("not nested", GOOD, ["cat"], FOUR),
    ("nested twice", [[GOOD]], ["cat"], FOUR),
    ("texts", [["0.1", "0.2", "0.4", "0.2"]], ["cat"], FOUR),
    ("an object for each", [{"x": 0.1}], ["cat"], FOUR),
    ("null in a box", [[0.1, None, 0.4, 0.2]], ["cat"], FOUR),
    ("too many", [GOOD] * 4, ["cat"] * 4, "expected max_boxes=3 or fewer in 'boxes', found 4 boxes"),
    ("a hundred thousand", [GOOD] * 100_000, ["cat"] * 100_000, "found 100000 boxes"),
    ("more names than boxes", [GOOD], ["cat"] * 2, "expected as many 'names' as boxes, found 2 and 1"),
    ("another name", [GOOD], ["cow"], r"expected classes among .* in 'names', found \['cow'\]"),
    ("a text for names", [GOOD] * 3, "cat", "expected a list of classes in 'names', found 'cat'"),
    ("unhashable names", [GOOD], [["cat"]], r"found \[\['cat'\]\]"),
    ("numbers for names", [GOOD], [1], r"found \[1\]"),
]


def corners(format: str, box: list[float]) -> Case:
    transform = dataclasses.replace(BOXES, format=format)
    fields = {"boxes": [box], "names": ["owl"]}
    return read("boxes", f"format {format}", transform, fields, np.array([[0.3, 0.3, 0.4, 0.2]]))


class Letters(data.TokenizerSpec):
    """A tokenizer of one token per letter, which needs no training."""

    vocab_size = size = 64
    special_ids = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    pad_id, unk_id, cls_id, sep_id, mask_id = 0, 1, 2, 3, 4

    def open(self):
        return self

    def encode(self, text):
        return [5 + ord(letter) % 50 for letter in text], [0] * len(text)

    def digest(self):
        return "letters"


class Panic(BaseException):
    """Stands for the panic of a Rust library, whose class is no Exception and cannot be imported."""


Panic.__name__ = "PanicException"


@dataclasses.dataclass(frozen=True)
class Own(data.Transform):
    """A transform of a user's own, which raises or gives what it is told, for the record of that number."""

    error: Any = dataclasses.field(default=None, compare=False)
    result: Any = dataclasses.field(default=None, compare=False)
    where: str = "decode"
    optional: bool = False

    def locate(self, record):
        return record["y"]

    def decode(self, record):
        return self._run("decode", record["y"])

    def augment(self, decoded, rng):
        number = self._run("augment", decoded)
        return Labels(np.asarray(number, np.int32), np.asarray(True)) if self.result is None else self.result

    def _run(self, where, number):
        if self.error is not None and where == self.where and number == 1:
            raise self.error
        return number

    def empty(self):
        return Labels(np.asarray(0, np.int32), np.asarray(False))


def own_example(transform: Own, index: int = 1) -> Any:
    dataset = data.Dataset(data.Arrays({"y": [0, 1, 2]}), {"label": transform})
    logging.disable(logging.WARNING)  # the traceback
    try:
        return dataset.open().example(index, np.random.default_rng(0))["label"].values
    finally:
        logging.disable(logging.NOTSET)


ERRORS = [
    RuntimeError("decoder"), OverflowError("int too big"), MemoryError(), RecursionError("too deep"),
    TypeError("unhashable"), KeyError("x\n\x1b[31m"), AssertionError(), ZeroDivisionError("division"),
    UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates"), StopIteration(), Exception("bare"),
    Panic("rust"), OSError(5, "Input/output error"),
    ValueError("object at 0x7f0123456789"), ValueError("x" * 10**7),
]  # fmt: skip
RESULTS = [
    ("int64", Labels(np.asarray(1), np.asarray(True)), r"expected values int32\[\].* found int64\[\]"),
    ("another shape", Labels(np.zeros(2, np.int32), np.asarray(True)), r"found int32\[2\]"),
    ("a float", Labels(np.float32(1.5), np.asarray(True)), r"found float32\[\]"),
    ("no array", Labels(1, np.asarray(True)), "found 1"),
    ("another stream", np.zeros(3), "expected Labels, found ndarray"),
]


def all_bad(folder):
    dataset = data.Dataset(data.Arrays({"y": [-1] * 50}), {"label": NUMBERED})
    mixture = data.Mixture.of(dataset, batch_size=4, max_bad_fraction=1.0)
    counter = data.BadExampleCounter(mixture, max_logged=0)
    for _, found in data.batches(mixture, seed=0, start_step=0):
        counter.add(found)


def some_bad(folder):
    dataset = data.Dataset(data.Arrays({"y": [-1, *range(9)]}), {"label": NUMBERED})
    return list(data.epoch(dataset, 5))


def collate(*values):
    empty = {"y": Labels(np.asarray(0, np.int32), np.asarray(False))}
    return data.collate([{"y": Labels(value, np.asarray(True))} for value in values], empty)["y"].values


def tag_cases():
    text = data.TextTransform("words", Letters(), length=16, pretokenized=True)
    transform = data.TagTransform("tags", text=text, classes=("O", "B"))
    words = ["to", "be", "or"]
    rows = [
        ("too few", ["O", "B"], "expected 3 tags in 'tags', one for each word, found 2"),
        ("too many", ["O"] * 4, "expected 3 tags in 'tags', one for each word, found 4"),
        ("another name", ["O", "X", "O"], r"expected classes among \['O', 'B'\] in 'tags', found \['X'\]"),
        ("numbers", [0, 1, 0], "expected a list of words in 'tags'"),
        ("ragged", [["O"], "B", "O"], "expected a list of words in 'tags'"),
        ("an object", {"O": 1}, "expected a list of words in 'tags'"),
        ("none", [], "expected"),
    ]
    for name, tags, message in rows:
        yield bad("tags", name, transform, {"tags": tags, "words": words}, message)
    expected = np.array([-1, 0, -1, 1, -1, 0, *[-1] * 10])
    yield read(
        "tags", "at each word's first token", transform, {"tags": ["O", "B", "O"], "words": words}, expected
    )


INT32 = functools.partial(np.asarray, dtype=np.int32)
CASES: tuple[Case, ...] = (
    *(bad("label", *row) for row in LABELS),
    *(read("label", name, transform, {"y": value}, expected)
      for name, transform, value, expected in (
          ("a whole float", NAMED, 2.0, 2), ("uint8", NAMED, np.uint8(2), 2),
          ("a name in bytes", NAMED, b"dog\n", 1),
          ("a number in text", NUMBERED, " 12\n", 12), ("the largest int32", NUMBERED, 2**31 - 1, 2**31 - 1),
      )),
    *(bad("several labels", name, SEVERAL, {"y": value}, message) for name, value, message in BAD_SEVERAL),
    *(read("several labels", name, SEVERAL, {"y": value}, expected)
      for name, value, expected in (
          ("none", [], [0, 0, 0]), ("names twice", ["owl", "owl"], [0, 0, 1]),
          ("numbers", np.array([0, 2]), [1, 0, 1]),
          ("bools", np.array([False, True, True]), [0, 1, 1]),
      )),
    *(bad("boxes", name, BOXES, {"boxes": boxes, "names": names}, message)
      for name, boxes, names, message in BAD_BOXES),
    corners("xywh", [0.1, 0.2, 0.4, 0.2]),
    corners("xyxy", [0.1, 0.2, 0.5, 0.4]),
    corners("cxcywh", [0.3, 0.3, 0.4, 0.2]),
    read("boxes", "none", BOXES, {"boxes": [], "names": []}, np.zeros((0, 4))),
    *tag_cases(),
    *(Case("transform", f"{type(error).__name__} {str(error)[:20]!a} in {where}", "skipped",
           functools.partial(lambda transform, folder: own_example(transform), Own(error, where=where)),
           message=rf"^arrays\[1\]: {where} of the stream 'label' raised {type(error).__name__}")
      for error in ERRORS for where in ("decode", "augment")),
    *(Case("transform", f"{name} as the result", "skipped",
           functools.partial(lambda transform, folder: own_example(transform), Own(result=result)),
           message=rf"^arrays\[1\]: the stream 'label': .*{message}")
      for name, result, message in RESULTS),
    Case("transform", "the record beside a bad one", "right",
         lambda folder: own_example(Own(RuntimeError()), 2), expected=2),
    Case("transform", "every example is bad", "refused", all_bad,
         message=r"all 52 are bad.*The first:\n  arrays\[\d+\]: expected a class number"),
    Case("transform", "more than the allowed share of an evaluation", "refused", some_bad,
         message=r"at most 1.00% bad examples \(max_bad_fraction\), found 1 of 10.*arrays\[0\]"),
    Case("batch", "int32 and float32", "refused", lambda folder: collate(INT32(1), np.float32(1)),
         message=r"stream 'y': expected values int32\[\].* found float64"),
    Case("batch", "int32 and int64", "refused", lambda folder: collate(INT32(1), np.int64(1)),
         message="int64"),
    Case("batch", "two shapes", "refused", lambda folder: collate(INT32(1), INT32([1, 2])),
         message="expected equal types and shapes in the stream 'y'"),
    Case("batch", "equal types", "right", lambda folder: collate(INT32(1), INT32(2)),
         expected=np.array([1, 2])),
)  # fmt: skip
