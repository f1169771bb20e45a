"""Numbers of batches that lack rows, or that hold equal ones."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from corpus.case import Case
from corpus.learning import FAMILY, HARD, letters
from mmjax import data, objectives, views
from mmjax.batch import RECORDS, Encoded, Image, Labels, MultiLabels, Text
from mmjax.objectives import Mean, Outputs, mean_over_batches, with_weights
from mmjax.objectives.contrastive import PairMask, info_nce
from mmjax.training.metrics import Meter


def info_nce_loop(logits: np.ndarray, positives: np.ndarray) -> float:
    """The mean over rows and columns of `log sum exp - mean logit of the positives`, in float64."""
    losses = []
    for scores, is_positive in ((logits, positives), (logits.T, positives.T)):
        for row, positive in zip(scores, is_positive, strict=True):
            losses.append(np.log(np.exp(row).sum()) - row[positive].mean())
    return float(np.mean(losses))


LOGITS = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
TWINS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], bool)  # rows 0 and 2 are equal


def repeated_record(_: Path) -> float:
    pairs = PairMask(jnp.ones(4, bool), record=jnp.array([7, 3, 7, 9]))
    return float(info_nce(jnp.asarray(LOGITS), jnp.eye(4), 1.0, pairs)[0])


def embeddings_of(view: views.View) -> tuple[objectives.InfoNCE, Outputs]:
    """Rows 0 and 2 hold one caption, which the view masks differently."""
    tokens = jnp.array([[2, 7, 8, 9], [2, 5, 6, 7], [2, 7, 8, 9], [2, 9, 8, 7]])
    caption = Text(
        tokens, tokens > 0, jnp.zeros_like(tokens), jnp.arange(4)[None] + jnp.zeros_like(tokens) - 1
    )
    batch = {"image": Image(jnp.ones((4, 2, 2, 3)), jnp.ones(4, bool)), "text": caption}
    changed, targets = view.transform_batch(views.remember_contents(batch, ("text",)), jax.random.key(0))
    predictions = {"image": jnp.asarray(LOGITS), "text": jnp.eye(4)}
    return objectives.InfoNCE("image", "text", match_by="text", view=view), Outputs(
        predictions, targets, changed
    )


def masked_twins(_: Path) -> float:
    module, outputs = embeddings_of(views.MaskTokens("text", vocab=31, rate=0.5))
    assert len({*map(bytes, np.asarray(outputs.batch["text"].tokens))}) == 4, "the masked captions differ"
    loss, _ = module.apply({"params": {"log_scale": jnp.float32(0)}}, outputs)
    return float(loss.value)


def dropped_twins(_: Path) -> float:
    """The caption only tells which rows are equal; it is dropped for the model."""
    module, outputs = embeddings_of(views.DropStreams((("text", 1.0),)))
    module = module.clone(streams=("image", "image"))
    loss, _ = module.apply({"params": {"log_scale": jnp.float32(0)}}, outputs)
    return float(loss.value)


def hard_negatives_of_twins(_: Path) -> bool:
    """Whether a masked copy of a row's caption, or its own record, is ever its negative."""
    _, outputs = embeddings_of(views.MaskTokens("text", vocab=31, rate=0.5))
    batch = outputs.batch | {
        RECORDS: dataclasses.replace(outputs.batch[RECORDS], index=jnp.array([0, 1, 2, 1]))
    }
    batch["image"] = Image(jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 2, 2, 3)), jnp.ones(4, bool))
    rows = jnp.arange(4.0)[:, None, None]
    encoded = {name: Encoded(rows, jnp.ones((4, 1), bool)) for name in ("image", "text")}
    draw = jax.jit(jax.vmap(lambda key: HARD.transform_encoded(encoded, outputs.predictions, batch, key)[0]))
    paired = draw(jax.random.split(jax.random.key(0), 64))
    images, texts = (np.asarray(paired[name].embeddings)[:, 4:, 0, 0] for name in ("image", "text"))
    twins = {(0, 2), (2, 0), (1, 3), (3, 1)}
    return bool(twins & {*zip(images.ravel(), texts.ravel(), strict=True)})


def loaded_records(_: Path) -> bool:
    """In a batch of 16 rows of 6 records: whether rows have one number exactly if they have one text."""
    batch, _ = next(data.batches(data.Mixture.of(letters(6), batch_size=16), seed=0, start_step=0))
    texts, numbers = batch["text"].tokens[:, 1], batch[RECORDS].index
    return bool(((texts[:, None] == texts[None]) == (numbers[:, None] == numbers[None])).all())


def numbers_in_two_datasets(_: Path) -> int:
    """How many records a batch of all 4 + 4 rows of two datasets holds."""
    datasets = {"a": (1.0, letters(4)), "b": (1.0, letters(4))}
    batch, _ = next(data.batches(data.Mixture(datasets, batch_size=8), seed=0, start_step=0))
    return len({*batch[RECORDS].index.tolist()})


def logged(*steps: dict[str, float | Mean]) -> dict[str, float]:
    """The metrics of a log line over these steps."""
    meter = Meter(batch_size=8, flops_per_step=1.0)
    for step in steps:
        meter.add(with_weights(step), 0.0)
    row = meter.read(len(steps))
    return {
        name: row[name] for name in row if "second" not in name and name not in ("input_wait_share", "mfu")
    }


