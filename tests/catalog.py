"""One row per module: what test_catalog.py holds to every property. Add a module, add a row."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax import encoders, fusion, heads, layers, objectives, views
from mmjax.batch import Audio, Encoded, Image, Labels, Text
from mmjax.objectives import Outputs
from mmjax.testing import TOLERANCE, VOCAB, tiny_batch

B, L, D = 4, 6, 16
STREAMS = (Text, Image, Audio, Labels, Encoded)


def streams_read(output: Any, inputs: tuple) -> Any:
    """What a reader of the output may look at: of an Encoded, the unmasked positions."""
    is_encoded = lambda x: isinstance(x, Encoded)  # noqa: E731
    keep = lambda x: (jnp.where(x.mask[..., None], x.embeddings, 0), x.mask) if is_encoded(x) else x  # noqa: E731
    return jax.tree.map(keep, output, is_leaf=is_encoded)


def streams_scrambled(inputs: Any, rng: np.random.Generator) -> Any:
    """Garbage under the False masks of every stream in `inputs`."""

    def scramble(x):
        if not isinstance(x, STREAMS):
            return x
        fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        return x.replace(
            **{name: garbage(value, x.mask, rng) for name, value in fields.items() if name != "mask"}
        )

    return jax.tree.map(scramble, inputs, is_leaf=lambda x: isinstance(x, STREAMS))


def garbage(x: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x, and where its mask is False, anything that is finite."""
    other = rng.integers(0, 2, x.shape) if x.dtype.kind in "bi" else 100 * rng.normal(size=x.shape)
    return np.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, other).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Row:
    """A module, how it is called, and what about it may be compared."""

    name: str
    make: Callable[[str], nn.Module]  # of the compute dtype
    inputs: Callable[[], tuple]  # NumPy pytrees; every leaf has the batch axis first
    settings: dict = dataclasses.field(default_factory=dict)  # arguments that are no examples
    read: Callable[[Any, tuple], Any] = streams_read
    scramble: Callable[[tuple, np.random.Generator], tuple] | None = (
        streams_scrambled  # None: it is given no mask
    )
    tolerance: float = TOLERANCE["fp32_module"]
    bf16: Literal["module", "inputs", None] = "module"  # what of it can be bfloat16


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padding(batch: int = B, length: int = L, seed: int = 0) -> np.ndarray:
    """A mask whose first row is whole and whose last is missing."""
    num = np.random.default_rng(seed).integers(1, length + 1, batch)
    num[0], num[-1] = length, 0
    return np.arange(length)[None] < num[:, None]


def encoded(length: int = L, width: int = D, seed: int = 0) -> Encoded:
    return Encoded(normal(B, length, width, seed=seed), padding(length=length, seed=seed))


def batch() -> dict:
    """Four rows of every stream; the last has no picture."""
    made = jax.tree.map(lambda x: x[:B], tiny_batch())
    return made | {"image": made["image"].replace(mask=np.arange(B) < B - 1)}


def where_masked(x: int, mask: int) -> Callable:
    """scramble: input number `x` under the mask that is input number `mask`."""

    def scramble(inputs, rng):
        return tuple(garbage(value, inputs[mask], rng) if i == x else value for i, value in enumerate(inputs))

    return scramble


def positions_read(output, inputs):
    """read: positions of a stream, by the mask that is the last input."""
    return jnp.where(inputs[-1][..., None], output, 0)


def rows_read(output, inputs):
    """read: examples whose stream, the first input, is there."""
    there = inputs[0].mask.any(-1)
    return jnp.where(there.reshape(-1, *(1,) * (output.ndim - 1)), output, 0)


def tokens_read(output, inputs):
    return jnp.where(inputs[0].mask[..., None], output, 0)


def trunk(dtype: str = "float32", **changes) -> layers.Transformer:
    return layers.Transformer(
        **{"depth": 1, "width": D, "num_heads": 4, "mlp_width": 32, "dtype": dtype} | changes
    )


def layer(name: str, make: Callable, *inputs: np.ndarray, **more) -> Row:
    return Row(f"layers.{name}", make, lambda: inputs, **{"scramble": None} | more)


def stack(name: str, **changes) -> Row:
    return layer(
        name, lambda dtype: trunk(dtype, **changes), normal(B, L, D), padding(),
        scramble=where_masked(0, 1), read=positions_read, tolerance=TOLERANCE["fp32_stack"],
    )  # fmt: skip


