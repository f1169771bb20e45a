"""Errors for fusions that do not fit their streams name the field and the valid values."""

import dataclasses

import jax
import pytest
import tiny
from catalog.of_fusion import PAIR, SIZES
from catalog.row import D, trunk
from fusion_inputs import padded_pair

from mmjax import fusion, heads
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.experiment.validation import validate

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
    "an updated stream that it does not read": (
        fusion.Resampler(PAIR, depth=1, updated_stream="audio", **SIZES),
        r"Resampler.updated_stream names \['audio'\], which it does not read: "
        r"expected one of \['text', 'image'\]",
    ),
    "a decoder that attends to no other stream": (
        fusion.CrossAttentionDecoder(PAIR, "text", trunk(causal=True)),
        r"CrossAttentionDecoder expects a trunk with cross_attention=True .* found cross_attention=False",
    ),
    "one of several updated streams that it does not read": (
        fusion.CoAttention(PAIR, depth=1, updated_streams=("audio",), **SIZES),
        r"CoAttention.updated_streams names \['audio'\], which it does not read: "
        r"expected one of \['text', 'image'\]",
    ),
    "a causal stream that it does not read": (
        fusion.CoAttention(PAIR, depth=1, causal_streams=("audio",), **SIZES),
        r"CoAttention.causal_streams names \['audio'\], which it does not read",
    ),
    "a new stream named as one that it reads": (
        fusion.LateVoting(PAIR, num_classes=3, new_stream="text", **SIZES),
        r"LateVoting.new_stream expects a new name, found 'text', one of its streams \['text', 'image'\]",
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
        fusion.Hierarchical(PAIR, depth=4, updated_stream="text", **SIZES),
        r"Hierarchical with depth=4 expects 3 hidden states of 'text', found 1: give its encoder's trunk "
        r"as many taps, such as \(1, 2, 3\)",
    ),
    "no layer that reads the bottleneck tokens": (
        fusion.Bottleneck(PAIR, depth=2, first_fusion_layer=1, updated_stream="text", **SIZES),
        r"Bottleneck with an updated_stream expects a depth of at least first_fusion_layer \+ 2, found 2 "
        "with first_fusion_layer=1",
    ),
    "no layer in which the updated stream reads the queries": (
        fusion.QFormer(PAIR, depth=1, updated_stream="text", **SIZES),
        "QFormer with an updated_stream expects a depth of at least 2, found 1",
    ),
    "a causal trunk": (
        fusion.Prefix(PAIR, "text", trunk(causal=True)),
        "Prefix expects a trunk with causal=False, found True",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_fusion_that_does_not_fit_its_streams_is_refused(case):
    module, message = MISFITS[case]
    with pytest.raises((InputError, ValueError), match=message):
        jax.eval_shape(lambda encoded: module.init(jax.random.key(0), encoded), padded_pair())


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
            {"fusion": fusion.Mean(("text",), D, new_stream="text")},
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
            r"model.heads.x reads the stream 'fused' after its encoder, but model.fusion \(Mean\) "
            "makes it: set after='fusion'",
        ),
    ],
)
def test_experiment_with_a_stream_that_nothing_makes_is_refused(experiment, changes, message):
    all_heads = {**experiment.model.heads, **changes.pop("heads", {})}
    with pytest.raises(InputError, match=message):
        validate(with_model(experiment, heads=all_heads, **changes))


def test_experiment_whose_head_reads_the_new_stream_is_valid(experiment):
    changed = {**experiment.model.heads, "x": heads.Classes("fused", num_classes=2)}
    validate(with_model(experiment, fusion=fusion.Mean(("text",), D), heads=changed))
