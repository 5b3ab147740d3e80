"""Image encoders as teachers of clouds: any of ours, or of timm's, as pictures -> feature maps and saliency."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from core.checkpoint_files import read_checkpoint
from core.encoder import ViT
from core.errors import UserError, nearest, one_line
from core.export import SavedEncoder, load_encoder
from core.interop import IMAGENET, unwrap
from core.seeding import seeded
from core.tokenizers import Patchify
from core.tokens import Latent

RANDOM, PRETRAINED = "random", "pretrained"
# The control that needs no file: a ViT as small as ours of size nano, for small pictures.
CONTROL = "vit_tiny_patch16_224"
CONTROL_SETTINGS = {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}


class PictureMaps(NamedTuple):
    """Features of each patch, and how salient it is.

    Shapes: `features` (B, D, h, w), `saliency` (B, 1, h, w).
    """

    features: Tensor
    saliency: Tensor


class PictureEncoder(nn.Module, ABC):
    """Pictures in [0, 1] (B, channels, size, size) -> PictureMaps.

    Saliency is the last attention's row of the class token, the mean of its heads, at the patches. Without a class
    token it is the length of a patch's features, divided by the sum of all lengths: of the same size as attention.
    """

    size: int
    channels: int
    width: int

    @abstractmethod
    def forward(self, pictures: Tensor) -> PictureMaps: ...


class OwnPictures(PictureEncoder):
    """An encoder of ours. Features are those that it gives its users.

    Raises: UserError for encoders of other data than square pictures.
    """

    def __init__(self, saved: SavedEncoder, place: str):
        super().__init__()
        tokenizer = saved.tokenizer
        if not isinstance(tokenizer, Patchify) or len(tokenizer.size) != 2:
            raise UserError(f"{place} holds an encoder of the view {saved.view}; name the run of an image encoder.")
        if len(set(tokenizer.size)) != 1:
            size = list(tokenizer.size)
            raise UserError(f"{place} was trained with pictures of {size}; depth views are square: train one for them.")

        self.tokenizer, self.encoder = tokenizer, saved.encoder
        self.size, self.channels, self.width = tokenizer.size[0], tokenizer.channels, saved.embed_dim

    def forward(self, pictures: Tensor) -> PictureMaps:
        inputs = self.tokenizer(pictures).unmasked()
        if not isinstance(self.encoder, ViT) or self.encoder.cls is None or not self.encoder.depth:
            latent = self.encoder(inputs)
            features = _as_maps(latent)
            return PictureMaps(features, _lengths(features))

        last = f"input{self.encoder.depth - 1}"
        latent = self.encoder(inputs, (last,))
        x = torch.cat([latent.taps[f"{last}/cls"][:, None], latent.taps[last]], 1)
        block = self.encoder.trunk.blocks[-1]
        weights = block.attn.first_row(block.norm1(x)).mean(1)[:, 1:]
        return PictureMaps(_as_maps(latent), weights.unflatten(1, (1, *latent.layout.grid)))


class TimmPictures(PictureEncoder):
    """A network of timm. `head`: features go through its last layer too (of CLIP the projection).

    Pictures are normalised by ImageNet's mean and spread, as published for CLIP too.
    Raises: UserError where patches do not divide the picture, and for `head` without a last layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: int, *, head: bool, place: str):
        super().__init__()
        self.network, self.size, self.channels, self.head = network, size, 3, head
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        if patch is not None and size % patch[0]:
            fit = max(1, round(size / patch[0])) * patch[0]
            raise UserError(
                f"{place}: patches of {patch[0]} pixels do not divide pictures of {size}: set settings.img_size={fit}, "
                "or another settings.patch_size."
            )

        self.width: int = network.num_features
        if head:
            last = getattr(network, "head", None)
            if not isinstance(network, VisionTransformer) or not isinstance(last, nn.Linear):
                raise UserError(f"{place} is no ViT with a last layer for its features: set head=false.")
            self.width = last.out_features
        self.attention = _last_attention(network)
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

        try:
            with torch.no_grad():
                self.width = self.eval()(torch.zeros(1, 3, size, size)).features.shape[1]
        except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError) as error:
            raise UserError(
                f"{place} gives no map of features for pictures of {size} pixels: {one_line(error)}"
            ) from None

    def forward(self, pictures: Tensor) -> PictureMaps:
        x = (pictures - self.mean) / self.std
        if self.attention is None:
            features = self._maps(self.network.forward_features(x))
            return PictureMaps(features, _lengths(features))

        weights: list[Tensor] = []

        def keep(_, __, output: Tensor) -> None:
            weights.append(output)

        with self.attention.attn_drop.register_forward_hook(keep):  # timm returns features alone
            features = self._maps(self.network.forward_features(x))
        of_class = weights[0][:, :, 0, self.network.num_prefix_tokens :].mean(1)
        return PictureMaps(features, _square(of_class[:, None]))

    def _maps(self, x: Tensor) -> Tensor:
        """Features (B, D, h, w) of tokens (B, N, D), maps, or maps with channels last."""
        if x.dim() == 4:
            return x if x.shape[1] == self.width else x.movedim(3, 1)
        x = x[:, self.network.num_prefix_tokens :]
        if self.head:
            x = self.network.head(x)
        return _square(x.transpose(1, 2))