def accuracy_of(outputs: Outputs, module: objectives.Objective, params: dict | None = None) -> list[float]:
    """[loss, its weight, accuracy's weight]."""
    loss, metrics = module.apply({"params": params or {}}, outputs)
    return [float(loss.value), float(loss.weight), float(metrics["accuracy"].weight)]


def one_pair(_: Path) -> list[float]:
    _, outputs = embeddings_of(views.Identity())
    only_first = Image(outputs.batch["image"].pixels, jnp.arange(4) == 0)
    outputs = outputs.replace(batch=outputs.batch | {"image": only_first})
    return accuracy_of(outputs, objectives.InfoNCE("image", "text"), {"log_scale": jnp.float32(0)})


def matching_without_negatives(_: Path) -> float:
    targets = {"matches": jnp.arange(6) < 2, "valid": jnp.arange(6) < 2}
    outputs = Outputs({"matches": jnp.ones(6)}, targets, {})
    return accuracy_of(outputs, objectives.Matching("matches", view=views.Identity()))[1]


def f1_of_two_batches(_: Path) -> float:
    """The F1 score of all labels, of batches with 1 and with 5 positive labels."""
    module, measured = objectives.MultiLabel("classes"), []
    for logits, labels in F1_BATCHES:
        batch = {"labels": MultiLabels(jnp.asarray(labels), jnp.ones(labels.shape, bool))}
        _, metrics = module.apply({}, Outputs({"classes": jnp.asarray(logits)}, {}, batch))
        measured.append({name: np.asarray(x) for name, x in with_weights(metrics).items()})
    return mean_over_batches(measured)["f1"]


F1_BATCHES = [
    (np.array([[1.0, -1.0, -1.0]]), np.array([[True, False, False]])),
    (np.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]]), np.array([[True, False, True], [False, True, True]])),
]


def f1_score() -> float:
    predicted = np.concatenate([(logits > 0).ravel() for logits, _ in F1_BATCHES])
    true = np.concatenate([labels.ravel() for _, labels in F1_BATCHES])
    return 2 * float((predicted & true).sum()) / float(predicted.sum() + true.sum())


def held_out(module: objectives.Objective, batches: list[Outputs]) -> float:
    """The loss that an evaluation reports for these batches."""
    measured = []
    for outputs in batches:
        loss, _ = module.apply({}, outputs)
        measured.append({name: np.asarray(x) for name, x in with_weights({"loss": loss}).items()})
    return mean_over_batches(measured, [4.0] * len(batches))["loss"]


def half_labelled(_: Path) -> float:
    """The loss of two batches of four rows, in which 4 and 1 rows have a label."""
    labels = Labels(jnp.array([0, 1, 0, 1]), jnp.ones(4, bool))
    one = labels.replace(mask=jnp.arange(4) == 3)
    batches = [Outputs({"classes": jnp.asarray(LOGITS[:, :2])}, {}, {"label": x}) for x in (labels, one)]
    return held_out(objectives.Classification("classes"), batches)


def half_labelled_loop() -> float:
    losses = [float(np.log(np.exp(LOGITS[row, :2]).sum()) - LOGITS[row, row % 2]) for row in (0, 1, 2, 3, 3)]
    return float(np.mean(losses))


def number(name: str, give: Callable, expected, within: float = 1e-6) -> Case:
    return Case(FAMILY, name, "right", give, expected=expected, within=within)


NUMBERS = [
    number("a record twice in a batch is its own positive", repeated_record, info_nce_loop(LOGITS, TWINS)),
    number("masked copies of one caption are positives", masked_twins, info_nce_loop(LOGITS, TWINS)),
    number("rows are equal by a caption that a view drops", dropped_twins, info_nce_loop(LOGITS, TWINS)),
    number("hard negatives are no masked copies", hard_negatives_of_twins, False),
    number("a batch larger than its data knows its repeats", loaded_records, True),
    number("records of two datasets are different", numbers_in_two_datasets, 8),
    number("a single pair has no weight", one_pair, [0.0, 0.0, 0.0]),
    number("matching without a negative has no weight", matching_without_negatives, 0.0),
    number("the F1 score of two unequal batches", f1_of_two_batches, f1_score()),
    number("the loss of batches with 4 and 1 labels", half_labelled, half_labelled_loop()),
    number("a step without rows does not dilute the log",
           lambda _: logged({"loss/a": Mean(2.0, 4.0)}, {"loss/a": Mean(0.0, 0.0)}), {"loss/a": 2.0}),
    number("steps without any row log nothing",
           lambda _: logged({"loss/a": Mean(0.0, 0.0), "loss": 1.0}, {"loss/a": Mean(0.0, 0.0), "loss": 3.0}),
           {"loss": 2.0}),
    number("steps are weighted by their rows",
           lambda _: logged({"loss/a": Mean(1.0, 1.0)}, {"loss/a": Mean(5.0, 3.0)}), {"loss/a": 4.0}),
    number("the perplexity of two batches of 3 and of 1 tokens",
           lambda _: logged({"it/perplexity": Mean(8.0, 3.0)},
                            {"it/perplexity": Mean(128.0, 1.0)})["it/perplexity"], 16.0),
    number("a scalar counts equally in each step",
           lambda _: logged({"a/temperature": 1.0}, {"a/temperature": 3.0}), {"a/temperature": 2.0}),
]  # fmt: skip

CASES: tuple[Case, ...] = tuple(NUMBERS)
