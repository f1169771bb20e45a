"""Layers, beside PyTorch's with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mmjax import layers
from mmjax.layers.recurrent import RecurrentLayer
from peers.comparison import Comparison

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 9, 16)).astype(np.float32)
LENGTHS = np.array([9, 5])
MASK = np.arange(9)[None] < LENGTHS[:, None]
IMAGE = RNG.normal(size=(2, 8, 10, 16)).astype(np.float32)


def unboxed(module, *inputs) -> dict:
    """Random parameters of a layer, NumPy arrays without flax's boxes."""
    import flax.linen as nn

    shapes = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), shapes)["params"]


def tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x, np.float32))


def layer_norm():
    module = layers.LayerNorm()
    params = unboxed(module, jnp.asarray(X))
    theirs = torch.nn.functional.layer_norm(
        tensor(X), (16,), tensor(params["scale"]), tensor(params["bias"]), eps=1e-6
    )
    return module.apply({"params": params}, jnp.asarray(X)), theirs


def group_norm():
    module = layers.GroupNorm(num_groups=4)
    params = unboxed(module, jnp.asarray(IMAGE))
    theirs = torch.nn.functional.group_norm(
        tensor(IMAGE).permute(0, 3, 1, 2), 4, tensor(params["scale"]), tensor(params["bias"]), eps=1e-5
    )
    return module.apply({"params": params}, jnp.asarray(IMAGE)), theirs.permute(0, 2, 3, 1)


def attention(causal: bool):
    module = layers.MultiHeadAttention(num_heads=4, causal=causal)
    params = unboxed(module, jnp.asarray(X), jnp.asarray(X), jnp.asarray(MASK))
    ours = module.apply({"params": params}, jnp.asarray(X), jnp.asarray(X), jnp.asarray(MASK))
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    names = ("query", "key", "value")
    weight = np.concatenate([params[name]["kernel"].reshape(16, 16).T for name in names])
    theirs.in_proj_weight.data = tensor(weight)
    theirs.in_proj_bias.data = tensor(np.concatenate([params[name]["bias"].reshape(16) for name in names]))
    theirs.out_proj.weight.data = tensor(params["out"]["kernel"].reshape(16, 16).T)
    theirs.out_proj.bias.data = tensor(params["out"]["bias"])
    future = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
    with torch.no_grad():
        output, _ = theirs(
            tensor(X), tensor(X), tensor(X), key_padding_mask=torch.from_numpy(~MASK), attn_mask=future
        )
    return np.asarray(ours)[MASK], output.numpy()[MASK]


def activation(name: str, function):
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    return layers.ACTIVATIONS[name](jnp.asarray(x)), function(torch.from_numpy(x))


def mlp():
    module = layers.Mlp(mlp_width=24, activation="gelu")
    params = unboxed(module, jnp.asarray(X))
    hidden = tensor(X) @ tensor(params["up"]["kernel"]) + tensor(params["up"]["bias"])
    theirs = torch.nn.functional.gelu(hidden) @ tensor(params["down"]["kernel"]) + tensor(
        params["down"]["bias"]
    )
    return module.apply({"params": params}, jnp.asarray(X)), theirs


def recurrent(cell: str, reverse: bool):
    module = RecurrentLayer(8, cell, reverse=reverse)  # type: ignore[arg-type]
    params = unboxed(module, jnp.asarray(X), jnp.asarray(MASK))
    ours = np.asarray(module.apply({"params": params}, jnp.asarray(X), jnp.asarray(MASK)))
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](16, 8, batch_first=True)
    gates = params["input"]["kernel"].shape[1]
    bias = params["input"]["bias"].copy()
    if cell == "lstm":
        bias[1] += 1  # the forget gate's constant
    theirs.weight_ih_l0.data = tensor(params["input"]["kernel"].reshape(16, gates * 8).T)
    theirs.bias_ih_l0.data = tensor(bias.reshape(-1))
    theirs.weight_hh_l0.data = tensor(params["recurrent"]["kernel"].reshape(8, gates * 8).T)
    theirs.bias_hh_l0.data.zero_()
    rows = []
    for row, length in enumerate(LENGTHS):
        x = tensor(X[row : row + 1, :length])
        output = theirs(x.flip(1) if reverse else x)[0]
        rows.append((output.flip(1) if reverse else output)[0].detach().numpy())
    return ours[MASK], np.concatenate(rows)


