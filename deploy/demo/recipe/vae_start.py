"""A starting point for the VAE that already carries mean colours.

From a random start, edges are learned within a hundred steps and colours only after thousands:
group normalisation takes a picture's mean level away again and again. Here eight channels of
every layer start as an identity (or, where a layer halves, a mean), so that the first three
latents start as the mean colour of 8x8 pixels. All other channels start at random, as usual.
"""

from typing import Final

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor

RGB: Final = 3
KEPT: Final = 8
"""Channels 0-2: colours; 3: a constant; 4-6: negated colours; 7: the constant negated.

Both signs, because silu(x) - silu(-x) = x: the difference passes the last activation unbent.
"""
REFERENCE: Final = 4.0
"""The constant: in one normalisation group with the colours, it lets their levels survive."""


def _keep(weight: Tensor, bias: Tensor | None, taps: slice, share: float) -> None:
    """Makes the kept channels of a 3x3 convolution copy themselves through some of its taps."""
    weight[:KEPT] = 0
    for channel in range(KEPT):
        weight[channel, channel, taps, taps] = share
    if bias is not None:
        bias[:KEPT] = 0


def _start_layers(vae: AutoencoderKL) -> None:
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight[:KEPT] = 0
            module.conv2.bias[:KEPT] = 0
            if module.conv_shortcut is not None:
                _keep(module.conv_shortcut.weight, module.conv_shortcut.bias, slice(0, 1), 1.0)
        elif isinstance(module, Attention):
            module.to_out[0].weight[:KEPT] = 0
            module.to_out[0].bias[:KEPT] = 0
        elif isinstance(module, Downsample2D):
            # Padded on the right and below only: the first two taps cover the 2x2 pixels.
            _keep(module.conv.weight, module.conv.bias, slice(0, 2), 0.25)
        elif isinstance(module, Upsample2D):
            _keep(module.conv.weight, module.conv.bias, slice(1, 2), 1.0)


def _start_ends(first: torch.nn.Conv2d, last: torch.nn.Conv2d) -> None:
    """Lets a half of the VAE write its colours into the kept channels and read them back."""
    if first.bias is None or last.bias is None:
        raise ValueError("the VAE's outer convolutions have biases")
    first.weight[:KEPT] = 0
    first.bias[:KEPT] = 0
    first.bias[RGB], first.bias[2 * RGB + 1] = REFERENCE, -REFERENCE
    last.weight[:RGB] *= 0.2
    last.bias[:RGB] = 0
    for colour in range(RGB):
        first.weight[colour, colour, 1, 1] = 1
        first.weight[RGB + 1 + colour, colour, 1, 1] = -1
        last.weight[colour, :KEPT] = 0
        last.weight[colour, colour, 1, 1] = 2
        last.weight[colour, RGB + 1 + colour, 1, 1] = -2


@torch.no_grad()
def start_with_colours(vae: AutoencoderKL, latent_channels: int) -> None:
    """Sets the weights of an untrained VAE of at least 16 channels in groups of eight or more."""
    _start_layers(vae)
    _start_ends(vae.encoder.conv_in, vae.encoder.conv_out)
    _start_ends(vae.decoder.conv_in, vae.decoder.conv_out)
    straight = torch.eye(latent_channels)[..., None, None]
    vae.quant_conv.weight.zero_()
    vae.quant_conv.weight[:latent_channels, :latent_channels] = straight
    # A posterior of small constant spread at first: a little noise, no collapse.
    vae.quant_conv.bias.zero_()
    vae.quant_conv.bias[latent_channels:] = -6
    vae.post_quant_conv.weight.copy_(straight)
    vae.post_quant_conv.bias.zero_()
