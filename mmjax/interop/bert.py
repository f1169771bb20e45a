"""BERT, RoBERTa and DistilBERT (Devlin et al. 2019; Liu et al. 2019; Sanh et al. 2019) as text encoders."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.batch import Text
from mmjax.encoders import TextTransformer
from mmjax.heads import TokenLogits
from mmjax.interop.configs import activation, activation_name, integer, number, text_input
from mmjax.interop.weights import Weight, attention, layer_weights, linear, norm
from mmjax.layers import Transformer

MODEL_TYPES = ("bert", "roberta", "distilbert")
PREFIXES = ("bert.", "roberta.", "distilbert.")  # before each name, where the file also has a head
UNUSED = ("pooler.", "position_ids", "cls.seq_relationship.")


def encoder(config: Mapping[str, Any]) -> TextTransformer:
    """The encoder that a config.json describes. Raises InputError for options that it does not have."""
    is_distilled = config["model_type"] == "distilbert"
    names = ("dim", "n_layers", "n_heads", "hidden_dim") if is_distilled else (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    )  # fmt: skip
    width, depth, num_heads, mlp_width = (integer(config, name) for name in names)
    # RoBERTa counts positions from the row after that of its padding token.
    first = integer(config, "pad_token_id", 1) + 1 if config["model_type"] == "roberta" else 0
    return TextTransformer(
        vocab=integer(config, "vocab_size"),
        num_token_types=0 if is_distilled else integer(config, "type_vocab_size"),
        max_length=integer(config, "max_position_embeddings") - first,
        first_position=first,
        scale_embeddings=False,
        embedding_norm=True,
        trunk=Transformer(
            depth=depth,
            width=width,
            num_heads=num_heads,
            mlp_width=mlp_width,
            norm="post",
            activation=activation(config, "activation" if is_distilled else "hidden_act"),
            epsilon=1e-12 if is_distilled else number(config, "layer_norm_eps", 1e-12),
        ),
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Text]:
    """A text, whose shapes give those of the parameters."""
    return text_input()


def words_head(config: Mapping[str, Any], stream: str = "text") -> TokenLogits:
    """The head of masked language modelling."""
    is_distilled = config["model_type"] == "distilbert"
    name = "activation" if is_distilled else "hidden_act"
    epsilon = 1e-12 if is_distilled else number(config, "layer_norm_eps", 1e-12)
    # RoBERTa's head has GELU, whatever the trunk has.
    kind = "gelu" if config["model_type"] == "roberta" else activation(config, name)
    return TokenLogits(stream, activation=kind, epsilon=epsilon, after="encoder")


def encoder_weights(module: TextTransformer, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """Its parameters, in the names of BERT and RoBERTa; of DistilBERT if it has no token types."""
    is_distilled = not module.num_token_types
    yield Weight((f"{ours}table",), (f"{theirs}embeddings.word_embeddings.weight",))
    yield Weight((f"{ours}positions/table",), (f"{theirs}embeddings.position_embeddings.weight",))
    if not is_distilled:
        yield Weight((f"{ours}types",), (f"{theirs}embeddings.token_type_embeddings.weight",))
    yield from norm(f"{ours}norm", f"{theirs}embeddings.LayerNorm")
    if is_distilled:
        layer, prefix = _distilled_layer(module.trunk.num_heads), f"{theirs}transformer.layer.{{i}}."
    else:
        layer, prefix = _layer(module.trunk.num_heads), f"{theirs}encoder.layer.{{i}}."
    yield from layer_weights(
        layer, ours=f"{ours}trunk", theirs=prefix, depth=module.trunk.depth, scan=module.trunk.scan
    )


def words_weights(config: Mapping[str, Any], ours: str = "") -> Iterator[Weight]:
    """The parameters of the head of masked language modelling, without the shared token table."""
    dense, layer_norm, bias = {
        "bert": (
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias",
        ),
        "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
        "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    }[config["model_type"]]  # fmt: skip
    yield from linear(f"{ours}dense", dense)
    yield from norm(f"{ours}norm", layer_norm)
    yield Weight((f"{ours}bias",), (bias,))


def _layer(num_heads: int) -> list[Weight]:
    return [
        *attention(
            "attention", query="attention.self.query", key="attention.self.key", value="attention.self.value",
            out="attention.output.dense", num_heads=num_heads,
        ),
        *norm("attention_norm", "attention.output.LayerNorm"),
        *linear("mlp/up", "intermediate.dense"),
        *linear("mlp/down", "output.dense"),
        *norm("mlp_norm", "output.LayerNorm"),
    ]  # fmt: skip


def _distilled_layer(num_heads: int) -> list[Weight]:
    return [
        *attention(
            "attention", query="attention.q_lin", key="attention.k_lin", value="attention.v_lin",
            out="attention.out_lin", num_heads=num_heads,
        ),
        *norm("attention_norm", "sa_layer_norm"),
        *linear("mlp/up", "ffn.lin1"),
        *linear("mlp/down", "ffn.lin2"),
        *norm("mlp_norm", "output_layer_norm"),
    ]  # fmt: skip


def configs(module: TextTransformer) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest of BERT, RoBERTa and DistilBERT."""
    trunk, positions = module.trunk, module.max_length + module.first_position
    common = {"vocab_size": module.vocab, "max_position_embeddings": positions}
    sizes = {
        "hidden_size": trunk.width, "num_hidden_layers": trunk.depth, "num_attention_heads": trunk.num_heads,
        "intermediate_size": trunk.mlp_width, "type_vocab_size": module.num_token_types,
        "hidden_act": activation_name(trunk.activation), "layer_norm_eps": trunk.epsilon,
    }  # fmt: skip
    if module.first_position:
        pad = {"pad_token_id": module.first_position - 1}
        yield {"model_type": "roberta", "architectures": ["RobertaModel"]} | pad | common | sizes
    elif module.num_token_types:
        yield {"model_type": "bert", "architectures": ["BertModel"], "pad_token_id": 0} | common | sizes
    else:
        yield {
            "model_type": "distilbert", "architectures": ["DistilBertModel"], "dim": trunk.width,
            "n_layers": trunk.depth, "n_heads": trunk.num_heads, "hidden_dim": trunk.mlp_width,
            "activation": activation_name(trunk.activation),
        } | common  # fmt: skip
