"""Losses, beside PyTorch, open_clip and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from mmjax import objectives
from mmjax.batch import MultiLabels
from mmjax.objectives import contrastive, ctc, distillation, masked_patches
from mmjax.objectives.base import Outputs, masked_cross_entropy
from mmjax.objectives.classification import smoothed_cross_entropy
from peers.comparison import Comparison

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 7)).astype(np.float32) * 3
TARGETS = RNG.integers(0, 7, 12)
MASK = RNG.uniform(size=12) < 0.7


def unit(shape) -> np.ndarray:
    rows = RNG.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


FIRST, SECOND = unit((16, 8)), unit((16, 8))
ALL_VALID = contrastive.PairMask(jnp.ones(16, bool))


def cross_entropy():
    ours = masked_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), jnp.asarray(MASK))
    targets = torch.where(torch.from_numpy(MASK), torch.from_numpy(TARGETS), -100)
    return ours, F.cross_entropy(torch.from_numpy(LOGITS), targets)


def label_smoothing():
    ours = smoothed_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), 0.1)
    theirs = F.cross_entropy(
        torch.from_numpy(LOGITS), torch.from_numpy(TARGETS), label_smoothing=0.1, reduction="none"
    )
    return ours, theirs


def multi_label():
    values = RNG.uniform(size=LOGITS.shape) < 0.3
    known = RNG.uniform(size=LOGITS.shape) < 0.8
    batch = {"labels": MultiLabels(jnp.asarray(values), jnp.asarray(known))}
    outputs = Outputs({"x": jnp.asarray(LOGITS)}, {}, batch)
    loss = objectives.MultiLabel(head="x").apply({}, outputs)[0].value
    theirs = F.binary_cross_entropy_with_logits(
        torch.from_numpy(LOGITS), torch.from_numpy(values).float(), reduction="none"
    )
    return loss, theirs[torch.from_numpy(known)].mean()


def clip():
    ours = contrastive.info_nce(jnp.asarray(FIRST), jnp.asarray(SECOND), 14.0, ALL_VALID)[0]
    return ours, ClipLoss()(torch.from_numpy(FIRST), torch.from_numpy(SECOND), 14.0)


def clip_gradient():
    def loss(first):
        return contrastive.info_nce(first, jnp.asarray(SECOND), 14.0, ALL_VALID, tile_size=5)[0]

    first = torch.from_numpy(FIRST.copy()).requires_grad_()
    ClipLoss()(first, torch.from_numpy(SECOND), 14.0).backward()
    return jax.grad(loss)(jnp.asarray(FIRST)), first.grad


def clip_with_missing_rows():
    valid = np.arange(16) % 3 > 0
    ours = contrastive.info_nce(
        jnp.asarray(FIRST), jnp.asarray(SECOND), 14.0, contrastive.PairMask(jnp.asarray(valid))
    )[0]
    return ours, ClipLoss()(torch.from_numpy(FIRST[valid]), torch.from_numpy(SECOND[valid]), 14.0)


def clip_smoothed():
    ours = contrastive.info_nce(
        jnp.asarray(FIRST), jnp.asarray(SECOND), 14.0, ALL_VALID, label_smoothing=0.1
    )[0]
    logits, diagonal = torch.from_numpy(14.0 * FIRST @ SECOND.T), torch.arange(16)
    theirs = [F.cross_entropy(x, diagonal, label_smoothing=0.1) for x in (logits, logits.T)]
    return ours, sum(theirs) / 2


def siglip():
    ours = contrastive.sigmoid_pairs(jnp.asarray(FIRST), jnp.asarray(SECOND), 10.0, -10.0, ALL_VALID)
    return ours, SigLipLoss()(torch.from_numpy(FIRST), torch.from_numpy(SECOND), 10.0, -10.0)


def _ctc_inputs():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 20, 6)).astype(np.float32)
    frames, lengths = np.array([20, 15, 12]), np.array([6, 4, 5])
    labels = rng.integers(1, 6, (3, 6))
    labels[2, :5] = [2, 2, 3, 3, 3]  # repeated
    return logits, frames, labels, lengths


def _torch_ctc(logits: torch.Tensor) -> torch.Tensor:
    _, frames, labels, lengths = _ctc_inputs()
    return F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), torch.from_numpy(labels), torch.from_numpy(frames),
        torch.from_numpy(lengths), reduction="none",
    )  # fmt: skip


def _our_ctc(logits):
    _, frames, labels, lengths = _ctc_inputs()
    mask = jnp.arange(20)[None] < frames[:, None]
    return ctc.ctc_loss(logits, mask, jnp.asarray(labels), jnp.asarray(lengths), 0)


def ctc_loss():
    logits = _ctc_inputs()[0]
    return _our_ctc(jnp.asarray(logits)), _torch_ctc(torch.from_numpy(logits))


def ctc_gradient():
    logits = _ctc_inputs()[0]
    ours = jax.grad(lambda x: _our_ctc(x).sum())(jnp.asarray(logits))
    theirs = torch.from_numpy(logits).requires_grad_()
    _torch_ctc(theirs).sum().backward()
    return ours, theirs.grad


def distill():
    teacher = RNG.normal(size=LOGITS.shape).astype(np.float32)
    ours = distillation.distill(jnp.asarray(LOGITS), jnp.asarray(teacher), jnp.ones(12, bool), 2.0)[0]
    student = (torch.from_numpy(LOGITS) / 2).log_softmax(-1)
    theirs = F.kl_div(student, (torch.from_numpy(teacher) / 2).softmax(-1), reduction="batchmean")
    return ours, 4 * theirs


def masked_autoencoder(normalise: bool):
    """The loss of an untrained model, given its predictions and its mask."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        image_size=16, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=8, norm_pix_loss=normalise,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(config)
    pixels = torch.from_numpy(RNG.normal(size=(2, 3, 16, 16)).astype(np.float32))
    with torch.no_grad():
        theirs = model(pixels)
    predicted, mask = theirs.logits.numpy(), theirs.mask.numpy() > 0
    patches = jnp.asarray(model.patchify(pixels).numpy())
    if normalise:
        patches = masked_patches.standardise(patches)
    wide = jnp.broadcast_to(jnp.asarray(mask)[..., None], patches.shape)
    loss = masked_patches.reconstruction_loss("x", jnp.asarray(predicted), patches, wide)[0]
    return loss.value, theirs.loss


