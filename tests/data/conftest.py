"""Tiny data made on the fly: encoded pictures and recordings, tar shards."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image


class Make:
    """Encoders for tests."""

    def __init__(self, folder: Path):
        self.folder = folder

    def image(self, pixels, format: str = "PNG", **options) -> bytes:
        """An encoded picture; ``pixels`` uint8, or a Pillow picture."""
        file = io.BytesIO()
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
        picture.save(file, format, **options)
        return file.getvalue()

    def audio(self, samples, rate: int, format: str = "WAV", subtype: str = "FLOAT") -> bytes:
        """An encoded recording; ``samples`` float "samples [channels]"."""
        file = io.BytesIO()
        soundfile.write(file, np.asarray(samples, np.float32), rate, format=format, subtype=subtype)
        return file.getvalue()

    def tone(self, seconds: float = 0.1, rate: int = 8000, hz: float = 440.0, loud: float = 0.5):
        """A sine, float "samples"."""
        return loud * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)

    def tar(self, members: dict[str, bytes], name: str = "shard.tar") -> str:
        """A tar file with these members; its path."""
        path = self.folder / name
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(path)

    def jsonl(self, lines, name: str = "lines.jsonl") -> str:
        """A JSON Lines file of values or of raw bytes; its path."""
        path = self.folder / name
        path.write_bytes(
            b"".join(
                (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
            )
        )
        return str(path)


@pytest.fixture
def make(tmp_path, monkeypatch) -> Make:
    """The encoders; caches go to a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    return Make(folder)


@pytest.fixture
def shared_data() -> Path:
    """The folder of the real data sets, where there is one."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MMJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"real data: no folder {folder}; set MMJAX_DATA to the folder that holds avdigits, grid_s1, ..."
        )
    return folder
