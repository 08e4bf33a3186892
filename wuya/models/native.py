"""The C++ of native.cpp and native_products.h: compiled on first use, kept in the user's cache folder.

    library = kernels()          # None: no compiler, or switched off; then torch does the work, slower

One `g++` (or `$CXX`) call of a few seconds, no torch header: the file's name in `~/.cache/wuya` is a hash of source,
compiler, flags and processor, so another machine that shares the home folder builds its own. `WUYA_KERNELS=off`
switches them off.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from wuya.console import warn
from wuya.environment import cpu_flags, cpu_name

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("native.cpp", "native_products.h"))
FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=fast", "-fopenmp")  # fmt: skip
FLOAT32, INT8, INT4 = 0, 8, 4
ACTIVATIONS = {"swiglu": 0, "gelu": 1, "relu2": 2}
PANEL, GROUP = 16, 32


class Linear(ctypes.Structure):
    """A matrix as native.cpp sees it."""

    _fields_ = (("kind", c_int32), ("outputs", c_int32), ("inputs", c_int32), ("unused", c_int32),
                ("weights", c_void_p), ("scales", c_void_p), ("bias", c_void_p))  # fmt: skip


class Norm(ctypes.Structure):
    """LayerNorm, or RMSNorm, which has no shift."""

    _fields_ = (("gain", c_void_p), ("shift", c_void_p))


class Layer(ctypes.Structure):
    """One block."""

    _fields_ = (("qkv", Linear), ("out", Linear), ("up", Linear), ("down", Linear), ("attention_norm", Norm),
                ("mlp_norm", Norm), ("q_norm", c_void_p), ("k_norm", c_void_p))  # fmt: skip


class Model(ctypes.Structure):
    """A decoder."""

    _fields_ = (("num_layers", c_int32), ("dim", c_int32), ("heads", c_int32), ("kv_heads", c_int32),
                ("channels", c_int32), ("mlp", c_int32), ("eps", c_float), ("activation", c_int32),
                ("embedding", c_void_p), ("positions", c_void_p), ("cosine", c_void_p), ("sine", c_void_p),
                ("final_norm", Norm), ("layers", POINTER(Layer)), ("head", Linear))  # fmt: skip


@cache
def kernels() -> ctypes.CDLL | None:
    """The loaded library, or None where torch has to do."""
    if os.environ.get("WUYA_KERNELS", "on") == "off":
        return None
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        warn(f"the C++ kernels can't be built here, torch decodes instead, slower ({_reason(error)})")
        return None
    library.wuya_linear.argtypes = [POINTER(Linear), c_void_p, c_int64, c_void_p, c_int]
    library.wuya_linear.restype = None
    library.wuya_decode.argtypes = [POINTER(Model), c_int, c_void_p, c_void_p, c_int, c_void_p, c_int64, c_int64,
                                    c_void_p, c_int]  # fmt: skip
    library.wuya_decode.restype = None
    return library


def decoding() -> dict[str, str]:
    """Who computes decode steps here, for `Run(kernels=)`: rollouts of one and the other differ in the last digits."""
    return {"decode step": "torch" if kernels() is None else "c++"}


_OWNER = os.getpid()


def threads() -> int:
    """What torch would use; one in a forked child, whose copy of the thread pool has no threads."""
    return torch.get_num_threads() if os.getpid() == _OWNER else 1


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous CPU tensor's values are; None for null."""
    assert tensor is None or (tensor.is_contiguous() and tensor.device.type == "cpu")
    return None if tensor is None else tensor.data_ptr()


def _built() -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise FileNotFoundError("no g++ or c++ found; set $CXX")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    code = (file.read_text(encoding="utf-8") for file in (SOURCE, HEADER))
    parts = (*code, version, *FLAGS, cpu_name(), *sorted(cpu_flags()))
    name = f"kernels-{sha256(' '.join(parts).encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wuya"
    if (folder / name).exists():
        return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:  # several processes may build at once: the last one wins
        made = Path(work) / name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], capture_output=True, text=True, timeout=300,
                       check=True)  # fmt: skip
        made.replace(folder / name)
    return folder / name


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return (text or type(error).__name__).strip().splitlines()[0][:200]
