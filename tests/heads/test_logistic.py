"""The reference is Newton's method on the same objective, written out with explicit matrices, solved to 1e-10."""

import numpy as np
import pytest
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from relearn.heads import coordinates as module
from relearn.heads import logistic, products
from relearn.heads.coordinates import Standard, find_coordinates
from relearn.heads.logistic import LogisticRegressionProblem, compute_losses

LARGE = 10**9


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpool_limits(1):
        yield


def make_problem(n_rows, n_features, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n_rows) % n_classes
    centers = rng.normal(0, 1, (n_classes, n_features))
    features = (centers[truth] + rng.normal(1, 2, (n_rows, n_features)) * rng.uniform(0.5, 3, n_features)).astype("f4")
    return features, truth


def solve_reference(rows, truth, weights, C, n_classes):
    """Return W (n_features, outputs), b and F: the logistic function for two classes, a softmax for more.

    For the softmax the last intercept is 0, as one of them is free; it is shifted to a mean of 0 at the end.
    """
    n_rows, n_features = rows.shape
    if n_classes == 2:
        w, b = np.zeros(n_features), 0.0
        design = np.hstack([rows, np.ones((n_rows, 1))])
        for _ in range(100):
            p = 1 / (1 + np.exp(-(rows @ w + b)))
            gradient = C * design.T @ (weights * (p - truth)) + np.append(w, 0)
            if np.linalg.norm(gradient) < 1e-10 * max(1, np.linalg.norm(w)):
                break
            hessian = C * (design * (weights * p * (1 - p))[:, None]).T @ design
            hessian += np.diag(np.append(np.ones(n_features), 0))
            step = np.linalg.solve(hessian, gradient)
            w, b = w - step[:-1], b - step[-1]
        signs = np.where(truth == 1, 1, -1)
        objective = w @ w / 2 + C * weights @ np.logaddexp(0, -signs * (rows @ w + b))
        return w[:, None], np.array([b]), objective
    design = np.hstack([rows, np.ones((n_rows, 1))])
    k, d = n_classes, n_features + 1
    theta = np.zeros((d, k))
    onehot = np.eye(k)[truth]
    penalty = np.append(np.ones(n_features), 0)
    for _ in range(100):
        p = softmax(design @ theta, axis=1)
        gradient = C * design.T @ (weights[:, None] * (p - onehot)) + penalty[:, None] * theta
        if np.linalg.norm(gradient) < 1e-10 * max(1, np.linalg.norm(theta[:-1])):
            break
        hessian = np.zeros((d, k, d, k))
        for i in range(k):
            for j in range(k):
                curvature = weights * p[:, i] * ((i == j) - p[:, j])
                hessian[:, i, :, j] = C * (design * curvature[:, None]).T @ design
            hessian[:, i, :, i] += np.diag(penalty)
        hessian = hessian.reshape(d * k, d * k)
        step = np.linalg.lstsq(hessian, gradient.ravel(), rcond=1e-14)[0].reshape(d, k)
        theta = theta - step
    logs = design @ theta - np.log(np.exp(design @ theta).sum(axis=1, keepdims=True))
    objective = (theta[:-1] ** 2).sum() / 2 - C * weights @ logs[np.arange(n_rows), truth]
    return theta[:-1], theta[-1] - theta[-1].mean(), objective


def solve(features, truth, weights, Cs, n_classes, scale, memory_bytes=LARGE, tol=1e-6, n_fits=None):
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64) if scale else np.ones(features.shape[1])
    standard = Standard(mean, deviation, features.var(axis=0, dtype=np.float64))
    blocks = np.array_split(features, 5)
    coordinates = find_coordinates(blocks, standard, len(features), memory_bytes, n_classes, n_fits=n_fits)
    with LogisticRegressionProblem(coordinates, truth, n_classes) as problem:
        solutions = list(problem.solve_path(Cs, weights, tol, 5000))
    rows = (features - mean) / deviation
    return rows, [(s, coordinates.restore(s.weights)) for s in solutions]


