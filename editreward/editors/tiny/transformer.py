"""The tiny editor's transformer: patches of pixels and the instruction's tokens in one sequence."""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

LEAST_SIGMA = 0.05
"""The velocity of a less noisy image is taken as if it had this much noise: dividing by almost nothing is unstable."""


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Sines and cosines of `values`, of shape (batch,), at `width` / 2 frequencies from 1 to 1000: (batch, width)."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=values.device))
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Attention(nn.Module):
    """Self-attention with normalised queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """`hidden_states`: (batch, tokens, width); `mask`: (batch, 1, 1, tokens), true where there is a token."""
        batch, tokens, width = hidden_states.shape
        qkv = self.to_qkv(hidden_states).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(self.norm_q(qkv[0]), self.norm_k(qkv[1]), qkv[2], attn_mask=mask)
        return self.to_out(attended.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention, then a gated feed-forward layer (SwiGLU), both before a residual sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attn = Attention(width, heads)
        self.to_gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.to_down = nn.Linear(inner, width, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """See `Attention.forward`."""
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states), mask)
        gate, up = self.to_gate_up(self.norm2(hidden_states)).chunk(2, dim=-1)
        return hidden_states + self.to_down(F.silu(gate) * up)


class TinyEditTransformer(ModelMixin, PeftAdapterMixin, ConfigMixin):
    """Predicts the velocity of a noisy edit from it, the source image, the instruction and the noise level.

    The network itself predicts the clean edit, and for every pixel a gate that says how much of it is new; the rest is
    the source's. A noisy image is (1 - sigma) x clean + sigma x noise, hence velocity = noise - clean =
    (noisy - clean) / sigma.

    Args:
        sample_size: side of the square images in pixels.
        patch_size: side of a patch in pixels, a divisor of `sample_size`.
        width, heads, layers: of the transformer.
        inner: width inside a feed-forward layer.
        vocab_size: of the tokenizer.
        text_length: most tokens of an instruction.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 56,
        patch_size: int = 8,
        width: int = 160,
        heads: int = 5,
        layers: int = 6,
        inner: int = 400,
        vocab_size: int = 2048,
        text_length: int = 64,
    ) -> None:
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"`sample_size` {sample_size} is no multiple of `patch_size` {patch_size}.")
        pixels = 3 * patch_size**2
        self.patches = nn.Linear(2 * pixels, width)
        self.tokens = nn.Embedding(vocab_size, width)
        self.patch_positions = nn.Parameter(0.5 * torch.randn((sample_size // patch_size) ** 2, width))
        self.token_positions = nn.Parameter(0.1 * torch.randn(text_length, width))
        self.noise_level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))
        self.norm_out = nn.RMSNorm(width)
        self.to_pixels = nn.Linear(width, pixels + patch_size**2)
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)
        nn.init.constant_(self.to_pixels.bias[pixels:], -1.0)  # begin near the source
        nn.init.normal_(self.tokens.weight, std=0.5)

    def to_patches(self, images: Tensor) -> Tensor:
        """(batch, channels, side, side) to (batch, patches, channels x patch pixels)."""
        return F.pixel_unshuffle(images, self.config.patch_size).flatten(2).transpose(1, 2)

    def to_images(self, patches: Tensor) -> Tensor:
        """The inverse of `to_patches`."""
        side = self.config.sample_size // self.config.patch_size
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (side, side)), self.config.patch_size)

    def clean(
        self, hidden_states: Tensor, timestep: Tensor, source: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """The clean edit; arguments as in `forward`."""
        width = self.config.width
        joined = torch.cat([self.to_patches(hidden_states), self.to_patches(source)], dim=-1)
        level = self.noise_level(sinusoids(timestep.float(), 64).to(self.patches.weight.dtype))
        image = self.patches(joined.to(self.patches.weight.dtype)) + self.patch_positions + level[:, None]
        text = self.tokens(input_ids) + self.token_positions[: input_ids.shape[1]]
        tokens = torch.cat([image, text.to(image.dtype)], dim=1)
        mask = torch.cat([attention_mask.new_ones(image.shape[:2]), attention_mask], dim=1).bool()[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        assert tokens.shape[-1] == width
        out = self.to_images(self.to_pixels(self.norm_out(tokens[:, : image.shape[1]]))).float()
        gate = out[:, 3:].sigmoid()
        return (1 - gate) * source + gate * out[:, :3]

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        source: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The velocity.

        Args:
            hidden_states: noisy edits, (batch, 3, side, side), clean ones in -1..1.
            timestep: noise levels sigma in 0..1, (batch,).
            source: source images, like the edits.
            input_ids, attention_mask: the instructions' tokens, (batch, tokens); the mask is 0 at padding.
            return_dict: give an object with `sample`, not a tuple.

        Returns:
            Velocities, float32, shaped like `hidden_states`.
        """
        clean = self.clean(hidden_states, timestep, source, input_ids, attention_mask)
        velocity = (hidden_states - clean) / timestep.clamp(min=LEAST_SIGMA)[:, None, None, None]
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)
