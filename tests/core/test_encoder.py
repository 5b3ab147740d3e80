"""Attention in its variants, packed and padded, against plain softmax; blocks, trunk and ViT."""

import math

import pytest
import torch
from torch import nn

from core.embeddings import ClsToken, PatchEmbed, SinCos
from core.encoder import Attention, AttentionPlan, Block, LayerScale, Trunk, ViT
from core.errors import UserError
from core.tokenizers import Normalise, Patchify
from core.tokens import EncoderInput, Layout, Mask, Rows

DIM, HEADS = 12, 3


def rows(count: int = 5, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, DIM, generator=torch.Generator().manual_seed(seed))


def attention(**kind) -> Attention:
    torch.manual_seed(1)
    made = Attention(DIM, HEADS, **kind)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def by_hand(made: Attention, x: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ · scale) v, head by head."""
    weight, size = made.qkv.weight, DIM // HEADS
    bias = torch.zeros(3 * DIM) if made.qkv.bias is None else made.qkv.bias
    if made.q_bias is not None:
        bias = torch.cat([made.q_bias, torch.zeros(DIM), made.v_bias])
    out = []
    for head in range(HEADS):
        spans = [slice(part * DIM + head * size, part * DIM + (head + 1) * size) for part in range(3)]
        q, k, v = (x @ weight[span].T + bias[span] for span in spans)
        scale = 1 / math.sqrt(size)
        if made.scale is not None:
            q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
            scale = made.scale[head].clamp(max=4.6052).exp()
        out.append((q @ k.mT * scale).softmax(-1) @ v)
    return torch.cat(out, -1) @ made.proj.weight.T + made.proj.bias


@pytest.mark.parametrize("bias", ["full", "qv", "none"])
@pytest.mark.parametrize("cosine", [False, True])
def test_attention_is_softmax(bias, cosine):
    made, x = attention(bias=bias, cosine=cosine), rows()
    assert torch.allclose(made(x, AttentionPlan()), by_hand(made, x), atol=1e-5)


@pytest.mark.parametrize("bias", ["full", "qv", "none"])
@pytest.mark.parametrize("cosine", [False, True])
def test_the_first_row_is_that_of_the_weights(bias, cosine):
    """Values that name their row come out as weights."""
    made, x = attention(bias=bias, cosine=cosine), rows()
    heads, width = made.heads, x.shape[2] // made.heads
    weights = made.first_row(x)
    assert weights.shape == (2, heads, 5) and torch.allclose(weights.sum(2), torch.ones(2, heads))

    # By attention itself: of row 0 the weighted mean of the values.
    v = made._project(x, made.qkv.weight, made._bias())[2]
    mixed = (weights[:, :, None] @ v)[:, :, 0].reshape(2, heads * width)
    assert torch.allclose(made.proj(mixed), made(x, AttentionPlan())[:, 0], atol=1e-5)


def test_the_cosine_scale_is_learned_per_head_and_clamped():
    made, x = attention(cosine=True), rows()
    assert torch.allclose(Attention(DIM, HEADS, cosine=True).scale.exp(), torch.full((HEADS, 1, 1), 10.0))
    with torch.no_grad():
        made.scale.fill_(9.0)
    clamped = made(x, AttentionPlan())
    with torch.no_grad():
        made.scale.fill_(4.6052)
    assert torch.allclose(clamped, made(x, AttentionPlan()))


@pytest.mark.parametrize("bias, names", [("full", {"qkv.bias"}), ("qv", {"q_bias", "v_bias"}), ("none", set())])
def test_biases_are_one_dimensional_so_that_they_are_not_decayed(bias, names):
    found = {name: p.dim() for name, p in Attention(DIM, HEADS, bias=bias).named_parameters() if "bias" in name}
    assert found == dict.fromkeys(names | {"proj.bias"}, 1)


def test_widths_must_be_divisible():
    with pytest.raises(ValueError, match="12 is not divisible by 5"):
        Attention(DIM, 5)


# Packed and padded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("counts", [(3, 1, 4), (0, 5, 0, 2), (7,)])
def test_packed_is_per_sample(cosine, counts):
    made, x = attention(cosine=cosine), rows(sum(counts), 1)
    together = made(x, AttentionPlan(counts=counts))
    alone = [made(part, AttentionPlan()) for part in x.split(counts, 1) if part.shape[1]]
    assert torch.allclose(together, torch.cat(alone, 1), atol=1e-6)


def test_a_batch_of_empty_samples():
    assert attention()(rows(0, 1), AttentionPlan(counts=(0, 0))).shape == (1, 0, DIM)


@pytest.mark.parametrize("cosine", [False, True])
def test_padded_is_unpadded(cosine):
    made, x = attention(cosine=cosine), rows(6, 2)
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = made(x, AttentionPlan(valid=valid))
    assert torch.allclose(together[0], made(x[:1], AttentionPlan())[0], atol=1e-6)
    assert torch.allclose(together[1, :4], made(x[1:, :4], AttentionPlan())[0], atol=1e-6)


def test_a_sample_of_padding_alone_spoils_neither_values_nor_gradients():
    trunk = Trunk(DIM, 2, HEADS)
    x = rows(4, 2).requires_grad_()
    valid = torch.tensor([[True] * 4, [False] * 4])
    out, _ = trunk(x, AttentionPlan(valid=valid))
    kept = Rows(torch.arange(4).expand(2, -1), valid).zero_padding(out)
    kept.square().sum().backward()
    assert torch.isfinite(kept).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in trunk.parameters())


def test_plans_follow_the_layout():
    valid = torch.tensor([[True, False]])
    assert AttentionPlan.of(Layout(2)) == AttentionPlan()
    assert AttentionPlan.of(Layout(2, valid=valid), extra=1).valid.tolist() == [[True, True, False]]
    packed = Layout(3, sample=torch.tensor([0, 0, 1]), samples=2, counts=(2, 1))
    assert AttentionPlan.of(packed).counts == (2, 1)
    with pytest.raises(UserError, match=r"encoder\.cls=null"):
        AttentionPlan.of(packed, extra=1)


# Blocks, trunk, ViT ---------------------------------------------------------------------------------------------------


def test_a_block_is_two_residual_steps():
    block = Block(DIM, HEADS, 24, {}, 0.0, 0.0)
    x = rows()
    middle = x + block.attn(block.norm1(x), AttentionPlan())
    assert torch.allclose(block(x, AttentionPlan()), middle + block.mlp(block.norm2(middle)), atol=1e-6)
    assert block.norm1.eps == block.norm2.eps == 1e-6


def test_layer_scale_scales():
    assert torch.equal(LayerScale(DIM, 0.1)(torch.ones(1, 2, DIM)), torch.full((1, 2, DIM), 0.1))
    trunk = Trunk(DIM, 2, HEADS, layer_scale=1e-5)
    assert sum("gamma" in name for name, _ in trunk.named_parameters()) == 4


def test_drop_path_grows_with_depth():
    trunk = Trunk(DIM, 3, HEADS, drop_path=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in trunk.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert [type(block.drop_path) for block in Trunk(DIM, 1, HEADS, drop_path=0.2).blocks] == [nn.Identity]


def test_linear_layers_start_xavier_with_zero_biases():
    trunk = Trunk(64, 2, 4)
    for name, parameter in trunk.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 2:
            assert abs(parameter.std() / (2 / sum(parameter.shape)) ** 0.5 - 1) < 0.1, name


def test_the_mlp_may_be_of_any_ratio():
    assert Trunk(512, 1, 8, mlp_ratio=48 / 11).blocks[0].mlp.fc1.out_features == 2234, "of ViT-g's decoder"


def test_taps_are_block_outputs_before_the_final_norm():
    trunk, x = Trunk(DIM, 3, HEADS), rows()
    out, tapped = trunk(x, AttentionPlan(), ("block0", "block2"))
    assert set(tapped) == {"block0", "block2"} and torch.allclose(trunk.norm(tapped["block2"]), out)
    assert torch.allclose(tapped["block0"], trunk.blocks[0](x, AttentionPlan()))
    assert trunk(x, AttentionPlan())[1] == {}


def test_taps_are_block_inputs_too():
    trunk = Trunk(8, 2, 2)
    x, positions = torch.randn(2, 5, 8), torch.randn(1, 5, 8)
    _, taps = trunk(x, AttentionPlan(), ("input0", "block0", "input1"), positions=positions)
    assert torch.equal(taps["input0"], x + positions)
    assert torch.equal(taps["input1"], taps["block0"] + positions)


def small_vit(cls: bool) -> ViT:
    torch.manual_seed(0)
    embed = PatchEmbed(4, DIM, Normalise([0.5], [0.5]), SinCos((2, 3), DIM))
    return ViT(Trunk(DIM, 2, HEADS), embed, ClsToken(DIM) if cls else None)


def image_tokens(count: int = 2):
    return Patchify([2, 2], (4, 6), 1)(torch.rand(count, 1, 4, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("cls", [False, True])
def test_vit_says_where_its_features_belong(cls):
    vit, tokens = small_vit(cls), image_tokens()
    mask = Mask.from_hidden(torch.tensor([[True, False] * 3, [False, True] * 3]))
    latent = vit(tokens.drop_masked(mask), ("block1",))
    assert latent.features.shape == (2, 3, DIM) and latent.rows is mask.visible
    assert latent.taps["block1"].shape == (2, 3, DIM)
    assert (latent.cls is None) == (not cls) and ("block1/cls" in latent.taps) == cls
    if cls:
        assert latent.cls.shape == (2, DIM)
        assert torch.allclose(vit.trunk.norm(latent.taps["block1/cls"]), latent.cls, atol=1e-6)
    assert vit.provides == {"width": DIM} and (vit.embed_dim, vit.depth, vit.masking) == (DIM, 2, "drop")


@pytest.mark.parametrize("cls", [False, True])
def test_vit_does_not_care_for_the_order_of_rows(cls):
    vit, tokens = small_vit(cls), image_tokens()
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    order = torch.tensor([[3, 0, 5, 1, 2, 4]] * 2)
    one = vit(tokens.drop_masked(Mask(hidden, Rows(order), queries={})))
    two = vit(tokens.unmasked())
    assert torch.allclose(one.features, Rows(order).gather(two.features), atol=1e-5)


@pytest.mark.parametrize("cls", [False, True])
def test_vit_with_padding_is_vit_without(cls):
    vit, tokens = small_vit(cls), image_tokens()
    mask = Mask.from_hidden(torch.tensor([[False] * 6, [True, True, False, True, False, True]]))
    together = vit(tokens.drop_masked(mask))
    content = tokens.content[1:, [2, 4]]
    alone = vit(EncoderInput(content, Layout(2, (2, 3)), rows=Rows(torch.tensor([[2, 4]]))))
    assert torch.allclose(together.features[1, :2], alone.features[0], atol=1e-5)
    assert not cls or torch.allclose(together.cls[1], alone.cls[0], atol=1e-5)


def test_conditions_go_on_to_the_decoder():
    told = {"time": torch.ones(2)}
    seen = image_tokens().drop_masked(Mask.from_hidden(torch.tensor([[True, False] * 3] * 2), condition=told))
    assert all(small_vit(cls)(seen).condition is told for cls in (False, True))


def test_doubles_stay_doubles():
    vit = small_vit(True).double()
    tokens = Patchify([2, 2], (4, 6), 1)(torch.rand(1, 1, 4, 6, dtype=torch.float64))
    assert vit(tokens.unmasked()).features.dtype == torch.float64


@pytest.mark.parametrize("kind", [{}, {"bias": "qv"}, {"bias": "none", "cosine": True}])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_rows_read_alone_equal_the_same_rows_of_all(kind, depth):
    trunk, x = Trunk(DIM, depth, HEADS, layer_scale=0.5, **kind), rows(batch=2)
    plan = AttentionPlan(valid=torch.tensor([[True] * 5, [True, True, False, True, True]]))
    read = Rows(torch.tensor([[4, 1, 1], [3, 0, 0]]), torch.tensor([[True] * 3, [True, True, False]]))
    alone, everything = trunk(x, plan, read=read)[0], read.gather(trunk(x, plan)[0])
    assert alone.shape == (2, 3, DIM) and torch.allclose(read.zero_padding(alone), everything, atol=1e-6)
    weight = torch.randn(2, 3, DIM)
    for parameter in trunk.parameters():
        sums = [(read.zero_padding(out) * weight).sum() for out in (alone, everything)]
        ours, theirs = (torch.autograd.grad(s, parameter, retain_graph=True)[0] for s in sums)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_last_block_works_for_the_rows_read_alone():
    seen = []
    trunk = Trunk(DIM, 2, HEADS)
    for block in trunk.blocks:
        block.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    trunk(rows(count=5), AttentionPlan(), read=Rows(torch.tensor([[1, 2], [0, 4]])))
    assert seen == [5, 2]


def test_positions_are_added_before_every_block():
    trunk, x, positions = Trunk(DIM, 2, HEADS), rows(), rows(seed=3)
    plan = AttentionPlan()
    expected = trunk.blocks[1](trunk.blocks[0](x + positions, plan) + positions, plan)
    assert torch.equal(trunk(x, plan, positions=positions)[0], trunk.norm(expected))


def test_weights_may_start_truncated():
    torch.manual_seed(0)
    weight = Trunk(64, 1, 4, init="truncated").blocks[0].mlp.fc1.weight.detach()
    assert weight.std() == pytest.approx(0.02, rel=0.05) and not weight.mean().abs() > 0.001


@pytest.mark.parametrize("cls", [False, True])
def test_a_leaking_vit_embeds_all_and_encodes_what_is_visible(cls):
    vit, tokens = small_vit(cls), image_tokens()
    mask = Mask.from_hidden(torch.tensor([[True, False] * 3, [False, True] * 3]))
    tight = vit(tokens.drop_masked(mask))
    vit.masking = "leak"
    latent = vit(tokens.leak_masked(mask))
    assert latent.rows is mask.visible and torch.allclose(latent.features, tight.features, atol=1e-6)
    assert vit(tokens.unmasked()).features.shape == (2, 6, DIM)
