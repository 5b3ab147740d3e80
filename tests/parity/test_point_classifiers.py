"""Classifiers of point clouds against the official ones: features, logits, loss, gradients, a step; sizes."""

import re
from collections.abc import Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import compose
from core.config.build import build_method
from core.engine.optim import parameter_groups
from core.evaluation.features import pooled
from core.evaluation.labelled import Label
from core.evaluation.metrics import METRICS
from core.evaluation.network import LabelledNetwork
from core.export import SavedEncoder, with_settings
from core.interop import ClassifierOptions, find_official, load_official
from core.tokens import Mask
from modalities.point.clouds import Clouds, Plan
from modalities.point.methods.point_m2ae import CLASSIFIER, clouds_of
from tests.parity.vectors import Folder, Pair, WeightComparison, cases, check, close, equal, unnoticed

HEAD = "cls_head_finetune."
RECORDED = "published"
# Inputs, groups, which other tests compare, and numbers that follow from others.
ELSEWHERE = r"points|labels|augment\..*|fps_idx|knn_idx|neighborhood|center|accuracy|dropout\.keep\d|grad_norm_total"


class Recorded(nn.Module):
    """Dropout by a recorded mask."""

    def __init__(self, keep: Tensor):
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep / 0.5


class Classifier:
    """The recorded classifier as a network of ours."""

    def __init__(self, folder: Folder, dropout: Sequence[nn.Module] | None = None):
        with pytest.warns(UserWarning, match=r"(?s)no decoder.*cls_head_finetune.*: the classifier"):
            self.method = folder.load()
        encoder = SavedEncoder(self.method.tokenizer, self.method.encoder, {"view": "point"})
        label = label_of(folder.settings["cls_dim"])
        options = folder.official.classifiers[RECORDED]
        self.network = LabelledNetwork(encoder, label, options.pool, options=options)
        state = {key.removeprefix(HEAD): x for key, x in folder.checkpoint.items() if key.startswith(HEAD)}
        self.network.head.load_state_dict(state)
        for place, module in zip((3, 7), dropout or (nn.Identity(), nn.Identity()), strict=True):
            self.network.head[place] = module

        self.clouds = Clouds(folder.io["points"], plans=(Plan(folder.io["fps_idx"], folder.io["knn_idx"]),))
        self.labels = folder.io["labels"]

    def backward(self, compared: WeightComparison, prefix: str) -> None:
        """Feature, logits and loss, and gradients of it from then on."""
        features = self.network.features(self.clouds)
        logits = self.network.head(self.network.norm(features))
        loss = self.network.loss(logits, self.labels)
        for key, value in {"feature": features, "logits": logits, "loss": loss}.items():
            compared.close(prefix + key, value)
        loss.backward()


def label_of(classes: int) -> Label:
    return Label("class", "classes", names=list(map(str, range(classes))), metric=METRICS["accuracy"]())


@pytest.mark.parametrize("case", cases("point-mae-finetune"))
def test_the_classifier_of_point_mae_is_the_official_one(case):
    folder = Folder(case[1], "point-mae")
    pairs = compare(folder)
    assert not check(pairs)
    assert not unnoticed(pairs)
    missing = [key for key in folder.io if key not in pairs and not matches(ELSEWHERE, key)]
    assert not missing
    for key in ("logits", "loss", f"{HEAD}8.weight", "gradient of encoder.cls.position", "after_step.cls_token"):
        assert key in pairs


def compare(folder: Folder) -> dict[str, Pair]:
    compared = WeightComparison(folder)
    trained = Classifier(folder)
    trained.network.train()
    latents(compared, Classifier(folder))
    trained.backward(compared, "")
    compared.close("loss_float64", trained.network.loss(trained.network.outputs(trained.clouds), trained.labels))
    compared.gradients(trained.method, "grad.")
    head_gradients(compared, trained.network.head, folder.gradients, "")
    head_gradients(compared, trained.network.head, under(folder.io, "grad."), "grad.")

    # Running statistics after one forward, not two.
    once = Classifier(folder)
    once.network.train()
    once.network.outputs(once.clouds)
    updated(compared, "post.", once)

    step(compared, Classifier(folder))
    evaluated = Classifier(folder)
    evaluated.network.eval()
    evaluated.backward(compared, "eval.")
    partial(compared, "eval.grad.", evaluated)

    masks = [Recorded(folder.io[f"dropout.keep{number}"].float()) for number in (0, 1)]
    dropped = Classifier(folder, masks)
    dropped.network.train()
    dropped.backward(compared, "dropout.")
    partial(compared, "dropout.grad.", dropped)
    return compared.pairs


