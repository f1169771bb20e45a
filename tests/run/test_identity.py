"""The data of a run are recorded and compared when it resumes: mended files go on, others are refused."""

import dataclasses
import io
import json
import tarfile

import pytest
import tiny

import mmjax
from mmjax import data
from mmjax.errors import InputError
from mmjax.experiment import to_text
from mmjax.run import identity
from mmjax.run.folder import RunFolder


def write_tar(file, names, size: int = 10) -> None:
    with tarfile.open(file, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(f"{name}.txt")
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))


@pytest.fixture
def make(tmp_path):
    """A function that makes an experiment of a source; its folder has two shards of two records."""
    experiment = mmjax.load(tiny.write(tmp_path))
    (tmp_path / "shards").mkdir()
    for shard in "ab":
        write_tar(tmp_path / "shards" / f"{shard}.tar", [f"{shard}0", f"{shard}1"])

    def of_source(source=None):
        source = data.WebDataset(str(tmp_path / "shards")) if source is None else source
        (name, (weight, dataset)), *_ = experiment.data.datasets.items()
        dataset = dataclasses.replace(dataset, source=source)
        mixture = dataclasses.replace(experiment.data, datasets={name: (weight, dataset)})
        return dataclasses.replace(experiment, data=mixture, evals={})

    return of_source


@pytest.fixture
def folder(make, tmp_path):
    with RunFolder.claim(tmp_path / "run", to_text(make())) as folder:
        identity.check_and_record(make(), folder, "/home")
        yield folder


def test_the_record_names_files_and_counts(folder):
    recorded = json.loads((folder.path / "data.json").read_text())
    size = 10240
    identities = {"data.colours": {"files": {"a.tar": size, "b.tar": size}, "records": 4}}
    assert recorded == {"folder": "/home", "datasets": identities}


def test_added_removed_renamed_and_reordered_shards(folder, make, tmp_path):
    shards = tmp_path / "shards"
    write_tar(shards / "a2.tar", ["c0"])
    with pytest.raises(InputError, match=r"data.colours: added a2.tar; records 4 -> 5\n.*--accept-data"):
        identity.check_and_record(make(), folder, "/home")
    (shards / "a2.tar").unlink()
    (shards / "b.tar").rename(tmp_path / "b.tar")
    with pytest.raises(InputError, match=r"data.colours: removed b.tar; records 4 -> 2"):
        identity.check_and_record(make(), folder, "/home")
    (tmp_path / "b.tar").rename(shards / "b.tar")
    identity.check_and_record(make(), folder, "/home")
    write_tar(shards / "b.tar", ["b0", "b1"], size=20_000)
    identity.check_and_record(make(), folder, "/home", accept=True)
    backwards = make(data.WebDataset((str(shards / "b.tar"), str(shards / "a.tar"))))
    with pytest.raises(InputError, match="in another order"):
        identity.check_and_record(backwards, folder, "/home")


def test_mended_and_moved_files_are_accepted(folder, make, tmp_path, caplog):
    (tmp_path / "shards").rename(tmp_path / "moved")
    moved = make(data.WebDataset(str(tmp_path / "moved")))
    identity.check_and_record(moved, folder, "/home")
    assert "have changed" not in caplog.text
    write_tar(
        tmp_path / "moved" / "a.tar", ["a0", "a1"], size=20_000
    )  # mended: another size, as many records
    identity.check_and_record(moved, folder, "/home")
    assert "accepted: data.colours: changed a.tar: 10240 -> 51200" in caplog.text
    caplog.clear()
    identity.check_and_record(moved, folder, "/home")  # what was accepted is recorded
    assert "have changed" not in caplog.text
    for shard in "ab":
        (tmp_path / "moved" / f"{shard}.tar").rename(tmp_path / "moved" / f"{shard}-v2.tar")
    identity.check_and_record(moved, folder, "/home")


def test_accepted_data_are_logged_and_recorded(folder, make, tmp_path, caplog):
    (tmp_path / "shards" / "b.tar").unlink()
    identity.check_and_record(make(), folder, "/home", accept=True)
    assert "are accepted: data.colours: removed b.tar" in caplog.text
    identity.check_and_record(make(), folder, "/home")


def test_a_new_dataset_has_nothing_to_compare(folder, make, tmp_path):
    (tmp_path / "run" / "data.json").write_text("{}")  # an older run
    identity.check_and_record(make(), folder, "/home")
    assert identity.read(folder)["datasets"]["data.colours"]["records"] == 4


def test_sources_of_ones_own_are_compared_by_their_number(make, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Own:
        size: int

        def open(self):
            return range(self.size)

    class Examples:
        def __init__(self, size):
            self.source = Own(size)

    assert identity.identity_of(Examples(3)) == {"records": 3}


@pytest.mark.parametrize(
    ("old", "new", "keeps"),
    [
        ({"files": {"a": 1}, "records": 1}, {"files": {"a": 2}, "records": 1}, True),
        ({"files": {"a": 1}, "records": 1}, {"files": {"b": 1}, "records": 1}, True),
        ({"files": {"a": 1}, "records": 1}, {"files": {"b": 2}, "records": 1}, False),
        ({"files": {"a": 1, "b": 2}, "records": 1}, {"files": {"b": 2, "a": 1}, "records": 1}, False),
        ({"files": {"a": 1, "b": 1}, "records": 1}, {"files": {"b": 1, "a": 1}, "records": 1}, False),
        ({"files": {"a": 1, "b": 1}, "records": 1}, {"files": {"a": 1, "c": 1}, "records": 1}, True),
        ({"files": {"a": 1}, "records": 1}, {"files": {"a": 1}, "records": 2}, False),
        (
            {"arrays": {"x": "int64 (4,) a"}, "records": 4},
            {"arrays": {"x": "int64 (4,) b"}, "records": 4},
            True,
        ),
        ({"files": {"a": 1}, "records": 4}, {"arrays": {"x": "y"}, "records": 4}, False),
        (
            {"files": {"number": 200, "bytes": 9, "digest": "a"}, "records": 4},
            {"files": {"number": 200, "bytes": 9, "digest": "b"}, "records": 4},
            False,
        ),
        ({"split": "d/train", "records": 4}, {"split": "d/test", "records": 4}, False),
        (
            {"documents": {"files": {"a": 1}, "records": 2}, "records": 4},
            {"documents": {"files": {"a": 2}, "records": 2}, "records": 4},
            True,
        ),
        (
            {"documents": {"files": {"a": 1}, "records": 2}, "records": 4},
            {"documents": {"files": {"a": 2}, "records": 3}, "records": 4},
            False,
        ),
    ],
)
def test_keeps_order(old, new, keeps):
    assert identity.keeps_order(old, new) == keeps
    assert list(identity.differences(old, new))
