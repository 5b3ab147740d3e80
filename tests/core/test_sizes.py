"""Trainable parameters of every published size, counted on the meta device. Figures: measured on the official codes."""

import pytest
import torch

from core.config.build import build
from core.config.compose import assemble

# Totals without the frozen position tables; encoders with their cls token and learned positions.
PUBLISHED = {
    ("image", "mae", "base"): (111_907_840 - 197 * (768 + 512), 85_798_656 - 197 * 768),
    ("image", "mae", "large"): (329_541_888 - 197 * (1024 + 512), 303_301_632 - 197 * 1024),
    ("image", "mae", "huge"): (657_074_508 - 257 * (1280 + 512), 630_764_800 - 257 * 1280),
    ("video", "videomae", "small"): (24_029_376, 21_879_936),
    ("video", "videomae", "base"): (94_210_944, 86_227_200),
    ("video", "videomae", "large"): (317_782_016, 303_860_736),
    ("video", "videomae", "huge"): (None, 631_607_040),
    ("video", "videomaev2", "small"): (24_029_376, 21_879_936),
    ("video", "videomaev2", "base"): (94_210_944, 86_227_200),
    ("video", "videomaev2", "large"): (317_782_016, 303_860_736),
    ("video", "videomaev2", "huge"): (645_659_392, 631_607_040),
    ("video", "videomaev2", "giant"): (1_026_306_560, 1_011_610_752),
    ("video", "st_mae", "base"): (99_898_880, 86_394_624),
    ("video", "st_mae", "large"): (317_731_584, 304_096_256),
    ("video", "st_mae", "huge"): (645_232_460, 631_527_680),
    ("point", "point_mae", "small"): (29_006_432, 21_825_024),
    # The finest level's norm, which official training gives no gradient, is not trained.
    ("point", "point_m2ae", "small"): (15_255_856 - 2 * 96, 12_654_976 - 2 * 96),
    ("point", "i2p_mae", "small"): (17_622_808 - 2 * 96, 12_654_976 - 2 * 96),  # without its 2D model
}
CLIP = "vit_base_patch16_clip_quickgelu_224.openai"
OTHERS = {
    # It is counted with a decoder of 4 blocks, and trained with 12.
    ("videomae", "large"): ["method.readouts.main.decoder.trunk.depth=4"],
    # Its second head has the width of CLIP's features.
    ("i2p_mae", "small"): [f"method.teachers.image.source={CLIP}", "method.teachers.image.head=true"],
}


def trainable(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("modality, method, size", PUBLISHED, ids=["-".join(key) for key in PUBLISHED])
def test_parameter_counts_are_the_published_ones(modality, method, size):
    total, encoder = PUBLISHED[modality, method, size]
    # No data are read: with people's own data, input sizes are the published ones.
    overrides = [f"modality={modality}", f"method={method}", f"size={size}", "data=folder", "data.root=none"]
    overrides += OTHERS.get((method, size), [])
    config = assemble(overrides)
    with torch.device("meta"):
        built = build(config["method"], key="method")
    assert trainable(built.encoder) == encoder
    assert total is None or trainable(built) == total


def test_the_giants_mlp_ratio_is_that_of_its_decoder_too():
    overrides = ["modality=video", "method=videomaev2", "size=giant", "data=folder", "data.root=none"]
    with torch.device("meta"):
        built = build(assemble(overrides)["method"], key="method")
    assert built.encoder.trunk.blocks[0].mlp.fc1.out_features == 6144
    assert built.readouts["main"].decoder.trunk.blocks[0].mlp.fc1.out_features == 2234
    assert built.tokenizer.grid == (8, 16, 16) and built.readouts["main"].objectives["pixels"].head.out_features == 1176
