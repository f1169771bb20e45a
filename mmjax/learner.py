"""Model, views and weighted objectives as one function: batch -> losses and metrics."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.balance import Balance, Fixed
from mmjax.batch import Array, Batch, Encoded
from mmjax.errors import InputError
from mmjax.model import MultimodalModel
from mmjax.objectives import Outputs
from mmjax.views import Identity, View


class Learner(nn.Module):
    """Encodes each distinct input once, whatever the number of objectives that look at it.

    objectives: {name: objective}, each as `mmjax.objectives.Objective` says.
    balance: how training makes one update of their losses (`train.gradients`).
    """

    model: MultimodalModel
    objectives: Mapping[str, nn.Module]
    balance: Balance = Fixed()

    def __call__(self, batch: Batch, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The losses' sum by their own weights, and {"loss/<objective>", "<objective>/<metric>"}."""
        losses, metrics = self.losses(batch, train)
        total = jnp.zeros((), jnp.float32)
        for name, loss in losses.items():
            total += self.objectives[name].weight * loss
        return total, metrics

    def losses(self, batch: Batch, train: bool = False) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """{objective: loss}, not weighted, and the same metrics."""
        outputs = self.forward_views(batch, self.heads_by_view(), train)
        losses, metrics = {}, {}
        for name, objective in self.objectives.items():
            with jax.named_scope(f"objective_{name}"):
                losses[name], more = objective(outputs[objective.view])
            metrics[f"loss/{name}"] = losses[name]
            metrics |= {f"{name}/{metric}": value for metric, value in more.items()}
        return losses, metrics

    def predict(
        self, batch: Batch, view: View, heads: tuple[str, ...]
    ) -> tuple[dict[str, Array], dict[str, jax.Array]]:
        """What `heads` answer at `view`, and the view's targets. No dropout, no augmentation."""
        outputs = self.forward_views(batch, {view: tuple(heads)}, train=False)[view]
        return {head: outputs.predictions[head] for head in heads}, outputs.targets

    def heads_by_view(self) -> dict[View, tuple[str, ...]]:
        """{distinct view: the heads that objectives read there}; what a view compares joins the clean one."""
        heads_by_view: dict[View, dict[str, None]] = {Identity(): {}}
        for objective in self.objectives.values():
            heads_by_view.setdefault(objective.view, {}).update(dict.fromkeys(objective.required_heads()))
            heads_by_view[Identity()].update(dict.fromkeys(objective.view.compared_heads()))
        return {view: tuple(heads) for view, heads in heads_by_view.items()}

    def forward_views(
        self, batch: Batch, heads_by_view: Mapping[View, tuple[str, ...]], train: bool
    ) -> dict[View, Outputs]:
        """One Outputs for every requested view."""
        model, key = self.model, self.make_rng("views")
        compared = tuple(head for view in heads_by_view for head in view.compared_heads())
        clean: dict[str, Encoded] = {}

        def encode_clean(stream: str) -> Encoded:
            if stream not in clean:
                clean[stream] = model.encode(stream, stream_of(batch, stream), train)
            return clean[stream]

        clean_heads = tuple(dict.fromkeys((*heads_by_view.get(Identity(), ()), *compared)))
        encoded = {stream: encode_clean(stream) for stream in model.streams_for(clean_heads)}
        predictions = model.predict(encoded, clean_heads, train)
        outputs = {Identity(): Outputs(predictions, {}, batch)}
        for i, (view, heads) in enumerate(heads_by_view.items()):
            if view == Identity():
                continue
            input_key, encoding_key = jax.random.split(jax.random.fold_in(key, i))
            inputs, targets = view.transform_batch(batch, input_key)
            encoded = {
                stream: model.encode(stream, inputs[stream], train)
                if stream in view.changed_streams()
                else encode_clean(stream)
                for stream in model.streams_for(heads)
            }
            encoded, more = view.transform_encoded(encoded, predictions, inputs, encoding_key)
            outputs[view] = Outputs(model.predict(encoded, heads, train), targets | more, inputs)
        return outputs

    def plan(self) -> list[str]:
        """A line per view: what is encoded for it, what is shared, and who looks."""
        lines, seen = [], set()
        for view, heads in self.heads_by_view().items():
            if not heads:
                continue
            streams = self.model.streams_for(heads)
            fresh = [stream for stream in streams if stream in view.changed_streams() or stream not in seen]
            reused = [stream for stream in streams if stream not in fresh]
            seen |= {stream for stream in fresh if stream not in view.changed_streams()}
            lookers = [name for name, objective in self.objectives.items() if objective.view == view]
            fused = any(self.model.heads[head].after == "fusion" for head in heads)
            lines.append(
                f"{type(view).__name__}: encodes {fresh}, reuses {reused}, "
                f"{'fuses' if fused else 'no fusion'}, heads {list(heads)}, for {lookers}"
            )
        return lines


def stream_of(batch: Batch, stream: str):
    """The stream, or an InputError that lists what the batch holds."""
    if stream not in batch:
        raise InputError(f"the model reads the stream {stream!r}, and the data gives {sorted(batch)}")
    return batch[stream]
