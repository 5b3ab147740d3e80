"""Graph encoders as their papers measure them: linear probes of nodes, support vectors of pooled graphs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from core.data.reader import Reader
from core.data.sources import Source
from core.encoder import Encoder
from core.errors import UserError
from core.evaluation.features import pooled
from core.evaluation.probes import ProbeResult, adam_probe, check_parts, random_parts, svm_folds
from core.evaluation.published import Figures, Published, Reported
from core.evaluation.settings import Pool
from core.export import Features, SavedEncoder
from core.tokenizers import Tokenizer
from modalities.graph.formats.collection import Collection
from modalities.graph.graphs import Graphs, join, to_dense
from modalities.graph.multilabel import multilabel_probe
from modalities.graph.nn.gnn import GAT
from modalities.graph.reader import collection
from modalities.graph.tokenizer import Nodes

SHARES = (0.1, 0.1)  # training and validation, where no split is published
GRAPHS_ENCODED = 256  # at a time
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C of the logistic regression of raw features
DROPOUT = 0.6  # of supervised training, of features and of attention


@dataclass(frozen=True, kw_only=True)
class NodeProbe(Published):
    """A linear probe of frozen node features, trained by Adam.

    Figures: accuracy where a node has one class, micro-F1 where it may have several labels. `epochs`: steps over all
    training nodes, of graphs with several labels passes over all training graphs.
    """

    lr: float
    weight_decay: float
    epochs: int
    reported: Reported | None = None

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        data = collection(reader, source)
        settings = {"lr": self.lr, "weight_decay": self.weight_decay, "epochs": self.epochs, "seed": seed}

        if source.inductive:
            return node_accuracy(encoder, data, **settings, inductive=True)
        if data.nodes is not None and data.nodes.dim() == 2:
            return node_f1(encoder, data, **settings)
        return node_accuracy(encoder, data, **settings)


@dataclass(frozen=True, kw_only=True)
class PooledVectors(Published):
    """Support vectors of frozen node features, pooled over each graph.

    Figure: mean accuracy of ten folds.
    """

    pool: Pool
    reported: Reported | None = None

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        return graph_accuracy(encoder, collection(reader, source), self.pool)


def node_accuracy(
    encoder: SavedEncoder,
    data: Collection,
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    seed: int = 0,
    inductive: bool = False,
) -> Figures:
    """Test accuracy of a linear probe on frozen node features, at the last and at the best validation epoch.

    The split is the published one where the data have one, else a random one of 10/10/80 %, drawn by `seed`.
    `inductive`: features of training nodes come from the graph of those alone (Reddit).
    Raises: UserError where nodes carry no classes or a split is empty.
    """
    _check_node_classes(data)

    x = features(encoder, data.graphs)[0]
    if inductive:
        x[data.splits["train"]] = features(encoder, [data.training])[0]

    parts = node_parts(data, seed)
    result = adam_probe(x, data.nodes, parts, lr=lr, weight_decay=weight_decay, epochs=epochs, seed=seed)
    return _figures(result)


def node_f1(
    encoder: SavedEncoder,
    data: Collection,
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    seed: int = 0,
) -> Figures:
    """Micro-F1 of a linear probe on graphs whose nodes have several labels (PPI); whole graphs are split.

    Raises: UserError where nodes carry no such labels or a split has no graph.
    """
    if data.nodes is None or data.nodes.dim() != 2 or not data.splits:
        raise UserError("Micro-F1 needs several labels a node, (N, T), and graphs that are split.")

    # Each graph's features (n, D) and labels (n, T), by split.
    pairs = list(zip(features(encoder, data.graphs), data.by_graph(data.nodes), strict=True))
    parts = {}
    for name in data.splits:
        parts[name] = [pairs[number] for number in data.within(name)]

    result = multilabel_probe(parts, lr=lr, weight_decay=weight_decay, epochs=epochs, seed=seed)
    return _figures(result)


def graph_accuracy(encoder: SavedEncoder, data: Collection, pool: Pool) -> Figures:
    """Mean accuracy of a support vector machine with RBF kernel over ten folds, on pooled node features.

    Raises: UserError where graphs carry no class, or a class has too few graphs.
    """
    if data.labels is None or data.labels.dim() != 1:
        raise UserError("Support vectors of graphs need a class per graph.")

    vectors = []
    for _, encoded in _encoded(encoder, data.graphs):
        vectors.append(pooled(encoded, pool))

    folds = svm_folds(torch.cat(vectors).cpu().numpy(), data.labels.numpy())
    return {"final": float(np.mean(folds)), "folds": folds}


def node_parts(data: Collection, seed: int) -> dict[str, Tensor]:
    """Flags (N,) of training, validation and test nodes: the data's own split, else a random one by `seed`."""
    if data.splits:
        return dict(data.splits)
    return random_parts(data.nodes, SHARES, seed)


