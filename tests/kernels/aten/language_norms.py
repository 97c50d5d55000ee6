"""RMS norm as language models define it, in PyTorch; the judge's worker imports this file by its bare name.

After the definitions of LlamaRMSNorm and GemmaRMSNorm in transformers: what is cast, and when, is theirs.
"""


def llama(x, weight, epsilon):
    """x_hat in float32, cast to x's dtype, then scaled in the dtype that both have."""
    import torch

    wide = x.to(torch.float32)
    hat = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * hat.to(x.dtype)


def gemma(x, weight, epsilon):
    """Scaled by 1 + weight in float32, and cast once."""
    import torch

    wide = x.to(torch.float32)
    hat = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (hat * (1.0 + weight.to(torch.float32))).type_as(x)


def eight_bits(x, weight, epsilon, scale):
    """The plain norm divided by the scale, within what float8_e4m3fn holds; as bytes, which NumPy has."""
    import torch

    y = torch.nn.functional.rms_norm(x.float(), x.shape[-1:], weight.float(), epsilon) / scale
    return y.clamp(-448.0, 448.0).to(torch.float8_e4m3fn).view(torch.uint8)
