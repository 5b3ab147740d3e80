"""Every modality × method pair of the configs: it trains and is tight, or says why it is refused."""

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

ALL = pairs()


@pytest.mark.parametrize("pair", ALL, ids=str)
def test_a_pair_trains_and_is_tight_or_is_refused_with_a_reason(pair):
    if pair.refusal:
        assert "method." in pair.refusal, "which part of the method cannot take the modality"
        assert any(words in pair.refusal for words in ("needs tokens with", "needs it", "takes its value")), (
            pair.refusal
        )
        return
    method = pair.build()
    batch = pair.batch(method)
    trains(method, batch)
    tokens, masks = masked(method, batch)
    is_tight(method, batch, tokens, pair.scrambled(method, batch, masks), masks)
    if convolves(method.encoder):
        grid = tokens[pair.modality].layout.grid
        growth(method, batch.views[pair.modality], masks[pair.modality].hidden.unflatten(1, grid))


@pytest.mark.parametrize("pair", [pair for pair in ALL if not pair.refusal], ids=str)
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


@pytest.mark.parametrize("modality", sorted(choices("modality")))
def test_a_modality_goes_with_some_method_and_its_default(modality):
    taken = [pair.method for pair in ALL if pair.modality == modality and not pair.refusal]
    assert compose([f"modality={modality}"])["method"]["name"] in taken


def test_a_refusal_names_what_goes_together():
    refused = next(pair for pair in ALL if pair.refusal and pair.modality == "image")
    with pytest.raises(UserError) as caught:
        build_method(compose([f"modality={refused.modality}", f"method={refused.method}"]))
    said = str(caught.value)
    assert f"method={refused.method} cannot take modality=image" in said and "modality=image goes with method=" in said
    takes = [pair.modality for pair in ALL if pair.method == refused.method and not pair.refusal]
    assert all(name in said for name in takes)


def test_encoders_that_see_hidden_tokens_are_named(capsys):
    """They exist for parity only."""
    for modality in choices("modality"):
        Pair(modality, compose([f"modality={modality}"])["method"]["name"]).build()  # imports its encoders
    kinds = [kind for kind in _subclasses(Encoder) if kind.__module__.startswith(("core.", "modalities."))]
    kinds = [kind for kind in kinds if not isabstract(kind) and "leak" in (kind.masking, *(kind.__doc__ or "").split())]
    exposing = sorted(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
    with capsys.disabled():
        print(f"\nencoders that can be shown hidden tokens: {', '.join(exposing) or 'none'}")


def test_raw_data_reach_every_method_as_bytes_too():
    """What readers give: uint8."""
    pair = Pair("image", "mae")
    method = pair.build().eval()
    data = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    _, masks = masked(method, Batch({"image": data}))
    as_bytes = method(Batch({"image": data}), mask=masks)
    as_floats = method(Batch({"image": data.float() / 255}), mask=masks)
    assert torch.allclose(as_bytes.loss, as_floats.loss)


def _subclasses(kind: type) -> set[type]:
    return {kind, *(below for sub in kind.__subclasses__() for below in _subclasses(sub))}
