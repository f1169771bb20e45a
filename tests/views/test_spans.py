"""Masked spans, corrupted spans and prefixes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from view_cases import maskable_tokens, transform

from mmjax.batch import Text
from mmjax.errors import InputError
from mmjax.testing import VOCAB, tiny_batch
from mmjax.views import Chain, CorruptSpans, MaskSpans, Prefix
from mmjax.views.spans import sample_span_lengths

ROWS, LENGTH = 512, 40
FIRST_SENTINEL = VOCAB


@pytest.fixture(scope="module")
def batch() -> dict:
    """[CLS], words of one to three tokens, [SEP]; the last row is missing."""
    rng = np.random.default_rng(0)
    words = np.sort(rng.integers(0, 20, (ROWS, LENGTH)), axis=1).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, (ROWS, 1))
    lengths[-1] = 0
    position = np.arange(LENGTH)[None]
    mask = position < lengths
    words = np.where((position > 0) & (position < lengths - 1), words, -1)
    tokens = np.where(words >= 0, rng.integers(5, VOCAB, words.shape), np.where(position == 0, 2, 3)) * mask
    text = Text(tokens.astype(np.int32), mask, np.zeros_like(words), words)
    return jax.tree.map(jnp.asarray, tiny_batch(ROWS) | {"text": text})


def num_runs(masked: np.ndarray) -> int:
    """The number of runs of True."""
    return int((masked & ~np.concatenate(([False], masked[:-1]))).sum())


def test_mask_spans_masks_runs_of_whole_words_up_to_the_rate(batch):
    text = jax.device_get(batch["text"])
    changed, targets = transform(MaskSpans("text", vocab=VOCAB, rate=0.3), batch)
    masked, maskable = targets["masked"], maskable_tokens(text)
    assert not (masked & ~maskable).any()
    np.testing.assert_array_equal(targets["tokens"], text.tokens)
    np.testing.assert_array_equal(changed["text"].tokens[~masked], text.tokens[~masked])
    total_runs = total_words = 0
    for row in range(ROWS - 1):
        words = text.words[row]
        masked_words = set(words[masked[row]])
        for word in masked_words:
            assert masked[row][words == word].all(), "only a part of the word is masked"
        budget = max(round(0.3 * maskable[row].sum()), 1)
        longest_word = max((words == word).sum() for word in masked_words)
        assert budget <= masked[row].sum() < budget + longest_word
        total_runs += num_runs(masked[row])
        total_words += len(masked_words)
    assert total_words / total_runs > 1.8, "words masked one by one would give runs of 1.4 words"
    assert not masked[-1].any()


def test_all_tokens_of_a_span_are_replaced_alike(batch):
    text = jax.device_get(batch["text"])
    view = MaskSpans("text", vocab=VOCAB, rate=0.1, mask_token_probability=0.5, random_token_probability=0.0)
    changed, targets = transform(view, batch)
    is_mask_token = changed["text"].tokens == 4
    mixed = total = 0
    for row in range(ROWS):
        masked = targets["masked"][row]
        if num_runs(masked) != 1:
            continue
        total += 1
        mixed += 0 < is_mask_token[row][masked].sum() < masked.sum()
    # A run of two adjacent spans can be mixed, a single span cannot.
    assert total > 100 and mixed < 0.15 * total
    unchanged = targets["masked"] & ~is_mask_token
    np.testing.assert_array_equal(changed["text"].tokens[unchanged], text.tokens[unchanged])
    assert abs(is_mask_token.sum() / targets["masked"].sum() - 0.5) < 0.1


def test_span_lengths_follow_the_distribution_of_the_paper():
    """Joshi et al. 2020, section 3.1: p = 0.2, at most 10, mean 3.8."""
    lengths = np.asarray(jax.jit(lambda: sample_span_lengths(jax.random.key(0), (20_000,), 0.2, 10))())
    expected = np.array([0.8**n * 0.2 for n in range(10)]) / (1 - 0.8**10)
    assert expected @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)
    found = np.bincount(lengths, minlength=11)[1:] / len(lengths)
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(20_000))


def test_spans_depend_only_on_the_key(batch):
    view = MaskSpans("text", vocab=VOCAB)
    first, again, other = (transform(view, batch, seed)[0]["text"].tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_source_and_target_of_corrupted_spans_together_hold_the_text(batch):
    """Raffel et al. 2020, figure 2: replacing each sentinel of the source by its span restores the text."""
    text = jax.device_get(batch["text"])
    changed, _ = transform(CorruptSpans("text", vocab=VOCAB, target_length=LENGTH, rate=0.3), batch)
    source, target = changed["source"], changed["target"]
    for row in range(ROWS - 1):
        tokens = text.tokens[row][text.mask[row]].tolist()
        source_ids, target_ids = (x.tokens[row][x.mask[row]].tolist() for x in (source, target))
        assert fill_in(source_ids, target_ids) == tokens
        num_masked = len(tokens) - sum(token < FIRST_SENTINEL for token in source_ids)
        assert num_masked >= max(round(0.3 * (len(tokens) - 2)), 1)
        assert (target_ids[0], target_ids[-1]) == (2, 3)
        for stream in (source, target):
            assert (np.diff(stream.mask[row].astype(int)) <= 0).all() and stream.mask[row, 0]
    assert not source.mask[-1].any() and not target.mask[-1].any()


def fill_in(source: list[int], target: list[int]) -> list[int]:
    """The source with each sentinel replaced by the tokens that follow it in the target."""
    spans: dict[int, list[int]] = {}
    for token in target[1:-1]:
        if token >= FIRST_SENTINEL:
            assert token == FIRST_SENTINEL + len(spans), "sentinels are numbered in order"
            spans[token] = []
        else:
            spans[max(spans)].append(token)
    assert [token for token in source if token >= FIRST_SENTINEL] == sorted(spans)[:-1]
    empty = [sentinel for sentinel, span in spans.items() if not span]
    assert empty == [max(spans)], "only the last sentinel has no span"
    return [filled for token in source for filled in (spans[token] if token >= FIRST_SENTINEL else [token])]


def test_target_longer_than_target_length_is_truncated(batch):
    whole, _ = transform(CorruptSpans("text", vocab=VOCAB, target_length=LENGTH, rate=0.5), batch)
    short, _ = transform(CorruptSpans("text", vocab=VOCAB, target_length=6, rate=0.5), batch)
    np.testing.assert_array_equal(short["target"].tokens, whole["target"].tokens[:, :6])
    np.testing.assert_array_equal(short["target"].mask, whole["target"].mask[:, :6])


@pytest.mark.parametrize("fields", [{"rate": 0.0}, {"geometric_p": 1.0}, {"max_span_length": 0}])
@pytest.mark.parametrize("view", [MaskSpans, functools.partial(CorruptSpans, target_length=8)])
def test_impossible_span_parameters_are_refused(view, fields):
    with pytest.raises(InputError, match=r"Spans\.(rate|geometric_p|max_span_length)' expects"):
        view("text", vocab=VOCAB, **fields)


def test_prefix_spans_at_least_the_first_and_never_the_last_token(batch):
    text = jax.device_get(batch["text"])
    changed, targets = transform(Prefix("text"), batch)
    prefix, lengths = changed["text"].prefix, text.mask.sum(1)[:-1]
    assert not targets and not (prefix & ~text.mask).any() and not prefix[-1].any()
    assert (np.diff(prefix.astype(int), axis=1) <= 0).all()
    prefix_lengths = prefix.sum(1)[:-1]
    assert (prefix_lengths >= 1).all() and (prefix_lengths <= lengths - 1).all()
    # Uniform from 1 to n - 1: on average half of the possible length.
    fraction = (prefix_lengths - 1) / np.maximum(lengths - 2, 1)
    assert abs(fraction[lengths > 10].mean() - 0.5) < 0.05
    np.testing.assert_array_equal(changed["text"].tokens, text.tokens)


def test_masking_after_a_prefix_view_keeps_the_prefix(batch):
    changed, targets = transform(Chain((Prefix("text"), MaskSpans("text", vocab=VOCAB))), batch)
    assert changed["text"].prefix is not None and targets["masked"].any()
