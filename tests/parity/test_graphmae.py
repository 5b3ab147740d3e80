"""What graph methods do beside the compared numbers, on the reference vectors."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from core.interop import load_official
from core.tokens import ForwardContext
from tests.parity.vectors import Folder, cases

NODES = ("graphmae", "graphmae-gin", "graphmae2")
MOLECULES = "graphmae-chem"  # masked by Python's generator: see methods/graphmae_chem.py


@pytest.mark.parametrize("case", cases(*NODES))
def test_recorded_seed_gives_the_recorded_mask(case):
    folder = Folder(case[1], case[0])
    if "mask_seed" not in folder.meta:
        pytest.skip("the folder names no seed")
    method, (batch, _) = folder.load(), folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    torch.manual_seed(folder.meta["mask_seed"])
    mask = method.draw_mask(ForwardContext(batch, tokens))["graph"]
    hidden = folder.io["mask_nodes"]
    for place in (place for name, place in mask.queries.items() if name.startswith("main")):
        assert torch.equal(place.rows.index[0], hidden)


@pytest.mark.parametrize("case", cases(*NODES, MOLECULES))
def test_remasked_codes_are_not_read(case):
    """Other latents at erased nodes leave every answer as it is; at a visible node they do not."""
    folder = Folder(case[1], case[0])
    method = folder.load().eval()
    batch, draws = folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    mask = method.draw_mask(ForwardContext(batch, tokens), draws)["graph"]
    name, place = next(iter(mask.queries.items()))
    latent = method.encode({"graph": tokens["graph"]}, {"graph": mask})["graph"]
    decoder = method.readouts["main"].decoder

    def answers(change) -> torch.Tensor:
        taps = {tap: change(value) for tap, value in latent.taps.items()}
        changed = replace(latent, features=change(latent.features), taps=taps)
        return decoder(changed, tokens["graph"].layout, {name: place}, {})[name]

    # Decoders of each node's own code empty nothing: there nodes that are not asked for are not read.
    unread = place.rows.to_mask(latent.features.shape[1]).logical_not()
    if place.remask is not None:
        unread = place.remask.to_mask(latent.features.shape[1])
    with torch.no_grad():
        plain = answers(lambda x: x)
        assert torch.equal(answers(lambda x: torch.where(unread[..., None], torch.randn_like(x), x)), plain)
        assert not torch.equal(answers(lambda x: torch.where(unread[..., None], x, 1.0)), plain)


@pytest.mark.parametrize("case", cases(*NODES, MOLECULES))
@pytest.mark.filterwarnings("ignore:.*(is assumed|concat_hidden)")
def test_a_user_checkpoint_needs_no_meta(case):
    name, path = case
    batch = Folder(path, name).replay()[0]
    method = load_official(name, load_file(path / "state_dict.safetensors"))
    assert torch.isfinite(method(batch).loss)
