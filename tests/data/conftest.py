"""Tiny test data: encoded images and audio, tar and JSON Lines files."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmjax import data


class Make:
    """Encodes images and audio, and writes files into `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def image(self, pixels, format: str = "PNG", **options) -> bytes:
        """An encoded image of uint8 "height width [channel]", or of a Pillow image."""
        file = io.BytesIO()
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
        image.save(file, format, **options)
        return file.getvalue()

    def audio(self, samples, rate: int, format: str = "WAV", subtype: str = "FLOAT") -> bytes:
        """Encoded audio of float "samples [channels]"."""
        file = io.BytesIO()
        soundfile.write(file, np.asarray(samples, np.float32), rate, format=format, subtype=subtype)
        return file.getvalue()

    def tone(self, seconds: float = 0.1, rate: int = 8000, hz: float = 440.0, amplitude: float = 0.5):
        """A sine, float "samples"."""
        return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)

    def tar(self, members: dict[str, bytes], name: str = "shard.tar") -> str:
        """Writes a tar file of these members and returns its path."""
        path = self.folder / name
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return str(path)

    def jsonl(self, lines, name: str = "lines.jsonl") -> str:
        """Writes a JSON Lines file of values or raw bytes and returns its path."""
        path = self.folder / name
        path.write_bytes(
            b"".join(
                (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
            )
        )
        return str(path)


@pytest.fixture
def make(tmp_path, monkeypatch) -> Make:
    """Makes test data in this test's folder, which also holds its caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    return Make(folder)


@pytest.fixture
def shared_data() -> Path:
    """The folder of the real data sets. Skips the test on machines without it."""
    folder = data.local("").folder
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}: set MMJAX_DATA to the folder that holds avdigits, grid_s1, ..."
        )
    return folder
