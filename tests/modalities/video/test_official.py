"""Options of the official video models that a checkpoint's tensors show: attention, layer scale, positions, cls."""

import pytest
import torch

from core.interop import load_official
from core.tokens import Batch

META = {"constructor": {"img_size": 16, "all_frames": 4, "num_frames": 4}}


def blocks(prefix: str, dim: int, attention: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {"mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim)}
    shapes |= {f"norm{i}.{part}": (dim,) for i in (1, 2) for part in ("weight", "bias")}
    shapes |= {"mlp.fc2.bias": (dim,), "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)} | attention
    return {f"{prefix}.{index}.{name}": shape for index in range(2) for name, shape in shapes.items()}


def norm(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}norm.weight": (dim,), f"{prefix}norm.bias": (dim,)}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def videomae(cosine: bool = False, scaled: bool = False, biased: bool = True) -> dict[str, torch.Tensor]:
    def attention(dim: int, heads: int) -> dict[str, tuple[int, ...]]:
        shapes = {"attn.qkv.weight": (3 * dim, dim)}
        shapes |= {"attn.q_bias": (dim,), "attn.v_bias": (dim,)} if biased else {}
        shapes |= {"attn.scale": (heads, 1, 1)} if cosine else {}
        return shapes | ({"gamma_1": (dim,), "gamma_2": (dim,)} if scaled else {})

    shapes = {"encoder.patch_embed.proj.weight": (192, 3, 2, 8, 8), "encoder.patch_embed.proj.bias": (192,)}
    shapes |= blocks("encoder.blocks", 192, attention(192, 3)) | norm("encoder.", 192)
    shapes |= blocks("decoder.blocks", 192, attention(192, 3)) | norm("decoder.", 192)
    shapes |= {"encoder_to_decoder.weight": (192, 192), "mask_token": (1, 1, 192)}
    return drawn(shapes | {"decoder.head.weight": (384, 192), "decoder.head.bias": (384,)})


def st_mae(separable: bool = True, cls: bool = True, biased: bool = True) -> dict[str, torch.Tensor]:
    def attention(dim: int) -> dict[str, tuple[int, ...]]:
        shapes = {f"attn.{name}.weight": (dim, dim) for name in "qkv"}
        return shapes | ({f"attn.{name}.bias": (dim,) for name in "qkv"} if biased else {})

    shapes = {"patch_embed.proj.weight": (192, 3, 2, 8, 8), "patch_embed.proj.bias": (192,), "mask_token": (1, 1, 512)}
    shapes |= blocks("blocks", 192, attention(192)) | blocks("decoder_blocks", 512, attention(512))
    shapes |= norm("", 192) | norm("decoder_", 512)
    shapes |= {"decoder_embed.weight": (512, 192), "decoder_embed.bias": (512,)}
    shapes |= {"decoder_pred.weight": (192, 512), "decoder_pred.bias": (192,)}
    for prefix, dim in (("", 192), ("decoder_", 512)):
        shapes |= {f"{prefix}cls_token": (1, 1, dim)} if cls else {}
        if separable:
            shapes |= {f"{prefix}pos_embed_spatial": (1, 4, dim), f"{prefix}pos_embed_temporal": (1, 2, dim)}
            shapes |= {f"{prefix}pos_embed_class": (1, 1, dim)} if cls else {}
        else:
            shapes |= {f"{prefix}pos_embed": (1, 8 + cls, dim)}
    return drawn(shapes)


def trains(name: str, state: dict[str, torch.Tensor]):
    """Loads without `meta` where sizes allow it; forward and backward reach every parameter."""
    method = load_official(name, state, META)
    method(Batch({"video": torch.rand(2, 3, 4, 16, 16)})).loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    return method


@pytest.mark.parametrize("options", [{"cosine": True}, {"scaled": True}, {"biased": False}, {}])
@pytest.mark.parametrize("name", ["videomae", "videomaev2"])
def test_videomae_options(name, options):
    state = videomae(**options)
    method = trains(name, state)
    block = method.encoder.trunk.blocks[1]
    assert block.attn.heads == 3
    assert torch.equal(block.attn.qkv.weight, state["encoder.blocks.1.attn.qkv.weight"])
    if options.get("cosine"):
        assert torch.equal(block.attn.scale, state["encoder.blocks.1.attn.scale"])
        assert any(name.endswith("attn.scale") for name in method.no_weight_decay())
    if options.get("scaled"):
        assert torch.equal(block.scale2.gamma, state["encoder.blocks.1.gamma_2"])
    assert (block.attn.q_bias is None) == (options.get("biased") is False)


@pytest.mark.parametrize(
    "options", [{}, {"cls": False}, {"separable": False}, {"separable": False, "cls": False}, {"biased": False}]
)
def test_st_mae_options(options):
    state = st_mae(**options)
    method = trains("st-mae", state)
    fused = torch.cat([state[f"blocks.0.attn.{name}.weight"] for name in "qkv"])
    assert torch.equal(method.encoder.trunk.blocks[0].attn.qkv.weight, fused)
    assert (method.encoder.cls is None) == (options.get("cls") is False)
    whole = method.encoder.embed.positions(None, (2, 2, 2))
    if options.get("separable") is False:
        assert torch.equal(whole, state["pos_embed"][:, -8:])
    else:
        assert torch.equal(whole[0, 5], state["pos_embed_spatial"][0, 1] + state["pos_embed_temporal"][0, 1])


def test_a_decoder_that_leaves_nothing_out_is_videomae():
    state = videomae()
    meta = {"constructor": META["constructor"] | {"decoder_mask_ratio": 0.0}}
    batch = Batch({"video": torch.rand(2, 3, 4, 16, 16)})
    dual, plain = load_official("videomaev2", state, meta), load_official("videomae", state, META)
    cells = torch.rand(2, 4)
    dual_loss = dual(batch, draws={"video": {"cells": cells}}).loss
    torch.testing.assert_close(dual_loss, plain(batch, draws={"video": cells}).loss)
