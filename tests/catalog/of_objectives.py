"""Rows of mmjax.objectives."""

from collections.abc import Callable

import jax
import numpy as np

from catalog.row import B, Row, batch, fill_masked, normal, padding, scramble_masked
from mmjax import encoders, heads, objectives, views
from mmjax.batch import Audio, BoxTargets, Labels, MultiLabels, Tags, Text, is_present
from mmjax.heads import MaskedLogits
from mmjax.objectives import Outputs
from mmjax.testing import VOCAB


def values(apply: Callable) -> Callable:
    """`apply` of an objective, with each Mean of its result replaced by the mean's value."""

    def apply_to_values(*args, **kwargs):
        is_mean = lambda x: isinstance(x, objectives.Mean)  # noqa: E731
        found = apply(*args, **kwargs)
        return jax.tree.map(lambda x: x.value if is_mean(x) else x, found, is_leaf=is_mean)

    return apply_to_values


def outputs(predictions: dict | None = None, targets: dict | None = None) -> Outputs:
    """Rows 0 and 2 hold the same text; row 3 has no image."""
    streams = batch()
    text = streams["text"]
    rows = [0, 1, 0, 3]
    arrays = {name: getattr(text, name)[rows] for name in ("tokens", "mask", "token_types", "words")}
    return Outputs(predictions or {}, targets or {}, streams | {"text": text.replace(**arrays)})


def with_streams(result: Outputs, **streams) -> Outputs:
    return result.replace(batch=result.batch | streams)


def pair_outputs() -> tuple[Outputs]:
    embeddings = {name: normal(B, 8, seed=i) / 3 for i, name in enumerate(("image", "text"))}
    return (outputs(embeddings),)


def three_outputs() -> tuple[Outputs]:
    """Row 3 has no image, and row 2 no audio."""
    (result,) = pair_outputs()
    return (result.replace(predictions=result.predictions | {"audio": normal(B, 8, seed=2) / 3}),)


def scramble_pairs(inputs: tuple, rng: np.random.Generator) -> tuple:
    result = scramble_masked(inputs, rng)[0]
    present = {name: np.asarray(is_present(result.batch[name])) for name in result.predictions}
    if len(present) == 2:  # a row that lacks one of two streams has no loss; of three, the others still do
        present = dict.fromkeys(present, present["image"])
    predictions = {name: fill_masked(x, present[name], rng) for name, x in result.predictions.items()}
    return (result.replace(predictions=predictions),)


def scramble_by_target(mask: str) -> Callable:
    """scramble: all predictions and targets where the target `mask` is False."""

    def scramble(inputs, rng):
        result = inputs[0]

        def fill(tree: dict) -> dict:
            valid = result.targets[mask]
            return {name: x if name == mask else fill_masked(x, valid, rng) for name, x in tree.items()}

        return (result.replace(predictions=fill(result.predictions), targets=fill(result.targets)),)

    return scramble


def scramble_predictions(inputs: tuple, rng: np.random.Generator, name: str, mask: np.ndarray) -> tuple:
    """The masked values of all streams, and the prediction `name` where `mask` is False."""
    result = scramble_masked(inputs, rng)[0]
    return (result.replace(predictions={name: fill_masked(result.predictions[name], mask, rng)}),)


def token_outputs() -> tuple[Outputs]:
    tokens = batch()["text"].tokens
    targets = {"tokens": tokens, "masked": normal(*tokens.shape) > 0.5}
    return (outputs({"words": normal(*tokens.shape, VOCAB)}, targets),)


def sentence_outputs() -> tuple[Outputs]:
    targets = {"is_next": np.array([True, False, True, False]), "valid": np.array([True, True, False, True])}
    return (outputs({"follows": normal(B, 2)}, targets),)


def match_outputs() -> tuple[Outputs]:
    targets = {"matches": np.arange(3 * B) < B, "valid": normal(3 * B, seed=1) > -0.5}
    return (outputs({"matches": normal(3 * B)}, targets),)


MASKED_PATCHES = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def patch_outputs() -> tuple[Outputs]:
    """Four patches of 4 x 4 pixels; the last image is missing."""
    return (outputs({"patches": normal(B, 4, 48)}, {"masked_patches": MASKED_PATCHES}),)


MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=4)


def spectrogram_outputs() -> tuple[Outputs]:
    """Ten frames as two by two patches; some recordings end inside a patch, and one is missing."""
    audio = batch()["audio"]
    audio = Audio(audio.samples, (np.arange(800)[None] < np.array([800, 630, 230, 0])[:, None]))
    result = outputs({"patches": normal(B, 4, 10)}, {"masked_patches": MASKED_PATCHES})
    return (with_streams(result, audio=audio),)