@torch.no_grad()
def latents(compared: WeightComparison, classifier: Classifier) -> None:
    """Embeddings, positions, outputs of blocks and of the norm, in train mode."""
    encoder, network = classifier.method.encoder, classifier.network
    network.train()
    tokens = classifier.method.tokenizer(classifier.clouds).unmasked()
    compared.close("tokens", Classifier(compared.folder).method.train().encoder.embed(tokens))
    compared.close("pos", encoder.positions.of(tokens))
    latent = encoder(tokens, [f"block{number}" for number in range(encoder.depth)])
    for number in range(encoder.depth):
        rows = [latent.taps[f"block{number}/cls"][:, None], latent.taps[f"block{number}"]]
        compared.close(f"block{number}", torch.cat(rows, 1))
    compared.close("latent", torch.cat([latent.cls[:, None], latent.features], 1))


def head_gradients(compared: WeightComparison, head: nn.Module, recorded: Mapping[str, Tensor], prefix: str) -> None:
    folder, largest = compared.folder, max(float(x.abs().max()) for x in compared.folder.gradients.values())
    for key, gradient in recorded.items():
        if key.startswith(HEAD):
            noise, tolerance = 0.0, folder.gradient_tolerance
            if folder.is_noise(key, gradient, largest):
                noise, tolerance = folder.gradient_noise(largest), 1.0
            ours = head.get_parameter(key.removeprefix(HEAD)).grad
            compared.pairs[prefix + key] = close(ours, gradient, tolerance, noise)


def partial(compared: WeightComparison, prefix: str, classifier: Classifier) -> None:
    """Those gradients that are recorded under `prefix`."""
    gradients = {name: p.grad for name, p in classifier.method.named_parameters() if p.grad is not None}
    encoder = [key for key in compared.folder.io if key.startswith(prefix) and HEAD not in key]
    assert encoder
    folder = compared.folder
    for key in encoder:
        for name, value in folder.located({key.removeprefix(prefix): folder.io[key]}).items():
            compared.pairs[key] = close(gradients[name], value, max(folder.gradient_tolerance, folder.tolerance(key)))
    head_gradients(compared, classifier.network.head, under(folder.io, prefix), prefix)


def updated(
    compared: WeightComparison, prefix: str, classifier: Classifier, margins: Mapping[str, Tensor] | None = None
) -> None:
    """Values after an update, of the encoder and of the head."""
    state = {**classifier.method.state_dict()}
    state |= {HEAD + name: value for name, value in classifier.network.head.state_dict().items()}
    folder = compared.folder
    for key in [key for key in folder.io if key.startswith(prefix)]:
        recorded, official = folder.io[key], key.removeprefix(prefix)
        names = {official: recorded} if official.startswith(HEAD) else folder.located({official: recorded})
        for name, value in names.items():
            allowed = torch.full(value.shape, folder.tolerance(key) * float(value.abs().max()), dtype=torch.double)
            if margins is not None:
                allowed = allowed + margins[name]
            compared.pairs[key] = Pair(ours=state[name].double(), recorded=value.double(), allowed=allowed)


def step(compared: WeightComparison, classifier: Classifier) -> None:
    """One step of AdamW after clipping; where a gradient is within its tolerance of 0 its sign decides."""
    network, about = classifier.network.train(), compared.folder.meta["adamw"]
    network.loss(network.outputs(classifier.clouds), classifier.labels).backward()
    assert network.options.clip == about["clip"]
    nn.utils.clip_grad_norm_(network.parameters(), network.options.clip)

    groups = parameter_groups(network, about["weight_decay"], network.no_weight_decay())
    names = {name for group in groups if not group["weight_decay"] for name, _ in group["params"]}
    assert "encoder.encoder.cls.token" in names and "encoder.encoder.cls.position" not in names
    optimiser = torch.optim.AdamW(groups, lr=about["lr"], betas=about["betas"], eps=about["eps"])

    margins = {}
    for name, parameter in network.named_parameters():
        gradient, eps = parameter.grad.double(), about["eps"]
        delta = compared.folder.gradient_tolerance * float(gradient.abs().max())
        up, down = gradient + delta, gradient - delta
        margin = about["lr"] * (up / (up.abs() + eps) - down / (down.abs() + eps))
        margins[name.removeprefix("encoder.") if name.startswith("encoder.") else HEAD + name[5:]] = margin
    optimiser.step()
    updated(compared, "after_step.", classifier, margins)


def under(io: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in io.items() if key.startswith(prefix)}


def matches(pattern: str, key: str) -> bool:
    return bool(re.fullmatch(pattern, key))


# Pyramids -------------------------------------------------------------------------------------------------------------


def pyramid(folder: Folder, settings: Mapping | None = None) -> SavedEncoder:
    """The recorded encoder; the recorded norm of a fine-tuned one where it is opened as such."""
    state = {key: x for key, x in folder.checkpoint.items() if key.startswith("h_encoder.")}
    meta = {**folder.meta["constructor"], **(settings or {})}
    if settings is not None:
        state = {key: x for key, x in state.items() if "encoder_norms" not in key}
        state |= under({key: x for key, x in folder.io.items()}, "finetune_state.")
    with pytest.warns(UserWarning, match="no decoder"):
        method = load_official("point-m2ae", state, meta)
    return SavedEncoder(method.tokenizer, method.encoder, {"view": "point"}).eval()