def block(dtype: str, norm: str) -> layers.Block:
    return layers.Block(num_heads=4, mlp_width=32, norm=norm, dtype=dtype)


def block_row(name: str, norm: str) -> Row:
    return layer(
        name, lambda dtype: block(dtype, norm), normal(B, L, D), padding(),
        settings={"train": False}, scramble=where_masked(0, 1), read=positions_read,
    )  # fmt: skip


def einsum(dtype: str) -> layers.Einsum:
    return layers.Einsum("B L D, D H K -> B L H K", (D, 2, 3), ("embed", "heads", None), dtype=dtype)


LAYERS = [
    layer("Einsum", einsum, normal(B, L, D)),
    layer("LayerNorm", lambda t: layers.LayerNorm(dtype=t), normal(B, L, D)),
    layer("Mlp", lambda t: layers.Mlp(mlp_width=32, dtype=t), normal(B, L, D)),
    layer("Conv1d", lambda t: layers.Conv1d(D, size=3, stride=2, dtype=t), normal(B, L, 5)),
    layer("Conv2d", lambda t: layers.Conv2d(D, size=3, stride=2, dtype=t), normal(B, 5, 6, 2)),
    layer("LearnedPositions", lambda t: layers.LearnedPositions(L + 2), normal(B, L, D), bf16=None),
    layer("SinusoidalPositions", lambda t: layers.SinusoidalPositions(), normal(B, L, D), bf16=None),
    layer(
        "MultiHeadAttention", lambda t: layers.MultiHeadAttention(num_heads=4, dtype=t),
        normal(B, 3, D), normal(B, L, 2 * D, seed=1), padding(),
        # A query with nothing to attend to attends to everything: its reader must not look.
        scramble=where_masked(1, 2), read=lambda y, inputs: jnp.where(inputs[2].any(-1)[:, None, None], y, 0),
    ),
    block_row("Block", "pre"),
    block_row("Block.post", "post"),
    stack("Transformer", depth=2),
    stack(
        "Transformer.unrolled", depth=2, scan=False, remat="dots", norm="post", use_bias=False,
        activation="quick_gelu",
    ),
    stack("Transformer.causal", causal=True, remat="full"),
]  # fmt: skip


def encoder(name: str, make: Callable, stream: str) -> Row:
    return Row(f"encoders.{name}", make, lambda: (batch()[stream],), tolerance=TOLERANCE["fp32_stack"])


def spectrogram(stem: Callable) -> Callable:
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    return lambda dtype: encoders.SpectrogramTransformer(mel=mel, stem=stem(dtype), trunk=trunk(dtype))


def picture_stem(name: str, make: Callable) -> Row:
    inputs = (normal(B, 8, 12, 3),)
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def sound_stem(name: str, make: Callable) -> Row:
    """Their spectrogram is zero under its mask: LogMel's promise, which the towers' rows hold it to."""
    inputs = (normal(B, 8, 6), padding(length=8))
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def vit(dtype: str) -> encoders.ViT:
    return encoders.ViT(encoders.LinearPatches((4, 4), dtype=dtype), trunk(dtype), num_registers=2)


def text_transformer(dtype: str) -> encoders.TextTransformer:
    return encoders.TextTransformer(VOCAB, trunk(dtype), max_length=8, hash_ngrams=(2, 3), hash_buckets=64)


def two_sentences() -> tuple[Text]:
    """With padding between them: an n-gram of the second reaches back over it."""
    text = batch()["text"]
    return (text.replace(mask=text.mask & ~np.isin(np.arange(8), (2, 3))[None]),)


ENCODERS = [
    picture_stem("LinearPatches", lambda t: encoders.LinearPatches((4, 6), dtype=t)),
    picture_stem("ConvPatches", lambda t: encoders.ConvPatches((4, 6), channels=(4,), dtype=t)),
    sound_stem("FramePatches", lambda t: encoders.FramePatches(2, mels=3, dtype=t)),
    sound_stem("ConvFrames", lambda t: encoders.ConvFrames(dtype=t)),
    encoder("ViT", vit, "image"),
    encoder("SpectrogramTransformer", spectrogram(lambda t: encoders.FramePatches(4, dtype=t)), "audio"),
    encoder("SpectrogramTransformer.conv", spectrogram(lambda t: encoders.ConvFrames(dtype=t)), "audio"),
    Row("encoders.TextTransformer", text_transformer, two_sentences, tolerance=TOLERANCE["fp32_stack"]),
]


