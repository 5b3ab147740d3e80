"""SparK's parts: any convolutional network on visible patches alone, and what is refused."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.checkpoint import checkpoint

from benchmarks.spark import Bench
from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.interop import unwrap
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective, Readout
from core.sparse import VisiblePatches, masked_to
from core.targets import Pixels
from core.tokenizers import Normalise, Patchify
from core.tokens import Batch, ForwardContext, Mask, Query, Rows, levels
from modalities.image.methods.spark import SparKDecoder
from modalities.image.nn.convnet import ConvNet
from tests.contracts.firewall import Leak, firewall, growth, scrambled
from tests.modalities.image.networks import awake, encoder, pictures

FAMILIES = [
    ("resnet10t", 32),
    ("resnet18", 8),
    ("seresnet18", 32),
    ("resnetv2_18", 32),
    ("test_convnext", 32),
    ("test_convnext2", 32),
    ("convnextv2_atto", 32),
    ("test_efficientnet", 32),
    ("tf_efficientnet_lite0", 32),
    ("mnasnet_small", 32),
    ("regnetx_002", 32),
    ("regnety_002", 32),
    ("mobilenetv2_035", 32),
    ("mobilenetv3_small_050", 32),
    ("mobilenetv4_conv_small_035", 32),
    ("densenet121", 32),
    ("dla46_c", 32),
    ("ghostnet_050", 32),
    ("rexnet_100", 32),
    ("repvit_m0_9", 32),
    ("test_byobnet", 32),
    ("lcnet_050", 32),
    ("cspresnet50", 32),
    ("test_nfnet", 32),
    ("inception_next_atto", 32),
    ("poolformer_s12", 32),  # a pooling minus its input
    ("skresnet18", 32),  # a normalisation inside a gate
    ("ecaresnet26t", 32),  # convolutions along channels
]
LOADED = ["resnet18", "resnetv2_18", "convnextv2_atto", "efficientnet_b0", "regnety_002", "mobilenetv3_small_050"]


def method(made: ConvNet, side: int = 96) -> MaskedAutoencoder:
    patch = list(made.patch)
    decoder = SparKDecoder(64, made.provides["widths"], made.provides["norm"], made.provides["stride"], patch, 3)
    grid = (side // patch[0],) * 2
    target = Pixels(patch, 3, grid, Normalise([0.5], [0.5]), per="patch")
    readout = Readout(decoder, {"pixels": Objective(target, mse)})
    return MaskedAutoencoder(Patchify(patch, [side, side]), RandomMasker(0.6, "nearest"), made, {"main": readout})


@pytest.mark.parametrize(("backbone", "stride"), FAMILIES, ids=[f"{name}/{stride}" for name, stride in FAMILIES])
def test_nothing_hidden_is_seen_and_more_of_it_changes_nothing(backbone, stride):
    made, side = awake(encoder(backbone, stride)), 2 * stride
    whole, data = method(made, side).double(), pictures(2, side).double()
    tokens = whole.tokenizer.tokenize_views({"image": data})
    mask = Mask.from_hidden(torch.tensor([[True, False, False, True], [False, False, True, True]]), 2)
    other = {"image": scrambled(tokens["image"], mask, "drop")}
    firewall(whole, tokens, other, {"image": mask})
    growth(whole, data, mask.hidden.unflatten(1, (2, 2)))


@pytest.mark.parametrize("backbone", ["resnet10t", "test_convnext", "test_efficientnet", "regnety_002", "test_nfnet"])
def test_with_all_masking_off_only_growth_tells(backbone):
    """The paper's ablation, zeros in an ordinary network, is the leak that is planted."""
    whole, data = method(awake(encoder(backbone, hidden="zeroed")), 64).double(), pictures(2, 64).double()
    tokens = whole.tokenizer.tokenize_views({"image": data})
    mask = Mask.from_hidden(torch.tensor([[True, False, False, True], [False, False, True, True]]), 2)
    firewall(whole, tokens, {"image": scrambled(tokens["image"], mask, "drop")}, {"image": mask})
    with pytest.raises(Leak, match="hidden cells appended, eval mode"):
        growth(whole, data, mask.hidden.unflatten(1, (2, 2)))