def open_pictures(source: str, weights: str, *, head: bool, settings: Mapping[str, Any], seed: int) -> PictureEncoder:
    """The encoder that a teacher's settings name; on the meta device without its weights.

    Raises: UserError for sources and files that there are not, or that are of another kind.
    """
    place = f"method.teachers: source={source}"
    if source == RANDOM:
        source, weights, settings = CONTROL, RANDOM, {**CONTROL_SETTINGS, **settings}
    if torch.get_default_device().type == "meta":  # sizes alone are looked at
        weights = RANDOM
    with seeded(seed):  # the method's own weights do not depend on its teacher
        return _open(source, weights, head=head, settings=settings, place=place)


def _open(source: str, weights: str, *, head: bool, settings: Mapping[str, Any], place: str) -> PictureEncoder:
    if Path(source).exists():
        if head or settings or weights not in (RANDOM, PRETRAINED):
            raise UserError(f"{place} is a run or saved encoder, which takes no head, settings or file of weights.")
        try:
            saved = load_encoder(source, pretrained=weights == PRETRAINED)
        except UserError as error:
            raise UserError(f"{place} is no image encoder: {error}") from None
        return OwnPictures(saved, place)

    if not timm.is_model(source):
        names = " or ".join(nearest(source, timm.list_models())) or "vit_base_patch16_clip_quickgelu_224.openai"
        raise UserError(
            f"{place} is neither the folder of an image run nor a network of timm {timm.__version__}. Give a folder, a "
            f"name such as {names}, or {RANDOM}."
        )
    if settings.get("in_chans", 3) != 3:
        raise UserError(f"{place}: settings.in_chans={settings['in_chans']} must be 3: pictures are normalised as RGB.")
    if not head:
        settings = {"num_classes": 0, **settings}
    network = _create(source, weights, settings, place)
    size = settings.get("img_size") or network.pretrained_cfg["input_size"][-1]
    if not isinstance(size, int):
        raise UserError(f"{place}: settings.img_size={size} must be one number: depth views are square.")
    return TimmPictures(network, size, head=head, place=place)


def _create(source: str, weights: str, settings: Mapping[str, Any], place: str) -> nn.Module:
    """A network of timm, with its weights."""
    try:
        network = timm.create_model(source, pretrained=weights == PRETRAINED, **settings)
    except (TypeError, AssertionError, ValueError, KeyError) as error:
        raise UserError(f"{place} cannot be made with settings {dict(settings)}: {one_line(error)}") from None
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{place}: timm could not load its weights ({one_line(error)}). Give a file, weights=<path>, or "
            f"weights={RANDOM}."
        ) from None
    if weights in (RANDOM, PRETRAINED):
        return network

    load_timm(network, unwrap(read_checkpoint(weights)), f"{place}: {weights}")
    return network


def load_timm(network: nn.Module, state: Mapping[str, Tensor], place: str) -> None:
    """Loads weights under timm's names, or OpenAI's of CLIP ("visual.…"). Raises: UserError where they do not fit."""
    if isinstance(network, VisionTransformer):
        with suppress(RuntimeError, LookupError, AttributeError, ValueError, TypeError):  # of tensors of other shapes
            state = checkpoint_filter_fn(dict(state), network)

    tensors = network.state_dict()
    wrong = [name for name, value in tensors.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise UserError(
            f"{place} holds weights of another network: of its {len(tensors)} tensors {len(wrong)} are missing or of "
            f"another shape ({wrong[0]}, …). Name their network as source=."
        )
    network.load_state_dict({name: state[name] for name in tensors})


def _last_attention(network: nn.Module) -> nn.Module | None:
    """The last block's attention, which then computes its weights one by one; None where there is no class token."""
    blocks = getattr(network, "blocks", None)
    if getattr(network, "cls_token", None) is None or not blocks:
        return None
    attention = getattr(blocks[-1], "attn", None)
    if not isinstance(getattr(attention, "attn_drop", None), nn.Module) or not hasattr(attention, "fused_attn"):
        return None
    attention.fused_attn = False
    return attention


def _as_maps(latent: Latent) -> Tensor:
    """(B, D, h, w) of features (B, N, D) that fill a grid."""
    assert latent.layout.grid is not None, "pictures are cut into a grid"
    return latent.features.transpose(1, 2).unflatten(2, latent.layout.grid)


def _lengths(features: Tensor) -> Tensor:
    """(B, 1, h, w), whose sum over h and w is 1, of features (B, D, h, w)."""
    lengths = features.norm(dim=1, keepdim=True)
    return lengths / lengths.sum((2, 3), keepdim=True)


def _square(x: Tensor) -> Tensor:
    """(B, D, N) -> (B, D, √N, √N)."""
    side = isqrt(x.shape[2])
    return x.unflatten(2, (side, side))
