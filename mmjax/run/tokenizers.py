"""The tokenizers of a run: saved in its folder, so that it can be used when the training data are gone.

RUN/vocabularies.json          {name: digest of the vocabulary}
RUN/tokenizers/<digest>/       tokenizer.json, as the tokenizers library writes it
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data import SavedTokenizer, TextTransform, TokenizerSpec, Vocabulary
from mmjax.errors import with_filename
from mmjax.experiment import Experiment
from mmjax.run import locations
from mmjax.run.folder import RunFolder

FOLDER = "tokenizers"
DIGEST_LENGTH = 16  # characters of a digest in a folder's name


def named_tokenizers(experiment: Experiment) -> dict[str, TokenizerSpec]:
    """Each tokenizer: "dataset/stream" of the training data; "evals.NAME.0", ... of what only that reads."""
    datasets = experiment.data.datasets
    named: dict[str, TokenizerSpec] = {
        f"{name}/{stream}": transform.tokenizer
        for name, (_, dataset) in datasets.items()
        for stream, transform in dataset.streams.items()
        if isinstance(transform, TextTransform)
    }
    others = {f"data.{name}": dataset for name, (_, dataset) in datasets.items()}
    for name, value in (others | {f"evals.{name}": each for name, each in experiment.evals.items()}).items():
        own = [spec for spec in dict.fromkeys(_tokenizers_in(value)) if spec not in named.values()]
        named |= {f"{name}.{number}": spec for number, spec in enumerate(own)}
    return named


def _tokenizers_in(value: Any) -> list[TokenizerSpec]:
    found: list[TokenizerSpec] = []

    def visit(inner: Any) -> Any:
        if isinstance(inner, TokenizerSpec):
            found.append(inner)
        return inner

    locations.replace_values(value, visit)
    return found


def restore(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The experiment with the tokenizers that the run saved; those that it did not save stay.

    Raises:
      InputError: vocabularies.json is damaged.
    """
    recorded, saved = folder.vocabularies(), {}
    for name, spec in named_tokenizers(experiment).items():
        digest = recorded.get(name, "")[:DIGEST_LENGTH]
        path = folder.path / FOLDER / digest
        if re.fullmatch(r"[0-9a-f]+", digest) and path.is_dir():  # a stranger's run may hold "../.."
            saved[spec] = SavedTokenizer(str(path.absolute()), spec.vocab_size)
    return locations.replace_in_data(
        experiment, lambda value: saved.get(value, value) if isinstance(value, TokenizerSpec) else value
    )


def check_and_save(experiment: Experiment, folder: RunFolder) -> None:
    """Compares the vocabularies with those that the run recorded; at its first start, records and saves them.

    Raises:
      InputError: a tokenizer cannot be opened, or its vocabulary is not the run's.
    """
    vocabularies = {name: spec.open() for name, spec in named_tokenizers(experiment).items()}
    folder.check_vocabularies({name: vocabulary.digest() for name, vocabulary in vocabularies.items()})
    if folder.claimed:
        _save(vocabularies, folder.path / FOLDER)


def _save(vocabularies: Mapping[str, Vocabulary], folder: Path) -> None:
    """Each vocabulary in a folder that appears when it is complete: a killed process leaves only `*.new`."""
    for vocabulary in vocabularies.values():
        path = folder / vocabulary.digest()[:DIGEST_LENGTH]
        if path.is_dir():
            continue
        new = path.with_name(path.name + ".new")
        with with_filename(new):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            if vocabulary.save(new):
                new.replace(path)
            else:
                new.rmdir()
