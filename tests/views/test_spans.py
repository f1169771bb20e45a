"""What spans and prefixes hide and give, and what they never touch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.batch import Text
from mmjax.errors import InputError
from mmjax.testing import VOCAB, tiny_batch
from mmjax.views import Chain, CorruptSpans, MaskSpans, Prefix
from mmjax.views.spans import span_lengths

ROWS, LENGTH = 512, 40
SENTINELS = VOCAB  # ids from here


@pytest.fixture(scope="module")
def batch() -> dict:
    """[CLS], words of one to three tokens, [SEP]; the last row is missing."""
    rng = np.random.default_rng(0)
    words = np.sort(rng.integers(0, 20, (ROWS, LENGTH)), axis=1).astype(np.int32)
    num = rng.integers(3, LENGTH + 1, (ROWS, 1))
    num[-1] = 0
    place = np.arange(LENGTH)[None]
    mask = place < num
    words = np.where((place > 0) & (place < num - 1), words, -1)
    tokens = np.where(words >= 0, rng.integers(5, VOCAB, words.shape), np.where(place == 0, 2, 3)) * mask
    text = Text(tokens.astype(np.int32), mask, np.zeros_like(words), words)
    return jax.tree.map(jnp.asarray, tiny_batch(ROWS) | {"text": text})


@functools.partial(jax.jit, static_argnums=0)
def looked_at(view, batch, key):
    return view.transform_batch(batch, key)


def seen(view, batch, seed: int = 0):
    """(the view's batch, its targets), NumPy."""
    return jax.device_get(looked_at(view, batch, jax.random.key(seed)))


def runs(masked: np.ndarray) -> int:
    return int((masked & ~np.concatenate(([False], masked[:-1]))).sum())


def test_spans_are_whole_words_in_few_runs_up_to_the_rate(batch):
    text = jax.device_get(batch["text"])
    made, targets = seen(MaskSpans("text", vocab=VOCAB, rate=0.3), batch)
    masked, maskable = targets["masked"], text.mask & (text.words >= 0)
    assert not (masked & ~maskable).any()
    np.testing.assert_array_equal(targets["tokens"], text.tokens)
    np.testing.assert_array_equal(made["text"].tokens[~masked], text.tokens[~masked])
    num_runs = num_words = 0
    for row in range(ROWS - 1):
        words = text.words[row]
        hidden = set(words[masked[row]])
        for word in hidden:
            assert masked[row][words == word].all(), "half a word is hidden"
        budget = max(round(0.3 * maskable[row].sum()), 1)
        last = max((words == word).sum() for word in hidden)
        assert budget <= masked[row].sum() < budget + last
        num_runs, num_words = num_runs + runs(masked[row]), num_words + len(hidden)
    assert num_words / num_runs > 1.8, "words hidden one by one would make runs of 1.4"
    assert not masked[-1].any()


def test_a_span_is_replaced_as_a_whole(batch):
    text = jax.device_get(batch["text"])
    view = MaskSpans("text", vocab=VOCAB, rate=0.1, mask_share=0.5, random_share=0.0)
    made, targets = seen(view, batch)
    masks = made["text"].tokens == 4
    mixed = total = 0
    for row in range(ROWS):
        masked = targets["masked"][row]
        if runs(masked) != 1:
            continue
        total += 1
        mixed += 0 < masks[row][masked].sum() < masked.sum()
    # Two spans may meet in one run; one span never mixes.
    assert total > 100 and mixed < 0.15 * total
    kept = targets["masked"] & ~masks
    np.testing.assert_array_equal(made["text"].tokens[kept], text.tokens[kept])
    assert abs(masks.sum() / targets["masked"].sum() - 0.5) < 0.1


def test_span_lengths_have_the_mean_of_the_paper():
    """Joshi et al. 2020, section 3.1: p = 0.2, at most 10, mean 3.8."""
    lengths = np.asarray(jax.jit(lambda: span_lengths(jax.random.key(0), (20_000,), 0.2, 10))())
    share = np.array([0.8**n * 0.2 for n in range(10)]) / (1 - 0.8**10)
    assert share @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)
    found = np.bincount(lengths, minlength=11)[1:] / len(lengths)
    np.testing.assert_allclose(found, share, atol=4 * 0.5 / np.sqrt(20_000))


