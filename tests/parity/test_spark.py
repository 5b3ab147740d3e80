"""SparK checkpoints as people have them."""

import pytest
import torch
from safetensors.torch import load_file

from core.interop import load_official
from tests.parity.vectors import Folder, cases


@pytest.mark.parametrize("case", cases("spark-resnet", "spark-convnext"))
def test_a_file_without_decoder_gives_an_encoder_and_says_so(case):
    path, prefix = case[1], "sparse_encoder.sp_cnn."
    whole = load_file(path / "state_dict.safetensors")
    state = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
    with pytest.warns(UserWarning, match="holds no decoder"):
        method = load_official("spark", state, {"config": {"decoder_width": 64}})
    ours, first = method.encoder.state_dict(), Folder(path, "spark").official.keys(whole)
    for name, value in first.items():
        if name.startswith("encoder."):
            assert torch.equal(ours[name.removeprefix("encoder.")], value)
