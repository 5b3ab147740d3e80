"""What the recorded tensors of I2P-MAE are in our terms."""

from core.tokens import levels
from modalities.point.teachers import ViewMaps
from modalities.point.views import project
from tests.parity.pixels import backward
from tests.parity.points import (
    after_step,
    embedded,
    gradients_in_eval_mode,
    groups,
    latents,
    sets_by_row,
    valid_rows,
)
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs, randomness, steps on the way, and what belongs to evaluation.
ELSEWHERE = (
    r"points|ids_shuffle|(eval\.)?grad_norm_total|dec\d+\.\w+|(eval\.)?dec_norm|token_prop\d+\.out|rec2d_in|finetune.*"
    r"|svm\..*|enc\.valid\d+"
)


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load().train()
    batch, draws = folder.replay()
    compared = WeightComparison(folder)
    groups(compared, method)

    context = method.context(batch)
    views: ViewMaps = context.teacher_output("image")
    teacher(compared, views)
    saliency = context.teacher_output("saliency")
    compared.close("spatial_sals", saliency)
    compared.close("spatial_softmax", saliency.softmax(1))
    centres = context.tokens["point"].layout.coords
    for number, of_view in enumerate(views.projection.at(views.saliency, centres)[..., 0].unbind(2)):
        compared.close(f"sal_view{number}", of_view)

    out = backward(method, batch, draws)
    for level, mask in enumerate(levels(out.masks["point"])[::-1]):
        compared.equal(f"mask.level{level}", mask.hidden)
    latents(compared, "enc.x_vis", out.latents["point"])
    embedded(compared, folder.load().train())

    mask = out.masks["point"].finer
    hidden, visible = mask.queries["main"].rows.valid, mask.visible.valid
    compared.close("rec_3d", valid_rows(sets_by_row(out.predictions["points"]), hidden))
    compared.close("gt_3d", valid_rows(out.targets["points"].values, hidden))
    shape = method.readouts["main"].objectives["image"].target.members, -1
    compared.close("rec_2d", valid_rows(out.predictions["image"], visible).unflatten(1, shape))
    compared.close("target_2d", valid_rows(out.targets["image"].values, visible).unflatten(1, shape))
    losses(compared, "", out)
    compared.updated("post.", method.state_dict())
    compared.gradients(method, "grad.")

    eval_method = folder.load().eval()
    out = backward(eval_method, batch, draws)
    latents(compared, "eval.enc.x_vis", out.latents["point"])
    embedded(compared, folder.load().eval(), "eval.")
    compared.close("eval.rec_3d", valid_rows(sets_by_row(out.predictions["points"]), hidden))
    compared.close("eval.rec_2d", valid_rows(out.predictions["image"], visible).unflatten(1, shape))
    losses(compared, "eval.", out)
    gradients_in_eval_mode(compared, eval_method)
    after_step(compared)
    return compared.pairs


def teacher(compared: WeightComparison, views: ViewMaps) -> None:
    """The 2D model's output, view by view, and the depth maps of sample 0."""
    compared.close("img_feats", views.features.flatten(0, 1))
    compared.close("img_sals", views.saliency.flatten(0, 1).flatten(1))
    _, maps = project(compared.folder.io["points"], views.projection.size)
    compared.equal("proj_sum", maps[:, 0])


def losses(compared: WeightComparison, prefix: str, out) -> None:
    compared.close(f"{prefix}loss_3d", out.terms["points"])
    compared.close(f"{prefix}loss_2d", out.terms["image"])
    compared.close(f"{prefix}loss", out.loss)


METHODS = (
    Method(
        folder="i2p-mae",
        compare=compare,
        elsewhere=ELSEWHERE,
        options=frozenset({"SaliencyMasker", "PublishedMasker"}),
    ),
)
