"""What decides a run's last digits besides its config: versions, threads, kernels, and the random generators."""

import os
import platform
import random
from typing import Any

import torch

from wuya import __version__
from wuya.training import distributed

KERNEL_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR")
"""Environment variables that make torch's libraries choose other kernels."""


def kernel_choices() -> dict[str, str]:
    """Facts that must be equal for a resumed run to have the same bits as one that never stopped."""
    facts = {
        "wuya": __version__,
        "torch": str(torch.__version__),
        "cpu": str(distributed.cpu_capabilities().get("cpu_name", platform.processor())),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "processes": str(distributed.world_size()),
        "mkldnn": str(torch.backends.mkldnn.enabled),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}


def rng_state() -> dict[str, Any]:
    """The global generators (dropout uses torch's); recipes save their own besides."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