def conv1d(stride: int):
    module = layers.Conv1d(width=6, kernel_size=5, stride=stride)
    x = X[:, :8]
    params = unboxed(module, jnp.asarray(x))
    weight = params["kernel"]["kernel"].reshape(5, 16, 6)
    total = (8 // stride - 1) * stride + 5 - 8
    padded = torch.nn.functional.pad(tensor(x).transpose(1, 2), (total // 2, total - total // 2))
    theirs = torch.nn.functional.conv1d(
        padded, tensor(weight.transpose(2, 1, 0)), tensor(params["kernel"]["bias"]), stride=stride
    )
    return module.apply({"params": params}, jnp.asarray(x)), theirs.transpose(1, 2)


def conv2d(implementation: str):
    module = layers.Conv2d(width=6, kernel_size=3, implementation=implementation)  # type: ignore[arg-type]
    params = unboxed(module, jnp.asarray(IMAGE))
    weight = params["kernel"]["kernel"].reshape(3, 3, 16, 6)  # column, row, channel, output
    theirs = torch.nn.functional.conv2d(
        tensor(IMAGE).permute(0, 3, 1, 2), tensor(weight.transpose(3, 2, 1, 0)),
        tensor(params["kernel"]["bias"]), padding="same",
    )  # fmt: skip
    return module.apply({"params": params}, jnp.asarray(IMAGE)), theirs.permute(0, 2, 3, 1)


def depthwise():
    module = layers.DepthwiseConv2d(kernel_size=7)
    params = unboxed(module, jnp.asarray(IMAGE))
    weight = tensor(params["kernel"].transpose(2, 0, 1)[:, None])
    theirs = torch.nn.functional.conv2d(
        tensor(IMAGE).permute(0, 3, 1, 2), weight, tensor(params["bias"]), padding=3, groups=16
    )
    return module.apply({"params": params}, jnp.asarray(IMAGE)), theirs.permute(0, 2, 3, 1)


gelu = torch.nn.functional.gelu
ROWS = (
    Comparison("layer norm", "torch", "nn.functional.layer_norm", layer_norm),
    Comparison("group norm", "torch", "nn.functional.group_norm", group_norm),
    Comparison("attention, padded keys", "torch", "nn.MultiheadAttention", lambda: attention(False)),
    Comparison("attention, causal", "torch", "nn.MultiheadAttention", lambda: attention(True)),
    Comparison("GELU", "torch", "nn.functional.gelu", lambda: activation("gelu", gelu)),
    Comparison(
        "GELU, tanh", "torch", "nn.functional.gelu",
        lambda: activation("gelu_tanh", lambda x: gelu(x, approximate="tanh")),
    ),
    Comparison("MLP", "torch", "nn.functional.gelu", mlp),
    Comparison("GRU, padded", "torch", "nn.GRU", lambda: recurrent("gru", False)),
    Comparison("GRU, padded, backwards", "torch", "nn.GRU", lambda: recurrent("gru", True)),
    Comparison("LSTM, padded", "torch", "nn.LSTM", lambda: recurrent("lstm", False)),
    Comparison("LSTM, padded, backwards", "torch", "nn.LSTM", lambda: recurrent("lstm", True)),
    Comparison("convolution over positions", "torch", "nn.functional.conv1d", lambda: conv1d(1)),
    Comparison("convolution over positions, stride 2", "torch", "nn.functional.conv1d", lambda: conv1d(2)),
    Comparison("convolution of images, windows", "torch", "nn.functional.conv2d", lambda: conv2d("windows")),
    Comparison("convolution of images, XLA", "torch", "nn.functional.conv2d", lambda: conv2d("xla")),
    Comparison("depthwise convolution", "torch", "nn.functional.conv2d", depthwise),
)  # fmt: skip
