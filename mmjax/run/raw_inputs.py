"""Raw inputs (paths, texts, arrays) as batches, decoded as the experiment's data are."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mmjax import data
from mmjax.batch import Batch, is_present
from mmjax.data import BadExample, Transform
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.heads import AttentionPooledEmbedding, PooledEmbedding


def embedding_head(experiment: Experiment, stream: str) -> str:
    """The name of the embedding head that reads `stream` after its encoder.

    Raises:
      InputError: the stream has no such head, or several, none of them named like the stream.
    """
    found = [
        name
        for name, head in experiment.model.heads.items()
        if isinstance(head, AttentionPooledEmbedding | PooledEmbedding)
        and head.stream == stream
        and head.after == "encoder"
    ]
    if stream in found or len(found) == 1:
        return stream if stream in found else found[0]
    raise InputError(
        f"expected one embedding head for the stream {stream!r}, found {found}: name one with head=..., "
        f"among {list(experiment.model.head_names())}"
    )


def input_transform(experiment: Experiment, stream: str) -> Transform:
    """The stream's transform, which reads the field that is named like the stream.

    The transforms of evaluations come before those of the training data: the scores were measured with them.

    Raises:
      InputError: no dataset of the experiment has the stream.
    """
    datasets = [evaluation.data for evaluation in experiment.evals.values()]
    datasets += [dataset for _, dataset in experiment.data.datasets.values()]
    for dataset in datasets:
        if stream in dataset.streams:
            return with_field(dataset.streams[stream], stream)
    known = sorted({name for dataset in datasets for name in dataset.streams})
    raise InputError(f"expected a stream among {known}, found {stream!r}")


def with_field(transform: Any, field: str) -> Transform:
    """The same transform, reading another field of the record."""
    if isinstance(transform, data.VideoTransform):
        return dataclasses.replace(transform, sheet=with_field(transform.sheet, field))
    if isinstance(transform, data.TextTransform):  # the input is a text, not a class index
        return dataclasses.replace(transform, field=field, classes=None)
    return dataclasses.replace(transform, field=field)


def raw_batches(
    transforms: Mapping[str, Transform], inputs: Mapping[str, Sequence[Any]], batch_size: int
) -> Iterator[tuple[Batch, int]]:
    """Batches of `batch_size` rows, and the number of examples in each. Padding rows lack every stream.

    Raises:
      InputError: an input cannot be read or decoded.
    """
    empty = {stream: transform.empty() for stream, transform in transforms.items()}
    num_examples = max(map(len, inputs.values()))
    for start in range(0, num_examples, batch_size):
        rows = range(start, min(start + batch_size, num_examples))
        examples = [
            {
                stream: decode(transforms[stream], stream, index, values[index])
                for stream, values in inputs.items()
                if values[index] is not None
            }
            for index in rows
        ]
        examples += [{}] * (batch_size - len(rows))
        yield data.collate(examples, empty), len(rows)


def decode(transform: Transform, stream: str, index: int, value: Any) -> Any:
    """Applies the transform to one input, without augmentation.

    Raises:
      InputError: the input cannot be read or decoded. The message has its stream and position.
    """
    is_text = isinstance(transform, data.TextTransform)
    name = f"{stream}[{index}]"
    if isinstance(value, Path) or (isinstance(value, str) and not is_text):
        name = f"{name}, {value}"
        try:
            if not Path(value).is_file():  # a device or a pipe may never end
                raise InputError(f"{name}: expected a file, found none")
            value = Path(value).read_bytes()
        except OSError as error:
            raise InputError(f"{name}: expected a file that can be read, found {error}") from error
    try:
        stream_value = transform.augment(transform.decode({"__key__": name, stream: value}), None)
    except BadExample as error:
        raise InputError(f"{name}: {error.reason}") from error
    if not is_present(jax.tree.map(lambda x: x[None], stream_value)).all():
        raise InputError(f"{name}: expected an input, found an empty one")
    return stream_value
