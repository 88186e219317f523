"""How fast heads are trained, how exactly, and in how much memory.

Usage: python benchmarks/train.py path [N_IMAGES] [N_FEATURES] [N_ROUNDS] [FEATURES]
       python benchmarks/train.py memory [N_IMAGES] [N_FEATURES] [LIMIT_MB]
       python benchmarks/train.py heads CLONE

`path` fits 13 values of C by `relearn` and by plain scikit-learn to the same tolerance, in turn, and prints medians.
The features are those of FEATURES (`.npz` with x and y, repeated with noise), or made by a power law. `memory` fits
features on the disk that are larger than the limit, in a process that may have no more than that, and compares the
optimum. `heads` runs every head in a clone whose features are there, as DVC experiments.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from relearn.coordinates import Standard, find_coordinates
from relearn.features import ShardsOnDisk
from relearn.logistic import LogisticRegressionProblem
from relearn.params import HEADS

VALUES_OF_C = np.logspace(-6, 2, 13)
TOLERANCE = 1e-6
LARGE = 10**12


def make_features(n_images, n_features, n_classes=2):
    """Return features of a falling spectrum, in which the classes differ a little along every direction."""
    rng = np.random.default_rng(0)
    truth = np.arange(n_images) % n_classes
    n_directions = min(n_images, n_features)
    scatter = np.arange(1, n_directions + 1) ** -0.6
    rows = rng.standard_normal((n_images, n_directions)) + rng.normal(0, 0.1, (n_classes, n_directions))[truth]
    features = (rows * scatter) @ rng.standard_normal((n_directions, n_features)) + rng.normal(5, 1, n_features)
    return features.astype(np.float32), truth


def read_features(path, n_images):
    """Return n_images rows of a file, repeated with noise of half their deviation."""
    found = np.load(path)
    x, y = found["x"].astype(np.float32), found["y"].astype(np.int64)
    repeats = -(-n_images // len(x))
    x, y = np.concatenate([x] * repeats)[:n_images], np.concatenate([y] * repeats)[:n_images]
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    return x + 0.5 * x.std(axis=0) * noise, y


def fit_ours(features, truth, values_of_C):
    """Standardise, rotate, fit the path and rotate back, as the stage does."""
    from sklearn.preprocessing import StandardScaler

    with threadpool_limits(1):
        scaler = StandardScaler()
        blocks = np.array_split(features, -(-len(features) // 64))
        for block in blocks:
            scaler.partial_fit(block.astype(np.float64))
        coordinates = find_coordinates(blocks, Standard(scaler.mean_, scaler.scale_, scaler.var_), len(truth), LARGE)
        with LogisticRegressionProblem(coordinates, truth, len(set(truth.tolist()))) as problem:
            solutions = list(problem.solve_path(values_of_C, np.ones(len(truth)), TOLERANCE, 10_000))
        restored = coordinates.restore(np.hstack([solution.weights for solution in solutions]))
        return solutions, np.split(restored, len(solutions), axis=1)


def fit_plain(features, truth, values_of_C, tolerances):
    """Standardise, and fit one model after the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows = StandardScaler().fit_transform(features.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            LogisticRegression(C=C, tol=tol, max_iter=10_000).fit(rows, truth)
            for C, tol in zip(values_of_C, tolerances, strict=True)
        ]


def measure_objective(features, truth, C, coefficients, intercept):
    """Return F and the norm of its gradient as a share of that of the coefficients, two classes, standardised."""
    from sklearn.preprocessing import StandardScaler

    rows = StandardScaler().fit_transform(features.astype(np.float64))
    signs = np.where(truth == truth.max(), 1.0, -1.0)
    margins = signs * (rows @ coefficients + intercept)
    residuals = -signs / (1 + np.exp(margins))
    gradient = coefficients + C * rows.T @ residuals
    objective = coefficients @ coefficients / 2 + C * np.logaddexp(0, -margins).sum()
    return objective, np.linalg.norm(gradient) / np.linalg.norm(coefficients)


