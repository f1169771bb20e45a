"""Data sets that a user keeps in one folder of this machine."""

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class LocalData:
    """A folder of data, and the advice for a user who lacks it."""

    folder: Path
    hint: str

    def path(self, file: str) -> str:
        """The path of one of its files, as a source takes it."""
        return str(self.folder / file)


def local(name: str) -> LocalData:
    """The folder `name` under $MMJAX_DATA; without that variable, under shared/data beside the checkout.

    >>> os.environ["MMJAX_DATA"] = "/data"
    >>> local("avdigits").path("train.tar")
    '/data/avdigits/train.tar'
    """
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MMJAX_DATA", default)) / name
    return LocalData(folder, f"Set MMJAX_DATA to the folder that holds {name}/ (see docs/data.md)")
