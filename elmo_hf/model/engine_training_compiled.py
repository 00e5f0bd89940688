# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
The element-wise part of the `cpu_training` engine in C, compiled where there is a compiler.

PyTorch needs some twenty operators for what one pass over the gates can do. `find_kernels` compiles
the passes once per process, in a second, and compares them with PyTorch's operators. Without a C
compiler, or with the environment variable ELMO_HF_COMPILE=0, the engine uses these operators.
"""

import ctypes
import functools
import logging
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .engine_threads import call_in_new_thread

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += ["-march=native", "-mprefer-vector-width=512"]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
SECONDS = 60  # for compiling

logger = logging.getLogger(__name__)

_SHARED = r"""
#include <stdint.h>
#include <string.h>

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float load_float(float x) { return x; }
static inline float store_float(float x) { return x; }
static inline float load_uint16_t(uint16_t x) { return as_float((uint32_t)x << 16); }
static inline uint16_t store_uint16_t(float x) {  /* to the nearest bfloat16, ties to even */
    uint32_t bits = as_bits(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return x == x ? rounded : 0x7fc0;
}

/* exp(x) = 2^n exp(r), |r| <= log(2) / 2; the comparisons let a NaN pass. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = x - n * 0.693145752f - n * 1.42860677e-6f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345190e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    return p * as_float((as_bits(shifted) + 127) << 23);
}
static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
static inline float tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }
static inline float clip(float x, float bound) {
    x = x > bound ? bound : x;
    return x < -bound ? -bound : x;
}
"""

# Rows are (.., 4 * width) for gates and (.., width) for all else.
_PASSES = r"""
void forward_TYPE(
    int64_t rows, int64_t width, float bound_before, float bound,
    const TYPE *restrict z, TYPE *restrict kept, const float *restrict before,
    float *restrict after, TYPE *restrict memory
) {
    for (int64_t row = 0; row < rows; row++) {
        const TYPE *zi = z + row * 4 * width, *zf = zi + width, *zg = zf + width, *zo = zg + width;
        memcpy(kept + row * 4 * width, zi, 4 * width * sizeof(TYPE));
        #pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            int64_t at = row * width + j;
            float raw = sigmoid(load_TYPE(zi[j])) * tangent(load_TYPE(zg[j]))
                + sigmoid(load_TYPE(zf[j])) * clip(before[at], bound_before);
            after[at] = raw;
            memory[at] = store_TYPE(sigmoid(load_TYPE(zo[j])) * tangent(clip(raw, bound)));
        }
    }
}

void backward_TYPE(
    int64_t rows, int64_t width, float bound_before, float bound,
    const TYPE *restrict z, const float *restrict before, const float *restrict after,
    const TYPE *restrict d_memory, float *restrict d_cell, TYPE *restrict d_z,
    TYPE *restrict memory, float *restrict d_bias
) {
    for (int64_t row = 0; row < rows; row++) {
        const TYPE *zi = z + row * 4 * width, *zf = zi + width, *zg = zf + width, *zo = zg + width;
        TYPE *di = d_z + row * 4 * width, *df = di + width, *dg = df + width, *d_o = dg + width;
        #pragma omp simd
        for (int64_t j = 0; j < width; j++) {
            int64_t at = row * width + j;
            float i = sigmoid(load_TYPE(zi[j])), f = sigmoid(load_TYPE(zf[j]));
            float g = tangent(load_TYPE(zg[j])), o = sigmoid(load_TYPE(zo[j]));
            float raw = after[at], t = tangent(clip(raw, bound)), dm = load_TYPE(d_memory[at]);
            float dc = d_cell[at] + dm * o * (1.0f - t * t);
            /* A NaN is not outside. */
            dc = raw > bound || raw < -bound ? 0.0f : dc;
            float of_i = dc * g * i * (1.0f - i);
            float of_f = dc * clip(before[at], bound_before) * f * (1.0f - f);
            float of_g = dc * i * (1.0f - g * g);
            float of_o = dm * t * o * (1.0f - o);
            di[j] = store_TYPE(of_i);
            df[j] = store_TYPE(of_f);
            dg[j] = store_TYPE(of_g);
            d_o[j] = store_TYPE(of_o);
            d_bias[j] += of_i;
            d_bias[width + j] += of_f;
            d_bias[2 * width + j] += of_g;
            d_bias[3 * width + j] += of_o;
            d_cell[at] = dc * f;
            memory[at] = store_TYPE(t * o);
        }
    }
}
"""
_TYPES = {torch.float32: "float", torch.bfloat16: "uint16_t"}


class Kernels:
    """
    Class that runs the passes of one dtype, that of the products; all other tensors are float32.

    All tensors are contiguous, `(running, 4 * cell_dim)` for gates and `(running, cell_dim)` else,
    where `running` is the number of sentences in the step. `before` and `after` are the cell states
    before clipping; `first` tells that `before` is the initial state, which is not clipped.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._forward = _declare(library, f"forward_{_TYPES[dtype]}", tensors=5)
        self._backward = _declare(library, f"backward_{_TYPES[dtype]}", tensors=8)

    def forward(
        self,
        z: torch.Tensor,
        kept: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        first: bool,
        bound: float | None,
    ) -> torch.Tensor:
        """
        Copy z to `kept`, fill in `after`, and return the outputs m.

        z may have more rows than `after`; then m has as many, with any values.
        """
        memory = z.new_empty(len(z), after.shape[1])
        _call(self._forward, (z, kept, before, after, memory), after.shape, first, bound)
        return memory

    def backward(
        self,
        z: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        first: bool,
        bound: float | None,
        d_memory: torch.Tensor,
        d_cell: torch.Tensor,
        d_z: torch.Tensor,
        memory: torch.Tensor,
        d_bias: torch.Tensor,
    ) -> None:
        """Fill in `d_z` and `memory`, add to `d_bias`, and bring `d_cell` one step back."""
        tensors = (z, before, after, d_memory, d_cell, d_z, memory, d_bias)
        _call(self._backward, tensors, after.shape, first, bound)


