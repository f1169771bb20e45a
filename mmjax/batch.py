"""The values that cross the package's boundaries, and the legend of its axis letters.

B batch | L positions | D width | H heads | K head width | F mlp width | V vocabulary | E shared space

Raw inputs name their axes in words: ``"B height width channel"``, ``"B samples"``.

Every value carries a mask, and a missing modality is a mask that is False everywhere. It is never
``None``: shapes stay static and no branch reaches the compiled program.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

from flax import struct

# NumPy arrays on the host, jax arrays on the device, ShapeDtypeStructs when only shapes matter.
Array: TypeAlias = Any


@struct.dataclass
class Text:
    """Token ids of one text an example."""

    tokens: Array  # int32 "B L"
    mask: Array  # bool "B L", False at padding
    token_types: Array  # int32 "B L", 0 in the first sentence and 1 in the second (BERT)
    words: Array  # int32 "B L", the word that the position belongs to; -1 at special tokens and padding


@struct.dataclass
class Image:
    """One picture an example, normalised."""

    pixels: Array  # float32 "B height width channel"
    mask: Array  # bool "B"


@struct.dataclass
class Audio:
    """One mono waveform an example, in [-1, 1]."""

    samples: Array  # float32 "B samples"
    mask: Array  # bool "B samples", False at padding


@struct.dataclass
class Labels:
    """One class an example."""

    values: Array  # int32 "B"
    mask: Array  # bool "B"


@struct.dataclass
class Boxes:
    """The objects in one picture an example, each by the box around it.

    A picture without a box is one in which nobody has looked for objects.
    """

    boxes: Array  # float32 "B N 4": centre x, centre y, width, height, as shares of the picture
    classes: Array  # int32 "B N"
    mask: Array  # bool "B N", False where there is no object


@struct.dataclass
class Encoded:
    """What an encoder makes of a stream, and what fusion makes of several."""

    embeddings: Array  # float "B L D"
    mask: Array  # bool "B L", False where there is nothing to attend to
    lower: tuple[Array, ...] = ()  # float "B L D" each: what the trunk held at its `taps`, lowest first


@runtime_checkable
class Stream(Protocol):
    """Any of the values above that a batch may hold: an array dataclass with a mask."""

    mask: Array


Batch: TypeAlias = dict[str, Stream]


def present(stream: Stream) -> Array:
    """Which examples have this stream at all: bool ``"B"``."""
    mask = stream.mask
    return mask.reshape(mask.shape[0], -1).any(axis=-1)
