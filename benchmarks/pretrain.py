"""A pre-training step at ViT-B beside the same step of `transformers`, in one run, at equal precision.

    pip install -e ".[bench]" && python -m benchmarks.pretrain

Both sides: the same shapes, mask ratio, decoder, normalised-pixel loss, fused AdamW, attention by SDPA; inputs already
in memory. Steps of the two sides alternate, so that whatever else the machine does falls on both. The figure is the
median over rounds of ours / theirs, with its 95 % interval. Peak memory is taken in a process of its own for each side.
Writes one JSON per device and precision to docs/benchmarks/ and renders docs/benchmarks.md from all of them.
"""

import argparse
import gc
import statistics
import sys
from collections.abc import Callable

import torch

from benchmarks.measure import printed_by, ratio, record, take_turns
from core.config import compose
from core.config.build import build_method
from core.engine.meter import memory_mb
from core.tokens import Batch

SUBJECTS = {"mae": "image", "videomae": "video"}


def ours(subject: str, batch: int, device: torch.device) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Our method of the published ViT-B shape and a function that computes its loss."""
    overrides = [f"modality={SUBJECTS[subject]}", f"method={subject}", "size=base", "data=folder", "data.root=none"]
    method = build_method(compose(overrides)).to(device).train()
    data = Batch({SUBJECTS[subject]: torch.rand(batch, 3, *method.tokenizer.size, device=device)})
    return method, lambda: method(data).loss


def theirs(subject: str, batch: int, device: torch.device) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The peer's model of the same shape and a function that computes its loss."""
    import transformers as hf

    if subject == "mae":
        config = hf.ViTMAEConfig(norm_pix_loss=True, mask_ratio=0.75, attn_implementation="sdpa")
        model = hf.ViTMAEForPreTraining(config).to(device).train()
        images = torch.rand(batch, 3, 224, 224, device=device)
        return model, lambda: model(images).loss
    config = hf.VideoMAEConfig(norm_pix_loss=True, decoder_num_hidden_layers=4, attn_implementation="sdpa")
    model = hf.VideoMAEForPreTraining(config).to(device).train()
    clip = torch.rand(batch, 16, 3, 224, 224, device=device)

    def loss() -> torch.Tensor:
        tube = torch.rand(batch, 196, device=device).argsort(1) < int(0.9 * 196)
        return model(clip, bool_masked_pos=tube.repeat(1, 8)).loss

    return model, loss


def stepper(side: Callable, subject: str, batch: int, device: torch.device, precision: str) -> Callable[[], None]:
    model, loss = side(subject, batch, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()  # a step has taken its time when the GPU is done with it

    return step


def peak_memory(side: str, subject: str, batch: int, device: torch.device, precision: str) -> float:
    """GiB of three steps, in a process of its own."""
    asked = ["--memory-of", side, "--subjects", subject, "--batch", str(batch)]
    return float(printed_by("benchmarks.pretrain", *asked, "--precisions", precision, "--device", str(device)))


def measure_memory(side: str, subject: str, batch: int, device: torch.device, precision: str) -> float:
    step = stepper({"ours": ours, "theirs": theirs}[side], subject, batch, device, precision)
    for _ in range(3):
        step()
    return memory_mb(device) / 2**10


def compare(subject: str, batch: int, device: torch.device, precision: str, rounds: int) -> dict:
    steps = {
        name: stepper(side, subject, batch, device, precision) for name, side in (("ours", ours), ("theirs", theirs))
    }
    for step in steps.values():
        step(), step()
    wall, cpu = take_turns(steps, rounds)
    del steps
    gc.collect()
    return {
        "subject": subject,
        "precision": precision,
        "batch": batch,
        "rounds": rounds,
        "ours_ms": 1e3 * statistics.median(wall["ours"]),
        "theirs_ms": 1e3 * statistics.median(wall["theirs"]),
        "ratio": ratio(wall["ours"], wall["theirs"]),
        "cpu_ratio": ratio(cpu["ours"], cpu["theirs"]),
        "ours_gib": peak_memory("ours", subject, batch, device, precision),
        "theirs_gib": peak_memory("theirs", subject, batch, device, precision),
    }


def hardware(device: torch.device) -> dict:
    """What a record says besides what every benchmark does."""
    import transformers

    gpu = {"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**gpu, "transformers": transformers.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="default: 8 images or 2 clips on a CPU, 64 or 8 on a GPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory-of", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    sizes = {"mae": 8, "videomae": 2} if device.type == "cpu" else {"mae": 64, "videomae": 8}
    if args.memory_of:
        print(measure_memory(args.memory_of, args.subjects[0], args.batch, device, args.precisions[0]))
        return
    command = "python -m benchmarks.pretrain " + " ".join(sys.argv[1:])
    for subject in args.subjects:
        for precision in args.precisions:
            found = compare(subject, args.batch or sizes[subject], device, precision, args.rounds)
            record(f"pretrain_{subject}_{device.type}_{precision}", command, {**hardware(device), **found})


if __name__ == "__main__":
    main()
