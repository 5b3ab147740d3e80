"""Precision, FLOPs and what is reported of them."""

import json

import pytest
import torch

from core.engine import flops
from core.engine.precision import DryRun, choose, compare, product_rate
from core.settings import Plan
from core.tokens import Progress
from tests.core.engine.toy import CPU, ToyBatches, ToyMethod, same, train_toy


def rehearsal(method):
    return DryRun(method, next(iter(ToyBatches())), Progress(), CPU.device)


def test_a_rehearsal_leaves_no_trace():
    method, untouched = ToyMethod(), ToyMethod()
    untouched.load_state_dict(method.state_dict())
    state = torch.get_rng_state()
    rehearse = rehearsal(method)
    assert rehearse("fp32") > 0 and rehearse("bf16") > 0
    assert same(method, untouched)
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_flops_are_those_of_the_matrix_products():
    """8 samples; layers 8→16, 16→16, 16→8: forward, and backward twice that but for the first layer's input."""
    forward = 2 * 8 * (8 * 16 + 16 * 16 + 16 * 8)
    assert flops.count(rehearsal(ToyMethod()), "fp32") == pytest.approx(3 * forward, rel=0.05)


def test_peak_of_a_cpu_is_measured():
    peak = flops.peak(CPU.device, "fp32")
    assert peak.flops > 1e9 and "measured" in peak.origin


@pytest.mark.parametrize(
    "name, tera",
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121)],
)
def test_peak_of_a_known_gpu_is_its_makers(monkeypatch, name, tera):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.peak(torch.device("cuda", 0), "fp32").flops == tera * 1e12


@pytest.mark.parametrize("half, expected", [(0.5, "bf16"), (0.9, "fp32"), (4.0, "fp32")])
def test_bf16_only_where_it_is_clearly_faster(half, expected):
    precision, reason = compare(lambda p: half if p == "bf16" else 1.0)
    assert precision == expected and reason.startswith("measured")


def test_a_part_without_bf16_means_fp32():
    def rehearse(precision):
        if precision == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    assert compare(rehearse)[0] == "fp32"


@pytest.mark.parametrize("slower, tried", [(10.0, []), (1.0, ["fp32", "bf16"])])
def test_no_step_is_tried_where_bf16_is_emulated(monkeypatch, slower, tried):
    found = []
    rates = {torch.float32: 1.0, torch.bfloat16: 1.0 / slower}
    monkeypatch.setattr("core.engine.precision.product_rate", lambda device, dtype, seconds: rates[dtype])
    precision, reason = choose(lambda p: found.append(p) or 1.0, CPU.device)
    assert sorted(set(found), reverse=True) == tried and precision == "fp32"
    assert ("emulated" in reason) == (not tried)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_timed(dtype):
    assert product_rate(CPU.device, dtype, seconds=0.0) > 0


@pytest.mark.parametrize("stored", ["fp32", "bf16"])
def test_a_measured_choice_is_kept(tmp_path, stored):
    (tmp_path / "precision.json").write_text(json.dumps({"precision": stored, "reason": "measured once"}))
    plan = Plan(batch_size=8, seed=1, steps=5, precision="auto")
    fixed = Plan(batch_size=8, seed=1, steps=5, precision=stored)
    assert same(train_toy(tmp_path, plan=plan), train_toy(tmp_path / "b", plan=fixed))


def test_auto_measures_and_stores(tmp_path, capsys):
    train_toy(tmp_path, plan=Plan(batch_size=8, seed=1, steps=2, precision="auto"))
    assert json.loads((tmp_path / "precision.json").read_text())["precision"] in ("fp32", "bf16")
    assert "precision:" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_blocks_train_alike(tmp_path):
    plans = [Plan(batch_size=8, seed=1, steps=5, precision="fp32", compile=flag) for flag in (False, True)]
    plain, compiled = (train_toy(tmp_path / str(plan.compile), plan=plan) for plan in plans)
    for name, value in plain.state_dict().items():  # what is before a BatchNorm has gradients of rounding noise only
        torch.testing.assert_close(compiled.state_dict()[name], value, atol=2e-3, rtol=1e-4)
