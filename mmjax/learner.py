"""Model, views and weighted objectives as one function: batch -> loss and metrics."""

from collections.abc import Collection, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.balance import Balance, Fixed
from mmjax.batch import Array, Batch, Encoded, stream_names
from mmjax.errors import InputError
from mmjax.model import MultimodalModel
from mmjax.objectives import Mean, Objective, Outputs, with_weights
from mmjax.views import Identity, View, remember_contents


class Learner(nn.Module):
    """Computes the losses of all objectives. Each distinct input is encoded once, however many share it.

    objectives: {name: objective}.
    balance: how a train step combines their losses into one update (see `training/gradients.py`).
    """

    model: MultimodalModel
    objectives: Mapping[str, Objective]
    balance: Balance = Fixed()

    def __call__(self, batch: Batch, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (sum of the weighted losses, metrics), scalars."""
        losses, metrics = self.weighted_losses(batch, train)
        return self.total_loss(losses), metrics

    def weighted_losses(
        self, batch: Batch, train: bool = False
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Returns ({objective: weight * loss}, metrics), scalars.

        The metrics are {"loss/<objective>": loss without the weight, "<objective>/<metric>": value}, and the
        weight of each that is a mean over rows, by which `objectives.mean_over_batches` averages batches.
        """
        outputs = self.forward_views(batch, self.heads_by_view(), train)
        losses, metrics = {}, {}
        for name, objective in self.objectives.items():
            with jax.named_scope(f"objective_{name}"):
                loss, objective_metrics = objective(outputs[objective.view])
            value = loss.value if isinstance(loss, Mean) else loss
            losses[name] = objective.weight * value.astype(jnp.float32)
            metrics[f"loss/{name}"] = loss
            metrics |= {f"{name}/{metric}": value for metric, value in objective_metrics.items()}
        return losses, with_weights(metrics)

    def total_loss(self, losses: Mapping[str, jax.Array]) -> jax.Array:
        """The sum of {objective: scalar}, in the order of `objectives`: its rounding depends on the order."""
        total = jnp.zeros((), jnp.float32)
        for name in self.objectives:
            total += losses[name]
        return total

    def predict(
        self, batch: Batch, view: View, heads: tuple[str, ...]
    ) -> tuple[dict[str, Array], dict[str, jax.Array]]:
        """({head: prediction "B ..."}, the view's targets "B ..."), without dropout and augmentation."""
        outputs = self.forward_views(batch, {view: tuple(heads)}, train=False)[view]
        return {head: outputs.predictions[head] for head in heads}, outputs.targets

    def heads_by_view(self) -> dict[View, tuple[str, ...]]:
        """{view: the heads to run under it}. Heads that a view compares run under Identity."""
        heads_by_view: dict[View, dict[str, None]] = {Identity(): {}}
        for objective in self.objectives.values():
            heads_by_view.setdefault(objective.view, {}).update(dict.fromkeys(objective.required_heads()))
            heads_by_view[Identity()].update(dict.fromkeys(objective.view.compared_heads()))
        return {view: tuple(heads) for view, heads in heads_by_view.items()}

    def forward_views(
        self, batch: Batch, heads_by_view: Mapping[View, tuple[str, ...]], train: bool
    ) -> dict[View, Outputs]:
        """Runs the model under each view. Identity runs first: views compare and reuse its results."""
        key = self.make_rng("views")
        batch = remember_contents(batch, self.compared_streams(heads_by_view))
        unchanged: dict[str, Encoded] = {}  # {stream: encoding}, filled by `encode_streams`
        compared = [head for view in heads_by_view for head in view.compared_heads()]
        heads = tuple(dict.fromkeys((*heads_by_view.get(Identity(), ()), *compared)))
        encoded = self.encode_streams(heads, batch, {}, unchanged, train)
        predictions = self.model.predict(encoded, heads, train)
        outputs = {Identity(): Outputs(predictions, {}, batch)}
        for i, (view, heads) in enumerate(heads_by_view.items()):
            if view == Identity():
                continue
            batch_key, encoded_key = jax.random.split(jax.random.fold_in(key, i))
            view_batch, targets = view.transform_batch(batch, batch_key)
            changed = {stream: view_batch[stream] for stream in view.changed_streams()}
            encoded = self.encode_streams(heads, batch, changed, unchanged, train)
            encoded, extra_targets = view.transform_encoded(encoded, predictions, view_batch, encoded_key)
            view_predictions = self.model.predict(encoded, heads, train)
            outputs[view] = Outputs(view_predictions, targets | extra_targets, view_batch)
        return outputs

    def compared_streams(self, views: Collection[View]) -> list[str]:
        """The streams by which views, and the objectives under them, tell which rows are equal."""
        objectives = [objective for objective in self.objectives.values() if objective.view in views]
        return sorted({stream for each in (*views, *objectives) for stream in each.compared_streams()})

    def encode_streams(
        self,
        heads: tuple[str, ...],
        batch: Batch,
        changed: Batch,
        unchanged: dict[str, Encoded],
        train: bool,
    ) -> dict[str, Encoded]:
        """{stream: encoding} of the streams that `heads` read.

        Args:
          batch: the unchanged batch.
          changed: the streams that a view has changed; they replace those of `batch`.
          unchanged: encodings of streams of `batch`; those that are missing are computed and added.
        """
        encoded = {}
        for stream in self.model.streams_for(heads):
            if stream in changed:
                encoded[stream] = self.model.encode(stream, changed[stream], train)
                continue
            if stream not in batch:
                raise InputError(
                    f"the model reads the stream {stream!r}, and the data gives {stream_names(batch)}"
                )
            if stream not in unchanged:
                unchanged[stream] = self.model.encode(stream, batch[stream], train)
            encoded[stream] = unchanged[stream]
        return encoded

    def describe_views(self) -> list[str]:
        """One line per view: the streams that are encoded and reused, its heads and its objectives."""
        lines, encoded = [], set()
        for view, heads in self.heads_by_view().items():
            if not heads:
                continue
            streams = self.model.streams_for(heads)
            new = [stream for stream in streams if stream in view.changed_streams() or stream not in encoded]
            reused = [stream for stream in streams if stream not in new]
            encoded |= {stream for stream in new if stream not in view.changed_streams()}
            objectives = [name for name, objective in self.objectives.items() if objective.view == view]
            fuses = any(self.model.heads[head].after == "fusion" for head in heads)
            lines.append(
                f"{type(view).__name__}: encodes {new}, reuses {reused}, "
                f"{'fuses' if fuses else 'no fusion'}, heads {list(heads)}, for {objectives}"
            )
        return lines