@pytest.mark.parametrize(("n_rows", "n_features"), [(60, 150), (150, 20)])
@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("memory_bytes", [LARGE, 2000])
def test_optimum_is_the_true_one(n_rows, n_features, n_classes, scale, weighted, memory_bytes):
    if n_classes == 10 and n_features > 100:  # the reference inverts a matrix of (features x classes) squared
        n_rows, n_features = 40, 50
    features, truth = make_problem(n_rows, n_features, n_classes)
    weights = np.random.default_rng(5).uniform(0.2, 3, n_rows) if weighted else np.ones(n_rows)
    rows, solutions = solve(features, truth, weights, [1e-3, 1.0], n_classes, scale, memory_bytes)
    for solution, coefficients in solutions:
        w, b, objective = solve_reference(rows, truth, weights, solution.C, n_classes)
        assert solution.converged
        assert solution.gradient <= 1e-6
        assert abs(solution.objective - objective) <= 1e-8 * objective
        assert np.linalg.norm(coefficients - w) <= 1e-5 * np.linalg.norm(w)
        intercepts = solution.intercepts - (solution.intercepts.mean() if n_classes > 2 else 0)
        np.testing.assert_allclose(intercepts, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(("n_rows", "n_features"), [(60, 150), (150, 40)])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scale", [True, False])
def test_rows_as_they_are_lead_to_the_same_optimum(n_rows, n_features, n_classes, scale):
    features, truth = make_problem(n_rows, n_features, n_classes)
    arguments = (features, truth, np.ones(n_rows), [1e-3, 1.0], n_classes, scale)
    (_, rotated), (_, plain) = (solve(*arguments, tol=1e-4, n_fits=n_fits) for n_fits in (None, 0))
    for (one, coefficients), (other, same) in zip(rotated, plain, strict=True):
        assert one.converged
        assert other.converged
        assert not np.array_equal(coefficients, same)  # they came there by different ways
        # Each is within tol of the optimum.
        assert np.linalg.norm(coefficients - same) <= 2e-4 * np.linalg.norm(same)
        assert np.abs(one.intercepts - other.intercepts).max() <= 2e-4 * np.linalg.norm(same)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_fits", [None, 0])
@pytest.mark.parametrize("n_rows", [250, 45])
def test_features_of_photos_lead_to_the_true_optimum(n_classes, n_fits, n_rows):
    """Pixels of handwritten digits, correlated and of falling variance, with many values of C in a row."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels, truth = pixels[:n_rows].astype("f4"), labels[:n_rows] % n_classes
    pixels = pixels[:, pixels.std(axis=0) > 0]
    scatter = np.linalg.eigvalsh(np.cov(pixels.T))[-min(pixels.shape[1], n_rows - 1) :]
    assert scatter[-1] > 1e4 * scatter[0]
    weights = np.ones(n_rows)
    rows, solutions = solve(pixels, truth, weights, [1e-4, 1e-2, 1.0, 100.0], n_classes, False, n_fits=n_fits)
    for solution, coefficients in solutions:
        w, _, objective = solve_reference(rows, truth, weights, solution.C, n_classes)
        assert solution.converged
        assert abs(solution.objective - objective) <= 1e-8 * objective
        assert np.linalg.norm(coefficients - w) <= 1e-5 * np.linalg.norm(w)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_path_goes_on_without_reading_the_rows_again(n_classes, monkeypatch):
    features, truth = make_problem(90, 30, n_classes)
    standard = Standard(np.zeros(30), np.ones(30), features.var(axis=0, dtype=np.float64))
    read = []
    multiply = LogisticRegressionProblem._multiply

    def _count(self, *arguments):
        read.append(arguments)
        return multiply(self, *arguments)

    monkeypatch.setattr(LogisticRegressionProblem, "_multiply", _count)
    coordinates = find_coordinates([features], standard, 90, LARGE)
    with LogisticRegressionProblem(coordinates, truth, n_classes) as problem:
        list(problem.solve_path([1.0], np.ones(90), 1e-6, 5000))
        n_read = len(read)
        same, again = problem.solve_path([1.0, 1.0], np.ones(90), 1e-6, 5000)
        assert len(read) == 2 * n_read
        assert (again.n_iter, again.converged) == (0, True)
        assert again.weights.tobytes() == same.weights.tobytes()
        # Other weights of the rows are another problem, though it begins at the same point.
        (other,) = problem.solve_path([1.0], np.linspace(0, 2, 90), 1e-6, 5000)
    assert np.abs(other.weights - same.weights).max() > 1e-3


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("memory_bytes", [LARGE, 2000])
def test_path_shows_how_far_it_is_within_a_value(n_classes, memory_bytes):
    features, truth = make_problem(90, 30, n_classes)
    standard = Standard(np.zeros(30), np.ones(30), features.var(axis=0, dtype=np.float64))
    coordinates = find_coordinates([features], standard, 90, memory_bytes)
    with LogisticRegressionProblem(coordinates, truth, n_classes) as problem:
        steps = list(problem.iterate_path([0.01, 1.0], np.ones(90), 1e-6, 5000))
        solutions = list(problem.solve_path([0.01, 1.0], np.ones(90), 1e-6, 5000))
    found = [step.solution for step in steps if step.solution is not None]
    assert [s.weights.tobytes() for s in found] == [s.weights.tobytes() for s in solutions]
    assert len(steps) == 2 + sum(s.n_iter for s in solutions)  # one for each product
    assert min(step.n_values for step in steps) >= 0
    done = np.cumsum([step.n_values for step in steps])
    first = next(number for number, step in enumerate(steps) if step.solution is not None)
    assert (done[first], done[-1]) == (1, 2)
    assert len(set(done[:first])) > 3  # before the first C ends


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scikit_learn_comes_to_the_same(n_classes):
    from sklearn.linear_model import LogisticRegression

    features, truth = make_problem(90, 30, n_classes)
    rows, solutions = solve(features, truth, np.ones(90), [0.01, 10.0], n_classes, scale=True)
    for solution, coefficients in solutions:
        theirs = LogisticRegression(C=solution.C, tol=1e-12, max_iter=100_000).fit(rows, truth)
        np.testing.assert_allclose(theirs.coef_.T, coefficients, rtol=0, atol=1e-4 * np.abs(coefficients).max())


def test_a_row_of_weight_0_is_not_there():
    features, truth = make_problem(80, 20, 3)
    present = np.arange(80) >= 20
    rows, ((solution, coefficients),) = solve(features, truth, present.astype(float), [0.1], 3, scale=True)
    w, _, objective = solve_reference(rows[present], truth[present], np.ones(60), 0.1, 3)
    assert abs(solution.objective - objective) <= 1e-8 * objective
    assert np.linalg.norm(coefficients - w) <= 1e-5 * np.linalg.norm(w)


def test_gradient_is_that_of_the_losses():
    rng = np.random.default_rng(0)
    for n_outputs, n_classes in ((1, 2), (4, 4)):
        truth = rng.integers(0, n_classes, 6)
        margins = rng.normal(0, 3, (6, n_outputs))
        _, gradient, _ = compute_losses(margins, truth)
        for row in range(6):
            for output in range(n_outputs):
                moved = np.zeros_like(margins)
                moved[row, output] = 1e-6
                above, below = compute_losses(margins + moved, truth)[0], compute_losses(margins - moved, truth)[0]
                assert (above - below).sum() / 2e-6 == pytest.approx(gradient[row, output], abs=1e-7)


def test_large_margins_overflow_nothing():
    losses, gradient, curvature = compute_losses(np.array([[800.0], [-800.0]]), np.array([0, 0]))
    assert losses.tolist() == [800.0, 0.0]
    assert np.isfinite(gradient).all()
    assert np.isfinite(curvature).all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("memory_bytes", "n_fits"), [(LARGE, None), (LARGE, 0), (2000, None)])
def test_number_of_threads_changes_no_bit(n_classes, memory_bytes, n_fits, monkeypatch):
    monkeypatch.setattr(module, "STRIPE_ROWS", 32)
    monkeypatch.setattr(products, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(products, "CHUNK_ROWS", 32)
    monkeypatch.setattr(products, "STRIPE_COLUMNS", 16)
    features, truth = make_problem(300, 200, n_classes)
    found = set()
    for n_threads in ("1", "2", "4"):
        monkeypatch.setenv("RELEARN_THREADS", n_threads)
        _, solutions = solve(features, truth, np.ones(300), [0.01, 1.0], n_classes, True, memory_bytes, n_fits=n_fits)
        found.add(b"".join(coefficients.tobytes() for _, coefficients in solutions))
    assert len(found) == 1


def test_too_few_iterations_are_said():
    features, truth = make_problem(60, 150, 2)
    mean = features.mean(axis=0, dtype=np.float64)
    standard = Standard(mean, np.ones(150), features.var(axis=0, dtype=np.float64))
    coordinates = find_coordinates([features], standard, 60, LARGE)
    with LogisticRegressionProblem(coordinates, truth, 2) as problem:
        (solution,) = problem.solve_path([1.0], np.ones(60), 1e-6, 3)
    assert (solution.n_iter, solution.converged) == (3, False)
    assert solution.gradient > 1e-6


@pytest.mark.parametrize("C", [1e-9, 1e9])
def test_extremes(C):
    features, truth = make_problem(60, 150, 2)
    rows, ((solution, coefficients),) = solve(features, truth, np.ones(60), [C], 2, scale=True)
    w, _, _ = solve_reference(rows, truth, np.ones(60), C, 2)
    assert solution.converged
    assert np.linalg.norm(coefficients - w) <= 1e-5 * np.linalg.norm(w)


def test_labels_that_the_features_do_not_tell(monkeypatch):
    """Every row twice, once with each label: the optimum is W = 0."""
    features, _ = make_problem(30, 10, 2)
    features = np.concatenate([features, features])
    truth = np.repeat([0, 1], 30)
    _, ((solution, coefficients),) = solve(features, truth, np.ones(60), [1.0], 2, scale=True)
    assert solution.converged
    assert np.abs(coefficients).max() < 1e-6


@pytest.mark.parametrize("n_classes", [2, 5])
def test_large_differences_of_scale_cost_no_digit(n_classes):
    """Columns that scatter from 1e6 to 1, and C at which most probabilities are next to 0 or 1."""
    features, truth = make_problem(300, 40, n_classes)
    features *= np.logspace(3, 0, 40).astype("f4")
    rows, solutions = solve(features, truth, np.ones(300), [1e-3, 1.0, 1e3], n_classes, False)
    for solution, coefficients in solutions:
        margins = rows @ coefficients + solution.intercepts
        logits = np.hstack([np.zeros_like(margins), margins]) if n_classes == 2 else margins
        residuals = (softmax(logits, axis=1) - np.eye(n_classes)[truth])[:, -margins.shape[1] :]
        gradient = coefficients + solution.C * rows.T @ residuals
        assert solution.converged
        assert np.linalg.norm(gradient) <= 2e-6 * np.linalg.norm(coefficients)
        assert np.linalg.norm(solution.C * residuals.sum(axis=0)) <= 2e-6 * np.linalg.norm(coefficients)


def test_curvature_is_the_derivative_of_the_residuals():
    rng = np.random.default_rng(0)
    truth, margins, change = rng.integers(0, 4, 6), rng.normal(0, 3, (6, 4)), rng.normal(0, 1, (6, 4))
    probabilities = softmax(margins, axis=1)
    np.testing.assert_allclose(logistic.recover_probabilities(compute_losses(margins, truth)[1], truth), probabilities)
    above, below = (compute_losses(margins + sign * 1e-6 * change, truth)[1] for sign in (1, -1))
    np.testing.assert_allclose(logistic.multiply_curvature(probabilities, change), (above - below) / 2e-6, atol=1e-8)


def test_curvature_keeps_its_digits():
    margins = np.array([[30.0, 3.0, 0.0]])
    probabilities, change = softmax(margins, axis=1), np.array([[1e4, 1e4 + 1, 1e4 - 2]])
    exact = logistic.multiply_curvature(probabilities, change)
    found = logistic.multiply_curvature(probabilities.astype("f4"), change.astype("f4"))
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_residual_of_a_sure_answer_keeps_its_digits():
    (residual,) = compute_losses(np.array([[40.0, 0.0, 0.0]]), np.array([0]))[1]
    np.testing.assert_allclose(residual, np.exp(-40) * np.array([-2, 1, 1]), rtol=1e-12)
