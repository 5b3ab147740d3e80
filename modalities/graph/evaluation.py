"""Graph encoders measured as their papers measure them: linear probes of nodes, support vectors of pooled graphs."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.encoder import Encoder
from core.errors import UserError
from core.evaluation.adam_probe import adam_probe, check_parts, random_parts
from core.evaluation.svm import svm_folds
from core.export import SavedEncoder
from core.tokenizers import Tokenizer
from modalities.graph.collection import Collection
from modalities.graph.gnn import GAT
from modalities.graph.graphs import Graphs, join, to_dense
from modalities.graph.multilabel import multilabel_probe
from modalities.graph.tokenizer import Nodes

Pool = Literal["mean", "max", "sum"]
SHARES = (0.1, 0.1)  # training and validation, where no split is published


def node_accuracy(
    encoder: SavedEncoder, data: Collection, lr: float, weight_decay: float, epochs: int, seed: int = 0
) -> dict[str, float]:
    """Test accuracy of a linear probe on frozen node features, after the last epoch and at the best validation epoch.

    The published split where there is one, else a random one of 10/10/80, drawn by `seed`.
    Raises: UserError where nodes carry no labels or a split is empty.
    """
    if data.nodes is None or data.nodes.dim() != 1 or len(data.graphs) != 1:
        raise UserError("A probe of nodes needs one graph with a class per node.")
    x = features(encoder, data.graphs)[0]
    found = adam_probe(x, data.nodes, parts(data, seed), lr, weight_decay, epochs, seed)
    return {"final": found.final, "chosen_on_validation": found.chosen}


def node_f1(
    encoder: SavedEncoder, data: Collection, lr: float, weight_decay: float, epochs: int, seed: int = 0
) -> dict[str, float]:
    """Micro-F1 of a linear probe on graphs whose nodes have several labels (PPI); whole graphs are split.

    Raises: UserError where nodes carry no such labels or a split has no graph.
    """
    if data.nodes is None or data.nodes.dim() != 2 or not data.splits:
        raise UserError("Micro-F1 needs several labels a node, (N, T), and graphs that are split.")
    x, y = features(encoder, data.graphs), data.by_graph(data.nodes)
    parts = {name: [(x[i], y[i]) for i in data.within(name)] for name in data.splits}
    found = multilabel_probe(parts, lr, weight_decay, epochs, seed)
    return {"final": found.final, "chosen_on_validation": found.chosen}


def graph_accuracy(encoder: SavedEncoder, data: Collection, pool: Pool) -> dict:
    """Mean accuracy of an RBF machine over ten folds, on pooled node features."""
    if data.labels is None or data.labels.dim() != 1:
        raise UserError("Support vectors of graphs need a class per graph.")
    pooled = torch.stack([pool_nodes(x, pool) for x in features(encoder, data.graphs)])
    found = svm_folds(pooled.numpy(), data.labels.numpy())
    return {"final": found.mean, "folds": list(found.folds)}


def parts(data: Collection, seed: int) -> dict[str, Tensor]:
    return dict(data.splits) if data.splits else random_parts(data.nodes, SHARES, seed)


def pool_nodes(x: Tensor, pool: Pool) -> Tensor:
    """(n, D) -> (D,)."""
    return {"mean": lambda: x.mean(0), "max": lambda: x.amax(0), "sum": lambda: x.sum(0)}[pool]()


@torch.inference_mode()
def features(encoder: SavedEncoder, graphs: Sequence[Graphs], together: int = 256) -> list[Tensor]:
    """Node features (n, D) of every graph, in eval mode."""
    encoder.eval()
    found: list[Tensor] = []
    for start in range(0, len(graphs), together):
        batch = join(graphs[start : start + together])
        found += encoder(batch).tokens[0].clone().split(batch.counts)
    return found


def raw_accuracy(data: Collection, seed: int = 0) -> float:
    """Logistic regression on raw node features, its strength chosen on validation."""
    from sklearn.linear_model import LogisticRegression

    graph, split = data.graphs[0], parts(data, seed)
    check_parts(data.nodes, split)
    x = (to_dense(graph.x, graph.features) if graph.is_bag else graph.x).numpy()
    y, rows = data.nodes.numpy(), {name: flag.numpy() for name, flag in split.items()}
    best, test = -1.0, 0.0
    for strength in (0.1, 1.0, 10.0, 100.0):
        model = LogisticRegression(C=strength, max_iter=2000).fit(x[rows["train"]], y[rows["train"]])
        score = model.score(x[rows["validation"]], y[rows["validation"]])
        if score > best:
            best, test = score, model.score(x[rows["test"]], y[rows["test"]])
    return float(test)


def supervised_accuracy(data: Collection, settings: Mapping, seed: int = 0, epochs: int = 200) -> float:
    """The same GAT trained on the labels from scratch: test accuracy at the best validation epoch.

    `settings`: the encoder's constructor arguments. Adam 5e-3, decay 5e-4, dropout 0.6, as GAT (Veličković et al.).
    """
    graph, split = data.graphs[0], parts(data, seed)
    check_parts(data.nodes, split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = {k: v for k, v in settings.items() if not k.startswith("_")} | {"feat_drop": 0.6, "attn_drop": 0.6}
        encoder = GAT(**chosen)
        head = nn.Linear(encoder.embed_dim, int(data.nodes.max()) + 1)
        return _fit(encoder, head, Nodes(graph.features), graph, data.nodes, split, epochs)


def _fit(
    encoder: Encoder, head: nn.Module, tokenizer: Tokenizer, graph: Graphs, y: Tensor, split: Mapping, epochs: int
) -> float:
    both = nn.ModuleList([encoder, head])
    trained = [p for p in both.parameters() if p is not encoder.input.mask_token]
    optimizer = torch.optim.Adam(trained, lr=5e-3, weight_decay=5e-4)
    seen, best, test = tokenizer(graph).whole(), -1.0, 0.0
    for _ in range(epochs):
        both.train()
        optimizer.zero_grad()
        F.cross_entropy(head(encoder(seen).features[0])[split["train"]], y[split["train"]]).backward()
        optimizer.step()
        both.eval()
        with torch.no_grad():
            right = (head(encoder(seen).features[0]).argmax(1) == y).double()
        if (score := float(right[split["validation"]].mean())) > best:
            best, test = score, float(right[split["test"]].mean())
    return test


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, population deviation (as the papers give it), and half the 95 % interval of the mean (t distribution)."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")
    return float(np.mean(values)), float(np.std(values)), half
