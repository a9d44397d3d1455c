"""GPUs: their peak speed and their memory, as their makers state them."""

from dataclasses import dataclass

from edm2.params.errors import UserError
from edm2.params.remedies import did_you_mean

RESERVED_GIB = 2.0  # for the context of CUDA and the workspaces of cuDNN; an assumption


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        tflops: peak speed in 10¹² operations per second by precision, without sparsity; fp32 is not
            TensorFloat-32.
        memory_gib: that programs can use.
    """

    tflops: dict[str, float]
    memory_gib: float


def _gpu(half: float, fp32: float, memory_gib: float) -> Gpu:
    return Gpu({"fp16": half, "bf16": half, "fp32": fp32}, memory_gib)


GPUS = {
    "v100": Gpu({"fp16": 125.0, "bf16": 15.7, "fp32": 15.7}, 31.5),
    "a100-40gb": _gpu(312.0, 19.5, 39.4),
    "a100-80gb": _gpu(312.0, 19.5, 79.2),
    "h100": _gpu(989.0, 67.0, 79.2),
    "h200": _gpu(989.0, 67.0, 139.8),
    "b200": _gpu(2250.0, 80.0, 178.0),
    "l40s": _gpu(362.0, 91.6, 44.5),
    "rtx4090": _gpu(165.0, 82.6, 23.5),
}


def gpu_named(name: str) -> Gpu:
    """The kind of GPU with a name like h100.

    Raises:
        UserError: it is not in the table, in any case of its letters.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    raise UserError(
        f"--gpu {name!r}: expected one of {', '.join(GPUS)}. {did_you_mean(name, GPUS)}For others, state "
        "--tflops and --memory."
    )
