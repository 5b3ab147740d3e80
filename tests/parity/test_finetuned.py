"""Fine-tuned models as people have them: the encoder's numbers are those of the official classifier."""

import pytest
import torch
from safetensors.torch import load_file

from core.interop import IMAGENET, load_official, raw_pixels
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Latent
from modalities.video.methods.st_mae import STATISTICS
from tests.parity.vectors import Folder, cases, check, close


def encode(method: MaskedAutoencoder, view: str, pixels: torch.Tensor) -> Latent:
    """All blocks' outputs and the last norm's, of recorded input whose normalisation was taken back."""
    taps = [f"block{i}" for i in range(len(method.encoder.trunk.blocks))]
    with torch.no_grad():
        return method.eval().encoder(method.tokenizer(pixels).unmasked(), taps)


@pytest.mark.parametrize("case", cases("mae-finetune"))
def test_an_encoder_comes_out_of_a_fine_tuned_mae(case):
    folder = Folder(case[1], "mae")
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head\.weight.*: the classifier"):
        method = folder.load()

    latent = encode(method, "image", raw_pixels(folder.io["imgs"], *IMAGENET))
    blocks = [torch.cat([latent.taps[f"block{i}/cls"][:, None], x], 1) for i, x in enumerate(rows(latent))]
    pairs = {f"block{i}": close(x, folder.io[f"block{i}"]) for i, x in enumerate(blocks)}
    # The classifier's fc_norm follows the mean of the last block's rows.
    pairs["features"] = close(method.encoder.trunk.norm(blocks[-1][:, 1:].mean(1)), folder.io["features"])
    assert not check(pairs)


@pytest.mark.parametrize("case", cases("mae-finetune"))
def test_without_pooling_the_last_norm_is_the_published_one(case):
    folder = Folder(case[1], "mae")
    state = load_file(case[1] / "state_dict.safetensors")
    state = {key: value for key, value in state.items() if not key.startswith("fc_norm")}
    state |= {key.removeprefix("cls_state."): x for key, x in folder.io.items() if key.startswith("cls_state.")}
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("mae", state, folder.meta)

    latent = encode(method, "image", raw_pixels(folder.io["imgs"], *IMAGENET))
    assert not check({"cls.features": close(latent.cls, folder.io["cls.features"])})


@pytest.mark.parametrize("name", ["videomae", "videomaev2"])
@pytest.mark.parametrize("case", cases("videomaev2-finetune"))
def test_an_encoder_comes_out_of_a_fine_tuned_videomae(case, name):
    folder = Folder(case[1], name)
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head\.weight.*: the classifier"):
        method = folder.load()

    latent = encode(method, "video", raw_pixels(folder.io["video"], *IMAGENET))
    pairs = {f"block{i}": close(x, folder.io[f"block{i}"]) for i, x in enumerate(rows(latent))}
    pairs["features"] = close(method.encoder.trunk.norm(rows(latent)[-1].mean(1)), folder.io["features"])
    assert not check(pairs)


@pytest.mark.parametrize("case", cases("videomaev2"))
def test_fine_tuning_a_recorded_encoder_replaces_its_norm(case):
    """The classifier's keys beside the pre-trained ones, as official fine-tuning begins with them."""
    folder = Folder(case[1], "videomaev2")
    state = load_file(case[1] / "state_dict.safetensors")
    state = {key.removeprefix("encoder."): x for key, x in state.items() if key.startswith("encoder.")}
    state |= load_file(case[1] / "state_dict_finetune.safetensors")
    with pytest.warns(UserWarning, match=r"norm\.weight.*: left out, fc_norm stands for it"):
        method = load_official("videomaev2", state, folder.meta)

    latent = encode(method, "video", raw_pixels(folder.io["video"], *IMAGENET))
    features = method.encoder.trunk.norm(rows(latent)[-1].mean(1))
    logits = features @ state["head.weight"].T + state["head.bias"]
    pairs = {
        "ft_features": close(features, folder.io["ft_features"]),
        "ft_logits": close(logits, folder.io["ft_logits"]),
    }
    assert not check(pairs)


@pytest.mark.parametrize("case", cases("st-mae"))
def test_an_encoder_comes_out_of_a_fine_tuned_st_mae(case):
    folder = Folder(case[1], "st-mae")
    state = load_file(case[1] / "state_dict.safetensors")
    state = {key: x for key, x in state.items() if not key.startswith(("decoder_", "mask_token"))}
    state |= load_file(case[1] / "state_dict_finetune.safetensors")
    with pytest.warns(UserWarning, match=r"(?s)no decoder.*head\.weight.*: the classifier"):
        method = load_official("st-mae", state, folder.meta)

    latent = encode(method, "video", raw_pixels(folder.io["video"], *STATISTICS))
    features = method.encoder.trunk.norm(rows(latent)[-1].mean(1))
    logits = features @ state["head.weight"].T + state["head.bias"]
    assert not check({"ft_logits": close(logits, folder.io["ft_logits"])})


def rows(latent: Latent) -> list[torch.Tensor]:
    return [x for name, x in latent.taps.items() if not name.endswith("/cls")]
