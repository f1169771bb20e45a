"""Data sets in one folder of this machine, named by $MMJAX_DATA."""

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class LocalData:
    """A folder of data, and a hint for users who lack it, which a source appends to its error message."""

    folder: Path
    hint: str

    def path(self, file: str) -> str:
        """The path of a file in the folder."""
        return str(self.folder / file)


def local(name: str) -> LocalData:
    """The folder `name` in $MMJAX_DATA; without that variable, in shared/data beside the checkout.

    >>> Path(local("avdigits").path("train.tar")).parts[-2:]
    ('avdigits', 'train.tar')
    >>> local("avdigits").hint
    'Set MMJAX_DATA to the folder that holds avdigits/ (see docs/data.md)'
    """
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MMJAX_DATA") or default) / name
    return LocalData(folder, f"Set MMJAX_DATA to the folder that holds {name}/ (see docs/data.md)")
