"""Images, texts and shards as they are read, beside torchvision, open_clip, transformers and webdataset."""

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch
import torchvision.transforms.functional as TF
from PIL import Image as Pillow
from torchvision import transforms

from mmjax import data
from mmjax.data.augment.image import shift_hue
from mmjax.data.augment.rand_augment import OPERATIONS
from mmjax.data.image import normalise, random_box
from peers.comparison import Comparison

CLIP = dict(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)


def picture(height: int = 150, width: int = 211) -> np.ndarray:
    """Smooth waves with noise, uint8 "height width 3"."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 20
    waves = np.stack([np.sin(x + y), np.cos(x - 2 * y), np.sin(3 * x)], axis=-1)
    return np.clip(127 + 90 * waves + rng.normal(scale=20, size=waves.shape), 0, 255).astype(np.uint8)


def read(pixels: np.ndarray, **options) -> np.ndarray:
    """The stream of one record, channels first."""
    transform = data.ImageTransform("image", **options)
    decoded = transform.decode({"__key__": "0", "image": pixels})
    return np.asarray(transform.augment(decoded, None).pixels).transpose(2, 0, 1)


def clip_preprocessing():
    theirs = open_clip.image_transform(64, is_train=False, interpolation="bicubic")
    ours = read(picture(), size=(64, 64), interpolation="bicubic", **CLIP)
    return ours * np.asarray(CLIP["std"])[:, None, None] * 255, (
        theirs(Pillow.fromarray(picture())).numpy() * np.asarray(CLIP["std"])[:, None, None] * 255
    )


def resize_and_crop():
    theirs = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    ours = read(picture(), size=(64, 64), mean=0.0, std=1.0)
    return ours * 255, np.asarray(theirs(Pillow.fromarray(picture())), np.float32).transpose(2, 0, 1)


def normalisation():
    pixels = picture(9, 7)
    theirs = TF.normalize(TF.to_tensor(pixels), CLIP["mean"], CLIP["std"]).permute(1, 2, 0)
    return normalise(pixels, CLIP["mean"], CLIP["std"]), theirs


def crops(scale: tuple[float, float]):
    """Quantiles of the boxes' fraction of the area and of the logarithm of their aspect, of 20,000 each."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    boxes = [random_box(300, 400, scale, 1.0, rng) for _ in range(20_000)]
    ours = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    params = [
        transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(20_000)
    ]
    theirs = np.array([(width, height) for _, _, height, width in params])
    points = np.linspace(0.02, 0.98, 13)
    return tuple(
        [np.quantile(sides.prod(1) / 120_000, points), np.quantile(np.log(sides[:, 0] / sides[:, 1]), points)]
        for sides in (ours, theirs)
    )


def operation(name: str, amount: float, function):
    image = Pillow.fromarray(picture(60, 50))
    return np.asarray(OPERATIONS[name].apply(image, amount, 128)), np.asarray(function(image))


def hue():
    image = Pillow.fromarray(picture(60, 50))
    return np.asarray(shift_hue(image, 0.2)), np.asarray(TF.adjust_hue(image, 0.2))


SENTENCES = ["The quick brown fox, isn't it?", "naïve 日本語 text", "jumps over 3.5 lazy dogs ☃"]


def _bert_folder(folder: str) -> None:
    words = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox , ' ? isn t it na ##ive ##ï ##ve 日 本 語 text"
    )
    words += " jump ##s over 3 . 5 lazy dog"
    from transformers import BertTokenizerFast

    vocabulary = Path(folder) / "vocab.txt"
    vocabulary.write_text("\n".join(words.split()), encoding="utf-8")
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)


def pretrained_tokens(length: int):
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        _bert_folder(folder)
        theirs = AutoTokenizer.from_pretrained(folder)
        tokenizer = data.Pretrained(folder, vocab_size=len(theirs))
        transform = data.TextTransform("text", tokenizer, length=length)
        ours = [np.asarray(transform.encode(text).tokens) for text in SENTENCES]
        expected = theirs(SENTENCES, padding="max_length", truncation=True, max_length=length)["input_ids"]
    return np.stack(ours), np.asarray(expected)


