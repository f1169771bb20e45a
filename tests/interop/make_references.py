"""Writes tests/interop/references/: tiny random models of the reference libraries, their inputs and outputs.

    .venv-peers/bin/python tests/interop/make_references.py [NAME ...]

Each folder is what `save_pretrained` writes (config.json, model.safetensors), and outputs.npz: inputs under
"in/..." and the reference's outputs under "out/...", float32. Needs torch and transformers; the tests do not.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers as hf

FOLDER = Path(__file__).parent / "references"
MAKERS: dict[str, Callable[[], None]] = {}


def reference(function: Callable[[], None]) -> Callable[[], None]:
    """Adds a reference, named as its function. Each starts from the same random state."""
    MAKERS[function.__name__] = function
    return function


def save(name: str, model: torch.nn.Module, inputs: dict[str, np.ndarray], outputs: dict[str, torch.Tensor]):
    """Writes one folder."""
    folder = FOLDER / name
    model.save_pretrained(folder)
    for extra in ("generation_config.json", "README.md"):
        (folder / extra).unlink(missing_ok=True)
    arrays = {f"in/{key}": value for key, value in inputs.items()}
    arrays |= {f"out/{key}": value.detach().float().numpy() for key, value in outputs.items()}
    np.savez_compressed(folder / "outputs.npz", **arrays)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter random values: biases and norms start as 0 and 1, which would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "embed" in name.lower() else 0.3
            offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def texts(vocab: int = 50, length: int = 9, first: int = 5) -> dict[str, np.ndarray]:
    """Three texts of 9, 6 and 2 tokens, padded at the end."""
    rng = np.random.default_rng(0)
    mask = np.arange(length)[None] < np.array([9, 6, 2])[:, None]
    tokens = np.where(mask, rng.integers(first, vocab, (3, length)), 0)
    return {
        "tokens": tokens,
        "mask": mask.astype(np.int64),
        "types": ((np.arange(length)[None] > 3) & mask).astype(np.int64),
    }


def bert_like(name: str, model: torch.nn.Module, *, pad: int = 0, types: bool = True, base: str) -> None:
    """A masked language model: hidden states of its encoder, and logits."""
    inputs = texts()
    inputs["tokens"] = np.where(inputs["mask"], inputs["tokens"], pad)
    arguments = {"input_ids": torch.tensor(inputs["tokens"]), "attention_mask": torch.tensor(inputs["mask"])}
    if types:
        arguments["token_type_ids"] = torch.tensor(inputs["types"])
    randomise(model)
    hidden = getattr(model, base)(**arguments).last_hidden_state
    save(name, model, inputs, {"hidden": hidden, "logits": model(**arguments).logits})


SMALL = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=12,
)  # fmt: skip


@reference
def bert():
    bert_like("bert", hf.BertForMaskedLM(hf.BertConfig(**SMALL)), base="bert")


@reference
def roberta():
    config = hf.RobertaConfig(**SMALL | {"max_position_embeddings": 14}, pad_token_id=1, type_vocab_size=1)
    bert_like("roberta", hf.RobertaForMaskedLM(config), pad=1, types=False, base="roberta")


@reference
def distilbert():
    config = hf.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=12
    )
    bert_like("distilbert", hf.DistilBertForMaskedLM(config), types=False, base="distilbert")


def causal(name: str, model: torch.nn.Module) -> None:
    """A causal language model."""
    inputs = texts()
    arguments = {"input_ids": torch.tensor(inputs["tokens"]), "attention_mask": torch.tensor(inputs["mask"])}
    if name == "gpt1":  # its positions are counted from the first token
        arguments["position_ids"] = torch.arange(9)[None].expand(3, 9)
    randomise(model)
    hidden = model.transformer(**arguments).last_hidden_state
    save(name, model, inputs, {"hidden": hidden, "logits": model(**arguments).logits})


@reference
def gpt1():
    config = hf.OpenAIGPTConfig(vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    causal("gpt1", hf.OpenAIGPTLMHeadModel(config))


@reference
def gpt2():
    config = hf.GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2, n_inner=24)
    causal("gpt2", hf.GPT2LMHeadModel(config))


def pixels(size: int = 12) -> np.ndarray:
    """Two images, channels last."""
    return np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)


def image_encoder(name: str, model: torch.nn.Module, outputs: Callable | None = None) -> None:
    """An encoder of images: its last hidden state."""
    inputs = {"pixels": pixels()}
    given = torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2)
    randomise(model)
    found = model(pixel_values=given)
    save(name, model, inputs, {"hidden": found.last_hidden_state} | (outputs(found) if outputs else {}))


VISION = dict(
    image_size=12, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=24,
)  # fmt: skip


@reference
def vit():
    image_encoder("vit", hf.ViTModel(hf.ViTConfig(**VISION), add_pooling_layer=False))


@reference
def deit():
    image_encoder("deit", hf.DeiTModel(hf.DeiTConfig(**VISION), add_pooling_layer=False))


@reference
def dinov2():
    config = hf.Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}, mlp_ratio=2)
    image_encoder("dinov2", hf.Dinov2Model(config))


@reference
def dinov2_giant():
    config = hf.Dinov2WithRegistersConfig(
        **{k: v for k, v in VISION.items() if k != "intermediate_size"},
        mlp_ratio=2, use_swiglu_ffn=True, num_register_tokens=3,
    )  # fmt: skip
    image_encoder("dinov2_giant", hf.Dinov2WithRegistersModel(config))


@reference
def clip():
    text = SMALL | {"max_position_embeddings": 9, "eos_token_id": 49, "bos_token_id": 1, "pad_token_id": 0}
    config = hf.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    model = randomise(hf.CLIPModel(config))
    inputs = texts(vocab=48) | {"pixels": pixels()}
    last = inputs["mask"].sum(1) - 1
    inputs["tokens"][np.arange(3), last] = 49
    found = model(
        input_ids=torch.tensor(inputs["tokens"]), attention_mask=torch.tensor(inputs["mask"]),
        pixel_values=torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2),
    )  # fmt: skip
    outputs = {
        "text_hidden": found.text_model_output.last_hidden_state,
        "text": found.text_embeds,
        "image": found.image_embeds,
        "scale": model.logit_scale,
    }
    save("clip", model, inputs, outputs)


def main(names: list[str]) -> None:
    for name, make in MAKERS.items():
        if not names or name in names:
            torch.manual_seed(0)
            make()
            print(name, sum(file.stat().st_size for file in (FOLDER / name).iterdir()) // 1024, "KiB")


if __name__ == "__main__":
    # Imported under its own name too, since references_*.py add theirs to that module's MAKERS.
    import make_references
    import references_audio  # noqa: F401
    import references_two_towers  # noqa: F401

    make_references.main(sys.argv[1:])
