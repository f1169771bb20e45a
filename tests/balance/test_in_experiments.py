"""A balance as a field of the experiment: its text, overrides, validation and resuming."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import tiny

from mmjax import balance
from mmjax.balance.shared import check_objectives_share, modules_by_objective
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError, Interrupted
from mmjax.evals.conflict_map import conflict_map
from mmjax.experiment import from_text, load, override, to_text
from mmjax.experiment.validation import validate
from mmjax.run import loop
from mmjax.run.session import Session
from mmjax.testing import tiny_model, tiny_objectives

ALL = (
    balance.Fixed(shared_params=("model/fusion",)),
    balance.Scheduled(schedules={"pairs": ((0, 1.0), (10, 0.5))}),
    balance.Uncertainty(),
    balance.DynamicWeightAverage(),
    balance.GradNorm(shared_params=("model/encoders_text", "model/encoders_image")),
    balance.PCGrad(),
    balance.MGDA(),
    balance.CAGrad(),
    balance.NashMTL(),
    balance.MeanGradients(),
    balance.Interpolate(surgery=balance.CAGrad(c=0.3)),
)


@pytest.fixture
def experiment(tmp_path):
    return load(tiny.write(tmp_path, replace=tiny.RANDOM_MASKING))


@pytest.mark.parametrize("chosen", ALL, ids=lambda b: type(b).__name__)
def test_text_reads_back(experiment, chosen):
    changed = dataclasses.replace(experiment, balance=chosen)
    assert from_text(to_text(changed)) == changed


def test_all_lists_every_balance():
    abstract = {"Balance", "Surgery", "BalanceOutput", "BalanceInputs"}
    assert {type(b).__name__ for b in ALL} == set(balance.__all__) - abstract


def test_overrides(experiment):
    assert override(experiment, "balance=balance.PCGrad()").balance == balance.PCGrad()
    changed = override(override(experiment, "balance=GradNorm()"), "balance.alpha=0.5")
    assert changed.balance == balance.GradNorm(alpha=0.5)
    with pytest.raises(
        InputError, match="no field 'beta': .*valid fields are .*'alpha', 'learning_rate', 'shared_params'"
    ):
        override(changed, "balance.beta=1")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"balance": balance.Scheduled(schedules={"word": ((0, 1.0),)})},
            r"Scheduled expects names of objectives, found \['word'\]: the experiment has "
            r"\['pairs', 'words'\]",
        ),
        (
            {"balance": balance.PCGrad()},
            r"PCGrad expects at least two objectives that reach the shared parameters "
            r"\['model/fusion'\], found \[\] among \['pairs', 'words'\]: set "
            r"balance.shared_params to some that several objectives reach, among \['model/encoders_text'\]",
        ),
        ({"conflict_every": 10}, "Fixed expects at least two objectives that reach the shared parameters"),
        (
            {"balance": balance.GradNorm(shared_params=("model/encoders_image", "model/heads_words"))},
            None,  # valid: each prefix has one objective, both together have two
        ),
        (
            {"balance": balance.GradNorm(shared_params=("model/encoders_image",))},
            r"GradNorm expects at least two .* found \['pairs'\]",
        ),
        ({"conflict_every": -1}, "conflict_every' expects int from 0 .* found int -1"),
    ],
)
def test_invalid_balances_raise(experiment, changes, message):
    if message is None:
        return validate(dataclasses.replace(experiment, **changes))
    with pytest.raises(InputError, match=message):
        validate(dataclasses.replace(experiment, **changes))


def test_gradient_methods_need_two_objectives(experiment):
    one_objective = {"pairs": experiment.objectives["pairs"]}
    changed = dataclasses.replace(
        experiment, objectives=one_objective, balance=balance.MGDA(shared_params=("model/encoders_text",))
    )
    with pytest.raises(
        InputError, match=r"at least two .* found \['pairs'\] among \['pairs'\]: no parameters"
    ):
        validate(changed)
    validate(dataclasses.replace(changed, balance=balance.Uncertainty()))


def test_the_fusion_is_shared_by_default():
    check_objectives_share(balance.PCGrad(), tiny_model(), tiny_objectives())
    assert modules_by_objective(tiny_model(), tiny_objectives())["words"] == {
        "model/encoders_text", "model/encoders_image", "model/encoders_audio", "model/fusion",
        "model/heads_words", "objectives_words",
    }  # fmt: skip


def test_unknown_prefixes_raise_when_the_session_is_made(experiment):
    wrong = dataclasses.replace(
        experiment,
        balance=balance.PCGrad(shared_params=("model/encoders_text", "model/encoders_text/unknown")),
    )
    validate(wrong)
    with pytest.raises(InputError, match="none under 'model/encoders_text/unknown'. Choose among"):
        Session.of(wrong, jax.devices()[:1])


def saved(folder) -> dict[str, bytes]:
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    leaves = jax.tree.leaves_with_path(checkpoints.restore_arrays())
    checkpoints.close()
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.mark.once
def test_a_resumed_run_equals_an_uninterrupted_one(experiment, tmp_path, monkeypatch):
    """Bit for bit, with the balance's weights. The resumed part measures no conflicts."""
    gradnorm = balance.GradNorm(shared_params=("model/encoders_text",))
    experiment = dataclasses.replace(experiment, balance=gradnorm, conflict_every=2, evals={})
    setup = Session.of(experiment, jax.devices()[:1])
    parts = setup.learner, setup.optimizer, setup.abstract, setup.mesh, experiment.rules
    step, report = loop.training.jit_step(*parts), loop.training.jit_conflicts(parts[0], *parts[2:])
    monkeypatch.setattr(loop.Session, "of", lambda e, _: dataclasses.replace(setup, experiment=e))
    monkeypatch.setattr(loop.training, "jit_step", lambda *_, **__: step)
    monkeypatch.setattr(loop.training, "jit_conflicts", lambda *_: report)

    loop.run(experiment, tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "conflict/pairs|words" in row] == [2, 4]
    assert {"conflict/share", "conflict/share/pairs|words", "conflict/norm/words"} <= rows[1].keys()
    assert all({"balance/pairs", "balance/words"} <= row.keys() for row in rows)
    assert rows[0]["balance/words"] == 1 != rows[3]["balance/words"]
    picture = tmp_path / "whole" / "pictures" / "conflicts.png"
    assert picture.read_bytes().startswith(b"\x89PNG")

    waited = []

    def next_and_signal(feed, wait=loop.TrainInput.next):
        waited.append(0)
        if len(waited) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return wait(feed)

    monkeypatch.setattr(loop.TrainInput, "next", next_and_signal)
    with pytest.raises(Interrupted):
        loop.run(experiment, tmp_path / "stopped")
    loop.run(dataclasses.replace(experiment, conflict_every=0), tmp_path / "stopped")
    assert len(waited) == 4
    found, expected = saved(tmp_path / "stopped"), saved(tmp_path / "whole")
    assert found == expected and any("first_losses" in name for name in found)


def test_a_conflict_map_without_reports_raises(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(InputError, match="no logged step has a conflict report: set conflict_every"):
        conflict_map(tmp_path / "metrics.jsonl", tmp_path / "conflicts.png")
