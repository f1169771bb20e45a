"""A path without special characters for a folder with any name."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mmjax.errors import InputError, excerpt

# Orbax looks for its files by glob below the folder's path, so "[1]" finds nothing and "*" finds the files of
# other folders; TensorStore refuses backslashes; both take "gs:/..." and "/gs/..." for a bucket.
PLAIN = re.compile(r"(?!/(gs|s3|az|hf)/)[\w./ +=,@%~-]*")


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """A path of `folder`, which exists, that holds until the context ends in every thread of this process.

    The absolute path itself, unless it has special characters: then the system's name of the open folder.

    Raises:
      InputError: special characters on a system that has no names of open folders (only Linux has).
    """
    folder = folder.resolve()
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        plain = Path(f"/proc/self/fd/{descriptor}")
        if not plain.is_dir():
            raise InputError(
                "expected a run folder whose path has letters, digits and ./ +=,@%~-_ only, found "
                f"{excerpt(str(folder))}: choose another with --run-dir"
            )
        yield plain
    finally:
        os.close(descriptor)