def measure_path(n_images, n_features, n_rounds, path):
    features, truth = read_features(path, n_images) if path else make_features(n_images, n_features)
    solutions, _ = fit_ours(features, truth, VALUES_OF_C)
    # scikit-learn ends at the largest number of the gradient of F / (C n); one number is at most the norm.
    tight = [TOLERANCE * np.linalg.norm(s.weights) / (s.C * n_images) for s in solutions]
    seconds = {"ours, 13 C": [], "plain, 13 C to the same tolerance": [], "plain, C = 1, default tolerance": []}
    for _ in range(n_rounds):
        start = time.monotonic()
        solutions, coefficients = fit_ours(features, truth, VALUES_OF_C)
        seconds["ours, 13 C"].append(time.monotonic() - start)
        start = time.monotonic()
        plain = fit_plain(features, truth, VALUES_OF_C, tight)
        seconds["plain, 13 C to the same tolerance"].append(time.monotonic() - start)
        start = time.monotonic()
        (default,) = fit_plain(features, truth, [1.0], [1e-4])
        seconds["plain, C = 1, default tolerance"].append(time.monotonic() - start)
    print(f"{n_images:,} images, {features.shape[1]:,} features, {n_rounds} rounds, medians")
    ours = seconds["ours, 13 C"]
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, ours, strict=True))
        print(f"{name}: {statistics.median(taken):.1f} s, {ratio:.2f} times ours")
    print("\n| C | iterations | plain's | F | plain's F above it | distance of its coefficients |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for solution, own, theirs in zip(solutions, coefficients, plain, strict=True):
        objective, _ = measure_objective(features, truth, solution.C, theirs.coef_[0], theirs.intercept_[0])
        distance = np.linalg.norm(theirs.coef_[0] - own[:, 0]) / np.linalg.norm(own)
        print(
            f"| {solution.C:.2g} | {solution.n_iter} | {theirs.n_iter_[0]} | {solution.objective:.6g} | "
            f"{objective / solution.objective - 1:.1e} | {distance:.1e} |"
        )
    at_one = int(np.argmin(np.abs(VALUES_OF_C - 1)))
    distance = np.linalg.norm(default.coef_[0] - coefficients[at_one][:, 0]) / np.linalg.norm(coefficients[at_one])
    print(f"\nat C = 1 the default tolerance leaves the coefficients {distance:.0%} from the optimum")


CHILD = """
import json, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, scipy.linalg, scipy.optimize, scipy.special
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from relearn.coordinates import Standard, find_coordinates
from relearn.features import ShardsOnDisk
from relearn.logistic import LogisticRegressionProblem
folder, limit_mb, C = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
truth = np.load(folder / "truth.npy")
blocks = ShardsOnDisk(sorted(folder.glob("shard*.npy")))
# BLAS takes its working space at the first use, for each thread; that is no matter of the features.
warm = np.ones((600, 600))
for _ in range(3):
    with ThreadPoolExecutor(3) as executor:
        list(executor.map(lambda _: (warm @ warm, warm @ warm[0]), range(12)))
scipy.linalg.eigh(warm)
if limit_mb < 10**5:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (limit_mb + 20) * 10**6,) * 2)  # 20 MB: stacks of two threads
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
def read_peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])
before = read_peak()
start = time.monotonic()
with threadpool_limits(1):
    scaler = StandardScaler()
    for block in blocks:
        scaler.partial_fit(block.astype(np.float64))
    coordinates = find_coordinates(
        blocks, Standard(scaler.mean_, scaler.scale_, scaler.var_), len(truth), limit_mb * 10**6
    )
    with LogisticRegressionProblem(coordinates, truth, int(truth.max()) + 1) as problem:
        passes, inner = 0, problem._sum_losses
        def count(*arguments):
            global passes
            passes += 1
            return inner(*arguments)
        problem._sum_losses = count
        fitting = time.monotonic()
        (solution,) = problem.solve_path([C], np.ones(len(truth)), 1e-6, 10_000)
        seconds = time.monotonic() - fitting
print(json.dumps({"objective": solution.objective, "converged": solution.converged, "n_iter": solution.n_iter,
    "passes": passes, "seconds": seconds, "total": time.monotonic() - start,
    "peak_mb": (read_peak() - before) / 1e3}))
"""


def measure_memory(n_images, n_features, limit_mb):
    features, truth = make_features(n_images, n_features)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "truth.npy", truth)
        for number, block in enumerate(np.array_split(features, -(-features.nbytes // 2_000_000))):
            np.save(folder / f"shard{number:05}.npy", block)
        files = sorted(folder.glob("shard*.npy"))
        start = time.monotonic()
        for path in files:
            np.load(path)
        read = features.nbytes / (time.monotonic() - start)
        assert len(ShardsOnDisk(files)) == len(files)
        print(f"{n_images:,} images of {n_features:,} features: {features.nbytes / 1e6:.0f} MB; a plain read of them: "
              f"{read / 1e9:.1f} GB/s")  # fmt: skip
        answers = []
        for limit in (limit_mb, 10**5):
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "RELEARN_THREADS": "2", "MALLOC_ARENA_MAX": "1"}
            command = [sys.executable, "-c", CHILD, name, str(limit), "0.01"]
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if answer.returncode:
                sys.exit(answer.stderr)
            found = json.loads(answer.stdout)
            answers.append(found)
            pace = found["passes"] * features.nbytes / found["seconds"]
            print(
                f"limit {limit:,} MB: {found['total']:.1f} s in all, {found['n_iter']} iterations, {found['passes']} "
                f"passes, {pace / 1e9:.2f} GB/s of features, peak {found['peak_mb']:.0f} MB more than at the start, "
                f"converged {found['converged']}, F {found['objective']:.12g}"
            )
        one, other = (found["objective"] for found in answers)
        print(f"F differs by {abs(one - other) / other:.1e} of itself")


def measure_heads(clone):
    print("| head | accuracy | 95 % interval | log loss | validation | seconds of `train` | `head.onnx` |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for head in HEADS:
        command = [
            "dvc",
            "exp",
            "run",
            "--quiet",
            "--force",
            "--name",
            head.replace("_", "-"),
            "--set-param",
            f"train.head={head}",
        ]
        subprocess.run(command, cwd=clone, check=True)
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "relearn", "train"], cwd=clone, check=True, capture_output=True)
        seconds = time.monotonic() - start
        metrics = json.loads((clone / "metrics" / "evaluation.json").read_text())
        training = json.loads((clone / "metrics" / "training.json").read_text())
        size = (clone / "models" / "classifier" / "head.onnx").stat().st_size
        low, high = (metrics[f"accuracy_score_ci95_{end}"] for end in ("low", "high"))
        print(
            f"| `{head}` | {metrics['accuracy_score']:.4f} | {low:.4f} to {high:.4f} | {metrics['log_loss']:.4f} | "
            f"{training['validation_accuracy_score']:.4f} | {seconds:.1f} | {size / 1e3:,.0f} kB |",
            flush=True,
        )


def main():
    command, *rest = sys.argv[1:] or sys.exit(__doc__)
    match command:
        case "path":
            numbers = [int(n) for n in (rest[:3] + ["3000", "25088", "5"][len(rest[:3]) :])]
            measure_path(*numbers, rest[3] if len(rest) > 3 else None)
        case "memory":
            measure_memory(*(int(n) for n in (rest + ["3000", "25088", "75"][len(rest) :])))
        case "heads" if rest:
            measure_heads(Path(rest[0]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
