"""Audio: files, arrays, rates, channels, ranges."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile

from corpus.case import Case
from mmjax import data

RATE = 8000
TONE = 0.5 * np.sin(np.arange(RATE) / 5)  # a second
PCM = np.round(TONE * 32767)
WITHIN = 1e-3  # of lossless audio, at any scale
TRANSFORM = data.AudioTransform("audio", sample_rate_hz=RATE, seconds=0.5)


def heard(value: Any, transform: data.AudioTransform = TRANSFORM) -> np.ndarray:
    """The samples of the result, in [-1, 1]."""
    return transform.augment(transform.decode({"__key__": "rec 7", "audio": value}), None).samples


def encoded(samples: np.ndarray = TONE, rate: int = RATE, file_format: str = "WAV", subtype=None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


def right(name: str, give: Callable[[], Any], expected: Any = TONE[: RATE // 2], within=WITHIN) -> Case:
    return Case("audio", name, "right", lambda folder: heard(give()), expected=expected, within=within)


def skipped(name: str, give: Callable[[], Any], message: str) -> Case:
    return Case("audio", name, "skipped", lambda folder: heard(give()), message=message)


def wav(samples: np.ndarray, rate: int = RATE, data_size: int | None = None, channels: int = 1) -> bytes:
    """A WAV file of 16 bits, with any size and rate in its header."""
    body = samples.astype("<i2").tobytes()
    size = len(body) if data_size is None else data_size
    header = struct.pack("<HHIIHH", 1, channels, rate, (2 * rate * channels) % 2**32, 2 * channels, 16)
    riff = min(36 + size, 0xFFFFFFFF)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt \x10\0\0\0"
        + header
        + b"data"
        + struct.pack("<I", size)
        + body
    )


def cut(file_format: str, subtype: str | None, share: float) -> Callable[[], bytes]:
    def give() -> bytes:
        value = encoded(np.tile(TONE, 3), RATE, file_format, subtype)
        return value[: int(share * len(value))]

    return give


def high_rate(rate: int) -> bytes:
    """A tone of 100 Hz."""
    return wav(16384 * np.sin(2 * np.pi * 100 * np.arange(rate) / rate), rate)


def long_recording() -> int:
    """Three hours, of which half a second is decoded: MiB that the decoding needed."""
    import tracemalloc

    value = wav(np.zeros(3 * 3600 * 1000, np.int16), 1000)
    tracemalloc.start()
    heard(value)
    peak = tracemalloc.get_traced_memory()[1] >> 20
    tracemalloc.stop()
    return peak // 16


SILENT_START = np.where(np.arange(RATE) < RATE // 2, 3, PCM)

CASES: tuple[Case, ...] = (
    # Arrays: every type and scale has its loudness.
    *(
        right(f"{kind} array of 16-bit range", lambda kind=kind: PCM.astype(kind))
        for kind in ("int16", "int32", "int64")
    ),
    right("int64 column of one channel", lambda: PCM.astype("int64")[:, None]),
    right("int32 array of 32-bit range", lambda: (TONE * (2**31 - 1)).astype("int32")),
    right("int64 array of 32-bit range", lambda: (TONE * (2**31 - 1)).astype("int64")),
    right("int8 array", lambda: np.round(TONE * 127).astype("int8"), within=0.005),
    right("uint8 array, silent at 128", lambda: np.round(TONE * 128 + 128).astype("uint8"), within=0.005),
    right(
        "int64 array that starts almost silent",
        lambda: SILENT_START.astype("int64"),
        np.full(RATE // 2, 3 / 32767),
    ),
    right("int16 extremes", lambda: np.full(RATE, -32768, "int16"), -np.ones(RATE // 2)),
    *(
        right(f"{kind} array", lambda kind=kind: TONE.astype(kind))
        for kind in ("float16", "float32", "float64", ">f4")
    ),
    right("big-endian int16 array", lambda: PCM.astype(">i2")),
    right("strided view of an int64 array", lambda: np.repeat(PCM.astype("int64"), 2)[::2]),
    right("two channels of opposite sign", lambda: np.stack([TONE, -TONE], 1), np.zeros(RATE // 2)),
    right("64 channels", lambda: np.repeat(TONE[:, None], 64, 1)),
    right(
        "peaks that a decoder overshot",
        lambda: 2.6 * TONE,
        TONE[: RATE // 2] / np.abs(TONE[: RATE // 2]).max(),
    ),
    Case(
        "audio",
        "float PCM on int16's scale, declared",
        "right",
        lambda folder: heard(PCM, data.AudioTransform("audio", RATE, 0.5, full_scale=32767.0)),
        expected=TONE[: RATE // 2],
        within=WITHIN,
    ),
    Case(
        "audio",
        "24 bits in int32, declared",
        "right",
        lambda folder: heard(
            (TONE * 2**23).astype("int32"), data.AudioTransform("audio", RATE, 0.5, full_scale=2.0**23)
        ),
        expected=TONE[: RATE // 2],
        within=WITHIN,
    ),
    skipped(
        "float PCM on int16's scale", lambda: PCM, "samples from -1 to 1 in 'audio', found 1.*full_scale"
    ),
    skipped(
        "24 bits in int32",
        lambda: (TONE * 2**23).astype("int32"),
        "int32 samples of 16 or 32 bits.*full_scale",
    ),
    skipped(
        "int64 beyond 32 bits", lambda: (TONE * 2**40).astype("int64"), "found values up to 549.*full_scale"
    ),
    skipped(
        "uint16 array",
        lambda: (PCM + 32768).astype("uint16"),
        "signed integers, floats or uint8 .* found uint16",
    ),
    *(
        skipped(f"{name} array", lambda value=value: value, message)
        for name, value, message in (
            (
                "one channel first",
                TONE[None],
                r"\(1, 8000\), which has more channels than samples; transpose",
            ),
            ("two channels first", np.stack([TONE, TONE]).astype("float32"), r"\(2, 8000\), .* transpose"),
            ("batch of channels first", np.zeros((1, 2, 8000)), r"samples x channels, .* \(1, 2, 8000\)"),
            ("0-d", np.array(0.5), r"samples x channels, .* found float64 \(\)"),
            ("complex", TONE.astype(complex), "found complex128"),
            ("boolean", TONE > 0, "found bool"),
            ("object", np.array([1, "a"], object), "found object"),
            ("text", np.array(["a"]), "found <U1"),
            ("empty", np.zeros(0, "int64"), "found no samples"),
            ("no channels", np.zeros((100, 0)), "found no samples"),
            ("NaN", np.where(np.arange(RATE) == 9, np.nan, TONE), "finite samples in 'audio', found 1 NaN"),
            ("infinite", np.full(RATE, np.inf, "float32"), "found 4800 NaN or infinite"),
            (
                "bytes of a WAV file",
                np.frombuffer(encoded(), "uint8"),
                "bytes of an encoded file; give it as bytes",
            ),
        )
    ),
    skipped("list of numbers", lambda: [0.0, 0.1], "expected encoded audio in 'audio', found a list"),
    skipped("dict of datasets", lambda: {"array": TONE, "sampling_rate": RATE}, "found a dict"),
    # Files: every format is whole or skipped.
    *(
        right(
            f"{file_format} {subtype}",
            lambda f=file_format, s=subtype: encoded(TONE, RATE, f, s),
            within=within,
        )
        for file_format, subtype, within in (
            ("WAV", "PCM_U8", 0.01),
            ("WAV", "PCM_24", WITHIN),
            ("WAV", "DOUBLE", WITHIN),
            ("AIFF", "PCM_16", WITHIN),
            ("FLAC", "PCM_24", WITHIN),
            ("RF64", "PCM_16", WITHIN),
            ("W64", "PCM_16", WITHIN),
            ("CAF", "ALAC_16", WITHIN),
            ("AU", "ULAW", 0.02),
            ("NIST", "PCM_16", WITHIN),
        )
    ),
    *(
        skipped(
            f"{file_format} {subtype or ''} cut to {share:.1%}", cut(file_format, subtype, share), message
        )
        for file_format, subtype, share, message in (
            ("WAV", None, 0.999, "bytes in 'audio', as its header says, found .* truncated"),
            ("WAV", "FLOAT", 0.2, "truncated"),
            ("WAV", "IMA_ADPCM", 0.9, "truncated"),
            ("RF64", None, 0.9, "truncated"),
            ("W64", None, 0.9, "truncated"),
            ("AIFF", None, 0.9, "truncated"),
            ("AU", None, 0.9, "truncated"),
            ("NIST", None, 0.9, "truncated"),
            ("VOC", None, 0.9, "truncated"),
            ("CAF", None, 0.9, "that libsndfile can decode"),
            ("FLAC", None, 0.9, "24000 samples in 'audio', .* truncated"),
            ("FLAC", None, 0.1, "truncated"),
            ("OGG", "VORBIS", 0.9, "a last Ogg page"),
            ("OGG", "OPUS", 0.9, "a last Ogg page"),
            ("OGG", "OPUS", 0.1, "that libsndfile can decode"),
            ("MP3", None, 0.9, "truncated"),
            ("MP3", None, 0.5, "truncated"),
        )
    ),
    right("WAV of a pipe, size 0xFFFFFFFF", lambda: wav(PCM, data_size=0xFFFFFFFF)),
    right("WAV of a pipe, size 0x7FFFFFFF", lambda: wav(PCM, data_size=0x7FFFFFFF)),
    right("WAV with bytes after its samples", lambda: wav(PCM) + b"LIST\x04\0\0\0abcd"),
    right(
        "WAV of 192 kHz",
        lambda: high_rate(192_000),
        0.5 * np.sin(2 * np.pi * 100 * np.arange(4000) / RATE),
        0.02,
    ),
    right(
        "WAV of 7,351 Hz",
        lambda: high_rate(7351),
        0.5 * np.sin(2 * np.pi * 100 * np.arange(4000) / RATE),
        0.02,
    ),
    right("WAV of 200 channels", lambda: wav(np.repeat(PCM, 200), channels=200)),
    skipped("WAV of 0 Hz", lambda: wav(PCM, rate=0), "'audio'"),
    skipped("WAV of 1 Hz", lambda: wav(PCM, rate=1), "a sample rate from 100 to 2000000 Hz .* found 1 Hz"),
    skipped("WAV of 2 GHz", lambda: wav(PCM, rate=2**31 - 1), "found 2147483647 Hz"),
    skipped("WAV of 4 GHz", lambda: wav(PCM, rate=2**32 - 1), "'audio'"),
    skipped("WAV of 0 channels", lambda: wav(PCM, channels=0), "'audio'"),
    skipped("WAV without samples", lambda: wav(PCM[:0]), "found no samples"),
    skipped("float WAV of int16's scale", lambda: encoded(PCM, subtype="FLOAT"), "samples from -1 to 1"),
    skipped(
        "float WAV of NaN", lambda: encoded(TONE * np.nan, subtype="FLOAT"), "found 4800 NaN or infinite"
    ),
    skipped("format of unknown length", lambda: encoded(TONE, RATE, "PVF"), "as one of .* found PVF"),
    *(
        skipped(name, lambda value=value: value, message)
        for name, value, message in (
            ("empty file", b"", "found an empty file"),
            (
                "text in place of audio",
                b"<html>404 Not Found</html>",
                "found 26 bytes that begin with b'<html>404",
            ),
            ("zeros", b"\0" * 5000, r"found 5000 bytes that begin with b'\\x00"),
            ("RIFF alone", b"RIFF", "found 4 bytes that begin with b'RIFF'"),
            ("Ogg alone", b"OggS" + b"\0" * 40, "found 44 bytes that begin with b'OggS"),
            ("ID3 tag alone", b"ID3\x03\0\0\x7f\x7f\x7f\x7f", "found 10 bytes that begin with b'ID3"),
            ("FLAC header alone", b"fLaC" + b"\xff" * 60, "found 64 bytes that begin with b'fLaC"),
        )
    ),
    Case("audio", "three hours for half a second", "right", lambda folder: long_recording(), expected=0),
)
