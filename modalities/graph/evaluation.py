"""Graph encoders measured as their papers measure them: linear probes of nodes, support vectors of pooled graphs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.reader import Reader
from core.data.sources import Source
from core.encoder import Encoder
from core.errors import UserError
from core.evaluation.adam_probe import adam_probe, check_parts, random_parts
from core.evaluation.features import Pool, pooled
from core.evaluation.published import Figures, Published
from core.evaluation.svm import svm_folds
from core.export import Features, SavedEncoder
from core.tokenizers import Tokenizer
from modalities.graph.collection import Collection
from modalities.graph.data import collection
from modalities.graph.gnn import GAT
from modalities.graph.graphs import Graphs, join, to_dense
from modalities.graph.multilabel import multilabel_probe
from modalities.graph.tokenizer import Nodes

SHARES = (0.1, 0.1)  # training and validation, where no split is published
TOGETHER = 256  # graphs encoded at a time


@dataclass(frozen=True)
class NodeProbe(Published):
    """A linear probe of frozen node features by Adam: accuracy, or micro-F1 where a node may have several labels."""

    lr: float
    weight_decay: float
    epochs: int

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        data = collection(reader, source)
        if source.inductive:
            return node_accuracy(encoder, data, self.lr, self.weight_decay, self.epochs, seed, inductive=True)
        probe = node_f1 if data.nodes is not None and data.nodes.dim() == 2 else node_accuracy
        return probe(encoder, data, self.lr, self.weight_decay, self.epochs, seed)


@dataclass(frozen=True)
class PooledVectors(Published):
    """Support vectors of frozen node features, pooled over each graph: mean accuracy of ten folds."""

    pool: Pool

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        return graph_accuracy(encoder, collection(reader, source), self.pool)


def node_accuracy(
    encoder: SavedEncoder,
    data: Collection,
    lr: float,
    weight_decay: float,
    epochs: int,
    seed: int = 0,
    inductive: bool = False,
) -> Figures:
    """Test accuracy of a linear probe on frozen node features, after the last epoch and at the best validation epoch.

    The published split where there is one, else a random one of 10/10/80, drawn by `seed`. `inductive`: features of
    training nodes come from the graph of those alone (Reddit).
    Raises: UserError where nodes carry no labels or a split is empty.
    """
    if data.nodes is None or data.nodes.dim() != 1 or len(data.graphs) != 1:
        raise UserError("A probe of nodes needs one graph with a class per node.")
    x = features(encoder, data.graphs)[0]
    if inductive:
        x[data.splits["train"]] = features(encoder, [data.training])[0]
    found = adam_probe(x, data.nodes, parts(data, seed), lr, weight_decay, epochs, seed)
    return {"final": found.final, "chosen_on_validation": found.chosen}


def node_f1(
    encoder: SavedEncoder, data: Collection, lr: float, weight_decay: float, epochs: int, seed: int = 0
) -> Figures:
    """Micro-F1 of a linear probe on graphs whose nodes have several labels (PPI); whole graphs are split.

    Raises: UserError where nodes carry no such labels or a split has no graph.
    """
    if data.nodes is None or data.nodes.dim() != 2 or not data.splits:
        raise UserError("Micro-F1 needs several labels a node, (N, T), and graphs that are split.")
    x, y = features(encoder, data.graphs), data.by_graph(data.nodes)
    parts = {name: [(x[i], y[i]) for i in data.within(name)] for name in data.splits}
    found = multilabel_probe(parts, lr, weight_decay, epochs, seed)
    return {"final": found.final, "chosen_on_validation": found.chosen}


def graph_accuracy(encoder: SavedEncoder, data: Collection, pool: Pool) -> Figures:
    """Mean accuracy of an RBF machine over ten folds, on pooled node features.

    Raises: UserError where graphs carry no class, or one has too few.
    """
    if data.labels is None or data.labels.dim() != 1:
        raise UserError("Support vectors of graphs need a class per graph.")
    x = torch.cat([pooled(found, pool) for _, found in _encoded(encoder, data.graphs)])
    found = svm_folds(x.cpu().numpy(), data.labels.numpy())
    return {"final": found.mean, "folds": list(found.folds)}


def parts(data: Collection, seed: int) -> dict[str, Tensor]:
    return dict(data.splits) if data.splits else random_parts(data.nodes, SHARES, seed)


def features(encoder: SavedEncoder, graphs: Sequence[Graphs]) -> list[Tensor]:
    """Node features (n, D) of every graph, in eval mode."""
    return [x for batch, found in _encoded(encoder, graphs) for x in found.tokens[0].cpu().split(batch.counts)]


@torch.no_grad()
def _encoded(encoder: SavedEncoder, graphs: Sequence[Graphs]) -> Iterator[tuple[Graphs, Features]]:
    encoder.eval()
    device = next(encoder.parameters()).device
    for start in range(0, len(graphs), TOGETHER):
        batch = join(graphs[start : start + TOGETHER]).to(device)
        yield batch, encoder(batch)


def raw_accuracy(data: Collection, seed: int = 0) -> float:
    """Logistic regression on raw node features, its strength chosen on validation."""
    from sklearn.linear_model import LogisticRegression

    graph, split = data.graphs[0], parts(data, seed)
    check_parts(data.nodes, split)
    x = (to_dense(graph.x, graph.features) if graph.is_sparse else graph.x).numpy()
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
    seen, best, test = tokenizer(graph).unmasked(), -1.0, 0.0
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
