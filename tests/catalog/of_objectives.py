"""Rows of mmjax.objectives."""

from collections.abc import Callable

import numpy as np

from catalog.row import B, Row, batch, garbage, normal, streams_scrambled
from mmjax import objectives, views
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


def adversarial_outputs() -> tuple[Outputs]:
    return (outputs({"image": normal(B, 3)}),)


CLEAN = views.Clean()
PAIR = ("image", "text")
OBJECTIVES = [
    objective(adversarial_outputs, scrambled_pairs, objectives.Adversarial, "image", "image"),
    objective(pair_outputs, scrambled_pairs, objectives.InfoNCE, *PAIR, same="text", label_smoothing=0.1),
    objective(pair_outputs, scrambled_pairs, objectives.SigmoidPairs, *PAIR, same="text"),
    objective(token_outputs, scrambled_by("masked"), objectives.MaskedLanguage, "words", view=CLEAN),
    objective(sentence_outputs, scrambled_by("valid"), objectives.NextSentence, "follows", view=CLEAN),
    objective(match_outputs, scrambled_by("valid"), objectives.Matching, "matches", view=CLEAN),
]
