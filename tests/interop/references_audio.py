"""References of audio: tiny random models, which make_references.py writes with the others."""

import numpy as np
import torch
import transformers as hf
from make_references import randomise, reference, save

WHISPER = dict(
    vocab_size=50, num_mel_bins=16, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=32, max_source_positions=10,
    max_target_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    suppress_tokens=[], begin_suppress_tokens=[],
)  # fmt: skip


def clips(length: int = 3200, short: int = 1733) -> np.ndarray:
    """Three sounds of 16 kHz and 16 bits: a chirp, noise with a tone, one that ends early."""
    time = np.arange(length) / 16_000
    rng = np.random.default_rng(2)
    chirp = 0.5 * np.sin(2 * np.pi * (200 + 4000 * time) * time)
    noisy = 0.1 * rng.normal(size=length) + 0.2 * np.sin(2 * np.pi * 440 * time)
    early = np.where(np.arange(length) < short, 0.3 * np.sin(2 * np.pi * 1500 * time) + chirp, 0)
    return np.round(np.stack([chirp, noisy, early]) * 32_768).astype(np.int16)


@reference
def whisper():
    model = randomise(hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER)))
    samples, lengths = clips(), (3200, 3200, 1733)
    extract = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=30)
    extract.n_samples, extract.nb_max_frames = 3200, 20  # 0.2 s in place of 30 s
    given = [np.float32(clip[:length] / 32_768) for clip, length in zip(samples, lengths, strict=True)]
    mel = extract(given, sampling_rate=16_000, return_tensors="pt").input_features
    rng = np.random.default_rng(3)
    mask = np.arange(9)[None] < np.array([9, 5, 2])[:, None]
    tokens = np.where(mask, rng.integers(5, 50, (3, 9)), 0)
    found = model(
        input_features=mel, decoder_input_ids=torch.tensor(tokens),
        decoder_attention_mask=torch.tensor(mask.astype(np.int64)), output_hidden_states=True,
    )  # fmt: skip
    inputs = {"samples": samples, "lengths": np.array(lengths), "mel": mel.numpy().swapaxes(1, 2)}
    save(
        "whisper", model, inputs | {"tokens": tokens, "mask": mask},
        {
            "audio": found.encoder_last_hidden_state, "text": found.decoder_hidden_states[-1],
            "logits": found.logits,
        },
    )  # fmt: skip


@reference
def ast():
    config = hf.ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, patch_size=4,
        frequency_stride=3, time_stride=2, max_length=15, num_mel_bins=12,
    )  # fmt: skip
    model = randomise(hf.ASTModel(config))
    samples, lengths = clips(), (3200, 3200, 1733)  # 18 frames of which 15 count, and 9
    extract = hf.ASTFeatureExtractor(num_mel_bins=12, max_length=15)
    given = [np.float32(clip[:length] / 32_768) for clip, length in zip(samples, lengths, strict=True)]
    mel = extract(given, sampling_rate=16_000, return_tensors="pt").input_values
    inputs = {"samples": samples, "lengths": np.array(lengths), "mel": mel.numpy()}
    save("ast", model, inputs, {"audio": model(input_values=mel).last_hidden_state})


WAVEFORM = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8, 8),
    conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), num_feat_extract_layers=3, num_conv_pos_embedding_groups=4,
)  # fmt: skip


def waveform_encoder(name: str, model: torch.nn.Module, *, masked: bool) -> None:
    """wav2vec 2.0 or HuBERT. With a group norm, padding changes the reference, so that each clip is alone."""
    randomise(model)
    samples, lengths = clips(800, 433), (800, 800, 433)
    given = [np.float32(clip[:length] / 32_768) for clip, length in zip(samples, lengths, strict=True)]
    extract = hf.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    outputs = {}
    with torch.no_grad():
        if masked:
            values = extract(given, sampling_rate=16_000, padding=True, return_tensors="pt")
            hidden = model(**values).last_hidden_state
            hides = torch.zeros(hidden.shape[:2], dtype=torch.bool)
            hides[:, 3:7], hides[1, 3:7], hides[1, 10:14] = True, False, True
            found = model(**values, mask_time_indices=hides).last_hidden_state
            visible = np.stack([np.flatnonzero(~row) for row in hides.numpy()])
            outputs["masked"] = found
        else:
            values = [extract(clip, sampling_rate=16_000, return_tensors="pt").input_values for clip in given]
            alone = [model(value).last_hidden_state[0] for value in values]
            hidden = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
            visible = np.zeros((3, 0))
    inputs = {"samples": samples, "lengths": np.array(lengths), "visible": visible.astype(np.int32)}
    save(name, model, inputs, {"audio": hidden} | outputs)


@reference
def wav2vec2_base():
    config = hf.Wav2Vec2Config(**WAVEFORM, num_conv_pos_embeddings=8)
    waveform_encoder("wav2vec2_base", hf.Wav2Vec2Model(config), masked=False)


@reference
def wav2vec2_large():
    config = hf.Wav2Vec2Config(
        **WAVEFORM, num_conv_pos_embeddings=7, feat_extract_norm="layer", do_stable_layer_norm=True,
        conv_bias=True,
    )  # fmt: skip
    waveform_encoder("wav2vec2_large", hf.Wav2Vec2Model(config), masked=True)


@reference
def hubert():
    config = hf.HubertConfig(
        **WAVEFORM, num_conv_pos_embeddings=8, feat_extract_norm="layer", conv_bias=True, mask_time_prob=0.0
    )
    model = hf.HubertModel(config)
    waveform_encoder("hubert", model, masked=False)
