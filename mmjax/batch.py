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
    # bool "B L": what every position may see, while the rest reads causally. None: the tower's own order.
    prefix: Array | None = None


@struct.dataclass
class Image:
    """One picture an example, normalised."""

    pixels: Array  # float32 "B height width channel"
    mask: Array  # bool "B"
    visible: Array | None = None  # int32 "B visible", the patches that an encoder may see; None: all


@struct.dataclass
class Patches:
    """One picture an example at its own aspect and resolution, cut into square patches, normalised."""

    patches: Array  # float32 "B L features", in reading order; features are (height width channel)
    rows: Array  # int32 "B L", the patch's row in its picture, counted from 0
    columns: Array  # int32 "B L"
    mask: Array  # bool "B L", False behind the last patch


@struct.dataclass
class Video:
    """Frames of one clip an example, normalised."""

    frames: Array  # float32 "B frames height width channel"
    mask: Array  # bool "B frames"


@struct.dataclass
class Audio:
    """One mono waveform an example, in [-1, 1]."""

    samples: Array  # float32 "B samples"
    mask: Array  # bool "B samples", False at padding
    visible: Array | None = None  # int32 "B visible", the patches of the spectrogram that an encoder may see


@struct.dataclass
class Labels:
    """One class an example."""

    values: Array  # int32 "B"
    mask: Array  # bool "B"


@struct.dataclass
class MultiLabels:
    """Any number of classes an example, each a yes or a no."""

    values: Array  # bool "B classes"
    mask: Array  # bool "B classes", False where nobody knows


@struct.dataclass
class Tags:
    """A class for each word of a text, at the word's first token."""

    values: Array  # int32 "B L"
    mask: Array  # bool "B L", False but at first tokens


@struct.dataclass
class BoxTargets:
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
    hidden_states: tuple[
        Array, ...
    ] = ()  # float "B L D" each: what the trunk held at its `taps`, lowest first
    patch_indices: Array | None = (
        None  # int32 "B L", which patch a position is, -1: none; None: all, in order
    )


@struct.dataclass
class AdversarialEncoded(Encoded):
    """What a discriminator makes of a stream, and, twice, of what a generator made up beside each example.

    The values of both are the same. The gradient of the first reaches the discriminator alone, that of the
    second the generator alone, so that one gradient of the sum of their losses trains each by its own.
    """

    for_discriminator: Array = ()  # float "B L D", under the same mask
    for_generator: Array = ()  # float "B L D"


@runtime_checkable
class Stream(Protocol):
    """Any of the values above that a batch may hold: an array dataclass with a mask."""

    mask: Array


Batch: TypeAlias = dict[str, Stream]


def is_present(stream: Stream) -> Array:
    """Which examples have this stream at all: bool ``"B"``."""
    mask = stream.mask
    return mask.reshape(mask.shape[0], -1).any(axis=-1)
