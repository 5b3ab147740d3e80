"""Planetoid's pickles: of any protocol, and refused where the files do not belong together."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from core.errors import UserError
from modalities.graph.formats import files, planetoid
from tests.modalities.graph.formats.read import dense

# Six nodes on a ring, two classes; 0 and 1 are for training, 4 and 5 for testing, listed in the other order.
WORDS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
CLASSES = np.eye(2, dtype=np.int32)[[0, 1, 0, 1, 0, 1]]
RING = {node: [(node + 1) % 6, (node - 1) % 6] for node in range(6)}
PARTS = {
    "x": csr_matrix(WORDS[:2]),
    "tx": csr_matrix(WORDS[[5, 4]]),
    "allx": csr_matrix(WORDS[:4]),
    "y": CLASSES[:2],
    "ty": CLASSES[[5, 4]],
    "ally": CLASSES[:4],
    "graph": RING,
}


@pytest.fixture
def write(tmp_path):
    """The files of a graph with some parts replaced."""

    def write(protocol=2, test="5\n4\n", **parts):
        for name, part in {**PARTS, **parts}.items():
            (tmp_path / f"ind.ring.{name}").write_bytes(pickle.dumps(part, protocol=protocol))
        (tmp_path / "ind.ring.test.index").write_text(test)
        return tmp_path

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_of_python_3(write, protocol):
    data = planetoid.read(write(protocol), "none")
    assert np.array_equal(dense(data.graphs[0]), WORDS) and data.nodes.tolist() == [0, 1, 0, 1, 0, 1]
    assert {name: flags.nonzero()[:, 0].tolist() for name, flags in data.splits.items()} == {
        "train": [0, 1],
        "validation": [2, 3, 4, 5],
        "test": [4, 5],
    }
    edges = data.graphs[0].edge_index.T.tolist()
    assert sorted(edges) == sorted([[a, b] for a in RING for b in RING[a]] + [[node, node] for node in RING])


def test_files_beside_them_are_counted(write):
    (write() / "ind.other.x").write_bytes(b"1")
    (fault,) = files.read(str(write())).provenance.passed_over
    assert fault.examples == ["ind.other.x"] and fault.count == 1


@pytest.mark.parametrize(
    "parts",
    [
        {"test": "5\n"},  # cut
        {"test": "5\n400000000\n"},
        {"test": "5\n-4\n"},
        {"test": "1\n0\n"},
        {"tx": csr_matrix(WORDS[[5]])},
        {"ty": CLASSES[[5]]},
        {"ally": CLASSES},
        {"graph": {10**12: [0]}},
        {"graph": {0: ["a"]}},
        {"graph": [[1], [0]]},
        {"allx": [1, 2]},
        {"y": csr_matrix(WORDS[:2])},
        {"tx": csr_matrix(WORDS[[5, 4], :2])},
    ],
)
def test_parts_that_do_not_belong_together(write, parts):
    with pytest.raises(UserError, match=r"the files ind\.ring\.\* in .* do not belong together"):
        planetoid.read(write(**parts), "none")


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [Call(print, "never"), Call(pickle.loads, b"."), Call(np.load, "a.npy"), Call("é".encode, "utf-8")],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_other_call_is_made(write, protocol, content, capsys):
    with pytest.raises(UserError, match="is refused"):
        planetoid.read(write(protocol, graph=content), "none")
    assert not capsys.readouterr().out