def scramble_unmasked_patches(inputs: tuple, rng: np.random.Generator) -> tuple:
    return scramble_predictions(inputs, rng, "patches", inputs[0].targets["masked_patches"])


def quantised() -> heads.Quantised:
    mask = np.repeat(batch()["image"].mask[:, None], 4, axis=1)
    codes = np.random.default_rng(0).integers(0, 5, (B, 4)).astype(np.int32)
    latents, code_vectors = normal(B, 4, 3), normal(B, 4, 3, seed=1)
    return heads.Quantised(codes, latents, code_vectors, normal(B, 4, 48, seed=2), mask, 6)


def code_outputs() -> tuple[Outputs]:
    predictions = {"guess": normal(B, 4, 6), "codes": quantised()}
    return (outputs(predictions, {"masked_patches": MASKED_PATCHES}),)


def scramble_unmasked_codes(inputs: tuple, rng: np.random.Generator) -> tuple:
    result = inputs[0]
    masked, quantised = result.targets["masked_patches"], result.predictions["codes"]
    predictions = {
        "guess": fill_masked(result.predictions["guess"], masked, rng),
        "codes": quantised.replace(codes=fill_masked(quantised.codes, masked, rng)),
    }
    return (result.replace(predictions=predictions),)


def quantised_outputs() -> tuple[Outputs]:
    return (outputs({"codes": quantised()}),)


def scramble_missing_images(inputs: tuple, rng: np.random.Generator) -> tuple:
    result = inputs[0]
    quantised = result.predictions["codes"]
    arrays = {
        name: fill_masked(getattr(quantised, name), quantised.mask, rng)
        for name in ("codes", "latents", "code_vectors", "patches")
    }
    return (result.replace(predictions={"codes": quantised.replace(**arrays)}),)


def class_outputs() -> tuple[Outputs]:
    """All rows but the third have a label; the last has no image."""
    labels = Labels(np.array([2, 0, 1, 1], np.int32), np.array([True, True, False, True]))
    return (with_streams(outputs({"classes": normal(B, 3)}), label=labels),)


def multi_label_outputs() -> tuple[Outputs]:
    """Some labels of the first three rows are known, and all of the last, which has no image."""
    known = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    labels = MultiLabels(normal(B, 3, seed=1) > 0, known)
    return (with_streams(outputs({"classes": normal(B, 3)}), labels=labels),)


