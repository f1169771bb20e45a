"""Which fields may change when a run resumes, and the reasons why the others may not."""

import dataclasses

import pytest
import tiny

import mmjax
from mmjax import data, training
from mmjax.errors import InputError
from mmjax.experiment import Experiment, override, to_text
from mmjax.run.changes import Past, changes_of
from mmjax.run.folder import RunFolder
from mmjax.training import Schedule


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    return mmjax.load(tiny.write(tmp_path_factory.mktemp("changes")), ["num_steps=100"])


def found(old: Experiment, new: Experiment, num_taken: int = 10) -> tuple[list[str], list[str]]:
    return changes_of(Past(to_text(old), num_taken), to_text(new), new.optimizer)


@pytest.mark.parametrize(
    "assignment",
    [
        "mesh.fsdp=8",
        "rules=FSDP",
        "log_every=7",
        "save_every=4",
        "eval_every=4",
        "evals.retrieval.every=3",
        "max_to_keep=9",
        "keep_every=4",
        "keep_best=retrieval/x",
        "best_mode=min",
        "on_nonfinite=rollback",
        "conflict_every=3",
        "data.max_bad_fraction=0.2",
        "evals.retrieval.max_bad_fraction=0.2",
        "data.datasets.colours.1.cache=true",
        "data.datasets.colours.1.source.path=elsewhere.npz",
        "data.datasets.colours.1.source.hint=ask me",
        "data.datasets.colours.1.streams.text.tokenizer.source.path=elsewhere.npz",
        "evals.retrieval.data.source.path=elsewhere.npz",
    ],
)
def test_fields_that_change_nothing_of_the_past(assignment, experiment):
    allowed, refused = found(experiment, override(experiment, assignment))
    assert refused == [] and len(allowed) == 1 and allowed[0].startswith(assignment.partition("=")[0][:5])


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("name=y", "belongs to the experiment of that name"),
        ("seed=1", "the order of the data"),
        ("data.batch_size=4", "read other examples"),
        ("data.datasets.colours.0=2.0", "read other examples"),
        ("data.datasets.colours.1.streams.text.length=5", "read other examples"),
        ("data.datasets.colours.1.streams.text.tokenizer.lowercase=false", "read other examples"),
        ("model.encoders.image.trunk.depth=2", "the parameters of another model"),
        ("objectives.pairs.weight=2.0", "minimised another loss"),
        ("optimizer.peak_learning_rate=0.5", "the updates already made"),
        ("balance=Uncertainty()", "weighted the objectives otherwise"),
        ("evals.retrieval.limit=3", "the results already recorded"),
    ],
)
def test_fields_that_change_the_past_are_refused_with_the_reason(assignment, reason, experiment):
    _, refused = found(experiment, override(experiment, assignment))
    assert refused and all(reason in line for line in refused), refused


def test_evaluations_may_come_and_go(experiment):
    more = dataclasses.replace(experiment, evals=experiment.evals | {"again": experiment.evals["retrieval"]})
    none = dataclasses.replace(experiment, evals={})
    for old, new in ((experiment, more), (more, experiment), (experiment, none), (none, more)):
        allowed, refused = found(old, new)
        assert allowed and refused == []


@pytest.mark.parametrize(
    ("schedule", "num_steps", "num_taken", "reason"),
    [
        (Schedule(kind="constant"), 500, 100, None),
        (Schedule(kind="constant"), 60, 60, None),
        (Schedule(kind="constant"), 59, 60, "60 steps are already taken"),
        (
            Schedule(kind="wsd", decay_fraction=0.2),
            500,
            80,
            None,
        ),  # the decay of 100 steps begins after step 80
        (Schedule(kind="wsd", decay_fraction=0.2), 500, 90, "'wsd' schedule of 500 steps has another"),
        (Schedule(kind="rsqrt", warmup_steps=5, decay_fraction=0.1), 500, 90, None),
        (
            Schedule(kind="rsqrt", warmup_steps=5, decay_fraction=0.1),
            500,
            95,
            "'rsqrt' schedule of 500 steps",
        ),
        (Schedule(kind="cosine", warmup_steps=20), 500, 20, None),  # only the warm-up is taken
        (Schedule(kind="cosine"), 500, 50, "at step 2 of the 50 that are taken"),
    ],
)
def test_num_steps_may_change_if_the_steps_taken_had_the_same_learning_rates(
    schedule, num_steps, num_taken, reason, experiment
):
    optimizer = training.AdamW(peak_learning_rate=1e-3, schedule=schedule)
    old = dataclasses.replace(experiment, optimizer=optimizer)
    new = dataclasses.replace(old, num_steps=num_steps)
    allowed, refused = found(old, new, num_taken)
    if reason is None:
        assert (allowed, refused) == ([f"num_steps: 100 -> {num_steps}"], [])
    else:
        assert allowed == [] and reason in refused[0]


def test_the_step_of_the_newest_checkpoint_decides(experiment, tmp_path):
    old = dataclasses.replace(
        experiment, optimizer=training.AdamW(peak_learning_rate=1e-3, schedule=Schedule(kind="constant"))
    )
    with RunFolder.claim(tmp_path / "run", to_text(old), old.optimizer) as folder:
        (folder.checkpoints / "50").mkdir()
    for num_steps, refused in ((49, True), (50, False)):
        new = dataclasses.replace(old, num_steps=num_steps)
        if refused:
            with pytest.raises(InputError, match="num_steps: 100 -> 49 .50 steps are already taken"):
                RunFolder.claim(tmp_path / "run", to_text(new), new.optimizer)
        else:
            RunFolder.claim(tmp_path / "run", to_text(new), new.optimizer).close()


def test_many_differences_are_listed_in_a_few_lines(experiment, tmp_path):
    with RunFolder.claim(tmp_path / "run", to_text(experiment)) as folder:
        folder.write_metrics(1, {"loss": 1.0})
    other = dataclasses.replace(
        experiment, data=data.Mixture({"x" * 500: (1.0, experiment.evals["retrieval"].data)}, batch_size=8)
    )
    with pytest.raises(InputError, match="and .* more\n") as refusal:
        RunFolder.claim(tmp_path / "run", to_text(other))
    assert len(str(refusal.value)) < 2500
