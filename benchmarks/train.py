"""How fast heads are trained, how exactly, and in how much memory.

Usage: python benchmarks/train.py path [N_IMAGES] [N_FEATURES] [N_ROUNDS] [FEATURES]
       python benchmarks/train.py features SOURCE OUT N_IMAGES NETWORK WEIGHTS POOLING IMAGE_SIZE_PX PRECISION
       python benchmarks/train.py classes FEATURES N_CLASSES N_IMAGES [N_ROUNDS] [VALUES_OF_C] [TOLERANCE]
       python benchmarks/train.py rotation FEATURES N_CLASSES N_IMAGES [VALUES_OF_C] [N_FEATURES]
       python benchmarks/train.py parts FEATURES N_CLASSES N_IMAGES [N_ROUNDS] [VALUES_OF_C]
       python benchmarks/train.py tolerance FEATURES N_CLASSES N_IMAGES
       python benchmarks/train.py memory [N_IMAGES] [N_FEATURES] [LIMIT_MB]
       python benchmarks/train.py heads CLONE

`path` fits 13 values of C by `relearn` and by plain scikit-learn to the same tolerance, in turn, and prints medians.
The features are those of FEATURES (`.npz` with x and y, repeated with noise), or made by a power law. `features` writes
such a file: those that `extract` computes of images in a folder or tar, whose class is the folder they are in (of
Food-5K the first character of the name). `classes` fits VALUES_OF_C (0.0001 to 1 by default) on N_IMAGES rows of
FEATURES beside scikit-learn by default and to the same tolerance, in turn. If N_CLASSES is not the number of classes in
FEATURES, each image gets the nearest of K k-means centers, found after noise was added to it, so that no head can be
right about all. `rotation` does the same fits on rotated rows and on rows as they are. `parts` does them by
scikit-learn's own solver on rotated rows, beside `relearn`'s and beside scikit-learn on rows as they are, all to the
tolerance 1e-4. `tolerance` compares what heads answer that were fitted to several tolerances with the answers at the
optimum, on validation images. `memory` fits features on the disk that are larger than the limit, in a process that may
have no more than that, and compares the optimum. `heads` runs every head in a clone whose features are there, as DVC
experiments.
"""

import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from relearn.evaluation.metrics import Judged, compute_value, prepare_calibration_error, prepare_log_loss
from relearn.features.shards import ShardsOnDisk
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.coordinates import Standard, find_coordinates
from relearn.heads.logistic import LogisticRegressionProblem
from relearn.networks.extractor import Extractor
from relearn.params.heads import HEADS
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file

VALUES_OF_C = np.logspace(-6, 2, 13)
VALUES_TO_CHOOSE = [0.0001, 0.001, 0.01, 0.1, 1.0]
NOISE = 0.35  # of an image before its class is chosen, as a share of the standard deviation
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


def write_features(source, out, n_images, options):
    """Write the features of images chosen at random, x float32 and y."""
    contents = {}
    if source.is_dir():
        contents = {path: path.read_bytes() for path in sorted(source.rglob("*.jpg"))}
    else:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".jpg"):
                    contents[Path(member.name)] = archive.extractfile(member).read()
    distinct = list({content: path for path, content in contents.items()}.items())
    chosen = np.random.default_rng(0).permutation(len(distinct))[:n_images]
    images = [distinct[number] for number in sorted(chosen)]
    labels = [path.name[0] if path.name[1] == "_" else path.parent.name for _, path in images]
    block = read_params(Path("params.yaml")).extract.model_dump() | {"layer": None, **options}
    extractor = Extractor(ExtractParams.model_validate(block))
    rows = np.stack(list(extractor.compute_rows(extractor.read_image(content) for content, _ in images)))
    np.savez(out, x=rows.astype(np.float32), y=np.searchsorted(sorted(set(labels)), labels))


