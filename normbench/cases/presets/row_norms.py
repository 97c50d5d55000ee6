"""Problems of layer norm and RMS norm: activations of transformers, pair tensors, and rows off any alignment.

Sizes are those of the models' own definitions: ViT-B/16 (torchvision.models.vit_b_16), BERT-large, GPT-2 (the small
one), Llama-3-8B (hidden size 4096, epsilon 1e-5), Gemma-2-9B (3584, 1e-6), ConvNeXt-T
(torchvision.models.convnext_tiny), the pair representation of AlphaFold 2 (Jumper et al. 2021: 128 channels, crops of
256 residues), and the feature extractor of wav2vec 2.0 large (Baevski et al. 2020: 512 channels, and 3199 frames of one
second after the first convolution).
"""

from dataclasses import replace

from normbench.cases.presets.family import OFFSETS, Family, Layer, off_by
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL

_VIT = Layer((8, 197, 768), "nlc", "ViT-B/16@224 encoder.ln_1", 1e-6)
_VIT_ONE = replace(_VIT, shape=(1, 197, 768))
_BERT = Layer((32, 128, 1024), "nlc", "BERT-large@128 attention.output.LayerNorm", 1e-12)
_GPT2 = Layer((8, 1024, 768), "nlc", "GPT-2@1024 ln_1")
_CONVNEXT = Layer((8, 56, 56, 96), "nhwc", "ConvNeXt-T@224 features.1.0 norm", 1e-6)
_PAIR = Layer((1, 256, 256, 128), "nhwc", "AlphaFold 2 pair representation, 256 residues")
_TRIANGLE = Layer((1, 64, 64, 128), "nhwc", "AlphaFold 2 pair representation, 64 residues")
_LLAMA = Layer((1, 2048, 4096), "nlc", "Llama-3-8B@2048 input_layernorm")
_LLAMA_LONG = Layer((1, 8192, 4096), "nlc", "Llama-3-8B@8192 input_layernorm")
_LLAMA_TOKEN = Layer((32, 1, 4096), "nlc", "Llama-3-8B decoding, batch of 32, input_layernorm")
_IMAGE = Layer((8, 16, 16, 64), "nhwc", "whole images, three axes normalized", options=(("ndim", 3),))

_VIT_SUM = replace(_VIT, provenance="ViT-B/16@224 encoder.ln_2 of x + attention", context="residual")
_GPT2_FINAL = replace(_GPT2, provenance="GPT-2@1024 ln_f, features in float32", context="cast")
_WAV2VEC = Layer((8, 3199, 512), "nlc", "wav2vec 2.0 large, feature extractor 0, layer norm and GELU", context="gelu")
_LLAMA_SUM = replace(_LLAMA, provenance="Llama-3-8B@2048 post_attention_layernorm of x + attention", context="residual")
_LLAMA_SUM_SHORT = replace(
    _LLAMA_SUM, shape=(1, 512, 4096), provenance="Llama-3-8B@512 post_attention_layernorm of x + attention"
)
_LLAMA_FINAL = replace(_LLAMA, provenance="Llama-3-8B@2048 norm, features in float32", context="cast")

_LLAMA_ORDER, _GEMMA_ORDER = (("hat_dtype", "bfloat16"),), (("scale_offset", 1),)
_EIGHT_BITS = (("fp8_scale", 0.03125), *_LLAMA_ORDER)
_GEMMA = Layer((1, 2048, 3584), "nlc", "Gemma-2-9B@2048 input_layernorm, by 1 + weight", 1e-6, options=_GEMMA_ORDER)
_LANGUAGE_MODELS = (
    (
        replace(_LLAMA_LONG, options=_LLAMA_ORDER, provenance="Llama-3-8B@8192 input_layernorm, cast, then scaled"),
        "forward",
    ),
    (
        replace(
            _LLAMA,
            shape=(1, 1, 4096),
            options=_LLAMA_ORDER,
            provenance="Llama-3-8B decoding, input_layernorm, cast, then scaled",
        ),
        "forward",
    ),
    (replace(_LLAMA_SUM, options=_LLAMA_ORDER), "forward"),
    (replace(_LLAMA_SUM, options=_LLAMA_ORDER), "forward_backward"),
    (
        replace(
            _LLAMA_SUM,
            options=_EIGHT_BITS,
            provenance="Llama-3-8B@2048 post_attention_layernorm, cast, scaled, to float8",
        ),
        "forward",
    ),
    (_GEMMA, "forward"),
    (_GEMMA, "forward_backward"),
    (replace(_GEMMA, shape=(1, 1, 3584), provenance="Gemma-2-9B decoding, input_layernorm, by 1 + weight"), "forward"),
)
"""In the orders of the models' own definitions: see `normbench.kernels.common.form`."""

_ODD = (
    Layer((2048, 16384), "nc", "rows of 16384: the longest that XLA's Triton rewriter takes"),
    Layer((2048, 16385), "nc", "off-alignment: rows of 16384 plus 1"),
    Layer((512, 32768), "nc", "rows of 32768"),
    *(Layer((2048, 4096 + offset), "nc", off_by(offset, "rows of 4096")) for offset in OFFSETS),
    Layer((1, 4096), "nc", "one row"),
    Layer((4093, 127), "nc", "off-alignment: primes"),
    Layer((4096, 1), "nc", "rows of one element"),
)

LAYER_NORM = Family(
    operator="layer_norm",
    smoke_layers=((_VIT_ONE, "float32"),),
    quick_layers=((_VIT, "bfloat16"), (_TRIANGLE, "float32"), (_VIT_ONE, "float64"),
                  (_VIT_SUM, "bfloat16")),
    layers=(_VIT, _BERT, _GPT2, _CONVNEXT, _PAIR, _LLAMA_LONG, _VIT_ONE, _TRIANGLE, _IMAGE),
    trained=(_VIT, _PAIR, Layer((1, 8192, 4096), "nlc", "8192 rows of 4096")),
    odd=_ODD,
    surrounded=((_VIT_SUM, "forward"), (_VIT_SUM, "forward_backward"), (_GPT2_FINAL, "forward"), (_WAV2VEC, "forward")),
    contexts=CONTEXTS_AND_RESIDUAL,
)  # fmt: skip

RMS_NORM = Family(
    operator="rms_norm",
    smoke_layers=((_LLAMA_TOKEN, "bfloat16"),),
    quick_layers=((replace(_LLAMA, shape=(1, 512, 4096), provenance="Llama-3-8B@512 input_layernorm"), "bfloat16"),
                  (_TRIANGLE, "float32"), (_LLAMA_TOKEN, "float64"), (_LLAMA_SUM_SHORT, "bfloat16")),
    layers=(_LLAMA, _LLAMA_LONG, _LLAMA_TOKEN, _VIT, _GPT2, _PAIR),
    trained=(_VIT, _LLAMA, _LLAMA_LONG),
    odd=_ODD,
    surrounded=((_LLAMA_SUM, "forward"), (_LLAMA_SUM, "forward_backward"), (_LLAMA_FINAL, "forward"),
                *_LANGUAGE_MODELS),
    contexts=CONTEXTS_AND_RESIDUAL,
)  # fmt: skip