ROWS = (
    Comparison("cross entropy, positions ignored", "torch", "nn.functional.cross_entropy", cross_entropy),
    Comparison("cross entropy, label smoothing", "torch", "nn.functional.cross_entropy", label_smoothing),
    Comparison(
        "binary cross entropy, some labels unknown", "torch", "binary_cross_entropy_with_logits", multi_label
    ),
    Comparison("InfoNCE", "open_clip_torch", "ClipLoss", clip),
    Comparison("InfoNCE, gradient, in tiles", "open_clip_torch", "ClipLoss", clip_gradient),
    Comparison("InfoNCE, rows missing", "open_clip_torch", "ClipLoss", clip_with_missing_rows),
    Comparison("InfoNCE, label smoothing", "torch", "nn.functional.cross_entropy", clip_smoothed),
    Comparison("sigmoid loss of pairs", "open_clip_torch", "SigLipLoss", siglip),
    Comparison("CTC, padded and repeated labels", "torch", "nn.functional.ctc_loss", ctc_loss, within=1e-4),
    Comparison("CTC, gradient", "torch", "nn.functional.ctc_loss", ctc_gradient, within=1e-4),
    Comparison("distillation", "torch", "nn.functional.kl_div", distill),
    Comparison(
        "masked patches", "transformers", "ViTMAEForPreTraining",
        lambda: masked_autoencoder(False),
    ),
    Comparison(
        "masked patches, each standardised", "transformers", "ViTMAEForPreTraining",
        lambda: masked_autoencoder(True), within=0.05,
        reason="their variance divides by n - 1, that of mmjax by n: 2 % for 48 values",
    ),
)  # fmt: skip
