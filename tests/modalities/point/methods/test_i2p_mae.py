"""Official checkpoints of I2P-MAE: prefixes, the 2D model, other options, encoders alone; and its published mask."""

import warnings

import pytest
import torch
from safetensors.torch import save_file

from core import load_encoder
from core.convert import main
from core.errors import UserError
from core.interop import load_official
from core.tokens import Batch, levels
from modalities.point.clouds import Clouds
from tests.core.official_files import official_i2p_mae

META = {"num_groups": [24, 12, 6], "group_sizes": [5, 4, 3], "num_heads": 3, "mask_ratio": 0.6, "drop_path_rate": 0.0}


def clouds(batch: int = 2) -> Batch:
    return Batch({"point": Clouds(torch.randn(batch, 64, 3, generator=torch.Generator().manual_seed(0)))})


def forward(method, batch: Batch):
    return method(batch, generator=torch.Generator().manual_seed(0))


def without(state: dict, *prefixes: str) -> dict:
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def test_a_whole_file_gives_decoder_heads_and_teacher():
    state = official_i2p_mae()
    with warnings.catch_warnings(action="error"):
        method = load_official("i2p_mae", state, META)
    readout = method.readouts["main"]
    assert torch.equal(readout.objectives["image"].head.weight, state["rec_head_2d.weight"][..., 0])
    assert torch.equal(readout.objectives["points"].head.bias, state["rec_head_3d.bias"])
    network = method.teachers["image"].encoder.network
    assert torch.equal(network.head.weight, state["clip_model.visual.proj"].T)
    assert (method.teachers["image"].encoder.size, method.masker.ratio) == (32, 0.6)

    # The prefix of training without processes, and the trainer's wrapper.
    wrapped = {"base_model": {f"module.{key}": value for key, value in state.items()}, "epoch": 300}
    assert torch.equal(forward(load_official("i2p-mae", wrapped, META), clouds()).loss, forward(method, clouds()).loss)


def test_the_2d_models_heads_come_from_meta():
    one = load_official("i2p-mae", official_i2p_mae(), META)
    four = load_official("i2p-mae", official_i2p_mae(), {**META, "clip": {"heads": 4}})
    assert [m.teachers["image"].encoder.network.blocks[1].attn.num_heads for m in (one, four)] == [1, 4]


def test_tensors_of_the_text_tower_are_counted():
    state = official_i2p_mae()
    count = sum(key.startswith("clip_model.") for key in state)
    state |= {"clip_model.token_embedding.weight": torch.zeros(9, 4), "clip_model.logit_scale": torch.zeros(())}
    with pytest.warns(
        UserWarning, match=f"Of {count + 2} tensors clip_model.* {count} are the 2D model.* 2 are left out"
    ):
        load_official("i2p-mae", state, META)


def test_a_file_without_the_2d_model_trains_on_with_a_note():
    state = without(official_i2p_mae(), "clip_model.")
    with pytest.warns(UserWarning, match="no 2D model.*method.teachers.image.source=.*openai"):
        method = load_official("i2p-mae", state, META)
    assert torch.isfinite(forward(method, clouds()).loss)


def test_a_fine_tuned_file_gives_the_encoder(tmp_path):
    encoder = {key: x for key, x in official_i2p_mae().items() if key.startswith("h_encoder.")}
    encoder = without(encoder, "h_encoder.encoder_norms.")
    encoder |= {"cls_head_finetune.0.weight": torch.zeros(3, 48)}
    encoder |= {"norm.weight": torch.full((48,), 2.0), "norm.bias": torch.zeros(48)}
    with pytest.warns(UserWarning, match="no decoder: only the encoder"):
        method = load_official("i2p-mae", encoder, META)
    assert torch.equal(method.encoder.norm.weight, encoder["norm.weight"])
    assert torch.equal(
        method.encoder.trunks[1].blocks[0].mlp.fc1.bias, encoder["h_encoder.encoder_blocks.1.blocks.0.mlp.fc1.bias"]
    )


