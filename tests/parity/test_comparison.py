"""The comparison itself: it takes folders that hold less, or other options, than those at hand, and it finds faults."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity.methods import METHODS
from tests.parity.vectors import Folder, Pair, cases, check, close, equal, unnoticed, unnoticed_in_files


def copied(path: Path, to: Path, change: Callable[[dict, dict, dict], None]) -> Path:
    """A folder like `path` after `change(meta, io, state)`."""
    shutil.copytree(path, to)
    meta = json.loads((path / "meta.json").read_text())
    io, state = load_file(path / "io.safetensors"), load_file(path / "state_dict.safetensors")
    change(meta, io, state)
    (to / "meta.json").write_text(json.dumps(meta))
    save_file({key: value.contiguous() for key, value in io.items()}, to / "io.safetensors")
    save_file(state, to / "state_dict.safetensors")
    return to


def without_outputs(io: dict[str, Tensor], inputs: str) -> None:
    """Leaves inputs and index sets."""
    for key in [key for key, value in io.items() if value.is_floating_point() and not re.fullmatch(inputs, key)]:
        del io[key]


@pytest.mark.parametrize("case", cases(*METHODS))
def test_a_folder_may_leave_tensors_out(case, tmp_path):
    method = METHODS[case[0]]
    path = copied(case[1], tmp_path / case[0], lambda meta, io, state: without_outputs(io, method.elsewhere))
    (path / "gradients.safetensors").unlink(missing_ok=True)
    folder = method.open(path)
    pairs = method.compare(folder)
    assert not check(pairs) and pairs.keys() & folder.io.keys()


# GraphMAE: options that the folders at hand do not take ---------------------------------------------------------------


def graphmae(case: tuple[str, Path], to: Path, change: Callable[[dict, dict, dict], None]) -> dict[str, Pair]:
    """The comparison of a changed folder, whose outputs are left out."""
    method = METHODS[case[0]]

    def changed(meta: dict, io: dict, state: dict) -> None:
        without_outputs(io, method.elsewhere)
        change(meta, io, state)

    path = copied(case[1], to, changed)
    (path / "gradients.safetensors").unlink()
    return method.compare(method.open(path))


@pytest.mark.parametrize("case", cases("graphmae", "graphmae-gin"))
def test_a_node_may_be_replaced_by_itself(case, tmp_path):
    def change(meta: dict, io: dict, state: dict) -> None:
        drawn, node = io["randperm_2_noise"], io["noise_nodes"][0]
        other = (drawn == node).nonzero()[0, 0]
        drawn[other], drawn[0] = drawn[0].clone(), node
        io["noise_source_nodes"] = drawn[: len(io["noise_nodes"])].clone()

    pairs = graphmae(case, tmp_path / case[0], change)
    assert {"noise_nodes", "noise_source_nodes", "token_nodes"} <= pairs.keys()
    assert not check(pairs)


@pytest.mark.parametrize("case", cases("graphmae", "graphmae-gin"))
def test_without_replacement_no_list_of_tokens_is_recorded(case, tmp_path):
    def change(meta: dict, io: dict, state: dict) -> None:
        meta["constructor"]["replace_rate"] = 0.0
        for key in [key for key in io if re.match("randperm_[12]|token|noise|masked_but", key)]:
            del io[key]

    pairs = graphmae(case, tmp_path / case[0], change)
    assert pairs.keys() == {"mask_nodes", "keep_nodes"} and not check(pairs)


@pytest.mark.parametrize("case", cases("graphmae"))
@pytest.mark.parametrize("option", ["mlp decoder", "elu"])
def test_other_options_are_compared_too(case, option, tmp_path):
    """A decoder that empties no code again, another activation."""

    def change(meta: dict, io: dict, state: dict) -> None:
        width, features = state["encoder_to_decoder.weight"].shape[0], state["enc_mask_token"].shape[1]
        if option == "elu":
            meta["constructor"]["activation"] = "elu"
            for key in [key for key in state if key.endswith("activation.weight")]:
                del state[key]
            return
        meta["constructor"]["decoder_type"] = "mlp"
        for key in [key for key in state if key.startswith("decoder.")]:
            del state[key]
        state |= {"decoder.0.weight": torch.rand(width, width), "decoder.0.bias": torch.rand(width)}
        state |= {"decoder.1.weight": torch.rand(1)}
        state |= {"decoder.3.weight": torch.rand(features, width), "decoder.3.bias": torch.rand(features)}

    pairs = graphmae(case, tmp_path / case[0], change)
    assert "mask_nodes" in pairs and not check(pairs)


# Faults are found -----------------------------------------------------------------------------------------------------


def test_one_per_cent_is_noticed_but_in_noise():
    exact = torch.tensor([1.0, 2.0, 3.0])
    pairs = {"exact": close(exact, exact), "set": equal(torch.tensor([3, 1]), torch.tensor([3, 1]))}
    assert not check(pairs) and not unnoticed(pairs)
    assert check({"off": close(1.01 * exact, exact)}) and check({"other": equal(exact, exact.flip(0))})
    assert unnoticed({"wide": close(exact, exact, absolute=1.0)}) == ["wide"]
    assert not unnoticed({"noise": close(exact, exact, tolerance=0.1)})  # the recorded figures are no more exact
    assert not unnoticed({"zeros": close(0 * exact, 0 * exact)})


def test_a_recorded_number_beside_itself_is_noticed():
    exact = torch.tensor([1.0, 2.0, 3.0])
    pairs = {"ours": close(exact, exact), "itself": close(exact, exact)}
    spoiled = {"ours": close(exact, 1.01 * exact), "itself": close(1.01 * exact, 1.01 * exact)}
    assert not unnoticed(pairs)
    assert unnoticed_in_files(pairs, spoiled) == ["itself"]


def test_tensors_of_other_shapes_do_not_fit():
    with pytest.raises(AssertionError, match=r"\[2\].*\[3\]"):
        check({"short": close(torch.ones(2), torch.ones(3))})


@pytest.mark.parametrize("case", cases("st-mae"))
def test_a_tensor_that_is_a_part_of_ours_is_located(case):
    """Official q, k, v are thirds of our qkv."""
    folder = Folder(case[1], case[0])
    keys = folder.checkpoint["blocks.0.attn.k.weight"]
    ((name, located),) = folder.located({"blocks.0.attn.k.weight": keys}).items()
    third = len(located) // 3
    assert name == "encoder.trunk.blocks.0.attn.qkv.weight"
    assert torch.equal(located[third : 2 * third], keys.double())
    assert located[:third].isnan().all() and located[2 * third :].isnan().all()


@pytest.mark.parametrize("case", cases("graphmae", "graphmae-gin", "graphmae-chem", "graphmae2"))
def test_the_folders_spread_of_gradients_is_the_tolerance(case, tmp_path):
    def change(meta: dict, io: dict, state: dict) -> None:
        meta["gradients"].update(max_relative_spread=2e-5)

    folder = Folder(copied(case[1], tmp_path / case[0], change), case[0])
    assert folder.gradient_tolerance == pytest.approx(2e-4)
