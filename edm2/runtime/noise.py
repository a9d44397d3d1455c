"""Random tensors, drawn on their device, that depend on seed, purpose and number alone.

They come from the counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"), in operations on whole tensors. Element 4b + i of number n comes from word i of the
counter (b, n mod 2³², n div 2³², 0), under a key made from seed and purpose. So an image has the same
noise in any batch, on any number of ranks, after any resumption.
"""

import hashlib
import math
from collections.abc import Sequence

import torch

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and √3 − 1, as fractions of 2³²
WORD = 0xFFFFFFFF
COUNTERS_AT_ONCE = {
    "cpu": 2**16,
    "cuda": 2**20,
}  # each takes about 100 bytes of memory for a moment


def normals(seed: int, purpose: str, numbers: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 [N, *shape]; row i depends on numbers[i] alone.

    Box and Muller's transform in float32, of 32 bits for the radius and 32 for the angle. All values are
    finite, and at most 6.77. The root mean square error is 2·10⁻⁷ and the largest about 10⁻⁵ (of the
    smallest radii). Between devices values differ by no more, and the bits not at all.

    Args:
        numbers: of images, int64 [N] ≥ 0. The result is on their device.
    """
    size = math.prod(shape)
    blocks = -(-size // 4)
    rows = torch.empty(len(numbers), blocks, 4, device=numbers.device)
    step = max(1, COUNTERS_AT_ONCE[numbers.device.type] // max(1, blocks))
    for start in range(0, len(numbers), step):
        part = slice(start, start + step)
        _write_normals(_words(seed, purpose, numbers[part], blocks), rows[part])
    return rows.flatten(1)[:, :size].reshape(len(numbers), *shape)


def uniforms(seed: int, purpose: str, numbers: torch.Tensor) -> torch.Tensor:
    """Uniform float64 [N] in [0, 1), in steps of 2⁻³²; value i depends on numbers[i] alone.

    Args:
        numbers: of images, int64 [N] ≥ 0. The result is on their device.
    """
    return _words(seed, purpose, numbers, 1)[0].squeeze(1).double() * 2**-32


def philox(counter: Sequence[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """The four words that Philox4x32-10 gives for each counter, int64 in [0, 2³²).

    A round takes (c0, c1, c2, c3) to (hi(m1·c2) ^ c1 ^ k0, lo(m1·c2), hi(m0·c0) ^ c3 ^ k1, lo(m0·c0)).
    Products wrap at 64 bits, which are the right bits. Upper halves of c1 and c3 are cleared at the end
    only, as they enter no product.

    Args:
        counter: four words, int64 in [0, 2³²), of shapes that broadcast.
        key: two words in [0, 2³²).
    """
    c0, c1, c2, c3 = counter
    for r in range(ROUNDS):
        k0, k1 = ((word + r * step) & WORD for word, step in zip(key, KEY_STEPS, strict=True))
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = _mixed(p1, c1, k0), p1
        c2, c3 = _mixed(p0, c3, k1), p0
    return [c0, c1 & WORD, c2, c3 & WORD]


def _mixed(product: torch.Tensor, word: torch.Tensor, key: int) -> torch.Tensor:
    """hi(product) ^ word ^ key."""
    high = product >> 32
    high = high.bitwise_xor_(word) if high.shape == word.shape else high ^ word
    return high.bitwise_xor_(key).bitwise_and_(WORD)


def _words(seed: int, purpose: str, numbers: torch.Tensor, blocks: int) -> list[torch.Tensor]:
    """Four words of 32 random bits for each number and block, int64 [N, blocks]."""
    digest = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest())
    block = torch.arange(blocks, device=numbers.device)[None]
    column = numbers[:, None]
    counter = (block, column & WORD, column >> 32, torch.zeros_like(column))
    return philox(counter, (digest & WORD, digest >> 32))


def _write_normals(words: list[torch.Tensor], out: torch.Tensor) -> None:
    """Two normals from each two words, into out[..., 4].

    The radius √(−2 ln u) is of u = (word + ½)·2⁻³², which is never 0.
    """
    for k in (0, 2):
        radius = words[k].float().add_(0.5).mul_(2**-32).log_().mul_(-2).sqrt_()
        angle = words[k + 1].float().mul_(2 * math.pi * 2**-32)
        torch.mul(radius, angle.cos(), out=out[..., k])
        torch.mul(radius, angle.sin_(), out=out[..., k + 1])