@torch.no_grad()
@pytest.mark.parametrize("case", cases("point-m2ae"))
def test_features_of_a_fine_tuned_pyramid_are_the_official_ones(case):
    folder = Folder(case[1], "point-m2ae")
    features = pyramid(folder, {"local_radius": folder.meta["finetune"]["local_radius"]})(clouds_of(folder.io))
    published = find_official("point-m2ae").classifiers
    pairs = {
        "finetune.tokens": close(features.tokens, folder.io["finetune.tokens"]),
        "finetune_modelnet.feature": close(
            pooled(features, published["modelnet40"].pool), folder.io["finetune_modelnet.feature"]
        ),
        "finetune_scan.feature": close(
            pooled(features, published["scanobjectnn"].pool), folder.io["finetune_scan.feature"]
        ),
    }
    assert not check(pairs) and not unnoticed(pairs)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("i2p-mae"))
def test_the_pyramid_of_i2p_mae_fine_tunes_on_all_tokens(case):
    """Its classifier of ScanObjectNN takes the maximum over all tokens."""
    folder = Folder(case[1], "point-m2ae")
    features = pyramid(folder, {"local_radius": folder.meta["finetune"]["local_radius"]})(clouds_of(folder.io))
    pairs = {"finetune.feature": close(pooled(features, "mean,max"), folder.io["finetune.feature"])}
    assert not check(pairs) and not unnoticed(pairs)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("point-m2ae", "i2p-mae"))
def test_features_for_support_vectors_are_the_official_ones(case):
    """Nothing is hidden at the top; centres that are in no group stay hidden below, as published."""
    folder = Folder(case[1], "point-m2ae")
    encoder = pyramid(folder)
    tokens = encoder.tokenizer(clouds_of(folder.io))
    visible = torch.zeros(tokens.content.shape[:2], dtype=torch.bool)
    mask = Mask.from_hidden(visible).propagate(tokens.layout)
    latent = encoder.encoder(tokens.leak_masked(mask))
    feature = latent.features.amax(1)
    if case[0] == "point-m2ae":
        feature = feature + latent.features.mean(1)

    middle = mask.finer
    pairs = {
        "svm.mask_level1": equal(middle.hidden, folder.io["svm.mask_level1"]),
        "svm.mask_level0": equal(middle.finer.hidden, folder.io["svm.mask_level0"]),
        "svm.feature": close(feature, folder.io["svm.feature"]),
    }
    assert not check(pairs)
    assert not unnoticed({"svm.feature": pairs["svm.feature"]})


# Sizes and options ----------------------------------------------------------------------------------------------------


def count(method: str, head: str | ClassifierOptions, classes: int, settings: Mapping | None = None) -> int:
    with torch.device("meta"):
        config = compose(["modality=point", f"method={method}", "size=small", "data=folder", "data.root=none"])
        built = build_method(config)
        encoder = SavedEncoder(
            built.tokenizer, built.encoder, {"view": "point", "encoder": config["method"]["encoder"]}
        )
        options = head if isinstance(head, ClassifierOptions) else find_official(method).classifiers[head]
        encoder = with_settings(encoder, {**options.encoder, **(settings or {})})
        network = LabelledNetwork(encoder, label_of(classes), options.pool, options=options)
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_published_classifiers():
    from core.evaluation.finetune import CLS

    assert count("point_mae", "published", 40, {"cls": CLS}) == 22_099_752
    assert count("point_m2ae", "modelnet40", 40) == 12_830_056
    assert count("point_m2ae", "scanobjectnn", 15) == 12_921_935


@pytest.mark.parametrize(("epsilon", "classes"), [(0.3, 40), (0.2, 3), (0.0, 5)])
def test_smoothing_is_shared_out_among_the_other_classes(epsilon, classes):
    """The published formula: 1 - ε of the true class, ε / (K - 1) of each other."""
    logits, y = torch.randn(7, classes), torch.randint(classes, (7,))
    target = torch.full((7, classes), epsilon / (classes - 1)).scatter(1, y[:, None], 1 - epsilon)
    expected = -(target * F.log_softmax(logits, 1)).sum(1).mean()

    encoder = nn.Module()
    encoder.embed_dim, encoder.unfreeze = 4, lambda: encoder
    network = LabelledNetwork(encoder, label_of(classes), "mean", options=ClassifierOptions(smoothing=epsilon))
    torch.testing.assert_close(network.loss(logits, y), expected)


def test_published_recipes_of_pyramids():
    published = find_official("point-m2ae").classifiers
    assert published["modelnet40"].smoothing == 0.3 and published["scanobjectnn"].smoothing == 0
    assert CLASSIFIER.encoder["radius"] == [0.32, 0.64, 1.28] and CLASSIFIER.clip == 10