@pytest.mark.parametrize("backbone", LOADED)
def test_timm_loads_what_is_exported(backbone, tmp_path):
    network = encoder(backbone).network
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors")
    torch.manual_seed(1)
    loaded = timm.create_model(backbone, num_classes=0, checkpoint_path=str(tmp_path / "model.safetensors")).eval()
    x = pictures(1, 64)
    with torch.no_grad():
        assert torch.equal(loaded.forward_features(x), network.eval().forward_features(x))


def test_visible_features_are_those_of_dense_maps_times_a_mask():
    """The published way to compute it, for one overlapping convolution and pooling."""
    hidden = torch.tensor([[True, False, False, True]])
    patches = VisiblePatches(Rows.from_mask(~hidden).index.flip(1), (2, 2))
    made = encoder("resnet10t").network
    x = torch.randn(1, 3, 64, 64)
    keep = (~hidden).view(1, 1, 2, 2).float()
    dense = made.conv1[0](x * keep.repeat_interleave(32, 2).repeat_interleave(32, 3))
    with masked_to(patches):
        stack = made.conv1[0](patches.gather(x))
    shown = keep.repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert torch.allclose(patches.scatter(stack), dense * shown, atol=1e-6)


def test_all_visible_is_the_ordinary_network():
    made = encoder("convnextv2_atto").eval()
    tokens = Patchify([32, 32], [64, 64])(pictures(2, 64))
    seen, all_rows = tokens.unmasked(), tokens.drop_masked(Mask.from_hidden(torch.zeros(2, 4, dtype=torch.bool), 0))
    with torch.no_grad():
        for whole, stacked in zip(levels(made(seen)), levels(made(all_rows)), strict=True):
            assert whole.rows is None
            count = whole.layout.count
            assert torch.allclose(whole.features, stacked.rows.scatter(stacked.features, count), atol=1e-5)


def test_exact_zeros_where_nothing_is_seen():
    made = encoder("resnet10t")
    tokens = Patchify([32, 32], [64, 64])(pictures(2, 64))
    hidden = torch.tensor([[True, False, False, True], [False, True, True, True]])[:1].expand(2, -1)
    for one in levels(made(tokens.replace_masked(Mask.from_hidden(hidden)))):
        seen = (one.features != 0).any(2).unflatten(1, one.layout.grid)
        k = one.layout.grid[0] // 2
        expected = (~hidden).unflatten(1, (2, 2)).repeat_interleave(k, 1).repeat_interleave(k, 2)
        assert torch.equal(seen, expected)