@pytest.mark.parametrize(
    "options, groups, members",
    [
        ({"dims": (12, 24)}, [12, 6], [4, 3]),
        ({"dims": (12, 24, 36, 48)}, [24, 16, 10, 6], [5, 4, 4, 3]),
        ({"residuals": 3}, [24, 12, 6], [5, 4, 3]),
        ({"members": 6, "clip": 24}, [24, 12, 6], [5, 6, 3]),
        ({"dims": (96, 192, 384)}, [24, 12, 6], [5, 4, 3]),  # as published: half a hidden unit must not become one
    ],
    ids=["two levels", "four levels", "three residual pairs", "members and 2D width", "published widths"],
)
def test_other_options_load_and_train(options, groups, members):
    method = load_official(
        "i2p-mae", official_i2p_mae(**options), {**META, "num_groups": groups, "group_sizes": members}
    )
    for batch in (1, 3):
        out = forward(method.train(), clouds(batch))
        out.loss.backward()
        assert torch.isfinite(out.loss) and out.predictions["image"].shape[2] == members[-2] * 15


def test_further_residual_pairs_are_official_blocks():
    """gelu(x + BN(W₂ gelu(BN(W₁ x)))), one after another."""
    state = official_i2p_mae(residuals=2)
    propagation = load_official("i2p-mae", state, META).readouts["main"].decoder.propagation[0].eval()
    x, name = torch.randn(2, 24, 7), "token_prop.0.extraction.operation.1"

    def half(net: str, y: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.conv1d(y, state[f"{name}.{net}.0.weight"], state[f"{name}.{net}.0.bias"])
        parts = [state[f"{name}.{net}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return torch.nn.functional.batch_norm(y, *parts)

    gelu = torch.nn.functional.gelu
    assert torch.allclose(propagation.further["1"](x), gelu(half("net2", gelu(half("net1", x))) + x), atol=1e-5)


def test_the_published_mask_shows_one_group_too_many():
    state = official_i2p_mae()
    method = load_official("i2p-mae", state, META)
    shown = []
    for seed in range(30):
        context = method.context(clouds(), generator=torch.Generator().manual_seed(seed))
        masks = levels(method.draw_mask(context)["point"])
        assert (~masks[0].hidden).sum(1).tolist() == [3, 3]  # 6 - int(0.6 * 6)
        assert not masks[1].hidden[0, 0] and not masks[2].hidden[0, 0]
        shown.append(not masks[1].hidden[1, 0])
    assert not all(shown), "of another sample it may be hidden"


def test_another_methods_file_is_refused_with_its_name():
    with pytest.raises(UserError, match="token_embed"):
        load_official("i2p-mae", {"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}, META)
    state = without(official_i2p_mae(), "clip_model.", "rec_head_2d.")
    with pytest.raises(UserError, match="rec_head_2d"):
        load_official("i2p-mae", state, META)


def test_an_official_file_becomes_an_encoder(tmp_path, capsys):
    state = official_i2p_mae() | {"clip_model.logit_scale": torch.zeros(1)}
    save_file({f"module.{key}": value for key, value in state.items()}, tmp_path / "i2p.safetensors")
    paths = [f"path={tmp_path / 'i2p.safetensors'}", f"out={tmp_path / 'encoder'}"]
    meta = "meta={num_groups: [24, 12, 6], group_sizes: [5, 4, 3], num_heads: 3}"
    assert main(["official=i2p_mae", *paths, meta]) == 0
    printed = capsys.readouterr().out
    assert "point encoder, width 48" in printed and "1 are left out" in printed

    encoder = load_encoder(tmp_path / "encoder")
    features = encoder(torch.randn(2, 64, 3))
    assert features.tokens.shape == (2, 6, 48)
    assert not any("teacher" in name or "clip" in name for name in encoder.state_dict())
    assert encoder.config["view"] == "point"
