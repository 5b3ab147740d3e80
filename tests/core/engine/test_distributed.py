"""Two processes over gloo."""

import json
import multiprocessing
import os
import socket

import torch
from safetensors.torch import load_file

from core.engine.distributed import Distributed, connect
from core.engine.optim import AdamW
from core.errors import UserError
from tests.core.engine import toy

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.core.engine.toy", "torch._dynamo"])  # the same list everywhere: one server


def train_rank(run_dir, rank, port, poison):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with connect() as distributed:
        try:
            toy.train_toy(run_dir, distributed=distributed, poison=poison, recipe=AdamW(lr=1e-2, accumulate=2))
        except UserError as error:
            (run_dir / f"error{rank}").write_text(str(error))


def run_two(run_dir, poison=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [CONTEXT.Process(target=train_rank, args=(run_dir, rank, port, poison)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]


def lines(run_dir, kind):
    return [x for x in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()) if x["kind"] == kind]


def test_two_ranks_train_resume_and_log_once(tmp_path):
    run_two(tmp_path / "a")
    last = tmp_path / "a/checkpoints/step_00000020"
    whole = load_file(last / "model.safetensors")
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    run_two(tmp_path / "a")  # on from step 15
    again = load_file(last / "model.safetensors")
    assert all(whole[name].equal(again[name]) for name in whole)
    assert [line["step"] for line in lines(tmp_path / "a", "train")] == [1, 20]
    skipped = [f"bad{batch}" for batch in (3, 13, 23, 33) for _rank in range(2)]
    assert [skip["key"] for skip in lines(tmp_path / "a", "skip")] == skipped


def test_a_nan_on_both_ranks_names_the_samples_of_both(tmp_path):
    run_two(tmp_path, poison=11)
    for rank in range(2):
        message = (tmp_path / f"error{rank}").read_text()
        assert "step 6" in message and message.count("s11.0") == 2


def test_a_world_of_one_passes_values_through():
    distributed = Distributed()
    method = toy.ToyMethod()
    assert distributed.wrap(method) is method and distributed.main
    assert distributed.any(True) and not distributed.any(False)
    assert distributed.gather("x") == ["x"] and distributed.from_main(3) == 3
