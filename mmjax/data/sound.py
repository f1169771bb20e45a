"""Reads the beginning of a recording, an encoded file or an array, as mono samples; refuses damaged ones."""

import io
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmjax.data.records import BadExample
from mmjax.errors import excerpt

MIN_RATE_HZ, MAX_RATE_HZ = 100, 2_000_000
# Lossy decoders and resamplers overshoot full scale a little. A larger peak means another scale.
MAX_PEAK = 2.0
# Encoders that cannot seek back, such as those of pipes, leave a length of about 2 or 4 GiB in the header.
_UNKNOWN_SIZE = 0x7FFF_0000
_BLOCK = 1 << 20  # values that are read at a time, over all channels
# Formats whose length is known, so that a truncated file is not heard as a shorter one.
_FORMATS = "WAV WAVEX RF64 W64 AIFF AU CAF FLAC OGG MP3 SVX VOC NIST HTK".split()
_ENCODED = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b"\xff\xfb", b"\xff\xf3")


def read_file(key: str, path: str, value: bytes, seconds: float) -> tuple[np.ndarray, int]:
    """Decodes the first `seconds` of an encoded file: mono float32 "samples", and their rate.

    Beside `value` and the result it needs some 16 MiB, for any length and number of channels. A missing end
    goes unnoticed only in MP3 files without a Xing, Info or VBRI header, which do not tell their length.

    Raises:
        BadExample: it is empty, truncated or no audio, or has an absurd sample rate.
    """
    if not value:
        raise BadExample(key, f"expected audio in {path!r}, found an empty file")
    import soundfile

    try:
        _refuse_truncated_mp3(key, path, value)
        with soundfile.SoundFile(io.BytesIO(value)) as file:
            if file.format not in _FORMATS:
                raise BadExample(key, f"expected audio in {path!r} as one of {_FORMATS}, found {file.format}")
            if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
                expected = f"expected a sample rate from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz in {path!r}"
                raise BadExample(key, f"{expected}, found {file.samplerate} Hz")
            _refuse_truncated(key, path, file, value)
            wanted = min(math.ceil(seconds * file.samplerate), file.frames)
            mono = _mix(key, path, _blocks(file, wanted))
            if mono.size < wanted:
                raise _truncated(key, path, f"{wanted} samples", f"{mono.size}")
            return mono, file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        reason = re.sub(r"^Error opening <.*?>: ", "", str(error))
        found = f"{len(value)} bytes that begin with {excerpt(value[:16])}: {reason}"
        raise BadExample(
            key, f"expected audio in {path!r} that libsndfile can decode, found {found}"
        ) from error


