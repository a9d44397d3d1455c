"""Noise depends on seed, purpose and image number alone, and is that of Philox4x32-10."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from edm2.runtime.noise import normals, philox, uniforms

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI[:4], PI[4:], (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_known_answers(counter, key, expected) -> None:
    """The vectors `philox4x32 10` of the file kat_vectors of Random123 1.14, by the generator's authors."""
    words = philox([torch.tensor([word]) for word in counter], key)
    assert [int(word) for word in words] == list(expected)


def bits(seed: int, purpose: str, number: int, block: int) -> list[int]:
    """The four words of one counter, in whole numbers of Python: multiply, swap halves, add keys."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    key = [int.from_bytes(digest[4:]), int.from_bytes(digest[:4])]
    words = [block, number % 2**32, number >> 32, 0]
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * words[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * words[2], 2**32)
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return words


def test_normals_are_the_transformed_bits_of_their_counters() -> None:
    """Box and Muller's transform in float64, of words 0 and 1 and of words 2 and 3."""
    numbers = [0, 5, 2**32 - 1, 2**32, 2**40 + 3]
    values = normals(7, "diffusion/batch", torch.tensor(numbers), (3, 3))
    assert values.dtype == torch.float32
    expected = np.empty((len(numbers), 12))
    for row, number in zip(expected, numbers, strict=True):
        words = np.array([bits(7, "diffusion/batch", number, block) for block in range(3)])
        u, angle = (words[:, ::2] + 0.5) / 2**32, words[:, 1::2] * (2 * math.pi / 2**32)
        radius = np.sqrt(-2 * np.log(u))
        row[:] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).ravel()
    np.testing.assert_allclose(values.reshape(5, 9), expected[:, :9], atol=5e-6)
    uniform = uniforms(7, "diffusion/batch", torch.tensor(numbers))
    exact = [bits(7, "diffusion/batch", number, 0)[0] / 2**32 for number in numbers]
    assert uniform.tolist() == exact


@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_a_row_depends_on_its_number_alone(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: not on the batch, the order, the row's other values, or how many are drawn at once."""
    numbers = torch.tensor([7, 2, 7, 900, 2**35])
    whole = normals(3, "noise", numbers, (size,))
    for k, number in enumerate(numbers):
        assert torch.equal(normals(3, "noise", number[None], (size + 3,))[0, :size], whole[k])
    monkeypatch.setattr("edm2.runtime.noise.COUNTERS_AT_ONCE", {"cpu": 2 * -(-size // 4)})
    assert torch.equal(normals(3, "noise", numbers, (size,)), whole)
    assert torch.equal(whole[0], whole[2])
    assert len(whole.unique(dim=0)) == 4


@pytest.mark.parametrize("other", [(1, "noise", 5), (0, "order", 5), (0, "noise", 6)])
def test_seed_purpose_and_number_all_matter(other: tuple[int, str, int]) -> None:
    def draw(seed: int, purpose: str, number: int) -> np.ndarray:
        return normals(seed, purpose, torch.tensor([number]), (1000,))[0].numpy()

    assert abs(np.corrcoef(draw(0, "noise", 5), draw(*other))[0, 1]) < 0.15  # 5 std. deviations


def test_normals_are_standard_normal() -> None:
    values = normals(0, "noise", torch.arange(2000), (10, 10)).double().numpy().ravel()
    n = values.size
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert stats.kstest(uniforms(0, "drop", torch.arange(10000)), "uniform").pvalue > 1e-3


def test_extreme_bits_give_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest u is 2⁻³³, of radius 6.7637; the largest rounds to 1, of radius 0."""
    for word, radius in ((0, math.sqrt(66 * math.log(2))), (ONES, 0.0)):
        words = [torch.tensor([[word]]), torch.tensor([[0]])] * 2
        monkeypatch.setattr("edm2.runtime.noise._words", lambda *_, words=words: words)
        values = normals(0, "noise", torch.tensor([0]), (4,))[0].tolist()
        assert values == pytest.approx([radius, 0, radius, 0], abs=1e-6)


def test_noise_of_a_gpu_is_drawn_there() -> None:
    """All operations are on the device of the numbers, without a copy from or to it."""
    with FakeTensorMode():
        numbers = torch.empty(6, dtype=torch.int64, device="cuda")
        values, uniform = normals(0, "a", numbers, (4, 3, 3)), uniforms(0, "a", numbers)
        assert (values.device.type, values.shape) == ("cuda", (6, 4, 3, 3))
        assert (uniform.device.type, uniform.shape) == ("cuda", (6,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_numbers_of_a_cpu() -> None:
    numbers = torch.arange(50)
    gpu, cpu = (normals(0, "noise", numbers.to(d), (4, 64, 64)).cpu() for d in ("cuda", "cpu"))
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=1e-5)
    assert torch.equal(uniforms(0, "a", numbers.cuda()).cpu(), uniforms(0, "a", numbers))