def scramble_unlabelled(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Scrambles logits without a known label, and those of rows without an image."""
    streams = inputs[0].batch
    mask = streams["label" if "label" in streams else "labels"].mask
    valid = mask & streams["image"].mask.reshape(-1, *(1,) * (mask.ndim - 1))
    return scramble_predictions(inputs, rng, "classes", valid)


def language_outputs(prefix: bool = False) -> tuple[Outputs]:
    text = batch()["text"]
    text = text.replace(mask=text.mask & (np.arange(B) != 1)[:, None])  # row 1 has no text
    if prefix:
        text = text.replace(prefix=text.mask & (np.arange(8) < 3)[None])
    return (Outputs({"words": normal(*text.tokens.shape, VOCAB)}, {}, {"text": text}),)


def scramble_language(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Scrambles padding, and the logits at the last token and at padding."""
    mask = inputs[0].batch["text"].mask
    valid = np.concatenate([mask[:, 1:] & mask[:, :-1], np.zeros((B, 1), bool)], axis=1)
    return scramble_predictions(inputs, rng, "words", valid)


def ctc_outputs() -> tuple[Outputs]:
    """Rows: three labels in five frames; no text; three labels in two frames; a repeated label."""
    tokens = np.array([[2, 1, 3, 2, 3], [2, 1, 3, 0, 0], [2, 1, 2, 1, 3], [2, 3, 3, 3, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], bool)
    words = np.array(
        [[-1, 0, 1, 2, -1], [-1, 0, -1, -1, -1], [-1, 0, 1, 2, -1], [-1, 0, 1, -1, -1]], np.int32
    )
    frames = np.arange(6)[None] < np.array([5, 6, 2, 6])[:, None]
    text = Text(tokens, mask, np.zeros_like(tokens), words)
    return (Outputs({"frames": MaskedLogits(normal(B, 6, 4), frames)}, {}, {"text": text}),)


def scramble_frames(inputs: tuple, rng: np.random.Generator) -> tuple:
    result = scramble_masked(inputs, rng)[0]
    frames = result.predictions["frames"]
    frames = MaskedLogits(fill_masked(frames.logits, frames.mask, rng), frames.mask)
    return (result.replace(predictions={"frames": frames}),)


def tag_outputs() -> tuple[Outputs]:
    rng = np.random.default_rng(0)
    tags = Tags(rng.integers(0, 3, (B, 6)).astype(np.int32), rng.random((B, 6)) < 0.5)
    return (Outputs({"tags": normal(B, 6, 3)}, {}, {"tags": tags}),)


def scramble_untagged(inputs: tuple, rng: np.random.Generator) -> tuple:
    return scramble_predictions(inputs, rng, "tags", inputs[0].batch["tags"].mask)


def distillation_outputs() -> tuple[Outputs]:
    """Row 3 has no image."""
    return (outputs({"image": normal(B, 3), "text": normal(B, 3, seed=1)}),)


def boxes_outputs() -> tuple[Outputs]:
    """Row 3 has no box."""
    boxes = np.abs(normal(B, 3, 4)) / 4 + 0.1
    classes = np.arange(3 * B, dtype=np.int32).reshape(B, 3) % 2
    targets = BoxTargets(boxes, classes, padding(length=3))
    predicted = np.concatenate([np.abs(normal(B, 5, 4, seed=1)) / 4 + 0.1, normal(B, 5, 3)], axis=-1)
    return (Outputs({"boxes": predicted}, {}, {"boxes": targets}),)


def scramble_boxes(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Scrambles masked boxes, and the predictions of rows without a box."""
    return scramble_predictions(inputs, rng, "boxes", inputs[0].batch["boxes"].mask.any(1))


def adversarial_outputs() -> tuple[Outputs]:
    return (outputs({"image": normal(B, 3)}),)


def row(inputs: Callable, scramble: Callable, cls: type, *args, case: str = "", **fields) -> Row:
    name = f"objectives.{cls.__name__}" + (f".{case}" if case else "")
    return Row(name, lambda dtype: cls(*args, **fields), inputs, scramble=scramble, bf16=None)


IDENTITY = {"view": views.Identity()}
PAIR, THREE = ("image", "text"), ("image", "text", "audio")
DECOUPLED, HARD = {"match_by": "text", "decoupled": True}, {"beta": 0.5, "tau_plus": 0.1}
SMOOTHED = {"streams": ("image",), "label_smoothing": 0.1}
OBJECTIVES = [
    row(adversarial_outputs, scramble_pairs, objectives.Adversarial, "image", "image"),
    row(pair_outputs, scramble_pairs, objectives.InfoNCE, *PAIR, match_by="text", label_smoothing=0.1),
    row(pair_outputs, scramble_pairs, objectives.InfoNCE, *PAIR, case="decoupled", **DECOUPLED),
    row(pair_outputs, scramble_pairs, objectives.InfoNCE, *PAIR, case="hard", **HARD),
    row(three_outputs, scramble_pairs, objectives.MultiwayInfoNCE, THREE),
    row(three_outputs, scramble_pairs, objectives.MultiwayInfoNCE, THREE, case="others", against="others"),
    row(boxes_outputs, scramble_boxes, objectives.Boxes, "boxes"),
    row(distillation_outputs, scramble_pairs, objectives.Distillation, *PAIR),
    row(pair_outputs, scramble_pairs, objectives.SigmoidPairs, *PAIR, match_by="text"),
    row(token_outputs, scramble_by_target("masked"), objectives.MaskedLanguage, "words", **IDENTITY),
    row(sentence_outputs, scramble_by_target("valid"), objectives.NextSentence, "follows", **IDENTITY),
    row(match_outputs, scramble_by_target("valid"), objectives.Matching, "matches", **IDENTITY),
    row(
        patch_outputs,
        scramble_by_target("masked_patches"),
        objectives.MaskedPatches,
        "patches",
        "image",
        (4, 4),
        normalise=True,
        **IDENTITY,
    ),
    row(
        spectrogram_outputs,
        scramble_unmasked_patches,
        objectives.MaskedSpectrogram,
        "patches",
        "audio",
        MEL,
        5,
        mels=2,
        **IDENTITY,
    ),
    row(code_outputs, scramble_unmasked_codes, objectives.MaskedCodes, "guess", "codes", **IDENTITY),
    row(quantised_outputs, scramble_missing_images, objectives.VectorQuantised, "codes", "image", (4, 4)),
    row(class_outputs, scramble_unlabelled, objectives.Classification, "classes", **SMOOTHED),
    row(multi_label_outputs, scramble_unlabelled, objectives.MultiLabel, "classes", **SMOOTHED),
    row(language_outputs, scramble_language, objectives.CausalLanguage, "words"),
    row(ctc_outputs, scramble_frames, objectives.CTC, "frames"),
    row(tag_outputs, scramble_untagged, objectives.TokenClassification, "tags"),
]