def _blocks(file: Any, num_frames: int) -> Iterator[np.ndarray]:
    size = max(_BLOCK // file.channels, 1)
    while num_frames > 0:
        block = file.read(min(num_frames, size), dtype="float32", always_2d=True)
        if not len(block):
            return
        num_frames -= len(block)
        yield block


def _mix(key: str, path: str, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Means over channels of blocks "samples channels": float32 "samples". Refuses NaN and another scale."""
    mono = [np.zeros(0, np.float32)]
    for block in blocks:
        if num_bad := block.size - int(np.isfinite(block).sum()):
            raise BadExample(key, f"expected finite samples in {path!r}, found {num_bad} NaN or infinite")
        peak = max(-float(block.min()), float(block.max()))
        if peak > MAX_PEAK:
            raise BadExample(
                key,
                f"expected samples from -1 to 1 in {path!r}, found {peak:g}; divide by the full scale, "
                "or, for arrays, put it into the AudioTransform as full_scale",
            )
        mono.append(block.mean(axis=1).astype(np.float32))
    return np.concatenate(mono)


def read_array(
    key: str, path: str, value: np.ndarray, rate_hz: int, seconds: float, full_scale: float | None
) -> np.ndarray:
    """The first `seconds` of an array "samples" or "samples channels": mono float32 "samples" in [-1, 1].

    Raises:
        BadExample: another shape or type, samples that are not finite, or an unknown scale.
    """
    if value.ndim not in (1, 2) or value.dtype.kind not in "fiu":
        found = f"{value.dtype} {value.shape}"
        raise BadExample(
            key, f"expected an array of samples, or samples x channels, in {path!r}, found {found}"
        )
    if value.ndim == 2 and value.shape[1] > max(value.shape[0], 1):
        raise BadExample(
            key,
            f"expected an array of samples x channels in {path!r}, found the shape {value.shape}, which has "
            "more channels than samples; transpose it",
        )
    if value.dtype == np.uint8 and value.ndim == 1 and value[:4].tobytes().startswith(_ENCODED):
        raise BadExample(
            key,
            f"expected samples in {path!r}, found an array of the bytes of an encoded file; give it as bytes",
        )
    if not value.size:
        raise BadExample(key, f"expected audio in {path!r}, found no samples")
    offset, scale = _scale(key, path, value, full_scale)
    part = value[: math.ceil(seconds * rate_hz)].reshape(-1, 1 if value.ndim == 1 else value.shape[1])
    size = max(_BLOCK // part.shape[1], 1)
    return _mix(key, path, ((part[i : i + size] - offset) / scale for i in range(0, len(part), size)))


def _scale(key: str, path: str, value: np.ndarray, full_scale: float | None) -> tuple[float, float]:
    """(silence, full scale) of an array, by the setting, its type, or the range of all its samples."""
    kind = value.dtype
    if kind == np.uint8:  # as in WAV files
        return 128.0, 128.0
    if kind.kind == "u":
        raise BadExample(key, f"expected signed integers, floats or uint8 in {path!r}, found {kind}")
    if full_scale is not None:
        return 0.0, full_scale
    if kind.kind == "f":
        return 0.0, 1.0
    if kind.itemsize <= 2:
        return 0.0, float(np.iinfo(kind).max)
    peak = max(-int(value.min()), int(value.max()))
    if peak <= 1 << 15:  # TFDS gives 16-bit samples as int64
        return 0.0, float((1 << 15) - 1)
    if 1 << 23 < peak <= 1 << 31:
        return 0.0, float((1 << 31) - 1)
    raise BadExample(
        key,
        f"expected {kind} samples of 16 or 32 bits in {path!r}, found values up to {peak}; put the value of "
        "the loudest possible sample into the AudioTransform as full_scale",
    )


def _truncated(key: str, path: str, expected: str, found: str) -> BadExample:
    return BadExample(
        key, f"expected {expected} in {path!r}, as its header says, found {found}: it is truncated"
    )


def _refuse_truncated(key: str, path: str, file: Any, value: bytes) -> None:
    """Compares the lengths of the chunks of an opened file, from libsndfile's log, with what is there."""
    if file.format == "OGG":
        _refuse_truncated_ogg(key, path, value)
    if file.format == "FLAC" and 0 < file.frames < 1 << 60:  # 2**63 - 1 where the header tells no length
        try:
            file.seek(file.frames - 1)
            is_whole = len(file.read(1)) > 0
        except RuntimeError:  # LibsndfileError
            is_whole = False
        if not is_whole:
            raise _truncated(key, path, f"{file.frames} samples", "fewer")
        file.seek(0)
    log = file.extra_info
    # W64 and RF64 tell the size of the whole file there, the others that of the samples.
    whole = {"W64": "riff", "RF64": "Riff size"}.get(file.format, "data|SSND|BODY|Data Size")
    for declared, there in re.findall(rf"^ *(?:{whole})\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        if int(there) < int(declared) and (int(declared) < _UNKNOWN_SIZE or file.format in ("W64", "RF64")):
            raise _truncated(key, path, f"{declared} bytes", there)
    if file.format == "VOC" and "truncated" in log:
        raise _truncated(key, path, "a terminator", "none")
    if file.format == "NIST" and (match := re.search(rb"sample_count -i (\d+)", value[:1024])):
        if int(match[1]) > file.frames:
            raise _truncated(key, path, f"{int(match[1])} samples", str(file.frames))


def _refuse_truncated_ogg(key: str, path: str, value: bytes) -> None:
    start = value.rfind(b"OggS")
    page = value[start:]
    num_segments = page[26] if len(page) > 26 else 255
    size = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < size or not page[5] & 4:
        raise _truncated(key, path, "a last Ogg page", "none")


def _refuse_truncated_mp3(key: str, path: str, value: bytes) -> None:
    """Compares the size of an MP3 file with that in its Xing, Info or VBRI header, if it has one."""
    start = 0
    if value[:3] == b"ID3" and len(value) > 10:
        start = 10 + sum((value[6 + i] & 127) << (21 - 7 * i) for i in range(4))
    frame = value[start : start + 64]
    if frame[:1] != b"\xff":
        return
    if (at := max(frame.find(b"Xing"), frame.find(b"Info"))) >= 0:
        flags = int.from_bytes(frame[at + 4 : at + 8], "big")
        at += 8 + 4 * (flags & 1)
        declared = int.from_bytes(frame[at : at + 4], "big") if flags & 2 else 0
    elif (at := frame.find(b"VBRI")) >= 0:
        declared = int.from_bytes(frame[at + 10 : at + 14], "big")
    else:
        return
    if len(value) - start < declared:
        raise _truncated(key, path, f"{declared} bytes", str(len(value) - start))
