"""Scores of classes, tags and texts, beside scikit-learn, torchmetrics, seqeval and jiwer."""

import warnings

import jiwer
import numpy as np
import sklearn.metrics
import torch

from mmjax.data.word_piece import WordPiece
from mmjax.evals import class_scores
from mmjax.evals.tags import entity_metrics
from mmjax.evals.text_errors import TextErrors, error_rate, normalise
from peers.comparison import Comparison

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(300, 8)).astype(np.float32) * 2
LOGITS[:, 6] = -9  # never predicted
LABELS = RNG.integers(0, 8, 300)
LABELS[LABELS == 7] = 0  # class 7 is predicted and never true
PREDICTED = LOGITS.argmax(axis=1)
PROBABILITIES = class_scores.softmax(LOGITS)


def macro_f1():
    counts = class_scores.confusion_counts(LABELS, PREDICTED, 8)
    theirs = sklearn.metrics.f1_score(LABELS, PREDICTED, average="macro", zero_division=0.0)
    return class_scores.macro_f1(counts), theirs


def confusion():
    theirs = sklearn.metrics.confusion_matrix(LABELS, PREDICTED, labels=range(8))
    return class_scores.confusion_counts(LABELS, PREDICTED, 8), theirs


def top5():
    theirs = sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=5, labels=range(8))
    return class_scores.top_k_accuracy(LOGITS, LABELS), theirs


def auroc():
    labels = RNG.integers(0, 8, 300)
    theirs = sklearn.metrics.roc_auc_score(labels, PROBABILITIES, multi_class="ovr", average="macro")
    return class_scores.macro_auroc(PROBABILITIES, labels), theirs


def binary_auroc():
    scores, labels = RNG.integers(0, 20, 200), RNG.uniform(size=200) < 0.3
    return class_scores.auroc(scores, labels), sklearn.metrics.roc_auc_score(labels, scores)


def calibration():
    from torchmetrics.functional.classification import multiclass_calibration_error

    theirs = multiclass_calibration_error(
        torch.from_numpy(PROBABILITIES), torch.from_numpy(LABELS), num_classes=8, n_bins=15, norm="l1"
    )
    return class_scores.expected_calibration_error(PROBABILITIES, LABELS), theirs


def average_precision():
    scores, labels = RNG.integers(0, 20, 200), RNG.uniform(size=200) < 0.3
    theirs = sklearn.metrics.average_precision_score(labels, scores)
    return class_scores.average_precision(scores, labels), theirs


TAGS = ("O", "B-per", "I-per", "B-loc", "I-loc", "B-org", "I-org")


def sentences(seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [rng.choice(TAGS, 30, p=(0.4, *(0.1,) * 6)).tolist() for _ in range(20)]


def entities(strict: bool):
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    true = sentences(0)
    noise, keep = sentences(1), np.random.default_rng(2).uniform(size=(20, 30)) < 0.8
    predicted = [
        [tag if kept else other for tag, other, kept in zip(*row, strict=True)]
        for row in zip(true, noise, keep, strict=True)
    ]
    options = dict(mode="strict", scheme=IOB2) if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(true, predicted, output_dict=True, zero_division=0, **options)
    ours, theirs = entity_metrics(predicted, true, strict), {}
    for name, suffix in (("micro avg", ""), ("per", "/per"), ("loc", "/loc"), ("org", "/org")):
        row = report[name]
        theirs[f"entity_f1{suffix}"] = row["f1-score"]
        theirs[f"entity_precision{suffix}"] = row["precision"]
        theirs[f"entity_recall{suffix}"] = row["recall"]
        theirs[f"num_entities{suffix}"] = row["support"]
    theirs["entity_macro_f1"] = report["macro avg"]["f1-score"]
    return ours, theirs


TRUE_TEXTS = ["Don't go, he said.", "the red-haired fox runs", "one  two three", "An ÉLAN of U.S. troops"]
PREDICTED_TEXTS = ["dont go he sad", "red haired fox run fast", "", "an élan of US troop"]


def _jiwer(function, ignore: bool) -> float:
    steps = [jiwer.ToLowerCase(), jiwer.RemovePunctuation()] if ignore else []
    steps += [jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    last = jiwer.ReduceToListOfListOfWords if function is jiwer.wer else jiwer.ReduceToListOfListOfChars
    transform = jiwer.Compose([*steps, last()])
    return function(
        TRUE_TEXTS, PREDICTED_TEXTS, reference_transform=transform, hypothesis_transform=transform
    )


def text_error(by_words: bool, ignore: bool):
    options = dict(ignore_case=ignore, ignore_punctuation=ignore)
    found, true = ([normalise(x, **options) for x in each] for each in (PREDICTED_TEXTS, TRUE_TEXTS))
    if by_words:
        found, true = ([x.split() for x in each] for each in (found, true))
    return error_rate(found, true), _jiwer(jiwer.wer if by_words else jiwer.cer, ignore)


def decoded_texts():
    """Token ids of texts with words that the vocabulary lacks, against jiwer on the words that it has."""
    from mmjax.data import Arrays

    texts = ["don't go, he said", "the red-haired fox"]
    vocabulary = WordPiece(Arrays({"text": texts}), ("text",), vocab_size=41).open()
    spoken, true = (
        ["don't go, he said", "the red-haired ☃ fox"],
        ["Don't go, he said!", "the red-haired ☃ fox"],
    )
    ours = TextErrors(true, vocabulary).of_ids([vocabulary.encode(text)[0] for text in spoken])
    return ours["word_error_rate"], jiwer.wer(
        ["dont go he said", "the redhaired snowman fox"], ["dont go he said", "the redhaired unknown fox"]
    )


sklearn_row = "scikit-learn"
ROWS = (
    Comparison("confusion counts", sklearn_row, "confusion_matrix", confusion, 0),
    Comparison("macro F1, a class never true or never predicted", sklearn_row, "f1_score", macro_f1),
    Comparison("top-5 accuracy", sklearn_row, "top_k_accuracy_score", top5),
    Comparison("AUROC, classes against the others", sklearn_row, "roc_auc_score", auroc),
    Comparison("AUROC, equal scores", sklearn_row, "roc_auc_score", binary_auroc),
    Comparison("calibration error", "torchmetrics", "multiclass_calibration_error", calibration),
    Comparison("average precision, equal scores", sklearn_row, "average_precision_score", average_precision),
    Comparison(
        "entities, strict IOB2", "seqeval", "classification_report(mode='strict')", lambda: entities(True)
    ),
    Comparison("entities, CoNLL", "seqeval", "classification_report", lambda: entities(False)),
    Comparison("word error rate, as is", "jiwer", "wer", lambda: text_error(True, False)),
    Comparison(
        "word error rate, without case and punctuation", "jiwer", "wer", lambda: text_error(True, True)
    ),
    Comparison("character error rate, as is", "jiwer", "cer", lambda: text_error(False, False)),
    Comparison(
        "character error rate, without case and punctuation", "jiwer", "cer", lambda: text_error(False, True)
    ),
    Comparison("word error rate of token ids with [UNK]", "jiwer", "wer", decoded_texts),
)