def wordpiece_tokens():
    """A vocabulary that mmjax trained, given to BERT's tokenizer."""
    from transformers import BertTokenizerFast

    spec = data.WordPiece(data.Arrays({"text": SENTENCES}), ("text",), vocab_size=63)
    vocabulary = spec.open()
    tokens = vocabulary._tokenizer.get_vocab()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(sorted(tokens, key=tokens.get)), encoding="utf-8")
        theirs = BertTokenizerFast(str(file), strip_accents=False)
        return [vocabulary.encode(x)[0] for x in SENTENCES], [
            theirs(x, add_special_tokens=False)["input_ids"] for x in SENTENCES
        ]


NAMES = (
    "a/7.noto.PNG", "a/7.json", "a/8.JPG", "a/8.Cap.txt", "b.c/7.jpg", "b.c/7.txt", "d/über 1.txt",
    "d/x.y.z.txt",
)  # fmt: skip


def shards():
    """Keys and fields of samples, of files in upper case, with several dots, and dots in folders."""
    import webdataset

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "x.tar")
        with tarfile.open(path, "w") as archive:
            for name in NAMES:
                info = tarfile.TarInfo(name)
                info.size = len(name.encode())
                archive.addfile(info, io.BytesIO(name.encode()))
        reader = data.WebDataset(path).open()
        ours = [
            {field: record[field] for field in record} for record in (reader[n] for n in range(len(reader)))
        ]
        theirs = [
            {field: value for field, value in sample.items() if field not in ("__url__", "__local_path__")}
            for sample in webdataset.WebDataset(path, shardshuffle=False)
        ]
    return ours, theirs


def image_operation(name, amount, reference, function, within=0.0, reason=""):
    return Comparison(
        f"{name} of an image",
        "torchvision",
        reference,
        lambda: operation(name, amount, function),
        within,
        reason,
    )


MANY = "quantiles of 20,000 random boxes; theirs are of whole pixels"
ROWS = (
    Comparison(
        "preprocessing for CLIP, grey levels", "open_clip_torch", "image_transform", clip_preprocessing, 1e-3
    ),
    Comparison(
        "resize and crop, grey levels", "torchvision", "transforms.Resize, CenterCrop", resize_and_crop, 1e-3
    ),
    Comparison("normalisation", "torchvision", "normalize", normalisation),
    Comparison(
        "random crops of .2 to .3 of the area", "torchvision", "RandomResizedCrop.get_params",
        lambda: crops((0.2, 0.3)), 0.02, reason=MANY,
    ),
    Comparison(
        "random crops of .3 to 1 of the area", "torchvision", "RandomResizedCrop.get_params",
        lambda: crops((0.3, 1.0)), 0.03, reason=MANY,
    ),
    Comparison("hue of an image", "torchvision", "adjust_hue", hue, 0),
    image_operation("brightness", 0.5, "adjust_brightness", lambda x: TF.adjust_brightness(x, 1.5)),
    image_operation("contrast", -0.5, "adjust_contrast", lambda x: TF.adjust_contrast(x, 0.5)),
    image_operation("color", 0.5, "adjust_saturation", lambda x: TF.adjust_saturation(x, 1.5)),
    image_operation("sharpness", 0.5, "adjust_sharpness", lambda x: TF.adjust_sharpness(x, 1.5)),
    image_operation("autocontrast", 0, "autocontrast", TF.autocontrast),
    image_operation("equalize", 0, "equalize", TF.equalize),
    Comparison("tokenizer", "transformers", "AutoTokenizer", lambda: pretrained_tokens(24), 0),
    Comparison("tokenizer, cut off", "transformers", "AutoTokenizer", lambda: pretrained_tokens(6), 0),
    Comparison("trained tokenizer", "transformers", "BertTokenizerFast", wordpiece_tokens, 0),
    Comparison("samples of a tar file", "webdataset", "WebDataset", shards, 0),
)  # fmt: skip