def features(encoder: SavedEncoder, graphs: Sequence[Graphs]) -> list[Tensor]:
    """Node features (n, D) of every graph, in eval mode."""
    nodes = []
    for batch, encoded in _encoded(encoder, graphs):
        nodes += encoded.tokens[0].cpu().split(batch.counts)
    return nodes


def raw_accuracy(data: Collection, seed: int = 0) -> float:
    """Test accuracy of a logistic regression on raw node features; its strength is chosen on validation.

    Raises: UserError where nodes carry no classes or a split is empty.
    """
    _check_node_classes(data)
    graph, parts = data.graphs[0], node_parts(data, seed)
    check_parts(data.nodes, parts)

    x, y = graph.x, data.nodes.numpy()
    if graph.is_sparse:
        x = to_dense(x, graph.features)
    x = x.numpy()
    rows = {name: flags.numpy() for name, flags in parts.items()}

    best, test = -1.0, 0.0
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(x[rows["train"]], y[rows["train"]])
        validation = model.score(x[rows["validation"]], y[rows["validation"]])
        if validation > best:
            best, test = validation, model.score(x[rows["test"]], y[rows["test"]])
    return float(test)


def supervised_accuracy(data: Collection, settings: Mapping, seed: int = 0, epochs: int = 200) -> float:
    """Test accuracy, at the best validation epoch, of the same GAT trained on the labels from scratch.

    `settings`: the encoder's constructor arguments. Adam 5e-3, decay 5e-4, dropout 0.6, as GAT (Veličković
    et al., 2018).
    Raises: UserError where nodes carry no classes or a split is empty.
    """
    _check_node_classes(data)
    graph, parts = data.graphs[0], node_parts(data, seed)
    check_parts(data.nodes, parts)

    arguments = {"feat_drop": DROPOUT, "attn_drop": DROPOUT}
    for name, value in settings.items():
        if not name.startswith("_") and name not in arguments:
            arguments[name] = value

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = GAT(**arguments)
        head = nn.Linear(encoder.embed_dim, int(data.nodes.max()) + 1)
        return _train_supervised(encoder, head, Nodes(graph.features), graph, data.nodes, parts, epochs)


def _check_node_classes(data: Collection) -> None:
    """Raises UserError where the data are not one graph with a class per node."""
    has_classes = data.nodes is not None and data.nodes.dim() == 1 and not data.nodes.is_floating_point()
    if not has_classes or len(data.graphs) != 1:
        raise UserError("A probe of nodes needs one graph with a class per node.")


@torch.no_grad()
def _encoded(encoder: SavedEncoder, graphs: Sequence[Graphs]) -> Iterator[tuple[Graphs, Features]]:
    """Batches of graphs with their features."""
    encoder.eval()
    device = next(encoder.parameters()).device

    for start in range(0, len(graphs), GRAPHS_ENCODED):
        batch = join(graphs[start : start + GRAPHS_ENCODED]).to(device)
        yield batch, encoder(batch)


def _figures(result: ProbeResult) -> Figures:
    return {"final": result.final, "chosen_on_validation": result.selected}


def _train_supervised(
    encoder: Encoder,
    head: nn.Module,
    tokenizer: Tokenizer,
    graph: Graphs,
    y: Tensor,
    parts: Mapping[str, Tensor],
    epochs: int,
) -> float:
    """Trains encoder and head on all training nodes at once, a step an epoch; returns the test accuracy."""
    # Nothing is hidden, so that the mask token gets no gradient.
    network = nn.ModuleList([encoder, head])
    parameters = [p for p in network.parameters() if p is not encoder.input.mask_token]
    optimizer = torch.optim.Adam(parameters, lr=5e-3, weight_decay=5e-4)
    inputs = tokenizer(graph).unmasked()

    best, test = -1.0, 0.0
    for _ in range(epochs):
        network.train()
        optimizer.zero_grad()
        logits = head(encoder(inputs).features[0])
        F.cross_entropy(logits[parts["train"]], y[parts["train"]]).backward()
        optimizer.step()

        network.eval()
        with torch.no_grad():
            correct = (head(encoder(inputs).features[0]).argmax(1) == y).double()

        validation = float(correct[parts["validation"]].mean())
        if validation > best:
            best, test = validation, float(correct[parts["test"]].mean())
    return test
