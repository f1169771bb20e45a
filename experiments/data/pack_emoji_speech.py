"""Packs experiments/data/emoji_speech from the full emoji_speech set: only what the experiments read.

    python experiments/data/pack_emoji_speech.py FULL_SET_FOLDER experiments/data/emoji_speech

Kept: the Noto image, the speech and the texts of every train and test concept, a second drawing style
(Twemoji) for training, and the unseen voices for testing. Left out: the third style, the val split, and texts
that no experiment reads. The second style is reduced to 32 colours (it is flat; the mean error is below 1 of
255). The same input gives the same bytes.
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

KEPT = {
    "train": ("noto.png", "twemoji.png", "ogg", "json"),
    "test": ("noto.png", "ogg", "unseen.ogg", "json"),
}
TEXTS = ("name", "keywords", "names", "category")


def pack(full: Path, packed: Path) -> None:
    """Writes `packed`/<split>.tar from `full`/<split>.tar for each split in KEPT."""
    for split, extensions in KEPT.items():
        with (
            tarfile.open(full / f"{split}.tar") as old,
            tarfile.open(packed / f"{split}.tar", "w", format=tarfile.USTAR_FORMAT) as new,
        ):
            for member in old:
                extension = member.name.split(".", 1)[1]
                stream = old.extractfile(member)
                if extension in extensions and stream is not None:
                    content = reduce(extension, stream.read())
                    header = tarfile.TarInfo(member.name)  # no time, no owner
                    header.size = len(content)
                    new.addfile(header, io.BytesIO(content))


def reduce(extension: str, content: bytes) -> bytes:
    """The content of a tar member, without the parts that no experiment reads."""
    if extension == "json":
        texts = json.loads(content)
        kept_texts = {name: texts[name] for name in TEXTS}
        return json.dumps(kept_texts, ensure_ascii=False, separators=(",", ":")).encode()
    if extension == "twemoji.png":
        image = Image.open(io.BytesIO(content)).convert("RGB")
        stream = io.BytesIO()
        image.quantize(colors=32, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        return min(content, stream.getvalue(), key=len)
    return content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("full", type=Path)
    parser.add_argument("packed", type=Path)
    arguments = parser.parse_args()
    pack(arguments.full, arguments.packed)
