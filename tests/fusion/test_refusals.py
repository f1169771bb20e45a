"""Fusions that do not fit their streams are refused by name, with the valid ones."""

import dataclasses

import jax
import pytest
import tiny
from catalog.of_fusion import PAIR, SIZES
from catalog.row import D, trunk
from fusion_inputs import pair

from mmjax import fusion, heads
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.experiment.validation import validate


def fused(module) -> None:
    """Shapes only: nothing is computed."""
    jax.eval_shape(lambda given: module.init(jax.random.key(0), given), pair())


def decision(**fields) -> fusion.LateVoting:
    return fusion.LateVoting(PAIR, num_classes=3, **SIZES | fields)


MISFITS = {
    "a stream that was not encoded": (
        fusion.Mean(("text", "video"), D),
        r"Mean fuses \['text', 'video'\], and \['video'\] were not encoded: expected streams among "
        r"\['image', 'other', 'text'\]",
    ),
    "no stream": (
        fusion.GatedSum((), D),
        r"GatedSum.streams expects one or more different streams, found \(\)",
    ),
    "a stream twice": (
        fusion.SingleStream(("text", "text"), trunk()),
        r"SingleStream.streams expects one or more different streams, found \('text', 'text'\)",
    ),
    "a reader of its own": (
        fusion.Resampler(PAIR, depth=1, reader="audio", **SIZES),
        r"Resampler.reader names \['audio'\], which it does not read: expected one of \['text', 'image'\]",
    ),
    "an updated stream of its own": (
        fusion.CoAttention(PAIR, depth=1, updated=("audio",), **SIZES),
        r"CoAttention.updated names \['audio'\], which it does not read: expected one of \['text', 'image'\]",
    ),
    "a causal stream of its own": (
        fusion.CoAttention(PAIR, depth=1, causal=("audio",), **SIZES),
        r"CoAttention.causal names \['audio'\], which it does not read",
    ),
    "into one of its streams": (
        decision(into="text"),
        r"LateVoting.into expects a new name, found 'text', one of its streams \['text', 'image'\]",
    ),
    "a trunk of another width": (
        fusion.ConcatMlp(PAIR, 2 * D, trunk=trunk()),
        "ConcatMlp has width 32 and a trunk of width 16: expected them equal",
    ),
    "heads that do not divide the width": (
        fusion.CoAttention(PAIR, depth=1, width=D, num_heads=3, mlp_width=8),
        "width 16 is not divisible by num_heads 3",
    ),
    "too few levels": (
        fusion.Hierarchical(PAIR, depth=4, reader="text", **SIZES),
        r"Hierarchical with depth=4 expects 3 states of 'text' below its last, found 1: give its encoder's "
        r"trunk as many taps, such as \(1, 2, 3\)",
    ),
    "a reader that no token reaches": (
        fusion.Bottleneck(PAIR, depth=2, first_mixing=1, reader="text", **SIZES),
        r"Bottleneck with a reader expects a depth of at least first_mixing \+ 2, found 2 with "
        "first_mixing=1",
    ),
    "a reader that no query reaches": (
        fusion.QFormer(PAIR, depth=1, reader="text", **SIZES),
        "QFormer with a reader expects a depth of at least 2, found 1",
    ),
    "a causal trunk": (
        fusion.Prefix(PAIR, "text", trunk(causal=True)),
        "Prefix expects a trunk with causal=False, found True",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfit_is_refused(case):
    module, message = MISFITS[case]
    with pytest.raises((InputError, ValueError), match=message):
        fused(module)


@pytest.fixture
def experiment(tmp_path):
    return load(tiny.write(tmp_path))


def with_model(experiment, **changes):
    return dataclasses.replace(experiment, model=experiment.model.clone(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fusion": fusion.Mean(("text", "video"), D)},
            r"model.fusion \(Mean\) fuses the stream 'video', but the model encodes \[.*'text'.*\]: name one "
            "of those, add an encoder, or name in `shared` one that reads it",
        ),
        (
            {"fusion": fusion.Mean(("text",), D, into="text")},
            r"model.fusion \(Mean\) makes the stream 'text', which the model encodes: expected a name "
            "other than",
        ),
        (
            {"fusion": fusion.Mean(("text",), D), "heads": {"x": heads.Classes("fuzed", num_classes=2)}},
            r"model.heads.x reads the stream 'fuzed', but the model encodes \[.*\] and its fusion "
            r"makes \['fused'\]: name one of those",
        ),
        (
            {"fusion": fusion.Mean(("text",), D), "heads": {"x": heads.PooledEmbedding("fused", dim=2)}},
            r"model.heads.x reads the stream 'fused' after its encoder, but it is model.fusion \(Mean\) that "
            "makes it: set after='fusion'",
        ),
    ],
)
def test_experiment_whose_streams_nothing_makes_is_refused(experiment, changes, message):
    heads_of = {**experiment.model.heads, **changes.pop("heads", {})}
    with pytest.raises(InputError, match=message):
        validate(with_model(experiment, heads=heads_of, **changes))


def test_experiment_that_reads_what_fusion_makes_is_not_refused(experiment):
    changed = {**experiment.model.heads, "x": heads.Classes("fused", num_classes=2)}
    validate(with_model(experiment, fusion=fusion.Mean(("text",), D), heads=changed))