def test_spans_are_a_function_of_the_key(batch):
    view = MaskSpans("text", vocab=VOCAB)
    first, again, other = (seen(view, batch, seed)[0]["text"].tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_corrupted_spans_say_the_whole_text_between_them(batch):
    """Raffel et al. 2020, figure 2: with the target's spans for its sentinels, the source is whole."""
    text = jax.device_get(batch["text"])
    made, _ = seen(CorruptSpans("text", vocab=VOCAB, target_length=LENGTH, rate=0.3), batch)
    source, target = made["source"], made["target"]
    for row in range(ROWS - 1):
        tokens = text.tokens[row][text.mask[row]].tolist()
        asked, said = (x.tokens[row][x.mask[row]].tolist() for x in (source, target))
        assert filled_in(asked, said) == tokens
        num_hidden = len(tokens) - sum(token < SENTINELS for token in asked)
        assert num_hidden >= max(round(0.3 * (len(tokens) - 2)), 1)
        assert (said[0], said[-1]) == (2, 3)
        for each in (source, target):
            assert (np.diff(each.mask[row].astype(int)) <= 0).all() and each.mask[row, 0]
    assert not source.mask[-1].any() and not target.mask[-1].any()


def filled_in(source: list[int], target: list[int]) -> list[int]:
    """The source with what the target says after each sentinel in that sentinel's place."""
    pieces: dict[int, list[int]] = {}
    for token in target[1:-1]:
        if token >= SENTINELS:
            assert token == SENTINELS + len(pieces), "sentinels count from the first"
            pieces[token] = []
        else:
            pieces[max(pieces)].append(token)
    assert [token for token in source if token >= SENTINELS] == sorted(pieces)[:-1]
    assert [token for token, piece in pieces.items() if not piece] == [max(pieces)], (
        "only the last says nothing"
    )
    return [token for each in source for token in (pieces[each] if each >= SENTINELS else [each])]


def test_a_target_that_does_not_fit_is_cut(batch):
    whole, _ = seen(CorruptSpans("text", vocab=VOCAB, target_length=LENGTH, rate=0.5), batch)
    short, _ = seen(CorruptSpans("text", vocab=VOCAB, target_length=6, rate=0.5), batch)
    np.testing.assert_array_equal(short["target"].tokens, whole["target"].tokens[:, :6])
    np.testing.assert_array_equal(short["target"].mask, whole["target"].mask[:, :6])


@pytest.mark.parametrize("fields", [{"rate": 0.0}, {"stop": 1.0}, {"longest": 0}])
@pytest.mark.parametrize("view", [MaskSpans, functools.partial(CorruptSpans, target_length=8)])
def test_spans_that_hide_nothing_are_refused(view, fields):
    with pytest.raises(InputError, match=r"spans expect a rate in \(0, 1\]"):
        view("text", vocab=VOCAB, **fields)


def test_prefix_gives_a_beginning_and_leaves_an_end(batch):
    text = jax.device_get(batch["text"])
    made, targets = seen(Prefix("text"), batch)
    prefix, num = made["text"].prefix, text.mask.sum(1)
    assert not targets and not (prefix & ~text.mask).any() and not prefix[-1].any()
    assert (np.diff(prefix.astype(int), axis=1) <= 0).all()
    given = prefix.sum(1)[:-1]
    assert (given >= 1).all() and (given <= num[:-1] - 1).all()
    # Uniform from 1 to n - 1: the mean share of what could be given is a half.
    share = (given - 1) / np.maximum(num[:-1] - 2, 1)
    assert abs(share[num[:-1] > 10].mean() - 0.5) < 0.05
    np.testing.assert_array_equal(made["text"].tokens, text.tokens)


def test_a_prefix_stays_through_a_chain(batch):
    made, targets = seen(Chain((Prefix("text"), MaskSpans("text", vocab=VOCAB))), batch)
    assert made["text"].prefix is not None and targets["masked"].any()
