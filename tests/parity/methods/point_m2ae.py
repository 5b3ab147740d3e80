"""What the recorded tensors of Point-M2AE are in our terms."""

from core.tokens import levels
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

# Inputs, steps on the way, what belongs to evaluation, and the option that lets tokens attend to padding.
ELSEWHERE = (
    r"points|(eval\.)?grad_norm_total|dec\d+\.\w+|(eval\.)?dec_norm|token_prop\d+\.out|dist_.*|finetune.*|svm\..*"
    r"|padded\..*|enc\.valid\d+"
)


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load().train()
    batch, draws = folder.replay()
    compared = WeightComparison(folder)
    groups(compared, method)

    out = backward(method, batch, draws)
    for level, mask in enumerate(levels(out.masks["point"])[::-1]):
        compared.equal(f"mask.level{level}", mask.hidden)
    latents(compared, "enc.x_vis", out.latents["point"])
    embedded(compared, folder.load().train())
    valid = out.masks["point"].finer.queries["main"].rows.valid
    compared.close("pred", valid_rows(sets_by_row(out.predictions["points"]), valid))
    compared.close("target", valid_rows(out.targets["points"].values, valid))
    compared.close("loss", out.loss)
    compared.close("loss_float64", out.loss)
    compared.updated("post.", method.state_dict())
    compared.gradients(method, "grad.")

    eval_method = folder.load().eval()
    out = backward(eval_method, batch, draws)
    latents(compared, "eval.enc.x_vis", out.latents["point"])
    compared.close("eval.pred", valid_rows(sets_by_row(out.predictions["points"]), valid))
    compared.close("eval.loss", out.loss)
    gradients_in_eval_mode(compared, eval_method)
    after_step(compared)
    return compared.pairs


METHODS = (
    Method(
        folder="point-m2ae",
        compare=compare,
        elsewhere=ELSEWHERE,
        options=frozenset({"RandomMasker", "PublishedMasker"}),
    ),
)
