"""Graphs whose nodes carry attributes: node-link JSON; GraphML, GML and GEXF, which networkx reads."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from core.errors import UserError, one_line
from modalities.graph.formats.collection import Collection, Scaling
from modalities.graph.formats.tables import LABELS, EdgeTable, assemble, node_table
from modalities.graph.formats.targets import graph_labels

NETWORKX = (".graphml", ".gml", ".gexf")
SUFFIXES = (*NETWORKX, ".json")
Parts = tuple[list[dict], list[tuple[Any, Any]], Mapping[str, Any], bool]  # nodes, pairs of ids, attributes, directed


def parse(
    content: bytes,
    suffix: str,
    *,
    where: str,
    directed: bool = False,
    scaling: Scaling = "none",
    degrees: int | None = None,
) -> Collection:
    """The graph in a file of this content. Numbers and lists of numbers of nodes are features.

    An attribute label (class, y, …) of nodes is their label, of the graph its label.
    Raises: UserError naming `where`.
    """
    try:
        if suffix == ".json":
            nodes, links, attributes, is_directed = _from_json(content)
        else:
            nodes, links, attributes, is_directed = _from_networkx(content, suffix)
    except UserError:
        raise
    except Exception as error:  # parsers of XML and GML raise many kinds
        raise UserError(f"{where} cannot be read: {one_line(error)}") from error
    if not nodes and not links:
        raise UserError(f"{where} holds no graph: there are no nodes and no links in it.")

    directed = directed and is_directed
    ids = [str(node["id"]) for node in nodes]
    edges = EdgeTable([str(source) for source, _ in links], [str(target) for _, target in links])
    table = node_table(_columns(nodes), ids, where)
    data = assemble(edges, table, where=where, directed=directed, scaling=scaling, degrees=degrees)

    # A label of the graph itself.
    name = next((name for name in LABELS if isinstance(attributes.get(name), int | float)), None)
    if name is None or data.nodes is not None:
        return data
    labels = graph_labels(torch.tensor([[float(attributes[name])]], dtype=torch.float64))
    return replace(
        data,
        labels=labels.graphs,
        targets=labels.targets,
        raw_labels=labels.raw,
        classes=labels.classes,
        provenance=replace(data.provenance, labels=f"`{name}` of the graph"),
    )


def is_graph(content: bytes) -> bool:
    """Whether a JSON file holds nodes and links."""
    try:
        return bool(_lists(json.loads(content)))
    except (ValueError, UserError):
        return False


def _from_json(content: bytes) -> Parts:
    tree = json.loads(content)
    nodes, links = _lists(tree)

    rows = []
    for number, node in enumerate(nodes):
        row = dict(node) if isinstance(node, Mapping) else {"id": node}
        row.update(row.pop("data", None) or {})  # Cytoscape's
        row.setdefault("id", row.get("name", number))
        rows.append(row)

    pairs = []
    for link in links:
        link = link.get("data", link) if isinstance(link, Mapping) else link
        pair = (link["source"], link["target"]) if isinstance(link, Mapping) else tuple(link[:2])
        pairs.append(pair)
    attributes = tree.get("graph", {})
    if not isinstance(attributes, Mapping):
        attributes = {}
    return rows, pairs, attributes, bool(tree.get("directed"))


def _lists(tree: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """The nodes and links of a node-link tree. Raises UserError where it has none."""
    if isinstance(tree, Mapping) and isinstance(tree.get("elements"), Mapping):
        tree = tree["elements"]
    if isinstance(tree, Mapping) and isinstance(tree.get("nodes"), list):
        links = tree.get("links", tree.get("edges"))
        if isinstance(links, list):
            return tree["nodes"], links
    raise UserError("there are no nodes and links in it: write networkx.node_link_data(graph).")


def _from_networkx(content: bytes, suffix: str) -> Parts:
    try:
        import networkx
    except ImportError as error:
        raise UserError(f"{suffix} files need networkx: pip install networkx ({error}).") from None

    stream = io.BytesIO(content)
    if suffix == ".graphml":
        graph = networkx.read_graphml(stream)
    elif suffix == ".gexf":
        graph = networkx.read_gexf(stream)
    else:
        graph = networkx.parse_gml(content.decode().splitlines(), label=None)

    nodes = []
    for name, attributes in graph.nodes(data=True):
        nodes.append({**attributes, "id": name})
    links = [(source, target) for source, target, *_ in graph.edges]
    return nodes, links, graph.graph, graph.is_directed()


def _columns(nodes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The nodes' attributes by name; None where a node lacks one."""
    names = dict.fromkeys(name for node in nodes for name in node if name != "id")
    return {name: [node.get(name) for node in nodes] for name in names}
