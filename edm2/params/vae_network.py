"""What the options of the VAE's network come to, and combinations that no network can have."""

from collections.abc import Iterator
from math import gcd

from edm2.params.errors import Problem
from edm2.params.vae import Vae

GROUPS = 32
MIN_GROUP_CHANNELS = 4
HEAD_CHANNELS = 64


def norm_groups(channels: int, groups: int | None) -> int:
    """Groups of a normalization; without a number at most 32, of at least 4 channels each."""
    if groups is None:
        groups = min(GROUPS, max(1, channels // MIN_GROUP_CHANNELS))
        while channels % groups:
            groups -= 1
    return groups


def attention_heads(channels: int, heads: int | None) -> int:
    """Heads of an attention; without a number each has 64 channels."""
    return max(1, channels // HEAD_CHANNELS) if heads is None else heads


def network_problems(vae: Vae) -> Iterator[Problem]:
    """Options that no network can have together: widths that groups or heads do not divide, and levels."""
    if vae.wavelet and len(vae.channel_mult) < 2:
        yield Problem(
            "vae.wavelet",
            True,
            "false with a single level in vae.channel_mult",
            "The transform replaces the first halving, and there is none.",
        )
    widths = [vae.channels * mult for mult in vae.channel_mult]
    if vae.norm_groups is not None and any(width % vae.norm_groups for width in widths):
        common = gcd(*widths)
        yield Problem(
            "vae.norm_groups",
            vae.norm_groups,
            f"a divisor of the width of each level: {', '.join(map(str, widths))}",
            f"Use {common} or a divisor of it, or null.",
        )
    if not vae.attention:
        return
    if vae.attention_heads is None and widths[-1] % attention_heads(widths[-1], None):
        yield Problem(
            "vae.channels",
            vae.channels,
            f"a last level in multiples of 64, or below 128; got {widths[-1]}",
            "Attention heads have 64 channels each. Or set vae.attention_heads to 1.",
        )
    if vae.attention_heads is not None and widths[-1] % vae.attention_heads:
        yield Problem(
            "vae.attention_heads",
            vae.attention_heads,
            f"a divisor of the width of the last level ({widths[-1]})",
            "Use 1, or null.",
        )