def streams() -> tuple[dict[str, Encoded]]:
    """Two streams of different widths, and one that fusion is not asked to read."""
    return ({"text": encoded(), "image": encoded(5, 2 * D, seed=1), "other": encoded(seed=2)},)


def co_attention(dtype: str) -> fusion.CoAttention:
    return fusion.CoAttention(
        streams=("text", "image"), depth=1, width=D, num_heads=4, mlp_width=32, dtype=dtype
    )


FUSION = [
    Row("fusion.Late", lambda t: fusion.Late(("text", "image")), streams, bf16=None),
    Row("fusion.CoAttention", co_attention, streams, tolerance=TOLERANCE["fp32_stack"]),
]


def head(name: str, module: Callable[[], nn.Module], **more) -> Row:
    defaults = {"read": rows_read, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), lambda: (encoded(),), **defaults | more)


HEADS = [
    head("PooledEmbedding", lambda: heads.PooledEmbedding("text", dim=8)),
    head("PooledEmbedding.first", lambda: heads.PooledEmbedding("text", dim=8, pooling="first")),
    head("Classes", lambda: heads.Classes("text", num_classes=3, pooling="mean")),
    head("MatchingLogit", lambda: heads.MatchingLogit("text")),
    head(
        "TokenLogits",
        lambda: heads.TokenLogits("text"),
        settings={"table": normal(VOCAB, D)},
        read=tokens_read,
    ),
]


def outputs(predictions: dict | None = None, targets: dict | None = None) -> Outputs:
    """Rows 0 and 2 hold the same text; row 3 has no picture."""
    made = batch()
    twins = made["text"].replace(
        **{
            name: getattr(made["text"], name)[[0, 1, 0, 3]]
            for name in ("tokens", "mask", "token_types", "words")
        }
    )
    return Outputs(predictions or {}, targets or {}, made | {"text": twins})


def pair_outputs() -> tuple[Outputs]:
    unit = {name: normal(B, 8, seed=i) / 3 for i, name in enumerate(("image", "text"))}
    return (outputs(unit),)


def scrambled_pairs(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = streams_scrambled(inputs, rng)[0]
    there = made.batch["image"].mask
    return (made.replace(predictions={name: garbage(x, there, rng) for name, x in made.predictions.items()}),)


def scrambled_by(mask: str) -> Callable:
    """scramble: every prediction and target under the target `mask`."""

    def scramble(inputs, rng):
        made = inputs[0]

        def hide(tree: dict) -> dict:
            there = made.targets[mask]
            return {name: x if name == mask else garbage(x, there, rng) for name, x in tree.items()}

        return (made.replace(predictions=hide(made.predictions), targets=hide(made.targets)),)

    return scramble


def token_outputs() -> tuple[Outputs]:
    tokens = batch()["text"].tokens
    return (
        outputs(
            {"words": normal(*tokens.shape, VOCAB)}, {"tokens": tokens, "masked": normal(*tokens.shape) > 0.5}
        ),
    )


def sentence_outputs() -> tuple[Outputs]:
    targets = {"is_next": np.array([True, False, True, False]), "valid": np.array([True, True, False, True])}
    return (outputs({"follows": normal(B, 2)}, targets),)


def match_outputs() -> tuple[Outputs]:
    targets = {"matches": np.arange(3 * B) < B, "valid": normal(3 * B, seed=1) > -0.5}
    return (outputs({"matches": normal(3 * B)}, targets),)


def objective(inputs: Callable, scramble: Callable, kind: type, *heads: str, **fields) -> Row:
    name = f"objectives.{kind.__name__}"
    return Row(name, lambda dtype: kind(*heads, **fields), inputs, scramble=scramble, bf16=None)


CLEAN = views.Clean()
PAIR = ("image", "text")
OBJECTIVES = [
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, same="text", label_smoothing=0.1),
    objective(pair_outputs, scrambled_pairs, objectives.SigmoidPairs, *PAIR, same="text"),
    objective(token_outputs, scrambled_by("masked"), objectives.MaskedLanguage, "words", view=CLEAN),
    objective(sentence_outputs, scrambled_by("valid"), objectives.NextSentence, "follows", view=CLEAN),
    objective(match_outputs, scrambled_by("valid"), objectives.Matching, "matches", view=CLEAN),
]

ROWS = [*LAYERS, *ENCODERS, *FUSION, *HEADS, *OBJECTIVES]
