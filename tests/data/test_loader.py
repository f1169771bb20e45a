"""Training batches as a function of (seed, step, row); bad examples; evaluation epochs."""

import itertools
import logging
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mmjax import data
from mmjax.batch import is_present, stream_names
from mmjax.errors import InputError


def paired(num=10, bad=()):
    """Images, audio and labels; the labels at the indices `bad` are invalid."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(num)],
        "audio": [rng.uniform(-1, 1, 60).astype(np.float32) for _ in range(num)],
        "label": [-1 if i in bad else i for i in range(num)],
    }
    return data.Dataset(
        data.Arrays(arrays),
        {
            "image": data.ImageTransform("image", (4, 4), crop_scale=(0.3, 1.0), flip=True),
            "audio": data.AudioTransform("audio", 1000, 0.05, shift_seconds=0.01, gain_db=6.0),
            "label": data.LabelTransform("label"),
        },
        cache=True,
    )


def mixture(batch_size=6, bad=(), **options):
    unpaired = data.Dataset(data.Arrays({"y": list(range(100, 107))}), {"label": data.LabelTransform("y")})
    return data.Mixture(
        {"paired": (2.0, paired(bad=bad)), "unpaired": (1.0, unpaired)}, batch_size=batch_size, **options
    )


def leaves(batch):
    return {
        f"{name}.{field}": array
        for name, stream in batch.items()
        for field, array in vars(stream).items()
        if array is not None
    }


def assert_equal(expected, found, rows=slice(None)):
    """Whether `found` holds these rows of `expected`."""
    expected, found = leaves(expected), leaves(found)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name][rows], found[name], err_msg=name)


def load(mixed, start, num, **options):
    return [batch for batch, _ in data.batches(mixed, start_step=start, num_steps=start + num, **options)]


def test_batches_have_the_shapes_of_the_spec():
    mixed = mixture()
    (batch,) = load(mixed, 0, 1, seed=0)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), mixed.spec()
    )
    assert is_present(batch["image"]).sum() == 4 and is_present(batch["label"]).all()


def test_a_later_start_gives_the_same_batches():
    mixed = mixture()
    from_start = load(mixed, 0, 6, seed=3)
    for step, batch in enumerate(load(mixed, 4, 2, seed=3), start=4):
        assert_equal(from_start[step], batch)


def test_the_number_of_threads_does_not_change_batches():
    for expected, found in zip(
        load(mixture(), 2, 4, seed=1, num_threads=0),
        load(mixture(), 2, 4, seed=1, num_threads=3),
        strict=True,
    ):
        assert_equal(expected, found)


def test_processes_load_their_rows_of_the_global_batch():
    whole = load(mixture(), 5, 2, seed=1)
    for rows in (np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([5, 0])):
        for expected, found in zip(whole, load(mixture(), 5, 2, seed=1, rows=rows), strict=True):
            assert_equal(expected, found, rows)


def test_the_seed_changes_order_and_augmentation():
    first, second = load(mixture(), 0, 1, seed=1)[0], load(mixture(), 0, 1, seed=2)[0]
    assert first["label"].values.tolist() != second["label"].values.tolist()
    single = data.Mixture.of(paired(num=1), batch_size=1)
    first, second = load(single, 0, 1, seed=1)[0], load(single, 0, 1, seed=2)[0]
    assert np.abs(first["image"].pixels - second["image"].pixels).max() > 0


def test_each_epoch_has_every_example_once_in_its_own_order():
    mixed = data.Mixture.of(paired(), batch_size=5)
    values = np.stack([batch["label"].values for batch in load(mixed, 0, 6, seed=0)]).reshape(3, 10)
    for epoch in values:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in values}) == 3


def test_augmentation_differs_between_epochs():
    mixed = data.Mixture.of(paired(num=1), batch_size=1)
    first, second = load(mixed, 0, 2, seed=0)
    assert np.abs(first["image"].pixels - second["image"].pixels).max() > 0.01


def test_batches_are_endless_without_num_steps():
    stream = data.batches(mixture(), seed=0, start_step=10**6)
    assert len(list(itertools.islice(stream, 3))) == 3


def test_bad_examples_become_missing_rows_and_are_reported():
    mixed = data.Mixture.of(paired(bad=(3, 7)), batch_size=10)
    ((batch, bad),) = data.batches(mixed, seed=0, start_step=0, num_steps=1)
    assert bad.num_rows == 10 and sorted(key for key, _ in bad.examples) == ["arrays[3]", "arrays[7]"]
    assert "expected a class number from 0 to 2147483647 in 'label', found -1" in bad.examples[0][1]
    for name in stream_names(batch):
        assert is_present(batch[name]).sum() == 8


def test_the_counter_logs_each_bad_example_once_and_raises_above_the_fraction(caplog):
    mixed = data.Mixture.of(paired(bad=(3, 7)), batch_size=10, max_bad_fraction=0.1)
    counter = data.BadExampleCounter(mixed)
    ((_, bad),) = data.batches(mixed, seed=0, start_step=0, num_steps=1)
    with caplog.at_level(logging.WARNING), pytest.raises(InputError) as caught:
        counter.add(data.BadExamples(bad.examples, 1000))  # 2 of 1000 are within the limit
        counter.add(data.BadExamples(bad.examples * 60, 10))
    message = str(caught.value)
    assert "expected at most 10.00% bad examples (max_bad_fraction), found 122 of 1010" in message
    assert "  arrays[3]: expected a class number" in message and "  arrays[7]:" in message
    assert sum("skipped the bad example arrays[3]" in line for line in caplog.messages) == 1


def test_the_counter_waits_for_enough_rows_and_is_checked_at_the_end():
    mixed = data.Mixture.of(paired(), batch_size=4)
    early = data.BadExampleCounter(mixed)
    early.add(data.BadExamples([("k", "r")], 4))  # 25 %, but only 4 of 10 rows were counted
    with pytest.raises(InputError, match=r"found 1 of 4"):
        early.check()
    tolerant = data.BadExampleCounter(data.Mixture.of(paired(), batch_size=4, max_bad_fraction=0.25))
    for _ in range(5):
        tolerant.add(data.BadExamples([("k", "r")], 4))
    tolerant.check()
    assert (tolerant.num_bad, tolerant.num_rows) == (5, 20)


def test_a_run_without_any_good_example_ends_soon_whatever_its_fraction():
    mixed = data.Mixture.of(paired(bad=range(10)), batch_size=4, max_bad_fraction=1.0)
    counter = data.BadExampleCounter(mixed)
    with pytest.raises(InputError, match=r"all 12 are bad.*The first:\n  arrays\[\d\]: expected a class"):
        for _, bad in data.batches(mixed, seed=0, start_step=0):
            counter.add(bad)
    with pytest.raises(InputError, match="found that all 10 are bad"):
        list(data.epoch(paired(bad=range(10)), 5, max_bad_fraction=1.0))


def test_the_counter_logs_the_first_and_counts_the_others(caplog):
    tolerant = data.Mixture.of(paired(), batch_size=4, max_bad_fraction=1.0)
    counter = data.BadExampleCounter(tolerant, max_logged=3)
    with caplog.at_level(logging.WARNING):
        for i in range(20):
            counter.add(data.BadExamples([(f"k{i}", "r")] * 2, 3))
    assert len(caplog.messages) == 4 and caplog.messages[-1].startswith("further bad examples are counted")
    resumed = data.BadExampleCounter(data.Mixture.of(paired(), batch_size=4))
    resumed.num_bad, resumed.num_rows = 3, 10
    with pytest.raises(InputError, match="found 3 of 10.* The log of the run lists them."):
        resumed.check()


def test_an_evaluation_tells_its_bad_examples_in_one_summary(caplog):
    with caplog.at_level(logging.WARNING):
        list(data.epoch(paired(bad=(3, 4, 7)), 2, max_bad_fraction=1.0))
    (message,) = caplog.messages
    assert message.startswith("skipped 3 of 10 examples. The first:\n  arrays[3]: expected a class number")
    assert message.count("\n") == 3


def test_missing_data_raise_before_the_first_batch():
    missing = data.Dataset(
        data.WebDataset("/no/such", hint="Set MMJAX_DATA."), {"label": data.LabelTransform("y")}
    )
    with pytest.raises(InputError, match=r"expected data at /no/such, .* Set MMJAX_DATA."):
        data.batches(data.Mixture.of(missing, batch_size=2), seed=0, start_step=0)


def test_an_empty_dataset_is_refused():
    empty = data.Dataset(data.Arrays({"y": []}), {"label": data.LabelTransform("y")})
    with pytest.raises(InputError, match="expected examples in dataset 'data', found none"):
        data.batches(data.Mixture.of(empty, batch_size=2), seed=0, start_step=0)


def test_input_errors_in_a_thread_are_raised(make):
    path = make.tar({f"{i}.txt": b"1" for i in range(4)})
    tar = data.Dataset(data.WebDataset(path), {"label": data.LabelTransform("txt")})
    stream = data.batches(data.Mixture.of(tar, batch_size=2), seed=0, start_step=0)
    next(stream)
    os.truncate(path, 100)
    with pytest.raises(InputError, match=f"{path}"):
        list(itertools.islice(stream, 50))


def test_invalid_rows_and_seeds_are_refused():
    with pytest.raises(InputError, match="expected rows below batch_size=6, found 0 to 6"):
        data.batches(mixture(), seed=0, start_step=0, rows=np.arange(7))
    with pytest.raises(InputError, match="expected seed and start_step of at least 0, found -1 and 0"):
        data.batches(mixture(), seed=-1, start_step=0)


def test_epoch_is_in_order_unaugmented_and_padded():
    dataset = paired(num=5)
    batches = list(data.epoch(dataset, 2))
    assert np.concatenate([batch["label"].values for batch in batches]).tolist() == [0, 1, 2, 3, 4, 0]
    last = batches[-1]["image"]
    assert is_present(last).tolist() == [True, False] and last.pixels.shape == (2, 4, 4, 3)
    for expected, found in zip(batches, data.epoch(dataset, 2), strict=True):
        assert_equal(expected, found)
    assert len(list(data.epoch(dataset, 2, limit=3))) == 2


def test_epoch_counts_bad_examples():
    dataset = paired(bad=(3,))
    batches = list(data.epoch(dataset, 10, max_bad_fraction=0.1))
    assert is_present(batches[0]["label"]).tolist() == [i != 3 for i in range(10)]
    with pytest.raises(InputError, match=r"found 1 of 10"):
        list(data.epoch(dataset, 10))
    with pytest.raises(InputError, match=r"found 1 of 4"):
        list(data.epoch(dataset, 4, limit=4))


WITH_WORKERS = """
import sys, numpy as np
from mmjax import data
def main():
    dataset = data.Dataset(data.Jsonl(sys.argv[1]), {"y": data.LabelTransform("y")}, cache=True)
    mixed = data.Mixture.of(dataset, batch_size=4)
    for workers in (0, 2):
        stream = data.batches(mixed, seed=5, start_step=3, num_steps=9, num_workers=workers)
        print(np.stack([batch["y"].values for batch, _ in stream]).tolist())
if __name__ == "__main__":
    main()
"""


def test_worker_processes_do_not_change_batches(make, tmp_path):
    path = make.jsonl([{"y": i} for i in range(9)])
    script = tmp_path / "with_workers.py"
    script.write_text(WITH_WORKERS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script), path], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    without_workers, with_workers = done.stdout.splitlines()
    assert without_workers == with_workers