def fit_ours(features, truth, values_of_C, tolerance=TOLERANCE, count_fits=len):
    """Standardize, rotate where that pays, fit the path and rotate back, as the stage does.

    `count_fits` returns how many fits the rotation is to pay for; None rotates always, 0 never.
    """
    with threadpool_limits(1):
        scaler = StandardScaler()
        blocks = np.array_split(features, -(-len(features) // 64))
        for block in blocks:
            scaler.partial_fit(block.astype(np.float64))
        standard, n_classes = Standard(scaler.mean_, scaler.scale_, scaler.var_), len(set(truth.tolist()))
        coordinates = find_coordinates(blocks, standard, len(truth), LARGE, n_classes, n_fits=count_fits(values_of_C))
        with LogisticRegressionProblem(coordinates, truth, n_classes) as problem:
            solutions = list(problem.solve_path(values_of_C, np.ones(len(truth)), tolerance, 10_000))
        restored = coordinates.restore(np.hstack([solution.weights for solution in solutions]))
        return solutions, np.split(restored, len(solutions), axis=1)


def fit_plain(features, truth, values_of_C, tolerances):
    """Standardize, and fit one model after the other."""
    return fit_rows(StandardScaler().fit_transform(features.astype(np.float64)), truth, values_of_C, tolerances)


def fit_rows(rows, truth, values_of_C, tolerances):
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            LogisticRegression(C=C, tol=tol, max_iter=10_000).fit(rows, truth)
            for C, tol in zip(values_of_C, tolerances, strict=True)
        ]


def fit_rotated(features, truth, values_of_C, tolerances):
    """Fit scikit-learn's models on rotated rows; return them, the rows, and coefficients of the features."""
    with threadpool_limits(1):
        scaler = StandardScaler().fit(features.astype(np.float64))
        standard = Standard(scaler.mean_, scaler.scale_, scaler.var_)
        coordinates = find_coordinates([features], standard, len(truth), LARGE, len(set(truth.tolist())))
        rows = coordinates.load_rows()
        models = fit_rows(rows, truth, values_of_C, tolerances)
        return models, rows, coordinates.restore(np.vstack([model.coef_ for model in models]).T)


def measure_objective(features, truth, C, coefficients, intercept):
    """Return F and the norm of its gradient as a share of that of the coefficients, two classes, standardized."""
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


def choose_classes(path, n_classes, n_images):
    """Return training and validation rows with their labels, the rows in any order."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    found = np.load(path)
    x, y = found["x"].astype(np.float32), found["y"]
    rng = np.random.default_rng(0)
    if len(set(y.tolist())) != n_classes:
        directions = PCA(64, random_state=0).fit_transform(StandardScaler().fit_transform(x)).astype(np.float32)
        clusters = KMeans(n_classes, n_init=1, max_iter=20, random_state=0).fit(directions)
        noise = rng.standard_normal(directions.shape, np.float32)
        y = clusters.predict(directions + NOISE * directions.std(axis=0) * noise)
    order = rng.permutation(len(x))
    classes = np.unique(y[order[:n_images]])
    order = order[np.isin(y[order], classes)]
    training, validation = order[:n_images], order[n_images : n_images + 2000]
    y = np.searchsorted(classes, y)
    return x[training], y[training], x[validation], y[validation]


def measure_time(function, *arguments):
    """Return what a function returns, its seconds, and the seconds of all cores together."""
    start, start_cores = time.monotonic(), time.process_time()
    answer = function(*arguments)
    return answer, (time.monotonic() - start, time.process_time() - start_cores)


def measure_gradient(features, truth, C, model):
    """Return the norm of the gradient of F as a share of that of the coefficients, where a model of scikit-learn is."""
    return measure_rows_gradient(StandardScaler().fit_transform(features.astype(np.float64)), truth, C, model)


def measure_rows_gradient(rows, truth, C, model):
    residuals = model.predict_proba(rows) - np.eye(int(truth.max()) + 1)[truth]
    residuals = residuals[:, -len(model.coef_) :]
    gradient = model.coef_ + C * residuals.T @ rows
    return np.hypot(np.linalg.norm(gradient), C * np.linalg.norm(residuals.sum(axis=0))) / np.linalg.norm(model.coef_)


def find_tolerances(features, truth, solutions, tolerance):
    """Return those that scikit-learn needs for a gradient of `tolerance` as a share of the norm of the coefficients.

    scikit-learn ends at the largest number of the gradient of F / (C n), which is less than its norm by a factor that
    a first fit shows.
    """
    loose = [tolerance * np.linalg.norm(s.weights) / (s.C * len(truth)) for s in solutions]
    models = fit_plain(features, truth, [s.C for s in solutions], loose)
    reached = [measure_gradient(features, truth, s.C, m) for s, m in zip(solutions, models, strict=True)]
    return [tol * min(1, tolerance / gradient) for tol, gradient in zip(loose, reached, strict=True)]


def measure_classes(features, truth, n_rounds, values_of_C, tolerance):
    size = f"{len(features):,} | {features.shape[1]:,} | {len(set(truth.tolist()))}"
    tight = find_tolerances(features, truth, fit_ours(features, truth, values_of_C, tolerance)[0], tolerance)
    taken, reached = [], []
    for _ in range(n_rounds):
        _, ours = measure_time(fit_ours, features, truth, values_of_C, tolerance)
        _, default = measure_time(fit_plain, features, truth, values_of_C, [1e-4] * len(values_of_C))
        models, same = measure_time(fit_plain, features, truth, values_of_C, tight)
        taken.append((ours, default, same))
        reached += [measure_gradient(features, truth, C, m) for C, m in zip(values_of_C, models, strict=True)]
    for number, name in enumerate(("seconds", "core seconds")):
        ours, default, same = np.array(taken)[:, :, number].T
        ratios = np.median([default / ours, same / ours], axis=1)
        print(
            f"| {name} | {size} | {', '.join(f'{C:g}' for C in values_of_C)} | {np.median(ours):.2f} | "
            f"{np.median(default):.1f} ({ratios[0]:.1f}) | {np.median(same):.1f} ({ratios[1]:.1f}) | "
            f"{min(reached):.1e} to {max(reached):.1e} |",
            flush=True,
        )


def measure_parts(features, truth, n_rounds, values_of_C):
    ours = fit_ours(features, truth, values_of_C, 1e-4)[0]
    tight = find_tolerances(features, truth, ours, 1e-4)
    loose = [1e-4 * np.linalg.norm(s.weights) / (s.C * len(truth)) for s in ours]
    models, rows, _ = fit_rotated(features, truth, values_of_C, loose)
    reached = [measure_rows_gradient(rows, truth, C, model) for C, model in zip(values_of_C, models, strict=True)]
    rotated = [tol * min(1, 1e-4 / gradient) for tol, gradient in zip(loose, reached, strict=True)]
    taken = []
    for _ in range(n_rounds):
        _, (_, own) = measure_time(fit_ours, features, truth, values_of_C, 1e-4)
        _, (_, part) = measure_time(fit_rotated, features, truth, values_of_C, rotated)
        _, (_, plain) = measure_time(fit_plain, features, truth, values_of_C, tight)
        taken.append((own, part, plain))
    own, part, plain = np.array(taken).T
    size = f"{len(features):,} | {features.shape[1]:,} | {len(set(truth.tolist()))}"
    print(f"| {size} | {', '.join(f'{C:g}' for C in values_of_C)} | {np.median(own):.2f} | {np.median(part):.2f} "
          f"({np.median(part / own):.1f}) | {np.median(plain):.2f} ({np.median(plain / own):.1f}) |",
          flush=True)  # fmt: skip


def measure_rotation(features, truth, values_of_C):
    cells = [f"{len(features):,}", f"{features.shape[1]:,}", f"{len(set(truth.tolist()))}"]
    cells.append(", ".join(f"{C:g}" for C in values_of_C))
    for n_fits in (None, 0):
        (solutions, _), (_, cores) = measure_time(
            fit_ours, features, truth, values_of_C, 1e-4, lambda _, number=n_fits: number
        )
        cells += [f"{cores:.2f}", str(sum(solution.n_iter for solution in solutions))]
    print("|", " | ".join(cells), "|")


def measure_tolerance(path, n_classes, n_images):
    features, truth, others, other_truth = choose_classes(path, n_classes, n_images)
    scaler = StandardScaler().fit(features.astype(np.float64))
    rows = scaler.transform(others.astype(np.float64))
    classes = [str(number) for number in range(int(truth.max()) + 1)]

    def answer(coefficients, intercepts):
        probabilities = UNCALIBRATED.compute_probabilities(rows @ coefficients + intercepts)
        return Judged(classes, other_truth, probabilities.argmax(axis=1), probabilities)

    def describe(judged):
        accuracy = (judged.labels == judged.predicted).mean()
        metrics = (prepare_log_loss(judged), prepare_calibration_error(judged, 15))
        return np.array([accuracy, *(compute_value(metric, judged) for metric in metrics)])

    def fit(tolerance):
        (solutions, coefficients), (_, cores) = measure_time(fit_ours, features, truth, VALUES_TO_CHOOSE, tolerance)
        answers = [answer(w, s.intercepts) for s, w in zip(solutions, coefficients, strict=True)]
        return answers, cores, sum(s.n_iter for s in solutions)

    print(f"{len(features):,} images, {features.shape[1]:,} features, {len(classes)} classes; "
          f"{len(rows):,} validation images, C {VALUES_TO_CHOOSE}")  # fmt: skip
    optimum, _, _ = fit(1e-8)
    print("accuracy", *(f"{describe(judged)[0]:.4f}" for judged in optimum))
    print("| tolerance | labels changed | probability by at most | log loss | calibration | core seconds | products |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")

    def show(name, answers, cores, n_products):
        changed = [int((a.predicted != b.predicted).sum()) for a, b in zip(answers, optimum, strict=True)]
        moved = max(np.abs(a.probabilities - b.probabilities).max() for a, b in zip(answers, optimum, strict=True))
        _, loss, error = np.max([np.abs(describe(a) - describe(b)) for a, b in zip(answers, optimum, strict=True)], 0)
        print(f"| {name} | {', '.join(map(str, changed))} | {moved:.1e} | {loss:.1e} | {error:.1e} | {cores:.1f} | "
              f"{n_products} |", flush=True)  # fmt: skip

    for tolerance in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        show(f"{tolerance:g}", *fit(tolerance))
    plain, (_, cores) = measure_time(fit_plain, features, truth, VALUES_TO_CHOOSE, [1e-4] * len(VALUES_TO_CHOOSE))
    show(
        "scikit-learn's", [answer(m.coef_.T, m.intercept_) for m in plain], cores, sum(int(m.n_iter_[0]) for m in plain)
    )


CHILD = """
import json, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, scipy.linalg, scipy.optimize, scipy.special
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from relearn.heads.coordinates import Standard, find_coordinates
from relearn.features.shards import ShardsOnDisk
from relearn.heads.logistic import LogisticRegressionProblem
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
        passes, inner = 0, problem._multiply
        def count(*arguments):
            global passes
            passes += 1
            return inner(*arguments)
        problem._multiply = count
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
        low, high = json.loads((clone / "reports" / "intervals.json").read_text())["accuracy_score"]
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
        case "features":
            names = ("network", "weights", "pooling", "image_size_px", "precision")
            options = dict(zip(names, rest[3:], strict=True)) | {"weights_sha256": hash_file(Path(rest[4]))}
            options["image_size_px"] = int(options["image_size_px"])
            write_features(Path(rest[0]), rest[1], int(rest[2]), options)
        case "classes":
            n_classes, n_images, n_rounds = (int(n) for n in (rest[1:4] + ["3"][len(rest[3:4]) :]))
            values_of_C = [float(C) for C in rest[4].split(",")] if len(rest) > 4 else VALUES_TO_CHOOSE
            features, truth, _, _ = choose_classes(rest[0], n_classes, n_images)
            measure_classes(features, truth, n_rounds, values_of_C, float(rest[5]) if len(rest) > 5 else 1e-4)
        case "parts":
            n_classes, n_images, n_rounds = (int(n) for n in (rest[1:4] + ["3"][len(rest[3:4]) :]))
            values_of_C = [float(C) for C in rest[4].split(",")] if len(rest) > 4 else VALUES_TO_CHOOSE
            features, truth, _, _ = choose_classes(rest[0], n_classes, n_images)
            measure_parts(features, truth, n_rounds, values_of_C)
        case "rotation":
            values_of_C = [float(C) for C in rest[3].split(",")] if len(rest) > 3 else VALUES_TO_CHOOSE
            features, truth, _, _ = choose_classes(rest[0], int(rest[1]), int(rest[2]))
            measure_rotation(features[:, : int(rest[4])] if len(rest) > 4 else features, truth, values_of_C)
        case "tolerance":
            measure_tolerance(rest[0], *(int(n) for n in rest[1:3]))
        case "memory":
            measure_memory(*(int(n) for n in (rest + ["3000", "25088", "75"][len(rest) :])))
        case "heads" if rest:
            measure_heads(Path(rest[0]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