def test_the_mask_is_gone_after_the_call_and_checkpointing_gives_the_same_gradients():
    made = encoder("test_convnext")
    tokens = Patchify([32, 32], [64, 64])(pictures(2, 64))
    first, second = (Mask.from_hidden(torch.tensor([row, row]), 2) for row in ([1, 0, 0, 1], [0, 0, 1, 1]))
    first, second = (Mask.from_hidden(mask.hidden.bool(), 2) for mask in (first, second))

    def gradients(call) -> list[torch.Tensor]:
        made.zero_grad()
        # Two calls of different masks before any gradient.
        sum(call(tokens.drop_masked(mask)).features.square().sum() for mask in (first, second)).backward()
        return [p.grad.clone() for p in made.parameters() if p.grad is not None]

    plain, again = gradients(made), gradients(lambda seen: checkpoint(made, seen, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    twin = copy.deepcopy(made)
    with torch.no_grad():
        dense = made(tokens.unmasked()).features
        assert dense.shape[1] == 4 and torch.equal(twin(tokens.unmasked()).features, dense)


REFUSED = {
    "vit_tiny_patch16_224": "attend to each other",
    "edgenext_xx_small": "attend to each other",
    "mobilenetv4_hybrid_medium": "attend to each other",
    "hgnetv2_b0": "strides do not suit a grid",
    "resnetblur50": "treats the border|no window that is known",
}


@pytest.mark.parametrize("backbone", REFUSED)
def test_unsuitable_networks_are_refused_with_the_layer_and_the_reason(backbone):
    with pytest.raises(UserError, match=REFUSED[backbone]) as caught:
        encoder(backbone)
    assert backbone in str(caught.value) and "Suitable ones" in str(caught.value)


def test_pictures_that_patches_do_not_fill_are_refused():
    overrides = ["modality=image", "method=spark", "data=folder", "data.root=none", "modality.size=[100,96]"]
    with torch.device("meta"), pytest.raises(UserError, match=r"100.*32|32.*100"):
        build_method(compose(overrides))


def test_what_stands_for_hidden_patches_is_one_of_two():
    with pytest.raises(UserError, match=r"method\.encoder\.hidden=nothing is unknown; choose absent or zeroed"):
        encoder("resnet10t", hidden="nothing")


def test_a_stride_that_is_not_the_network_s_is_refused():
    with pytest.raises(UserError, match="does not divide the patches"):
        ConvNet("resnet18", Normalise([0.5], [0.5]), [16, 16], 3)
    with pytest.raises(UserError, match=r"total stride is 8, method\.encoder\.stride is 4"):
        encoder("mobilenetv4_conv_small_035", 4)
    with pytest.raises(UserError, match=r"no network of timm.*resnet"):
        encoder("resnet81")


def test_unequal_and_empty_masks_are_refused():
    made = encoder("test_convnext")
    tokens = Patchify([32, 32], [64, 64])(pictures(2, 64))
    for first in ([True, False, False, True], [True, True, True, True]):
        unequal = torch.tensor([first, [False, True, True, True]])
        with pytest.raises(UserError, match="same number of visible patches"):
            made(tokens.drop_masked(Mask.from_hidden(unequal)))
    with pytest.raises(UserError, match="leaves nothing visible"):
        made(tokens.drop_masked(Mask.from_hidden(torch.ones(2, 4, dtype=torch.bool), 4)))


def test_the_count_is_rounded_as_published():
    tokens = Patchify([1, 1], [7, 7], 1)(torch.zeros(1, 1, 7, 7))
    for ratio, kept in ((0.6, 20), (0.75, 12)):
        masker = RandomMasker(ratio, "nearest")
        assert masker.mask_view(tokens, torch.rand(1, 49), None).visible.count == kept


@pytest.mark.parametrize("backbone", ["resnet18", "test_convnext"])
def test_the_published_structure_gives_the_same_maps_and_gradients(backbone):
    """Dense maps with a mask after every layer, as the benchmark computes them; in double precision."""
    bench = Bench(backbone, 96, 2, "cpu")
    bench.encoder.double(), bench.networks["straightforward"].double()
    bench.pictures = bench.pictures.double()
    assert bench.differ() < 1e-9


@pytest.mark.parametrize(
    ("size", "backbone", "encoder_count", "rest"),
    [
        ("small", "resnet50", 23_508_032, 6_230_688 + 23_183_115),
        ("small", "convnext_small", 49_453_152, 1_746_816 + 23_183_115),
        ("base", "convnext_base", 87_564_416, 3_116_064 + 23_183_115),
    ],
)
def test_published_sizes(size, backbone, encoder_count, rest):
    own = [f"size={size}", f"method.encoder.backbone={backbone}", "data=folder", "data.root=none"]
    config = compose(["modality=image", "method=spark", *own])
    with torch.device("meta"):
        made = build_method(config)
    count = lambda part: sum(p.numel() for p in part.parameters() if p.requires_grad)  # noqa: E731
    assert count(made.encoder) == encoder_count
    assert count(made.readouts) == rest
    assert made.no_weight_decay() == set(config["method"]["no_weight_decay"])


def test_the_first_loss_is_one():
    """Normalised targets, and predictions near zero."""
    made = method(encoder("resnet18", 8, layers=[1, 1, 1, 1], channels=[16, 16, 24, 32]), 64)
    out = made(Batch({"image": pictures(4, 64)}), generator=torch.Generator().manual_seed(0))
    assert 0.9 < out.loss.item() < 1.3


def test_a_released_file_says_its_settings_in_words_too():
    state = {"module": {"config": {"mask_ratio": 0.6}, "imn_m": torch.zeros(1)}}
    assert unwrap(state).keys() == {"imn_m"}


def test_predicted_patches_are_cut_where_they_lie():
    made = method(encoder("test_convnext"), 64).eval()
    batch = Batch({"image": pictures(1, 64)})
    tokens = made.tokenizer.tokenize_views(batch.views)
    mask = made.draw_mask(ForwardContext(batch, tokens, generator=torch.Generator().manual_seed(0)))["image"]
    everywhere = Mask(mask.hidden, mask.visible, queries={"main": Query(Rows.all(1, 4))})
    with torch.no_grad():
        _, some = made.predict(tokens, {"image": mask})
        _, whole = made.predict(tokens, {"image": everywhere})
    assert torch.equal(some["pixels"], mask.queries["main"].rows.gather(whole["pixels"]))
