"""Evaluations of point runs: published pooling, C and heads, raw descriptors, episodes."""

import pytest

from core import evaluate, load_classifier, train

# Clouds of 96 points in a few groups, encoders of width 32 at most.
SMALL = [
    "modality=point", "data.source.train=40", "data.source.test=16", "modality.points=96", "batch_size=8", "steps=2",
    "precision=fp32", "engine.workers=0", "size.dim=32", "size.depth=1", "size.heads=2",
]  # fmt: skip
METHODS = {
    "point_mae": ["modality.groups=[12]", "modality.members=[8]", "method.encoder.embed.widths=[8,16,16]"],
    "point_m2ae": [
        "modality.groups=[24,12,6]", "modality.members=[8,4,4]", "method.encoder.dims=[8,16,32]",
        "method.encoder.depths=[1,1,1]", "method.encoder.widths=[8,8,16]", "method.encoder.heads=2",
        "method.readouts.main.decoder.heads=2",
    ],
}  # fmt: skip
WHICH = {"seeds": 1, "batch_size": 8, "workers": 0}


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
    """The method's name and a run of it; the cache is in the same folder."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(folder / "cache"))
        made = train(*SMALL, f"method={request.param}", *METHODS[request.param], run_dir=str(folder / "run"))
        yield request.param, made


def test_support_vectors_follow_the_method(run):
    """Point-M2AE publishes pooling and C; of Point-MAE neither is known."""
    method, made = run
    result = evaluate(made, "svm", kernel="linear", **WHICH)
    trained = result.record["figures"]["shape"]["trained"]
    published = {name for name in trained if "as published" in name}
    if method == "point_m2ae":
        assert result.record["protocol"]["pool"] == "mean+max"
        assert published == {
            "C=0.012 as published for ModelNet40",
            "C=0.042 as published for ScanObjectNN OBJ-BG",
        }
        assert all(name in str(result) for name in published)
    else:
        assert result.record["protocol"]["pool"] == "mean" and not published


def test_both_raw_descriptors_stand_beside_random_weights(run):
    _, made = run
    baselines = evaluate(made, "retrieval", **WHICH).baselines
    assert {"random init", "PCA of raw input", "PCA of distances between pairs"} <= baselines.keys()


def test_published_heads_are_fine_tuned_and_open_again(run):
    method, made = run
    head = {"point_mae": "published", "point_m2ae": "scanobjectnn"}[method]
    result = evaluate(made, "finetune", head=head, epochs=1, **WHICH)
    recipe = result.record["protocol"]["recipe"]
    assert recipe["head"] == "mlp" and recipe["clip"] == 10 and recipe["smoothing"] == 0

    opened = load_classifier(made.path / result.record["figures"]["shape"]["classifier"])
    width = opened.encoder.embed_dim
    assert opened.network.head[0].in_features == 2 * width
    if method == "point_mae":
        assert opened.encoder.encoder.cls.position.shape == (1, 1, width) and opened.network.pool == "cls,max"
    else:
        assert opened.encoder.encoder.radius == [0.32, 0.64, 1.28] and opened.network.pool == "mean,max_rest"
    assert len(opened.classes) == 8


def test_episodes_of_clouds(run):
    _, made = run
    result = evaluate(made, "fewshot", way=2, shots=2, folds=4, **WHICH)
    episodes = result.record["figures"]["shape"]["episodes"]
    assert len(episodes["each"]) == 4 and "4 episodes of 2 classes" in result.record["protocol"]["split"]
