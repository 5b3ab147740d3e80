"""Useful operations per step and the machine's peak: together, model FLOPs utilisation (MFU)."""

import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from core.engine.precision import DryRun, Precision, product_rate

# Dense bf16 matrix peak in TFLOP/s (fp16 where a chip has no bf16), makers' data sheets; the first name found counts.
PEAKS = {
    "B200": 2250, "GB200": 2250, "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989,
    "A100": 312, "A800": 312, "H800": 989, "A10G": 70, "A10": 125, "A40": 150, "A6000": 155, "L40S": 362, "L40": 181,
    "L4": 121, "V100": 125, "T4": 65, "RTX 3090": 71, "RTX 4090": 165, "RTX 5090": 210, "MI300X": 1307,
}  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one device, and where the figure is from."""

    flops: float
    origin: str


def count(rehearse: DryRun, precision: Precision) -> int:
    """FLOPs of one forward and backward (a multiply-add is two); matrix products, convolutions and attention only."""
    with FlopCounterMode(display=False) as counter:
        rehearse(precision)
    return counter.get_total_flops()


def peak(device: torch.device, precision: Precision) -> Peak:
    """From the table for a known GPU, always its dense bf16 peak; anything else is measured by a matrix product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, tera in PEAKS.items():
            if re.search(rf"\b{known}\b", name):
                return Peak(tera * 1e12, f"{name}: {tera} TFLOP/s bf16, data sheet")
    rate = product_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    where = f"on {torch.get_num_threads()} threads" if device.type == "cpu" else "on this GPU"
    return Peak(rate, f"{rate / 1e12:.3g} TFLOP/s {precision}, measured by a matrix product {where}")
