"""Galleries show what the records say: their own texts and keys, not tokens."""

from fakes import NAMES, RandomEmbedder, dataset

from mmjax.evals import Retrieval
from mmjax.evals.gallery import build_galleries


def test_captions_are_the_records_own_texts_and_keys():
    names = ("Red CAT,  sleeping (loudly)!", *NAMES[:3])
    examples = dataset(names, missing=((2, "text"),), length=4)  # the first text is cut off
    evaluation = Retrieval(data=examples, heads=("image", "text"), batch_size=3)
    heads = evaluation.heads_by_stream()
    galleries = build_galleries(evaluation, RandomEmbedder(), heads, with_raw=False)
    image, text = ([preview for preview in galleries[stream].previews[:4]] for stream in ("image", "text"))
    assert [preview.caption for preview in image] == [names[0], names[1], "example2", names[3]]
    assert [preview.caption for preview in text] == [names[0], names[1], "", names[3]]
    assert [preview.key for preview in image] == [f"example{n}" for n in range(4)]
    assert galleries["image"].previews[4].key == "", "a row that fills the last batch"
