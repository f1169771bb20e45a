"""GPT and GPT-2 (Radford et al. 2018, 2019) as causal text encoders."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.batch import Text
from mmjax.encoders import TextTransformer
from mmjax.heads import TokenLogits
from mmjax.interop.configs import activation, activation_name, integer, number, text_input
from mmjax.interop.weights import Weight, layer_weights, norm
from mmjax.layers import Transformer

MODEL_TYPES = ("openai-gpt", "gpt2")
PREFIXES = ("transformer.",)
UNUSED = ("attn.bias", "attn.masked_bias", "position_ids", "lm_head.weight")


def encoder(config: Mapping[str, Any]) -> TextTransformer:
    """The encoder that a config.json describes. GPT normalises after each part, GPT-2 before."""
    is_first = config["model_type"] == "openai-gpt"
    width = integer(config, "n_embd")
    # GPT's "gelu" is the approximation by tanh, whatever its name.
    kind = (
        activation(config, "afn", "gelu")
        if is_first
        else activation(config, "activation_function", "gelu_new")
    )
    return TextTransformer(
        vocab=integer(config, "vocab_size"),
        num_token_types=0,
        max_length=integer(config, "n_positions"),
        scale_embeddings=False,
        trunk=Transformer(
            depth=integer(config, "n_layer"),
            width=width,
            num_heads=integer(config, "n_head"),
            mlp_width=integer({"n_inner": config.get("n_inner") or 4 * width}, "n_inner"),
            norm="post" if is_first else "pre",
            activation="gelu_tanh" if is_first and kind == "gelu" else kind,
            causal=True,
            epsilon=number(config, "layer_norm_epsilon", 1e-5),
        ),
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Text]:
    """A text, whose shapes give those of the parameters."""
    return text_input()


def words_head(config: Mapping[str, Any], stream: str = "text") -> TokenLogits:
    """The logits of the next token, tied to the token table."""
    return TokenLogits(stream, transform=False, after="encoder")


def encoder_weights(module: TextTransformer, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """Its parameters in the names of GPT (post-norm) or GPT-2 (pre-norm)."""
    is_first, trunk = module.trunk.norm == "post", module.trunk
    yield Weight((f"{ours}table",), (f"{theirs}{'tokens_embed' if is_first else 'wte'}.weight",))
    yield Weight((f"{ours}positions/table",), (f"{theirs}{'positions_embed' if is_first else 'wpe'}.weight",))
    yield from layer_weights(
        _layer(trunk.num_heads), ours=f"{ours}trunk", theirs=f"{theirs}h.{{i}}.", depth=trunk.depth,
        scan=trunk.scan,
    )  # fmt: skip
    if not is_first:
        yield from norm(f"{ours}trunk/final_norm", f"{theirs}ln_f")


def words_weights(config: Mapping[str, Any], ours: str = "") -> Iterator[Weight]:
    """None: the logits share the token table."""
    yield from ()


def _layer(num_heads: int) -> list[Weight]:
    """Its dense layers are stored as (inputs, outputs), and query, key and value are one."""
    names, heads = ("query", "key", "value"), {"n": 3, "H": num_heads}
    return [
        Weight(
            tuple(f"attention/{name}/kernel" for name in names), ("attn.c_attn.weight",),
            "D (n H K) -> n D H K", heads,
        ),
        Weight(
            tuple(f"attention/{name}/bias" for name in names), ("attn.c_attn.bias",), "(n H K) -> n H K",
            heads,
        ),
        Weight(("attention/out/kernel",), ("attn.c_proj.weight",), "(H K) D -> H K D", {"H": num_heads}),
        Weight(("attention/out/bias",), ("attn.c_proj.bias",)),
        *norm("attention_norm", "ln_1"),
        Weight(("mlp/up/kernel",), ("mlp.c_fc.weight",)),
        Weight(("mlp/up/bias",), ("mlp.c_fc.bias",)),
        Weight(("mlp/down/kernel",), ("mlp.c_proj.weight",)),
        Weight(("mlp/down/bias",), ("mlp.c_proj.bias",)),
        *norm("mlp_norm", "ln_2"),
    ]  # fmt: skip


def configs(module: TextTransformer) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest GPT-2 and GPT."""
    trunk = module.trunk
    sizes = {
        "vocab_size": module.vocab, "n_positions": module.max_length, "n_embd": trunk.width,
        "n_layer": trunk.depth, "n_head": trunk.num_heads, "layer_norm_epsilon": trunk.epsilon,
    }  # fmt: skip
    second = {"n_inner": trunk.mlp_width, "activation_function": activation_name(trunk.activation)}
    yield {"model_type": "gpt2", "architectures": ["GPT2Model"]} | sizes | second
    yield {"model_type": "openai-gpt", "architectures": ["OpenAIGPTModel"], "afn": "gelu"} | sizes
