"""Tiny models and batches with every modality, and the tolerances of tests."""

from typing import Any

import numpy as np

from mmjax import encoders, fusion, heads, objectives, views
from mmjax.batch import Audio, Batch, Image, Text
from mmjax.layers import Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel

# Do not widen a tolerance without a comment that gives the reason.
TOLERANCE = {"fp32_module": 1e-5, "fp32_stack": 1e-4, "sharded": 2e-5, "bf16": 2e-2}

VOCAB, WIDTH = 32, 16


def tiny_trunk(**changes) -> Transformer:
    """Returns a new trunk at each call, since an experiment refuses one module object in two places."""
    fields: dict[str, Any] = {"depth": 2, "width": WIDTH, "num_heads": 8, "mlp_width": 32}
    return Transformer(**fields | changes)


def tiny_model(**trunk_changes) -> MultimodalModel:
    """Three encoders, co-attention, and a head for each of `tiny_objectives`."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)
    return MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(vocab=VOCAB, max_length=32, trunk=tiny_trunk(**trunk_changes)),
            "image": encoders.ViT(
                stem=encoders.LinearPatches(patch=(4, 4)), trunk=tiny_trunk(**trunk_changes)
            ),
            "audio": encoders.SpectrogramTransformer(
                mel=mel, stem=encoders.FramePatches(frames=4), trunk=tiny_trunk(**trunk_changes)
            ),
        },
        fusion=fusion.CoAttention(
            streams=("text", "image", "audio"), depth=1, width=WIDTH, num_heads=8, mlp_width=32
        ),
        heads={
            "text": heads.PooledEmbedding("text", dim=16),
            "image": heads.PooledEmbedding("image", dim=16),
            "audio": heads.PooledEmbedding("audio", dim=16),
            "words": heads.TokenLogits("text"),
            "follows": heads.Classes("pair", num_classes=2, after="encoder"),
            "matches": heads.MatchingLogit("text"),
        },
        shared={"keywords": "text", "pair": "text"},
    )


def tiny_objectives() -> dict:
    """Five objectives, {name: objective}."""
    return {
        "image_text": objectives.InfoNCE("image", "text"),
        "audio_text": objectives.SigmoidPairs("audio", "text"),
        "words": objectives.MaskedLanguage("words", view=views.MaskTokens("text", vocab=VOCAB)),
        "follows": objectives.NextSentence("follows", view=views.SentencePairs("text", "keywords")),
        "matches": objectives.Matching(
            "matches", view=views.HardNegatives("image", "text", heads=("image", "text"))
        ),
    }


def tiny_learner(**trunk_changes) -> Learner:
    """The tiny model and objectives."""
    return Learner(model=tiny_model(**trunk_changes), objectives=tiny_objectives())


def tiny_batch(batch_size: int = 8, seed: int = 0, missing: tuple[str, ...] = ()) -> Batch:
    """Random examples. `missing` streams are fully masked, and every third example has no audio."""
    rng = np.random.default_rng(seed)

    def text(length: int) -> Text:
        tokens = rng.integers(5, VOCAB, (batch_size, length)).astype(np.int32)
        num_tokens = rng.integers(3, length + 1, (batch_size, 1))
        position = np.arange(length)[None]
        mask = position < num_tokens
        tokens = np.where(position == 0, 2, np.where(position == num_tokens - 1, 3, tokens)) * mask
        words = np.where(mask & (tokens >= 5), (position - 1) // 2, -1).astype(np.int32)
        return Text(tokens.astype(np.int32), mask, np.zeros_like(tokens, dtype=np.int32), words)

    seconds = np.arange(800)[None] < rng.integers(400, 801, (batch_size, 1))
    has_audio = (np.arange(batch_size) % 3 != 2)[:, None]
    batch = {
        "text": text(8),
        "keywords": text(6),
        "image": Image(rng.normal(size=(batch_size, 8, 8, 3)).astype(np.float32), np.ones(batch_size, bool)),
        "audio": Audio(rng.normal(size=(batch_size, 800)).astype(np.float32) * 0.1, seconds & has_audio),
    }
    return {
        name: stream.replace(mask=np.zeros_like(stream.mask)) if name in missing else stream
        for name, stream in batch.items()
    }
