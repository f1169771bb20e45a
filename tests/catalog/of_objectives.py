"""Rows of mmjax.objectives."""

from collections.abc import Callable

import numpy as np

from catalog.row import B, Row, batch, fill_masked, normal, padding, scramble_masked
from mmjax import encoders, heads, objectives, views
from mmjax.batch import Audio, BoxTargets, Labels, MultiLabels, Tags, Text, is_present
from mmjax.heads import Frames
from mmjax.objectives import Outputs
from mmjax.testing import VOCAB


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


def three_outputs() -> tuple[Outputs]:
    """Row 3 has no picture, and row 2 no sound."""
    (made,) = pair_outputs()
    return (made.replace(predictions=made.predictions | {"audio": normal(B, 8, seed=2) / 3}),)


def scrambled_pairs(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = scramble_masked(inputs, rng)[0]
    # Of two heads, a row that misses one counts nothing; of three, the others still do.
    there = {name: np.asarray(is_present(made.batch[name])) for name in made.predictions}
    if len(there) == 2:
        there = dict.fromkeys(there, there["image"])
    return (
        made.replace(
            predictions={name: fill_masked(x, there[name], rng) for name, x in made.predictions.items()}
        ),
    )


def scrambled_by(mask: str) -> Callable:
    """scramble: every prediction and target under the target `mask`."""

    def scramble(inputs, rng):
        made = inputs[0]

        def hide(tree: dict) -> dict:
            there = made.targets[mask]
            return {name: x if name == mask else fill_masked(x, there, rng) for name, x in tree.items()}

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


HIDDEN = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def picture_outputs() -> tuple[Outputs]:
    """Four patches of 4 x 4 pixels; the last picture is missing."""
    return (outputs({"patches": normal(B, 4, 48)}, {"masked_patches": HIDDEN}),)


MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=4)


def sound_outputs() -> tuple[Outputs]:
    """Ten frames as two moments by two bands; some recordings end within a moment, one is missing."""
    audio = batch()["audio"]
    audio = Audio(audio.samples, (np.arange(800)[None] < np.array([800, 630, 230, 0])[:, None]))
    made = outputs({"patches": normal(B, 4, 10)}, {"masked_patches": HIDDEN})
    return (made.replace(batch=made.batch | {"audio": audio}),)


