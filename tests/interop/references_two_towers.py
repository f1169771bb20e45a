"""References of models of two towers, of DINOv2 in an ONNX file, and of resized positions."""

import importlib.util
import io
import json
import sys
import unittest.mock
import warnings

import numpy as np
import torch
import transformers as hf
from make_references import FOLDER, SMALL, VISION, pixels, randomise, reference, save, texts
from safetensors.torch import save_file

# OpenCLIP imports torchvision for its transforms, which are not used here.
parts = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional")
for part in parts if importlib.util.find_spec("torchvision") is None else ():
    sys.modules.setdefault(f"torchvision{part}", unittest.mock.MagicMock())
from open_clip.coca_model import CoCa  # noqa: E402
from open_clip.model import CLIP  # noqa: E402


@reference
def bicubic():
    """torch's bicubic interpolation of an image of 5 x 7 with 3 channels."""
    folder = FOLDER / "bicubic"
    folder.mkdir(exist_ok=True)
    x = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    arrays = {"in/x": x}
    for size in ((3, 4), (5, 7), (10, 14), (16, 9), (1, 2)):
        given = torch.tensor(x).permute(2, 0, 1)[None]
        found = torch.nn.functional.interpolate(given, size=size, mode="bicubic", align_corners=False)
        arrays[f"out/{size[0]}x{size[1]}"] = found[0].permute(1, 2, 0).numpy()
    np.savez_compressed(folder / "outputs.npz", **arrays)


class Hidden(torch.nn.Module):
    """The last hidden state of an encoder of images."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return self.backbone(pixel_values=image).last_hidden_state


class OldSelfAttention(torch.nn.Module):
    """The inner part of `OldAttention`."""

    def __init__(self, new):
        super().__init__()
        self.query, self.key, self.value = new.q_proj, new.k_proj, new.v_proj
        self.shape = new.num_attention_heads, new.head_dim

    def forward(self, x):
        shape = x.shape[0], x.shape[1], *self.shape
        query, key, value = (
            each(x).view(shape).permute(0, 2, 1, 3) for each in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / self.shape[1] ** 0.5).softmax(-1)
        return (weights @ value).permute(0, 2, 1, 3).reshape(x.shape)


class OldOutput(torch.nn.Module):
    """The last linear map of `OldAttention`."""

    def __init__(self, new):
        super().__init__()
        self.dense = new.o_proj

    def forward(self, x):
        return self.dense(x)


class OldAttention(torch.nn.Module):
    """DINOv2's attention with the names and the reshapes of transformers 4."""

    def __init__(self, new):
        super().__init__()
        self.attention, self.output = OldSelfAttention(new), OldOutput(new)

    def forward(self, x, attention_mask=None, **options):
        return self.output(self.attention(x)), None


def dinov2_in_onnx(name: str, depth: int, old: bool) -> None:
    """DINOv2 as PyTorch exports it, at another size of images than its positions are for."""
    config = hf.Dinov2Config(
        **{k: v for k, v in VISION.items() if k != "intermediate_size"} | {"num_hidden_layers": depth},
        mlp_ratio=2, attn_implementation="eager",
    )  # fmt: skip
    backbone = randomise(hf.Dinov2Model(config))
    if old:
        for layer in backbone.encoder.layer:
            layer.attention = OldAttention(layer.attention)
    model = Hidden(backbone).eval()
    inputs = {"pixels": pixels(20)}
    given = torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2)
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (given,), file, opset_version=14, input_names=["image"], dynamo=False,
            dynamic_axes={"image": {0: "batch"}},
        )  # fmt: skip
    (folder / "model.onnx").write_bytes(file.getvalue())
    np.savez_compressed(
        folder / "outputs.npz", **{"in/pixels": inputs["pixels"], "out/hidden": model(given).detach().numpy()}
    )


@reference
def dinov2_onnx():
    dinov2_in_onnx("dinov2_onnx", depth=2, old=False)


@reference
def dinov2_onnx_old():
    dinov2_in_onnx("dinov2_onnx_old", depth=1, old=True)


