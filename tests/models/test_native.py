"""native.cpp against torch: the same products, whatever the batch; and what happens where it can't be built."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wuya.models import native
from wuya.models.quantize import PackedLinear, round_to_4_bits

needs_kernels = pytest.mark.skipif(native.kernels() is None, reason="no C++ compiler")


def weights(outputs: int, inputs: int) -> Tensor:
    weight_OI = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) * 0.05
    weight_OI[0, 0] = 3.0
    return weight_OI


def inputs(tokens: int, width: int) -> Tensor:
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(1))
    x[0, 3], x[-1, :7] = 100.0, 0.0
    return x


def exact_int8(weight_OI: Tensor, x_BI: Tensor) -> Tensor:
    """The same integers in float64, where their sums are exact."""
    scale_O = weight_OI.abs().amax(dim=1) / 127
    top_B1 = x_BI.abs().amax(dim=1, keepdim=True)
    levels = min(32767, (2**31 - 1) // (127 * x_BI.shape[1]))
    sums_BO = (x_BI * (levels / top_B1)).round().double() @ (weight_OI / scale_O[:, None]).round().double().T
    return (sums_BO * (top_B1 / levels) * scale_O).float()


def exact_int4(weight_OI: Tensor, x_BI: Tensor) -> Tensor:
    level_OGI, scale_OG, low_OG = round_to_4_bits(weight_OI)
    rounded_OI = level_OGI * scale_OG.half().double()[..., None] + low_OG.half().double()[..., None]
    group_BGI = x_BI.view(len(x_BI), -1, native.GROUP)
    top_BG1 = group_BGI.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    rounded_BI = (group_BGI * (127 / top_BG1)).round().double() * (top_BG1 / 127)
    return (rounded_BI.view_as(x_BI) @ rounded_OI.view_as(weight_OI).T).float()


@needs_kernels
@pytest.mark.parametrize("shape", [(64, 96), (48, 1056), (40, 33)])
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_products_are_those_of_the_rounded_numbers(shape: tuple[int, int], bits: str) -> None:
    if bits == "int4" and (shape[0] % native.PANEL or shape[1] % native.GROUP):
        pytest.skip("such a matrix gets 8 bits")
    weight_OI, bias_O = weights(*shape), torch.arange(shape[0]) / 10
    module = PackedLinear(weight_OI, bias_O, bits)  # type: ignore[arg-type]
    x_BI = inputs(71, shape[1])
    wanted_BO = (exact_int8 if bits == "int8" else exact_int4)(weight_OI, x_BI) + bias_O
    # an input on the border of two integers may fall to either side: one step of its grid
    torch.testing.assert_close(module(x_BI), wanted_BO, rtol=1e-5, atol=2e-3 if bits == "int8" else 2e-2)
    assert float((module(x_BI) - wanted_BO).norm() / wanted_BO.norm()) < (1e-5 if bits == "int8" else 1e-3)


@needs_kernels
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_token_has_the_same_result_in_any_company(bits: str) -> None:
    module = PackedLinear(weights(64, 96), None, bits)  # type: ignore[arg-type]
    x_BI = inputs(71, 96)
    together_BO = module(x_BI)
    for count in (1, 2, 3, 4, 5, 64):
        assert torch.equal(module(x_BI[:count]), together_BO[:count])
    assert torch.equal(module(x_BI.view(1, 71, 96))[0], together_BO)


def in_a_child(module: PackedLinear, wanted: Tensor) -> None:
    sys.exit(0 if torch.equal(module(inputs(3, 96)), wanted) else 1)


@needs_kernels
def test_a_forked_child_can_multiply() -> None:
    module = PackedLinear(weights(64, 96), None, "int8")
    wanted = module(inputs(3, 96))
    child = multiprocessing.get_context("fork").Process(target=in_a_child, args=(module, wanted))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_without_a_compiler_torch_does_the_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("WUYA_KERNELS", "on")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\n[ $1 = --version ] || { echo no such thing >&2; exit 1; }\n")
    failing.chmod(0o755)
    for compiler, reason in ((str(failing), "no such thing"), ("", "no g++")):
        monkeypatch.setenv("CXX", compiler)
        if not compiler:
            monkeypatch.setenv("PATH", str(tmp_path))
        assert native.kernels.__wrapped__() is None
        message = capsys.readouterr().err
        assert reason in message and len(message.splitlines()) == 1
    assert not list((tmp_path / "wuya").glob("*.so"))


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WUYA_KERNELS", "off")
    monkeypatch.setattr(subprocess, "run", None)
    assert native.kernels.__wrapped__() is None
    monkeypatch.setattr(native, "kernels", lambda: None)
    assert native.decoding() == {"decode step": "torch"}
