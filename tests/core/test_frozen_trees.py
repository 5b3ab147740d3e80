"""Temporary: the resolved trees of the first config code, as hashes; the new code must give the same.

`python -m tests.core.test_frozen_trees` writes the table.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from core.config import compose, dump
from core.errors import UserError

TABLE = Path(__file__).with_name("frozen_trees.json")
MODALITIES = ["graph", "image", "video"]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))
EXPERIMENTS = sorted(file.stem for file in (CONFIGS / "experiment").glob("*.yaml"))
SIZES = ["nano", "tiny", "small", "base", "large", "huge", "giant"]
FOLDER = ["data=folder", "data.root=x"]
OBJECTIVES = "method.readouts.main.objectives"
KINDS = {
    "defaults": [],
    "value": ["method.masker.ratio=0.5"],
    "list": ["modality.size=[32,32]", "modality.patch=[8,8]"],
    "list of numbers": ["optim.betas=[0.8, 0.9]"],
    "null parameter": ["optim.clip=null"],
    "null part": [f"{OBJECTIVES}.pixels=null"],
    "null of cls": ["method.encoder.cls=null"],
    "target": ["method.masker={_target_: core.maskers.BlockMasker}"],
    "target alone": ["method.encoder.embed.positions._target_=core.embeddings.FlatSinusoid"],
    "mapping": ["method.masker={ratio: 0.25, rounding: nearest}"],
    "over a reference": [f"{OBJECTIVES}.pixels.target.normalise.mean=[0.1,0.2,0.3]"],
    "over a reference, folder": [*FOLDER, f"{OBJECTIVES}.pixels.target.normalise={{std: [1,1,1]}}"],
    "tokenizer": ["method.tokenizer.channels=1", "modality.channels=1"],
    "reference typed": ["method.masker.ratio=${method.encoder.trunk.mlp_ratio}"],
    "epochs": ["epochs=3"],
    "epochs and steps": ["epochs=3", "steps=1e2"],
    "base_lr": ["optim.base_lr=1e-3"],
    "base_lr and lr": ["optim.base_lr=1e-3", "optim.lr=2e-3"],
    "folder": FOLDER,
    "folder of video": ["modality=video", *FOLDER],
    "folder, st_mae": ["modality=video", "method=st_mae", "size=huge", *FOLDER],
    "folder of graph": ["modality=graph", *FOLDER],
    "graph data": ["modality=graph", "data=graph", "data.root=x", "modality.features=3"],
    "graph sampled": ["modality=graph", "data=graph_sampled", "data.root=x", "data.fanout=[3]"],
    "optim": ["optim=lamb", "engine=debug", "optim.eps=1e-7"],
    "engine": ["engine={workers: 1, keep: 3}", "engine.log_every=5"],
    "size": ["size.dim=256", "size.heads=8"],
    "root": ["seed=3", "run_dir=2024", "init='1e3'", "precision=bf16", "compile=true", "batch_size=8"],
    "experiment over": ["experiment=graphmae_cora", "data.root=x", "method.encoder.width=64", "epochs=3"],
    "experiment, other method": ["experiment=mae_base_imagenet", "method=spark", "data.root=x"],
    "experiment, other modality": ["experiment=videomae_base_k400", "method=st_mae", "size=nano", "data=world"],
    "no experiment": ["experiment=null"],
    "published": ["published={_target_: modalities.graph.evaluation.NodeProbe, lr: 0.1}"],
    "spark": ["method=spark", *FOLDER, "method.encoder.stride=16"],
    "spark backbone": ["method=spark", "method.encoder.backbone=resnet50", "method.encoder.options=null"],
    "saved": ["config={saved}"],
    "saved, changed": ["config={saved}", "epochs=2", "method.masker.ratio=0.1", "run_dir=b", "engine=debug"],
    "saved, other data": ["config={saved}", "data=folder", "data.root=x", "optim=lamb"],
    "saved, its size": ["config={saved}", "size=tiny"],
    "typo": ["method.masker.ration=0.5"],
    "no root": ["data=folder"],
}


def cases() -> dict[str, list[str]]:
    made = {
        f"{modality} {method} {size}": [f"modality={modality}", f"method={method}", f"size={size}"]
        for modality in MODALITIES
        for method in METHODS
        for size in SIZES
    }
    for name in EXPERIMENTS:
        made[f"experiment {name}"] = [f"experiment={name}", "data.root=x"]
    return made | {f"kind {name}": overrides for name, overrides in KINDS.items()}


def hashed(tree: dict) -> str:
    text = json.dumps(tree).replace("core.engine.settings.", "core.settings.")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def outcome(name: str, overrides: list[str], saved: Path, built: bool, composer=compose) -> str:
    """Hashes of the tree, and of the method as building completes it; or that it is refused."""
    try:
        config = composer([text.replace("{saved}", str(saved)) for text in overrides])
        tree = hashed(config)
        if not built:
            return tree
        from core.config.build import build

        with torch.device("meta"):
            build(config["method"], key="method")
    except UserError:
        return "refused"
    return f"{tree} {hashed(config)}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "config.yaml")


def save(path: Path) -> Path:
    dump(compose(["modality=video", "size=tiny", "steps=5", "run_dir=a"]), path)
    return path


@pytest.mark.parametrize("name", cases())
def test_tree_is_the_frozen_one(name, saved):
    frozen = json.loads(TABLE.read_text())[name]
    assert outcome(name, cases()[name], saved, built=" " in frozen or frozen == "refused") == frozen


def write() -> None:
    from tempfile import mkdtemp

    from core.composition.tree import assemble

    saved, table = save(Path(mkdtemp()) / "config.yaml"), {}
    for name, overrides in cases().items():
        both = outcome(name, overrides, saved, built=True, composer=assemble)
        is_small = name.split()[-1] in ("nano", "base", "giant") or name.startswith(("kind", "experiment g"))
        table[name] = both if is_small else both.split()[0]
        print(name, table[name], flush=True)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(write())
