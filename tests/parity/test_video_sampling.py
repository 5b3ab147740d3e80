"""Frames and crops that the official VideoMAE V2 data sets took (`sampling.json`)."""

import json

import numpy as np
import pytest

from modalities.video import sampling
from modalities.video.transforms import MultiScaleCrop, offsets
from tests.conftest import golden_folders

FILES = [folder / "sampling.json" for folder in golden_folders("videomaev2") if (folder / "sampling.json").exists()]
pytestmark = pytest.mark.skipif(not FILES, reason="no sampling.json in GOLDEN_DIR")


@pytest.fixture(params=FILES, ids=lambda path: path.parent.name)
def recorded(request) -> dict:
    return json.loads(request.param.read_text())


def test_pretraining(recorded):
    for case in recorded["pretrain"]:
        frames, length, stride = case["num_frames"], case["new_length"], case["new_step"]
        count = sampling.starts(frames, length, stride)
        assert case["start_range"] == [0, count - 1]
        draw = np.random.RandomState(case["numpy_seed"]).randint(count) if count > 1 else 0  # 0 without a draw
        assert case["start"] == draw
        assert case["frame_ids"] == sampling.strided(frames, length, stride, draw, last=frames - 2)


def test_fine_tuning(recorded):
    for case in recorded["finetune_train_val"]:
        frames, length, stride, end = case["num_frames"], case["clip_len"], case["rate"], case["end_idx"]
        assert end is None or end in sampling.ends(frames, length, stride)
        assert case["frame_ids"] == sampling.spread(frames, length, stride, end)


def test_dense_views(recorded):
    for case in recorded["test_dense"]:
        views = sampling.dense_views(case["num_frames"], case["clip_len"], case["rate"], len(case["clips"]))
        assert case["clips"] == {str(k): view for k, view in enumerate(views)}


def test_sparse_views(recorded):
    for case in recorded["test_sparse"]:
        views = sampling.sparse_views(case["num_frames"], case["num_segment"], case["test_num_segment"])
        assert case["clips"] == {str(k): view for k, view in enumerate(views)}


def test_crops(recorded):
    for case in recorded["multiscale_crop"]:
        h, w = case["height"], case["width"]
        pairs = MultiScaleCrop((16, 224, 224)).pairs(h, w)
        assert sorted([width, height] for height, width in pairs) == case["crop_pairs_wh"]
        width, height = case["first_pair"]
        assert sorted([x, y] for y, x in set(offsets(h, w, height, width))) == case["offsets_of_first_pair"]
        assert len({(pair, place) for pair in pairs for place in offsets(h, w, *pair)}) == case["distinct_crops"]
