"""Models that return hidden states on the side: what matters is picked, and the residual stream can go, exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fprune import Masks, Model, compact, dependency_aware, inputs, l1, verify
from fprune.structure import Structure, trace
from tests.zoo.architectures import library

transformers = library("transformers")

IDS = torch.arange(3, 27).view(2, 12)
SMALL = {"vocab_size": 100, "d_model": 48}
LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
TOWER = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40}


def t5() -> tuple[Any, dict[str, Any]]:
    config = transformers.T5Config(**SMALL, d_kv=12, d_ff=40, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config), {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}


def bart() -> tuple[Any, dict[str, Any]]:
    config = transformers.BartConfig(**SMALL, **LAYERS, max_position_embeddings=32)
    return transformers.BartForConditionalGeneration(config), {"input_ids": IDS, "decoder_input_ids": IDS[:, :7]}


def whisper() -> tuple[Any, dict[str, Any]]:
    sizes = {"num_mel_bins": 20, "max_source_positions": 32, "max_target_positions": 32}
    config = transformers.WhisperConfig(**SMALL, **LAYERS, **TOKENS, **sizes)
    return transformers.WhisperModel(config), {"input_features": torch.randn(2, 20, 64), "decoder_input_ids": IDS}


def clip() -> tuple[Any, dict[str, Any]]:
    text = {**TOWER, "vocab_size": 100, "max_position_embeddings": 32, "eos_token_id": 2}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    return transformers.CLIPModel(config), {"input_ids": IDS, "pixel_values": torch.randn(2, 3, 32, 32)}


MODELS: dict[str, tuple[Callable[[], tuple[Any, dict[str, Any]]], Callable[[Any], Any]]] = {
    "t5": (t5, lambda out: out.logits),
    "bart": (bart, lambda out: out.logits),
    "whisper": (whisper, lambda out: out.last_hidden_state),
    "clip": (clip, lambda out: (out.logits_per_image, out.logits_per_text)),
}


def made(name: str) -> tuple[Model, dict[str, Any]]:
    torch.manual_seed(0)
    net, given = MODELS[name][0]()
    cached = {} if name == "clip" else {"use_cache": False}
    return Model.from_module(net.eval()), {**given, **cached}


def streams(structure: Structure) -> dict[str, int]:
    """Families as wide as the residual stream that reach many tensors; BART reads a shape off one channel: it stays."""
    return {f.name: len(f) for f in structure.families if len(f) in (47, 48) and len(f.parameters) > 9}


@pytest.mark.parametrize("name", MODELS)
def test_the_stream_is_free_once_the_outputs_are_picked(name: str) -> None:
    model, given = made(name)
    select = MODELS[name][1]
    everything, picked = trace(model, inputs(**given)), trace(model, inputs(**given), outputs=select)
    assert len(streams(picked)) > len(streams(everything))
    assert picked.units > everything.units


@pytest.mark.parametrize("style", ["auto", "graph"])
@pytest.mark.parametrize("name", MODELS)
def test_half_of_everything_goes_exactly(name: str, style: str) -> None:
    model, given = made(name)
    example = inputs(**given, outputs=MODELS[name][1])
    structure = trace(model, example)
    masks: Masks = l1(dependency_aware).masks(model, 0.5, example_inputs=example, structure=structure)
    done = compact(model, masks, structure, style=style)
    assert dict(done.report.refused) == {}
    found = streams(structure)
    assert found and {done.report.removed[family] for family in found} == {24}  # of 48 channels of every layer
    masked = model.replace(masks.apply(model))
    assert max(verify(masked, done.model, example)) < 1e-5
