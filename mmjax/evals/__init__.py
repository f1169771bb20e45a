"""Evaluations: from a trained model and a dataset to metrics and pictures."""

from mmjax.evals.base import Eval as Eval
from mmjax.evals.base import Result as Result
from mmjax.evals.boxes import Boxes as Boxes
from mmjax.evals.captions import Captions as Captions
from mmjax.evals.classification import Classification as Classification
from mmjax.evals.classification import MultiLabel as MultiLabel
from mmjax.evals.losses import Losses as Losses
from mmjax.evals.masked_words import MaskedWords as MaskedWords
from mmjax.evals.pairs import Matching as Matching
from mmjax.evals.pairs import NextSentence as NextSentence
from mmjax.evals.retrieval import Retrieval as Retrieval
from mmjax.evals.subsets import measure as measure
from mmjax.evals.tags import Tags as Tags
from mmjax.evals.transcripts import Transcripts as Transcripts
from mmjax.evals.zero_shot import ZeroShot as ZeroShot
