"""The values that cross the package's boundaries, and the legend of its axis letters.

B batch | L positions | D width | H heads | K head width | F mlp width | V vocabulary | E shared space

Raw inputs name their axes in words: `"B height width channel"`, `"B samples"`.

Every value has a mask. A missing modality has a mask that is False everywhere; it is never `None`, so that
shapes stay static and the compiled program has no branches.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

from flax import struct

# NumPy arrays on the host, jax arrays on the device, ShapeDtypeStructs when only shapes matter.
Array: TypeAlias = Any


@struct.dataclass
class Text:
    """The token ids of one text per example."""

    tokens: Array  # int32 "B L"
    mask: Array  # bool "B L", False at padding
    token_types: Array  # int32 "B L", 0 in the first sentence and 1 in the second (BERT)
    words: Array  # int32 "B L", index of the word that the token belongs to; -1 at special tokens and padding
    # bool "B L", True at the prefix: every position attends to it, and the rest is causal. None: the
    # encoder's own attention.
    prefix: Array | None = None


@struct.dataclass
class Image:
    """One normalised image per example."""

    pixels: Array  # float32 "B height width channel"
    mask: Array  # bool "B"
    visible: Array | None = None  # int32 "B visible", the patches that an encoder may read; None: all


@struct.dataclass
class Patches:
    """One image per example at its own aspect ratio and resolution, as normalised square patches."""

    patches: Array  # float32 "B L features", in reading order; features are (height width channel)
    rows: Array  # int32 "B L", the patch's row in its image, from 0
    columns: Array  # int32 "B L"
    mask: Array  # bool "B L", False at padding


@struct.dataclass
class Video:
    """The normalised frames of one clip per example."""

    frames: Array  # float32 "B frames height width channel"
    mask: Array  # bool "B frames"


@struct.dataclass
class Audio:
    """One mono waveform per example, in [-1, 1]."""

    samples: Array  # float32 "B samples"
    mask: Array  # bool "B samples", False at padding
    visible: Array | None = None  # int32 "B visible", as Image's, of the spectrogram's patches


@struct.dataclass
class Labels:
    """One class per example."""

    values: Array  # int32 "B"
    mask: Array  # bool "B"


@struct.dataclass
class MultiLabels:
    """Any number of classes per example."""

    values: Array  # bool "B classes", whether the class applies
    mask: Array  # bool "B classes", False where that is unknown


@struct.dataclass
class Tags:
    """One class per word of a text, at the word's first token."""

    values: Array  # int32 "B L"
    mask: Array  # bool "B L", True only at first tokens


@struct.dataclass
class BoxTargets:
    """The objects in one image per example, as bounding boxes.

    An example without a box counts as not annotated, rather than as an image without objects.
    """

    boxes: Array  # float32 "B N 4": centre x, centre y, width, height, as fractions of the image
    classes: Array  # int32 "B N"
    mask: Array  # bool "B N", False at padding


@struct.dataclass
class Encoded:
    """One stream's encoding, by an encoder or a fusion."""

    embeddings: Array  # float "B L D"
    mask: Array  # bool "B L", False at positions that must not be attended to
    # float "B L D" each: the trunk's hidden states after the layers in its `taps`, lowest first.
    hidden_states: tuple[Array, ...] = ()
    # int32 "B L": the index of the patch at each position, -1 for none. None: position i is patch i.
    patch_indices: Array | None = None


@struct.dataclass
class AdversarialEncoded(Encoded):
    """A discriminator's encodings of a stream and of a generated sample for each example.

    The generated sample's encoding is given twice, with equal values. Gradients of the first reach only the
    discriminator and those of the second only the generator, so that one backward pass trains both.
    """

    for_discriminator: Array = ()  # float "B L D", under the same mask
    for_generator: Array = ()  # float "B L D"


@runtime_checkable
class Stream(Protocol):
    """A value that a batch may hold: a dataclass of arrays with a mask, such as those above."""

    mask: Array


Batch: TypeAlias = dict[str, Stream]

RECORDS = "__records__"  # the key of a training batch's Records, beside its streams


@struct.dataclass
class Records:
    """The record that each row of a training batch was made from, so that no row is its own negative."""

    index: Array  # int32 "B", equal in rows of one record
    mask: Array  # bool "B", True: bad examples, too, have a record
    # {stream: (checksums uint32 "B 2", is_present bool "B")} before any view; the Learner fills it.
    contents: dict[str, tuple[Array, Array]] | None = None


def stream_names(batch: Batch) -> list[str]:
    """The sorted names of a batch's streams."""
    return sorted(name for name in batch if name != RECORDS)


def is_present(stream: Stream) -> Array:
    """Whether each example has this stream: bool `"B"`, True where any position of its mask is."""
    mask = stream.mask
    return mask.reshape(mask.shape[0], -1).any(axis=-1)
