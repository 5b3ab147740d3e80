"""Every modality × method pair of the configs: those of a table train and are tight, the others are refused."""

from inspect import isabstract

import pytest
import torch

from core.config import compose
from core.config.build import build_method
from core.config.files import choices
from core.encoder import Encoder
from core.errors import UserError
from core.export import SavedEncoder, export_encoder, load_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch
from tests.contracts.firewall import alone, convolves, firewall, growth, honest, moved
from tests.contracts.pairs import Pair, masked, pairs

# The modalities that each method takes.
ACCEPTED = {
    "graphmae": ["graph"],
    "graphmae2": ["graph"],
    "graphmae_chem": ["graph"],
    "graphmae_gin": ["graph"],
    "graphmae_transformer": ["graph"],
    "i2p_mae": ["point"],
    "mae": ["image", "video"],
    "point_m2ae": ["point"],
    "point_mae": ["point"],
    "simmim": ["image", "video"],
    "spark": ["image"],
    "st_mae": ["video"],
    "videomae": ["video"],
    "videomaev2": ["video"],
}
TAKEN = [Pair(modality, method) for method, modalities in ACCEPTED.items() for modality in modalities]
REFUSED = [pair for pair in pairs() if pair not in TAKEN]


def test_every_method_takes_some_modality():
    assert set(ACCEPTED) == set(choices("method")), "the table lists the methods of configs/method"
    assert all(ACCEPTED.values()), "a method without a modality cannot be trained"
    assert set(TAKEN) <= set(pairs())


@pytest.mark.parametrize("pair", TAKEN, ids=str)
def test_a_pair_trains_and_is_tight(pair):
    method = pair.build()
    batch = pair.batch(method)
    trains(method, batch)
    tokens, masks = masked(method, batch)
    is_tight(method, batch, tokens, pair.scrambled(method, batch, masks), masks)
    if convolves(method.encoder):
        grid = tokens[pair.modality].layout.grid
        growth(method, batch.views[pair.modality], masks[pair.modality].hidden.unflatten(1, grid))


@pytest.mark.parametrize("pair", REFUSED, ids=str)
def test_another_pair_is_refused_with_a_reason(pair):
    assert pair.refusal, "it builds: add it to the table"
    assert "method." in pair.refusal, "which part of the method cannot take the modality"
    assert any(words in pair.refusal for words in ("needs tokens with", "needs it", "takes its value")), pair.refusal


@pytest.mark.parametrize("pair", TAKEN, ids=str)
def test_the_encoder_of_a_pair_is_the_same_when_loaded(pair, tmp_path):
    config = pair.config()
    method = build_method(config).eval()
    export_encoder(tmp_path, method, config)
    data = pair.batch(method).views[pair.modality]
    own, loaded = (
        encoder(data)
        for encoder in (SavedEncoder(method.tokenizer, method.encoder, {"view": pair.modality}), load_encoder(tmp_path))
    )
    assert torch.equal(own.tokens, loaded.tokens) and torch.equal(own.pooled, loaded.pooled)


def trains(method: MaskedAutoencoder, batch: Batch) -> None:
    out = method(batch, generator=torch.Generator().manual_seed(0))
    out.loss.backward()
    assert torch.isfinite(out.loss) and set(out.terms) == set(out.predictions) == set(out.targets)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is not trained"
            assert torch.isfinite(parameter.grad).all(), name


def is_tight(method: MaskedAutoencoder, batch: Batch, tokens: dict, other: dict, masks: dict) -> None:
    assert method.encoder.masking != "leak", "a method's default must not see hidden tokens"
    firewall(method, tokens, other, masks)
    honest(method, tokens, masks, batch)
    if all(asked.objective.target.reveals == "nothing" for asked in method.prediction_tasks(masks).values()):
        moved(method, tokens, masks)
    alone(method, tokens, masks)


@pytest.mark.parametrize("modality", choices("modality"))
def test_the_default_method_of_a_modality_takes_it(modality):
    assert modality in ACCEPTED[compose([f"modality={modality}"])["method"]["name"]]


@pytest.mark.parametrize("modality, method", [("image", "videomae"), ("video", "graphmae"), ("graph", "mae")])
def test_a_refusal_names_what_goes_together(modality, method):
    with pytest.raises(UserError) as caught:
        build_method(compose([f"modality={modality}", f"method={method}"]))
    said = str(caught.value)
    assert f"method={method} cannot take modality={modality}" in said
    assert f"method={method} takes modality={'|'.join(ACCEPTED[method])}" in said
    assert f"modality={modality} goes with method=" in said


def test_no_encoder_sees_hidden_tokens():
    """Those that do exist for parity with official code only; one that comes is named here."""
    for pair in TAKEN:
        pair.build()  # imports its encoder
    kinds = [kind for kind in _subclasses(Encoder) if not isabstract(kind)]
    kinds = {kind.__name__: kind for kind in kinds if kind.__module__.startswith(("core.", "modalities."))}
    assert {"ViT", "ConvNet", "GAT"} <= set(kinds)
    assert [name for name, kind in kinds.items() if "leak" in (kind.masking, *(kind.__doc__ or "").split())] == []


def test_raw_data_reach_every_method_as_bytes_too():
    """What readers give: uint8."""
    pair = Pair("image", "mae")
    method = pair.build().eval()
    data = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    _, masks = masked(method, Batch({"image": data}))
    as_bytes = method(Batch({"image": data}), masks=masks)
    as_floats = method(Batch({"image": data.float() / 255}), masks=masks)
    assert torch.allclose(as_bytes.loss, as_floats.loss)


def _subclasses(kind: type) -> set[type]:
    return {kind, *(below for sub in kind.__subclasses__() for below in _subclasses(sub))}