def images_and_texts(name: str, model: torch.nn.Module, inputs: dict[str, np.ndarray], *, mask: bool = True):
    """A model of two towers: the embeddings of both, its scale, and its bias where it has one."""
    given = {
        "input_ids": torch.tensor(inputs["tokens"]),
        "pixel_values": torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2),
    }
    if mask:
        given["attention_mask"] = torch.tensor(inputs["mask"])
    found = model(**given)
    text_hidden = found.text_model_output.last_hidden_state
    outputs = {"text_hidden": text_hidden, "text": found.text_embeds, "image": found.image_embeds}
    outputs |= {"scale": model.logit_scale, "logits": found.logits_per_text}
    if name == "siglip":  # CLIP's are without their last norm
        outputs["image_hidden"] = found.vision_model_output.last_hidden_state
    save(name, model, inputs, outputs)


@reference
def siglip():
    """Its texts are padded to one length, and padding is read."""
    text = SMALL | {"max_position_embeddings": 9, "projection_size": 16, "pad_token_id": 1}
    config = hf.SiglipConfig(text_config=text, vision_config=VISION)
    inputs = texts() | {"pixels": pixels()}
    inputs["tokens"] = np.where(inputs["mask"], inputs["tokens"], 1)
    images_and_texts("siglip", randomise(hf.SiglipModel(config)), inputs, mask=False)


@reference
def chinese_clip():
    text = SMALL | {"type_vocab_size": 2, "pad_token_id": 0}
    config = hf.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    inputs = texts() | {"pixels": pixels()}
    images_and_texts("chinese_clip", randomise(hf.ChineseCLIPModel(config)), inputs)


def save_open_clip(name: str, cfg: dict, model: torch.nn.Module, inputs: dict, outputs: dict) -> None:
    """Writes a folder as OpenCLIP's hub does."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}, indent=2) + "\n")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    arrays = {f"in/{key}": value for key, value in inputs.items()}
    arrays |= {f"out/{key}": value.detach().numpy() for key, value in outputs.items()}
    np.savez_compressed(folder / "outputs.npz", **arrays)


OPEN_CLIP_VISION = {"image_size": 12, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4}


@reference
def open_clip():
    """OpenCLIP's state dict of CLIP, with the file of sizes beside it."""
    text = {"context_length": 9, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2}
    cfg = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": OPEN_CLIP_VISION, "text_cfg": text}
    model = randomise(CLIP(**cfg))
    inputs = texts(vocab=48) | {"pixels": pixels()}
    inputs["tokens"][np.arange(3), inputs["mask"].sum(1) - 1] = 49  # the largest: the end of the text
    found = {
        "text": model.encode_text(torch.tensor(inputs["tokens"]), normalize=True),
        "image": model.encode_image(torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2), normalize=True),
        "scale": model.logit_scale,
    }
    save_open_clip("open_clip", cfg, model, inputs, found)


@reference
def coca():
    """OpenCLIP's CoCa: both embeddings, and the logits of a caption."""
    size = {"context_length": 9, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
    cfg = {
        "embed_dim": 16,
        "vision_cfg": OPEN_CLIP_VISION
        | {"width": 24, "layers": 1}
        | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5, "output_tokens": True},
        "text_cfg": size | {"embed_cls": True, "output_tokens": True, "mlp_ratio": 2, "layers": 1},
        "multimodal_cfg": size | {"attn_pooler_heads": 2},
    }
    model = randomise(CoCa(**cfg))
    inputs = texts() | {"pixels": np.concatenate([pixels(), pixels()[:1]])}
    tokens, image = torch.tensor(inputs["tokens"]), torch.tensor(inputs["pixels"]).permute(0, 3, 1, 2)
    found = model(image, tokens)
    outputs = {"text": found["text_features"], "image": found["image_features"], "scale": model.logit_scale}
    logits = model.text_decoder(model._encode_image(image)[1], model._encode_text(tokens)[1])
    save_open_clip("coca", cfg | {"custom_text": True}, model, inputs, outputs | {"caption": logits})
