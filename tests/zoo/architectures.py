"""Architectures of torchvision, timm and transformers, with random weights: nothing is downloaded.

Every library is optional (`pip install -e ".[zoo]"`). Language models are built from tiny configurations, everything
else as published; images are as small as a model allows.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from fprune.inputs import Inputs, inputs

Build = Callable[[], tuple[nn.Module, Inputs]]


@attrs.frozen
class Architecture:
    """One model of the zoo.

    Args:
        name: library and model.
        build: makes it and its example inputs.
        dtype: what it is run in; a few models make float32 tensors on the way and cannot run in float64.
    """

    name: str
    build: Build
    dtype: torch.dtype = torch.float64

    def made(self) -> tuple[nn.Module, Inputs]:
        """The model in evaluation mode, its parameters and statistics drawn so that none is degenerate."""
        torch.manual_seed(0)
        net, given = self.build()
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.ndim <= 1 or parameter.abs().max() < 1e-3:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                    module.running_mean.normal_(0, 0.1, generator=drawn)
                    module.running_var.uniform_(0.5, 1.5, generator=drawn)
        as_dtype = partial(_cast, dtype=self.dtype)
        args, kwargs = torch.utils._pytree.tree_map_only(Tensor, as_dtype, (given.args, dict(given.kwargs)))
        return net.eval().to(self.dtype), attrs.evolve(inputs(*args, **kwargs), outputs=given.outputs)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _images(side: int, batch: int = 2) -> Inputs:
    return inputs(torch.randn(batch, 3, side, side))


# --- torchvision ------------------------------------------------------------------------------------------------------

CLASSIFIERS = {
    **dict.fromkeys("alexnet inception_v3".split(), 96),
    **dict.fromkeys("vit_b_16 maxvit_t".split(), 224),
    **dict.fromkeys(
        """vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 mobilenet_v2 mobilenet_v3_small
        mobilenet_v3_large efficientnet_b0 efficientnet_v2_s convnext_tiny swin_t swin_v2_t regnet_y_400mf
        regnet_x_400mf mnasnet0_5 shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 googlenet""".split(),
        64,
    ),
}
SEGMENTERS = "fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split()
VIDEO = {
    **dict.fromkeys("r3d_18 mc3_18 r2plus1d_18".split(), (8, 32)),
    **dict.fromkeys("s3d mvit_v1_b mvit_v2_s".split(), (16, 224)),
    "swin3d_t": (4, 64),
}
DETECTORS = "fasterrcnn_mobilenet_v3_large_320_fpn retinanet_resnet50_fpn ssdlite320_mobilenet_v3_large".split()


def library(name: str) -> Any:
    """A model library, or a skipped test; the compiled operators of torchvision need not fit the build of torch."""
    importlib.import_module("tests.zoo.torchvision_ops")
    return pytest.importorskip(name, reason=f'needs {name}: pip install -e ".[zoo]"', exc_type=ImportError)


def _torchvision(name: str, given: Callable[[], Inputs], **options: Any) -> tuple[nn.Module, Inputs]:
    return library("torchvision").models.get_model(name, weights=None, **options), given()


def _vision() -> Iterator[Architecture]:
    for name, side in CLASSIFIERS.items():
        options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        yield Architecture(f"torchvision/{name}", partial(_torchvision, name, partial(_images, side), **options))
    for name in SEGMENTERS:
        options = {"weights_backbone": None, "num_classes": 7}
        yield Architecture(f"torchvision/{name}", partial(_torchvision, name, partial(_images, 64), **options))
    for name, (frames, side) in VIDEO.items():
        clip = partial(lambda t, s: inputs(torch.randn(1, 3, t, s, s)), frames, side)
        yield Architecture(f"torchvision/{name}", partial(_torchvision, name, clip, num_classes=10))
    for name in DETECTORS:
        options = {"weights_backbone": None, "num_classes": 5}
        image = lambda: inputs([torch.rand(3, 96, 96)])  # noqa: E731
        yield Architecture(f"torchvision/{name}", partial(_torchvision, name, image, **options))
    frames = lambda: inputs(torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128), num_flow_updates=2)  # noqa: E731
    yield Architecture("torchvision/raft_small", partial(_torchvision, "raft_small", frames), torch.float32)


# --- timm -------------------------------------------------------------------------------------------------------------

SMALL = """convmixer_768_32 convnext_atto convnextv2_atto cspresnet50 densenet121 dla34 dpn68 efficientnet_lite0
    ese_vovnet19b_dw gernet_s ghostnet_100 hgnet_tiny hrnet_w18_small inception_next_atto legacy_seresnet18
    mambaout_femto mobilenetv3_small_100 mobilenetv4_conv_small nf_regnet_b0 nfnet_l0 rdnet_tiny regnety_002
    repghostnet_050 repvgg_a0 resnest14d resnetv2_50 rexnet_100 selecsls42b skresnet18 starnet_s1 tresnet_m vgg11_bn
    xception41""".split()
"""timm models that take images of 64 pixels."""
LARGE = """beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convit_tiny
    crossvit_tiny_240 davit_tiny deit3_small_patch16_224 edgenext_xx_small efficientformer_l1 efficientformerv2_s0
    efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gmlp_s16_224
    hiera_tiny_224 inception_v4 levit_128s maxxvit_rmlp_nano_rw_256 mixer_s32_224 mobilenetv4_hybrid_medium
    mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0 repvit_m0_9
    resmlp_12_224 sequencer2d_s shvit_s1 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224
    swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_legacy_patch16_224 twins_svt_small visformer_tiny
    vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224""".split()
"""timm models that take images of the size they were published with."""


def _timm(name: str, side: int | None) -> tuple[nn.Module, Inputs]:
    net = library("timm").create_model(name, pretrained=False, num_classes=20)
    return net, _images(side or net.default_cfg["input_size"][1])


# --- transformers -----------------------------------------------------------------------------------------------------

WIDTH = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**WIDTH, "intermediate_size": 80, "max_position_embeddings": 32}
GROUPED = {**TEXT, "num_key_value_heads": 2}
VISION = {**WIDTH, "intermediate_size": 80, "image_size": 32, "patch_size": 8}
SEQ2SEQ = {
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))},
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "vocab_size": 100,
    "d_model": 48,
}
LANGUAGE: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "albert": ("AlbertConfig", "AlbertModel", "text", {**TEXT, "embedding_size": 24}),
    "bart": ("BartConfig", "BartForConditionalGeneration", "pair", {**SEQ2SEQ, "max_position_embeddings": 32}),
    "bert": ("BertConfig", "BertForSequenceClassification", "text", TEXT),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        "causal",
        {"vocab_size": 100, "hidden_size": 48, "n_layer": 2, "n_head": 4},
    ),
    "deberta_v2": (
        "DebertaV2Config",
        "DebertaV2Model",
        "text",
        {**TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        "text",
        {"vocab_size": 100, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80, "max_position_embeddings": 32},
    ),
    "electra": ("ElectraConfig", "ElectraModel", "text", {**TEXT, "embedding_size": 24}),
    "falcon": ("FalconConfig", "FalconForCausalLM", "causal", WIDTH),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", "causal", {**GROUPED, "head_dim": 12}),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        "causal",
        {"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32},
    ),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", "causal", TEXT),
    "llama": ("LlamaConfig", "LlamaForCausalLM", "causal", GROUPED),
    "llama_tied": ("LlamaConfig", "LlamaForCausalLM", "causal", {**GROUPED, "tie_word_embeddings": True}),
    "mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        "ids",
        {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", "causal", GROUPED),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        "causal",
        {**GROUPED, "num_local_experts": 4, "experts_implementation": "eager"},
    ),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        "causal",
        {**WIDTH, "ffn_dim": 80, "max_position_embeddings": 32, "word_embed_proj_dim": 48},
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", "causal", TEXT),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", "causal", {**GROUPED, "pad_token_id": 0}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "causal", GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", "causal", {**GROUPED, "head_dim": 12}),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", "text", TEXT),
    "segformer": (
        "SegformerConfig",
        "SegformerForImageClassification",
        "images",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
    ),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        "pair",
        {"vocab_size": 100, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4},
    ),
    "vit": ("ViTConfig", "ViTForImageClassification", "images", VISION),
    "wav2vec2": (
        "Wav2Vec2Config",
        "Wav2Vec2Model",
        "sound",
        {**TEXT, "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    "whisper": (
        "WhisperConfig",
        "WhisperModel",
        "spectrum",
        {
            **SEQ2SEQ,
            "num_mel_bins": 20,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
    "clip": (
        "CLIPConfig",
        "CLIPModel",
        "image and text",
        {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": VISION, "projection_dim": 40},
    ),
}


def _given(kind: str) -> Inputs:
    ids = torch.randint(3, 90, (2, 12))
    pictures = torch.randn(2, 3, 32, 32)
    found: dict[str, dict[str, Any]] = {
        "ids": {"input_ids": ids},
        "text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "causal": {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False},
        "pair": {"input_ids": ids, "decoder_input_ids": ids[:, :7], "use_cache": False},
        "images": {"pixel_values": pictures},
        "sound": {"input_values": torch.randn(2, 2000)},
        "spectrum": {"input_features": torch.randn(2, 20, 64), "decoder_input_ids": ids[:, :7], "use_cache": False},
        "image and text": {"input_ids": ids, "pixel_values": pictures, "attention_mask": torch.ones_like(ids)},
    }
    return inputs(**found[kind], return_dict=False)


def _transformers(name: str) -> tuple[nn.Module, Inputs]:
    transformers = library("transformers")
    config, model, kind, options = LANGUAGE[name]
    made = getattr(transformers, config)(**options)
    made.use_cache = False
    return getattr(transformers, model)(made), _given(kind)


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        *_vision(),
        *(Architecture(f"timm/{name}", partial(_timm, name, 64)) for name in SMALL),
        *(Architecture(f"timm/{name}", partial(_timm, name, None)) for name in LARGE),
        *(Architecture(f"transformers/{name}", partial(_transformers, name)) for name in LANGUAGE),
    )
}
FAST = """torchvision/resnet18 torchvision/mobilenet_v3_small torchvision/shufflenet_v2_x0_5 torchvision/squeezenet1_0
    timm/convnext_atto timm/mobilevit_xxs timm/regnety_002 transformers/bert transformers/bloom transformers/gpt2
    transformers/llama_tied transformers/mixtral transformers/phi transformers/t5 transformers/vit""".split()
"""What runs in every test run: one of each kind, a second or less each."""
