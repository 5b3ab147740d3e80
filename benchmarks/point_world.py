"""The room of the generated world's clouds: how far raw descriptors, a random encoder and supervision are apart.

    OMP_NUM_THREADS=1 python -m benchmarks.point_world [--supervised]

Accuracy on the eight shapes (chance 0.125) with 5 and 20 labelled clouds of each, means over draws of them.
Descriptors are classified by a linear SVM, whose C is the best of three on the test clouds: they are flattered.
`--supervised`: a small PointNet trained on the labelled clouds alone, turned and scaled at random; minutes.
Prints one JSON line.
"""

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from modalities.point.world import PointWorld

SHOTS, DRAWS = (5, 20), 5
PAIRS, BINS = 4000, 32  # of a cloud's distances
STEPS, BATCH = 200, 32  # of supervised training


def clouds(source: PointWorld, split: str) -> tuple[Tensor, np.ndarray]:
    items = source.items(split)
    points = torch.from_numpy(np.stack([item.array() for item in items]))
    return points, np.array([item.labels["shape"] for item in items])


def occupancy(points: Tensor) -> np.ndarray:
    """(B, 512): which of 8³ cells of the unit sphere's box hold points."""
    cells = ((points + 1) * 4).long().clamp(0, 7) @ torch.tensor([64, 8, 1])
    return torch.zeros(len(points), 512).scatter_(1, cells, 1.0).numpy()


def distances(points: Tensor) -> np.ndarray:
    """(B, 32): histograms of the distances of random pairs."""
    rows = torch.randint(points.shape[1], (2, PAIRS), generator=torch.Generator().manual_seed(0))
    lengths = (points[:, rows[0]] - points[:, rows[1]]).norm(dim=2)
    return np.stack([np.histogram(cloud, BINS, (0, 2))[0] / PAIRS for cloud in lengths])


class PointNet(nn.Module):
    """Points (B, N, 3) -> (B, 512): mean and maximum of a network applied to each point."""

    def __init__(self):
        super().__init__()
        widen = (nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU())
        self.layers = nn.Sequential(*widen)
        self.norm = nn.BatchNorm1d(512)

    def forward(self, points: Tensor) -> Tensor:
        features = self.layers(points)
        return self.norm(torch.cat([features.mean(1), features.amax(1)], 1))


def random_encoder(points: Tensor) -> np.ndarray:
    torch.manual_seed(0)
    encoder = PointNet().eval()
    with torch.no_grad():
        return torch.cat([encoder(part) for part in points.split(64)]).numpy()


def draw_shots(labels: np.ndarray, shots: int, draw: int) -> np.ndarray:
    order = np.random.default_rng(draw).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:shots] for label in range(8)])


def svm_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    fits = [LinearSVC(C=c, dual=True, max_iter=20000, tol=1e-3).fit(train, labels) for c in (1e-3, 1e-2, 1e-1)]
    return max(fit.score(test, truth) for fit in fits)


def supervised_accuracy(train: Tensor, labels: np.ndarray, test: Tensor, truth: np.ndarray) -> float:
    torch.manual_seed(0)
    network = nn.Sequential(PointNet(), nn.Dropout(0.3), nn.Linear(512, 8))
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    targets = torch.from_numpy(labels)

    for _ in range(STEPS):
        rows = torch.randint(len(train), (BATCH,))
        angle, scale = 2 * torch.pi * torch.rand(BATCH, 1), 0.8 + 0.45 * torch.rand(BATCH, 1, 1)
        x, y, z = train[rows].unbind(2)
        turned = [angle.cos() * x + angle.sin() * z, y, angle.cos() * z - angle.sin() * x]
        loss = F.cross_entropy(network(scale * torch.stack(turned, 2)), targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    network.eval()
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(1) for part in test.split(64)])
    return (answers.numpy() == truth).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--root", help="folder for the clouds")
    args = parser.parse_args()

    source, start = PointWorld(args.root, train=1024, test=512, size=args.size), time.process_time()
    (train, labels), (test, truth) = clouds(source, "train"), clouds(source, "test")
    functions = {"8³ occupancy": occupancy, "pair distances": distances, "random encoder": random_encoder}
    features = {name: (function(train), function(test)) for name, function in functions.items()}
    whitened = PCA(32, whiten=True, random_state=0).fit(features["8³ occupancy"][0])
    features["whitened PCA of occupancy"] = tuple(map(whitened.transform, features["8³ occupancy"]))

    accuracies: dict[str, dict[int, float]] = {}
    for shots in SHOTS:
        draws = [draw_shots(labels, shots, draw) for draw in range(DRAWS)]
        for name, (known, new) in features.items():
            scores = [svm_accuracy(known[rows], labels[rows], new, truth) for rows in draws]
            accuracies.setdefault(name, {})[shots] = round(float(np.mean(scores)), 3)
        if args.supervised:
            scores = [supervised_accuracy(train[rows], labels[rows], test, truth) for rows in draws[:1]]
            accuracies.setdefault("supervised", {})[shots] = round(float(np.mean(scores)), 3)

    seconds = round(time.process_time() - start, 1)
    print(json.dumps({"accuracy": accuracies, "cpu_seconds": seconds}, ensure_ascii=False))


if __name__ == "__main__":
    main()
