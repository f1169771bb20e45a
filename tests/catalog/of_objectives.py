"""Rows of mmjax.objectives."""

from collections.abc import Callable

import numpy as np

from catalog.row import B, Row, batch, garbage, normal, padding, streams_scrambled
from mmjax import objectives, views
from mmjax.batch import Boxes, present
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
    made = streams_scrambled(inputs, rng)[0]
    # Of two heads, a row that misses one counts nothing; of three, the others still do.
    there = {name: np.asarray(present(made.batch[name])) for name in made.predictions}
    if len(there) == 2:
        there = dict.fromkeys(there, there["image"])
    return (
        made.replace(
            predictions={name: garbage(x, there[name], rng) for name, x in made.predictions.items()}
        ),
    )


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


def taught_outputs() -> tuple[Outputs]:
    """Row 3 has no picture."""
    return (outputs({"image": normal(B, 3), "text": normal(B, 3, seed=1)}),)


def boxes_outputs() -> tuple[Outputs]:
    """Row 3 has no box."""
    marked = Boxes(
        np.abs(normal(B, 3, 4)) / 4 + 0.1,
        np.arange(3 * B, dtype=np.int32).reshape(B, 3) % 2,
        padding(length=3),
    )
    predicted = np.concatenate([np.abs(normal(B, 5, 4, seed=1)) / 4 + 0.1, normal(B, 5, 3)], axis=-1)
    return (Outputs({"boxes": predicted}, {}, {"boxes": marked}),)


def scrambled_boxes(inputs: tuple, rng: np.random.Generator) -> tuple:
    """What is marked; and what is predicted where nothing is."""
    made = streams_scrambled(inputs, rng)[0]
    there = made.batch["boxes"].mask.any(1)
    return (made.replace(predictions={"boxes": garbage(made.predictions["boxes"], there, rng)}),)


def objective(inputs: Callable, scramble: Callable, kind: type, *heads, case: str = "", **fields) -> Row:
    name = f"objectives.{kind.__name__}" + (f".{case}" if case else "")
    return Row(name, lambda dtype: kind(*heads, **fields), inputs, scramble=scramble, bf16=None)


CLEAN = views.Clean()
PAIR, THREE = ("image", "text"), ("image", "text", "audio")
OBJECTIVES = [
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, same="text", label_smoothing=0.1),
    objective(
        pair_outputs,
        scrambled_pairs,
        objectives.InfoNCE,
        *PAIR,
        case="decoupled",
        same="text",
        decoupled=True,
    ),
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, case="hard", beta=0.5, tau_plus=0.1),
    objective(three_outputs, scrambled_pairs, objectives.MultiwayInfoNCE, THREE),
    objective(
        three_outputs, scrambled_pairs, objectives.MultiwayInfoNCE, THREE, case="others", against="others"
    ),
    objective(boxes_outputs, scrambled_boxes, objectives.Boxes, "boxes"),
    objective(taught_outputs, scrambled_pairs, objectives.Distillation, *PAIR),
    objective(pair_outputs, scrambled_pairs, objectives.SigmoidPairs, *PAIR, same="text"),
    objective(token_outputs, scrambled_by("masked"), objectives.MaskedLanguage, "words", view=CLEAN),
    objective(sentence_outputs, scrambled_by("valid"), objectives.NextSentence, "follows", view=CLEAN),
    objective(match_outputs, scrambled_by("valid"), objectives.Matching, "matches", view=CLEAN),
]