def _declare(library: ctypes.CDLL, name: str, tensors: int) -> Callable[..., None]:
    function = getattr(library, name)
    sizes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_float]
    function.argtypes, function.restype = [*sizes, *[ctypes.c_void_p] * tensors], None
    return function


def _call(
    function: Callable[..., None],
    tensors: Sequence[torch.Tensor],
    shape: Sequence[int],
    first: bool,
    bound: float | None,
) -> None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise RuntimeError("a tensor for compiled kernels is not contiguous; please report it")
    bound = math.inf if bound is None else bound
    pointers = (tensor.data_ptr() for tensor in tensors)
    function(*shape, math.inf if first else bound, bound, *pointers)


def find_kernels(dtype: torch.dtype, state: torch.Tensor) -> Kernels | None:
    """Return the compiled passes for products of this dtype; None: use PyTorch's operators."""
    if state.device.type != "cpu" or state.dtype != torch.float32 or dtype not in _TYPES:
        return None
    return _load_once(dtype)


def compiler_info() -> str:
    """Return a sentence on what trains on a CPU, with the reason."""
    obstacle = _compile_once()[1]
    return "compiled by " + _compiler() if obstacle is None else f"PyTorch's operators ({obstacle})"


@functools.cache
def _load_once(dtype: torch.dtype) -> Kernels | None:
    library, obstacle = _compile_once()
    if library is None:
        logger.info("training on the CPU uses PyTorch's operators: %s", obstacle)
        return None
    kernels = Kernels(library, dtype)
    # A new thread has none of the caller's modes (device, autocast, tracing).
    if call_in_new_thread(torch.no_grad()(lambda: _agree(kernels, dtype))):
        return kernels
    logger.warning("compiled training kernels gave wrong values in a trial, so they are not used")
    return None


def _compiler() -> str:
    named = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    return next((name for name in named if shutil.which(name)), "")


@functools.cache
def _compile_once() -> tuple[ctypes.CDLL | None, str | None]:
    """Return the compiled library, or why there is none."""
    if os.environ.get("ELMO_HF_COMPILE") == "0":
        return None, "ELMO_HF_COMPILE is 0"
    if not (compiler := _compiler()):
        return None, "there is no C compiler"
    source = _SHARED + "".join(_PASSES.replace("TYPE", name) for name in _TYPES.values())
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file, built = Path(folder, "passes.c"), Path(folder, "passes.so")
            file.write_text(source)
            command = [compiler, *FLAGS, "-shared", "-fPIC", "-o", str(built), str(file)]
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
            return ctypes.CDLL(str(built)), None
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} failed: {type(error).__name__}"


def _agree(kernels: Kernels, dtype: torch.dtype) -> bool:
    """Whether the passes compute what PyTorch's operators do, on a few values."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device="cpu")

    rows, width, bound = 3, 21, 0.5
    z = (4 * random(rows, 4 * width)).to(dtype)
    before, d_memory, d_cell = (
        random(rows, width),
        random(rows, width).to(dtype),
        random(rows, width),
    )
    i, f, g, o = (part.double() for part in z.chunk(4, 1))
    i, f, g, o, c = (
        i.sigmoid(),
        f.sigmoid(),
        g.tanh(),
        o.sigmoid(),
        before.double().clamp(-bound, bound),
    )
    raw = i * g + f * c
    t, dm = raw.clamp(-bound, bound).tanh(), d_memory.double()
    dc = (d_cell.double() + dm * o * (1 - t * t)) * (raw.abs() <= bound)
    of_gates = [
        dc * g * i * (1 - i),
        dc * c * f * (1 - f),
        dc * i * (1 - g * g),
        dm * t * o * (1 - o),
    ]
    d_z = torch.cat(of_gates, 1)

    kept, after, found_z = torch.zeros_like(z), torch.zeros_like(before), torch.zeros_like(z)
    again, d_bias = torch.zeros_like(d_memory), torch.zeros(4 * width, device="cpu")
    memory = kernels.forward(z, kept, before, after, False, bound)
    given = (d_memory, d_cell, found_z, again, d_bias)
    kernels.backward(z, before, after, False, bound, *given)
    pairs = [(after, raw), (d_cell, dc * f), (d_bias, d_z.sum(0))]
    half = [(memory, o * t), (again, o * t), (found_z, d_z)]
    return torch.equal(kept, z) and all(
        torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)
        for some, tolerance in ((pairs, TOLERANCE[torch.float32]), (half, TOLERANCE[dtype]))
        for found, expected in some
    )


__all__ = ["Kernels", "compiler_info", "find_kernels"]
