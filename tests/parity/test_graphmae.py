"""What graph methods do beside the compared numbers, on the reference vectors."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core.interop import load_official
from core.tokens import ForwardContext
from tests.parity.graphs import OUTPUTS
from tests.parity.vectors import Folder, cases


# Molecules are masked by Python's generator: see graphs.official_atoms.
@pytest.mark.parametrize("case", cases(*sorted(OUTPUTS.keys() - {"graphmae-chem"})))
def test_recorded_seed_gives_the_recorded_mask(case):
    folder = Folder(case[1], case[0])
    method, (batch, _) = folder.load(), folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    torch.manual_seed(folder.meta["mask_seed"])
    mask = method.draw_mask(ForwardContext(batch, tokens))["graph"]
    hidden = folder.io["mask_nodes"]
    for place in (place for name, place in mask.queries.items() if name.startswith("main")):
        assert torch.equal(place.rows.index[0], hidden)


@pytest.mark.parametrize("case", cases(*OUTPUTS))
def test_remasked_codes_are_not_read(case):
    """Other latents at erased nodes leave every answer as it is; at a visible node they do not."""
    folder = Folder(case[1], case[0])
    method = folder.load().eval()
    batch, draws = folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    ctx = ForwardContext(batch, tokens)
    mask = method.draw_mask(ctx, draws)["graph"]
    name, place = next(iter(mask.queries.items()))
    latent, decoder = (
        method.encode({"graph": tokens["graph"]}, {"graph": mask})["graph"],
        method.readouts["main"].decoder,
    )
    ask = lambda features: decoder(replace(latent, features=features), tokens["graph"].layout, {name: place}, {})[name]  # noqa: E731
    erased = place.remask.to_mask(latent.features.shape[1])
    with torch.no_grad():
        plain = ask(latent.features)
        other = torch.where(erased[..., None], torch.randn_like(latent.features), latent.features)
        assert torch.equal(ask(other), plain)
        assert not torch.equal(ask(torch.where(erased[..., None], latent.features, 1.0)), plain)


@pytest.mark.parametrize("case", cases(*OUTPUTS))
def test_a_user_checkpoint_needs_no_meta(case):
    name, path = case
    batch = Folder(path, name).replay()[0]
    method = load_official(name, load_file(path / "state_dict.safetensors"))
    assert torch.isfinite(method(batch).loss)