def unmasked_sound(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Garbage behind the ends of the recordings, and guesses at what was not hidden."""
    made = scramble_masked(inputs, rng)[0]
    guess = fill_masked(made.predictions["patches"], made.targets["masked_patches"], rng)
    return (made.replace(predictions={"patches": guess}),)


def quantised() -> heads.Quantised:
    mask = np.repeat(batch()["image"].mask[:, None], 4, axis=1)
    codes = np.random.default_rng(0).integers(0, 5, (B, 4)).astype(np.int32)
    found, nearest = normal(B, 4, 3), normal(B, 4, 3, seed=1)
    return heads.Quantised(codes, found, nearest, normal(B, 4, 48, seed=2), mask, 6)


def code_outputs() -> tuple[Outputs]:
    return (outputs({"guess": normal(B, 4, 6), "codes": quantised()}, {"masked_patches": HIDDEN}),)


def unmasked_codes(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = inputs[0]
    hidden, whole = made.targets["masked_patches"], made.predictions["codes"]
    codes = whole.replace(codes=fill_masked(whole.codes, hidden, rng))
    return (
        made.replace(
            predictions={"guess": fill_masked(made.predictions["guess"], hidden, rng), "codes": codes}
        ),
    )


def quantised_outputs() -> tuple[Outputs]:
    return (outputs({"codes": quantised()}),)


def missing_pictures(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = inputs[0]
    whole = made.predictions["codes"]
    arrays = {
        name: fill_masked(getattr(whole, name), whole.mask, rng)
        for name in ("codes", "found", "nearest", "patches")
    }
    return (made.replace(predictions={"codes": whole.replace(**arrays)}),)


def class_outputs() -> tuple[Outputs]:
    """Labels of the first, second and last; the last has no picture."""
    made = outputs({"classes": normal(B, 3)})
    labels = Labels(np.array([2, 0, 1, 1], np.int32), np.array([True, True, False, True]))
    return (made.replace(batch=made.batch | {"label": labels}),)


def answer_outputs() -> tuple[Outputs]:
    """Some answers are known of the first three; of the last all, but it has no picture."""
    made = outputs({"classes": normal(B, 3)})
    known = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    labels = MultiLabels(normal(B, 3, seed=1) > 0, known)
    return (made.replace(batch=made.batch | {"labels": labels}),)


def unlabelled(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Garbage where no label is known, and where there is no picture."""
    made = scramble_masked(inputs, rng)[0]
    stream = "label" if "label" in made.batch else "labels"
    mask = made.batch[stream].mask
    counted = mask & made.batch["image"].mask.reshape(-1, *(1,) * (mask.ndim - 1))
    return (made.replace(predictions={"classes": fill_masked(made.predictions["classes"], counted, rng)}),)


def language_outputs(prefix: bool = False) -> tuple[Outputs]:
    text = batch()["text"]
    text = text.replace(mask=text.mask & (np.arange(B) != 1)[:, None])  # row 1 has no text
    if prefix:
        text = text.replace(prefix=text.mask & (np.arange(8) < 3)[None])
    return (Outputs({"words": normal(*text.tokens.shape, VOCAB)}, {}, {"text": text}),)


def scrambled_language(inputs: tuple, rng: np.random.Generator) -> tuple:
    """Padding, and what the last token and padding predict."""
    made = scramble_masked(inputs, rng)[0]
    mask = made.batch["text"].mask
    asked = np.concatenate([mask[:, 1:] & mask[:, :-1], np.zeros((B, 1), bool)], axis=1)
    return (made.replace(predictions={"words": fill_masked(made.predictions["words"], asked, rng)}),)


def ctc_outputs() -> tuple[Outputs]:
    """Rows: said in five frames; no text; three labels in two frames; a repeated label."""
    tokens = np.array([[2, 1, 3, 2, 3], [2, 1, 3, 0, 0], [2, 1, 2, 1, 3], [2, 3, 3, 3, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], bool)
    words = np.array(
        [[-1, 0, 1, 2, -1], [-1, 0, -1, -1, -1], [-1, 0, 1, 2, -1], [-1, 0, 1, -1, -1]], np.int32
    )
    frames = np.arange(6)[None] < np.array([5, 6, 2, 6])[:, None]
    text = Text(tokens, mask, np.zeros_like(tokens), words)
    return (Outputs({"frames": Frames(normal(B, 6, 4), frames)}, {}, {"text": text}),)


def scrambled_frames(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = scramble_masked(inputs, rng)[0]
    frames = made.predictions["frames"]
    return (
        made.replace(
            predictions={"frames": Frames(fill_masked(frames.logits, frames.mask, rng), frames.mask)}
        ),
    )


def tag_outputs() -> tuple[Outputs]:
    rng = np.random.default_rng(0)
    tags = Tags(rng.integers(0, 3, (B, 6)).astype(np.int32), rng.random((B, 6)) < 0.5)
    return (Outputs({"tags": normal(B, 6, 3)}, {}, {"tags": tags}),)


def scrambled_tags(inputs: tuple, rng: np.random.Generator) -> tuple:
    made = scramble_masked(inputs, rng)[0]
    logits = fill_masked(made.predictions["tags"], made.batch["tags"].mask, rng)
    return (made.replace(predictions={"tags": logits}),)


def taught_outputs() -> tuple[Outputs]:
    """Row 3 has no picture."""
    return (outputs({"image": normal(B, 3), "text": normal(B, 3, seed=1)}),)


def boxes_outputs() -> tuple[Outputs]:
    """Row 3 has no box."""
    marked = BoxTargets(
        np.abs(normal(B, 3, 4)) / 4 + 0.1,
        np.arange(3 * B, dtype=np.int32).reshape(B, 3) % 2,
        padding(length=3),
    )
    predicted = np.concatenate([np.abs(normal(B, 5, 4, seed=1)) / 4 + 0.1, normal(B, 5, 3)], axis=-1)
    return (Outputs({"boxes": predicted}, {}, {"boxes": marked}),)


def scrambled_boxes(inputs: tuple, rng: np.random.Generator) -> tuple:
    """What is marked; and what is predicted where nothing is."""
    made = scramble_masked(inputs, rng)[0]
    there = made.batch["boxes"].mask.any(1)
    return (made.replace(predictions={"boxes": fill_masked(made.predictions["boxes"], there, rng)}),)


def objective(inputs: Callable, scramble: Callable, kind: type, *heads, case: str = "", **fields) -> Row:
    name = f"objectives.{kind.__name__}" + (f".{case}" if case else "")
    return Row(name, lambda dtype: kind(*heads, **fields), inputs, scramble=scramble, bf16=None)


def adversarial_outputs() -> tuple[Outputs]:
    return (outputs({"image": normal(B, 3)}),)


CLEAN = views.Identity()
PAIR, THREE = ("image", "text"), ("image", "text", "audio")
OBJECTIVES = [
    objective(adversarial_outputs, scrambled_pairs, objectives.Adversarial, "image", "image"),
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, match_by="text", label_smoothing=0.1),
    objective(
        pair_outputs,
        scrambled_pairs,
        objectives.InfoNCE,
        *PAIR,
        case="decoupled",
        match_by="text",
        decoupled=True,
    ),
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, case="hard", beta=0.5, tau_plus=0.1),
    objective(three_outputs, scrambled_pairs, objectives.MultiwayInfoNCE, THREE),
    objective(
        three_outputs, scrambled_pairs, objectives.MultiwayInfoNCE, THREE, case="others", against="others"
    ),
    objective(boxes_outputs, scrambled_boxes, objectives.Boxes, "boxes"),
    objective(taught_outputs, scrambled_pairs, objectives.Distillation, *PAIR),
    objective(pair_outputs, scrambled_pairs, objectives.SigmoidPairs, *PAIR, match_by="text"),
    objective(token_outputs, scrambled_by("masked"), objectives.MaskedLanguage, "words", view=CLEAN),
    objective(sentence_outputs, scrambled_by("valid"), objectives.NextSentence, "follows", view=CLEAN),
    objective(match_outputs, scrambled_by("valid"), objectives.Matching, "matches", view=CLEAN),
    objective(
        picture_outputs,
        scrambled_by("masked_patches"),
        objectives.MaskedPatches,
        "patches",
        "image",
        (4, 4),
        CLEAN,
        normalise=True,
    ),
    objective(
        sound_outputs,
        unmasked_sound,
        objectives.MaskedSpectrogram,
        "patches",
        "audio",
        MEL,
        5,
        CLEAN,
        mels=2,
    ),
    objective(code_outputs, unmasked_codes, objectives.MaskedCodes, "guess", "codes", CLEAN),
    objective(quantised_outputs, missing_pictures, objectives.VectorQuantised, "codes", "image", (4, 4)),
    objective(
        class_outputs,
        unlabelled,
        objectives.Classification,
        "classes",
        streams=("image",),
        label_smoothing=0.1,
    ),
    objective(
        answer_outputs, unlabelled, objectives.MultiLabel, "classes", streams=("image",), label_smoothing=0.1
    ),
    objective(language_outputs, scrambled_language, objectives.CausalLanguage, "words"),
    objective(ctc_outputs, scrambled_frames, objectives.CTC, "frames"),
    objective(tag_outputs, scrambled_tags, objectives.TokenClassification, "tags"),
]
