"""GraphMAE and GraphMAE2: swapped and kept nodes, codes hidden again, several decodings of one latent, roots."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import token
from core.encoder import Encoder
from core.losses import scaled_cosine
from core.maskers import ViewMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective, Readout
from core.targets import TeacherFeatures
from core.teachers import EMATeacher
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Mask, Progress, Query, Rows, Tokens
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import optimise, tight, with_side
from tests.contracts.toys import DIM, Packed, Raw, ragged_data, run

C = 3


class Linked(Packed):
    """Every node is linked to itself and the one before it in its graph; the first one of each graph is its root."""

    def forward(self, data) -> Tokens:
        tokens = super().forward(data)
        node, sample = torch.arange(tokens.layout.count), tokens.layout.sample
        inner = node[1:][sample[1:] == sample[:-1]]
        edges = torch.stack([torch.cat([node, inner - 1]), torch.cat([node, inner])])
        layout = replace(tokens.layout, edges=edges[:, edges[1].argsort(stable=True)])
        starts = torch.tensor([0, *tokens.layout.counts]).cumsum(0)[:-1]
        return with_side(replace(tokens, layout=layout), roots=starts)


class Nodes(ViewMasker):
    """Of the hidden nodes, drawn over all graphs together, one keeps its content and one gets another node's."""

    def __init__(self, views: int = 0):
        self.views = views

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        orders = [torch.randperm(tokens.layout.count, generator=generator) for _ in range(1 + self.views)]
        return torch.stack(orders)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        count = tokens.layout.count
        chosen, kept = draws[0, : count // 2], draws[0, count // 2 :]
        hidden = torch.zeros(1, count, dtype=torch.bool).index_fill(1, chosen, True)
        source = torch.arange(count).index_fill(0, chosen[2:], -1)
        source[chosen[1]] = chosen[2]
        rows = Rows(chosen[None])
        places = {f"main/{i}": Query(rows, Rows(draws[i + 1, : count // 2][None])) for i in range(self.views)}
        places = places or {"main": Query(rows, rows)}
        places["roots"] = Query(Rows(tokens.side["roots"][None]))
        edges = tokens.layout.edges
        thinned = replace(tokens.layout, edges=edges[:, (edges[0] == edges[1]) | (edges[0] % 2 == 0)])
        return Mask(hidden, Rows(kept[None]), places, source[None], thinned)


def neighbours(x: Tensor, layout: Layout) -> Tensor:
    return torch.zeros_like(x).index_add(0, layout.edges[1], x[layout.edges[0]])


class Gnn(Encoder):
    masking = "replace"

    def __init__(self):
        super().__init__()
        self.linear, self.mask_token = nn.Linear(C, DIM), nn.Parameter(token(C))
        self.embed_dim, self.depth = DIM, 1
        self.seen: list[EncoderInput] = []

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        self.seen.append(seen)
        x = seen.content
        if seen.erased is not None:
            x = torch.where(seen.erased[..., None], self.mask_token, x)
        return Latent(neighbours(self.linear(x[0]), seen.layout)[None], seen.layout, seen.rows)


class GnnDecoder(Decoder):
    """Codes of `place.remask` are erased, each place by its own; the decoder sees all edges."""

    dim = C

    def __init__(self, learned: bool = False):
        super().__init__()
        self.bridge, self.linear = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, C)
        self.mask_token = nn.Parameter(torch.randn(DIM) * 0.1) if learned else None
        self.codes: list[Tensor] = []

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        return {name: query.rows.gather(self.decode(latent, layout, query)[None]) for name, query in queries.items()}

    def decode(self, latent: Latent, layout: Layout, query: Query) -> Tensor:
        erased = query.remask.to_mask(layout.count)[0, :, None]
        fill = torch.zeros(DIM) if self.mask_token is None else self.mask_token
        self.codes.append(torch.where(erased, fill, self.bridge(latent.features[0])))
        return self.linear(neighbours(self.codes[-1], layout))


BATCH = Batch({"graph": ragged_data((4, 1, 9))})


def graphmae() -> MaskedAutoencoder:
    objective = Objective(Raw(C), scaled_cosine)
    return MaskedAutoencoder(Linked(), Nodes(), Gnn(), {"main": Readout(GnnDecoder(), {"features": objective})})


def test_kept_and_swapped_nodes_count_and_codes_are_hidden_again():
    method = graphmae()
    out = run(method, BATCH)
    mask, content = out.masks["graph"], method.tokenizer(BATCH.views["graph"]).content[0]
    chosen = mask.queries["main"].rows.index[0]
    (seen,) = method.encoder.seen
    assert mask.hidden[0, chosen[0]] and torch.equal(seen.content[0, chosen[0]], content[chosen[0]]), "kept, yet hidden"
    assert torch.equal(seen.content[0, chosen[1]], content[chosen[2]]), "swapped"
    assert seen.erased[0].nonzero()[:, 0].tolist() == sorted(chosen[2:].tolist())
    assert torch.equal(out.targets["features"].values[0], content[chosen]), "and all of them are scored"
    (codes,) = method.readouts["main"].decoder.codes
    assert (codes[chosen] == 0).all() and (codes[mask.visible.index[0]] != 0).any(1).all()


def test_the_encoder_loses_edges_and_the_decoder_does_not():
    method = graphmae()
    run(method, BATCH)
    (seen,) = method.encoder.seen
    assert seen.layout.edges.shape[1] < method.tokenizer(BATCH.views["graph"]).layout.edges.shape[1]


def test_it_is_tight_and_reads_rows_that_are_swapped_in():
    method = graphmae()
    tight(method, BATCH)
    _, masks = masked(method, BATCH)
    assert masks["graph"].hidden.sum() > 2


class ProjectedTeacher(EMATeacher):
    """EMATeacher codes of every node, nothing hidden."""

    def forward(self, ctx: ForwardContext) -> Tensor:
        return self.copies["head"](self.copies["encoder"](ctx.tokens["graph"].unmasked()).features)


def graphmae2(momentum: float = 0.9) -> MaskedAutoencoder:
    at = ["main/0", "main/1", "main/2"]
    latent = Objective(
        TeacherFeatures("latent", DIM), scaled_cosine, nn.Linear(DIM, DIM), queries=["roots"], weight=0.5
    )
    readouts = {
        "main": Readout(GnnDecoder(learned=True), {"features": Objective(Raw(C), scaled_cosine, queries=at)}),
        "latent": Readout(None, {"latent": latent}),
    }
    parts = {"encoder": "encoder", "head": "readouts.latent.objectives.latent.head"}
    teachers = {"latent": ProjectedTeacher(parts, momentum)}
    return MaskedAutoencoder(Linked(), Nodes(views=3), Gnn(), readouts, teachers)


def test_several_decodings_of_one_latent_and_one_of_roots():
    method = graphmae2()
    out = run(method, BATCH)
    assert list(out.terms) == ["features/main/0", "features/main/1", "features/main/2", "latent"]
    codes = method.readouts["main"].decoder.codes
    assert len(codes) == 3 and not torch.equal(codes[0], codes[1])
    features = [out.predictions[f"features/main/{i}"] for i in range(3)]
    assert len({f.shape for f in features}) == 1 and not torch.equal(features[0], features[1])
    assert out.predictions["latent"].shape == (1, 3, DIM), "one root a graph"
    total = sum(out.terms[f"features/main/{i}"] for i in range(3)) + 0.5 * out.terms["latent"]
    assert torch.allclose(out.loss, total)


def test_the_teacher_follows_before_the_optimiser_and_is_saved_once():
    method = graphmae2(momentum=0.75)
    run(method, BATCH)
    teacher = method.teachers["latent"]
    before, student = teacher.copies["encoder"].linear.weight.clone(), method.encoder.linear.weight.detach().clone()
    with torch.no_grad():
        method.encoder.linear.weight += 1
    optimise(method)
    expected = before * 0.75 + (student + 1) * 0.25
    assert torch.allclose(teacher.copies["encoder"].linear.weight, expected), "of the weights before the step"
    saved = [key for key in method.state_dict() if key.endswith("encoder.linear.weight")]
    assert saved == ["encoder.linear.weight", "moving_teachers.latent.copies.encoder.linear.weight"]
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_may_start_late():
    method = graphmae2()
    method.teachers["latent"].delay = 5.0
    before = method.teachers["latent"].copies["encoder"].linear.weight.clone()
    with torch.no_grad():
        method.encoder.linear.weight += 1
    method.before_step(Progress(1, 10, 1.0, 10.0))
    assert torch.equal(method.teachers["latent"].copies["encoder"].linear.weight, before)
