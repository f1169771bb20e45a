"""Every picture is drawn without a warning, also with few examples; raw features equal plain loops."""

import numpy as np
import pytest
from fakes import NAMES, RandomEmbedder, dataset

from mmjax.errors import InputError
from mmjax.evals import MaskedWords, Retrieval, ZeroShot, curves, features, pictures
from mmjax.evals.previews import Preview


def assert_png(path):
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 5, "the picture is blank"


@pytest.mark.parametrize("count", [7, 2])
def test_sheets_and_matrices(tmp_path, count):
    examples = dataset((*NAMES[:6], "red cat")[:count])
    result = Retrieval(data=examples, heads=("image", "text", "audio"), batch_size=4, num_shown=2)(
        RandomEmbedder()
    )
    assert len(result.pictures) == 9
    for name in ("image_to_text", "text_to_audio", "audio_to_image", "image_audio_similarity"):
        result.pictures[name](tmp_path / "new" / f"{name}.png")
        assert_png(tmp_path / "new" / f"{name}.png")


def test_confusion_and_bars(tmp_path):
    zero_shot = ZeroShot(data=dataset(), heads=("image", "text"), batch_size=4)(RandomEmbedder())
    zero_shot.pictures["image_confusion"](tmp_path / "confusion.png")
    assert_png(tmp_path / "confusion.png")

    def predictor(batch, view, heads, seed=0):
        return {"words": np.eye(64, dtype=np.float32)[batch["text"].tokens]}, {}

    words = MaskedWords(data=dataset(), context=("audio",), slots=("color", "animal"), all_masked=True)(
        predictor
    )
    assert set(words.pictures) == {"masked_words", "all_masked_words"}
    words.pictures["masked_words"](tmp_path / "bars.png")
    assert_png(tmp_path / "bars.png")


def test_training_curves(tmp_path, monkeypatch):
    rows = [{"step": step, "loss": 3 / step, "loss/a": 2 / step, "loss/b": None} for step in range(1, 30)]
    rows[-1]["loss/b"] = 0.25
    rows = [row | {"learning_rate": 1e-3 * row["step"]} for row in rows]
    rows.append({"step": 30, "examples_per_second": 7.0, "loss": 0.5})
    evaluations = [
        {
            "step": step,
            "eval": "pairs",
            "a->b/R@1": 0.1 * step,
            "a->b/R@1/low": 0.1,
            "b->a/R@1": 0.2,
            "rank": 90,
        }
        for step in (1, 2)
    ]
    evaluations.append({"step": 2, "eval": "only at the end", "accuracy": 0.5})
    figures = []
    monkeypatch.setattr(curves, "save_png", lambda figure, path: figures.append(figure))
    curves.training_curves(tmp_path / "curves.png", rows, evaluations)
    shown = {axes.get_title("left"): axes for axes in figures[0].axes if axes.axison}
    assert list(shown) == ["all objectives", "a", "b", "learning rate", "evaluation pairs"]
    headlines = [axes.get_title("right") for axes in shown.values()]
    assert headlines == ["0.5", "0.069", "0.25", "peak 0.029", ""], (
        "the last logged value, not the smoothed one"
    )
    assert all(axes.get_ylabel() for axes in shown.values())
    lines = {line.get_label(): line.get_ydata().tolist() for line in shown["evaluation pairs"].lines}
    assert lines == {"a->b/R@1": [0.1, 0.2], "b->a/R@1": [0.2, 0.2]}

    monkeypatch.undo()
    curves.training_curves(tmp_path / "curves.png", rows, evaluations)
    assert_png(tmp_path / "curves.png")
    with pytest.raises(InputError, match="no logged step has a loss"):
        curves.training_curves(tmp_path / "curves.png", [])


def test_captions_in_any_script_and_with_dollar_signs(tmp_path):
    previews = [Preview("text", name) for name in ("パンダ", "$x_1$ and $", "कुत्ता", "панда", "\U0001f43c")]
    pictures.retrieval_sheet(
        tmp_path / "sheet.png",
        title="any script",
        subtitle="",
        queries=previews[:1],
        nearest=[[(preview, n == 2, 0.5) for n, preview in enumerate(previews)]],
        ranks=[3],
        num_candidates=5,
    )
    assert_png(tmp_path / "sheet.png")


def test_log_mel_is_largest_at_the_frequency_of_a_tone():
    seconds = np.arange(8000) / 8000
    tones = np.stack([np.sin(2 * np.pi * hertz * seconds) for hertz in (500, 1000, 2000)])
    mel = features.log_mel(tones, 8000, num_mels=40)
    assert mel.shape == (3, 98, 40) and mel.dtype == np.float32
    octave = 27 * np.log(2) / np.log(6.4)  # in Slaney's mels above 1 kHz, which is mel 15
    for row, position in enumerate((7.5, 15, 15 + octave)):
        expected = position / (15 + 2 * octave) * 41 - 1
        assert abs(mel[row].mean(axis=0).argmax() - expected) <= 0.5


def test_block_means_equal_a_loop():
    values = np.random.default_rng(0).normal(size=(3, 10))
    edges = [n * 10 // 4 for n in range(5)]
    expected = np.stack(
        [values[:, a:b].mean(axis=1) for a, b in zip(edges[:-1], edges[1:], strict=True)], axis=1
    )
    np.testing.assert_allclose(features.block_means(values, 4, axis=1), expected)
