"""Networks of timm that compute their blocks again in the backward pass, and those that run in several threads."""

import threading

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from core.sparse import MaskedAveragePooling, MaskedConvolution, MaskedMaxPooling
from core.tokenizers import Patchify
from core.tokens import Mask, Tokens, levels
from modalities.image.nn.convnet import ConvNet
from modalities.image.nn.masked_layers import CheckpointedBlock
from tests.modalities.image.networks import awake, encoder, pictures

# By how their blocks are held: in lists of stages, in stages of timm's own, in blocks that read lists of maps.
BACKBONES = {
    "resnet10t": 4,
    "test_convnext": 4,
    "test_efficientnet": 4,
    "regnetx_002": 13,
    "mobilenetv3_small_050": 10,
    "densenet121": 4,
    "dla46_c": 4,
    "poolformer_s12": 12,
    "test_nfnet": 4,
    "hrnet_w18_small": 4,
}
MASKED = (MaskedConvolution, MaskedMaxPooling, MaskedAveragePooling)
HIDDEN = torch.tensor([[1, 0, 0, 1, 0, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1, 0, 1]]).bool()


def tokens() -> Tokens:
    return Patchify([32, 32], [96, 96])(pictures(2, 96))


def masks() -> list[Mask]:
    return [Mask.from_hidden(row.expand(2, -1), 4) for row in HIDDEN]


def step(made: ConvNet) -> tuple[int, list[Tensor], list[Tensor]]:
    """Calls of masked windows, the maps of two masks, and the gradients of both together."""
    made.zero_grad()
    calls = []
    windows = [layer for layer in made.network.modules() if isinstance(layer, MASKED)]
    handles = [layer.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in windows]
    torch.manual_seed(0)
    maps = [one.features for mask in masks() for one in levels(made(tokens().drop_masked(mask)))]
    sum(x.square().mean() for x in maps).backward()
    for handle in handles:
        handle.remove()
    return len(calls), maps, [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_and_gradients_are_those_without_checkpoints(backbone):
    made = awake(encoder(backbone)).train()
    once, *plain = step(made)
    names = list(made.state_dict())

    made.set_grad_checkpointing()
    more, *again = step(made)
    assert more > once, "nothing was computed again"
    assert list(made.state_dict()) == names
    for expected, actual in zip(plain, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))

    blocks = [block for block in made.network.modules() if isinstance(block, CheckpointedBlock)]
    assert len(blocks) >= BACKBONES[backbone]

    made.set_grad_checkpointing(False)
    assert step(made)[0] == once


def test_checkpoints_store_less():
    """Bytes that autograd holds between the passes."""
    made = encoder("resnet18").train()

    def stored() -> int:
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.update({x.data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x
        ):
            made(tokens().drop_masked(masks()[0]))
        return sum(sizes.values())

    plain = stored()
    made.set_grad_checkpointing()
    assert stored() < 0.7 * plain


def test_checkpoints_are_made_without_a_mask_too():
    made = encoder("test_convnext").train()
    plain = made(tokens().unmasked()).features
    made.set_grad_checkpointing()
    assert torch.equal(made(tokens().unmasked()).features, plain)


def test_timm_s_own_checkpoints_are_refused():
    made = encoder("test_convnext")
    made.network.set_grad_checkpointing(True)
    with pytest.raises(UserError, match=r"encoder's set_grad_checkpointing\(\)"):
        made(tokens().drop_masked(masks()[0]))
    made(tokens().unmasked())  # no mask to lose

    made = encoder("densenet121", memory_efficient=True)
    with pytest.raises(UserError, match="memory_efficient"):
        made(tokens().drop_masked(masks()[0]))


@pytest.mark.parametrize("checkpoints", [False, True])
def test_threads_do_not_mix_their_masks(checkpoints):
    made = encoder("test_convnext").eval()
    made.set_grad_checkpointing(checkpoints)
    inputs = [tokens().drop_masked(mask) for mask in masks()]
    expected = [made(x).features for x in inputs]

    # Both threads enter every masked layer at the same time.
    barrier = threading.Barrier(2)
    for layer in made.network.modules():
        if isinstance(layer, MASKED):
            layer.register_forward_pre_hook(lambda *_: meet(barrier))

    features: dict[int, Tensor] = {}

    def run(i: int) -> None:
        with torch.no_grad():
            features[i] = made(inputs[i]).features

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(torch.equal(features[i], expected[i]) for i in (0, 1))


def meet(barrier: threading.Barrier) -> None:
    barrier.wait(timeout=60)
