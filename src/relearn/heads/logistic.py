"""L2-penalised logistic regression, solved to its optimum along a path of C.

The objective is scikit-learn's: F(W, b) = |W|^2 / 2 + C sum_i s_i loss(y_i, z_i W + b), the loss being the negative log
likelihood of a softmax over the classes, or of the logistic function where there are two; b is not penalised.

F is strongly convex in W with the constant 1, so where its gradient is g, the optimum is no further from W than |g|,
and F no more than |g|^2 / 2 above its least. Hence the stopping rule: |g| <= tol |W| says that the coefficients are
within `tol` of the true ones, as a share of their norm, whatever C is.

The solver is Newton's method. Conjugate gradients find each step from exact products with the Hessian (Nocedal and
Wright 2006, "Numerical Optimization", algorithm 7.1). scikit-learn's `LogisticRegression` is the reference that the
tests compare with. What each part buys, measured (benchmarks/README.md):

- Rotated rows (`coordinates`) are shorter where there are fewer images than features. Alone, with scikit-learn's own
  solver on them, they come within 1.4 times of this solver for 875 images of 25,088 features and two classes, where
  rows as they are take 4.8 times as long. For 800 images of 1,280 features and ten classes they take 4.9 times as long.
- Stretched directions, by the curvature along each coordinate, halve the products for ten classes. For two classes they
  save none.
- Parts that are handed to threads several at once (`products`) save up to half of the time for two classes with one
  thread, and up to a tenth with two.

All of it is computed in float64. Products in float32 would save a third of the time for ten classes, but the
coefficients would differ by 1e-9 between processors, whose BLAS add in another order, and here they differ by 1e-15.
So they can be rounded to the same bits everywhere (`linear.choose_rounding_step`).
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from relearn.heads.coordinates import Coordinates
from relearn.heads.products import BlockRows, HeldRows, Respond, Rows, Workers, hold_in_blocks

MAX_REDUCTION = 1e-3  # of a step's residual: more is not worth its products
MAX_PRODUCTS = 500  # for a step: it is one that lowers F long before it is exact
MIN_DECREASE = 1e-4  # of F, as a share of what the slope promises
ROUNDING = 1e-12  # of F, as a share of it
MIN_REDUCTION = 0.9  # of the gradient, where F shows no difference
MAX_HALVINGS = 40

# Of the progress that is shown.
FIRST_GRADIENT = 10.0  # the way from here to the tolerance counts
MIN_PROMISED = 0.1  # of the gradient after a step: what a step promises beyond is seldom kept


class Solution(NamedTuple):
    """Where a solver ended.

    weights : (n_columns, n_outputs) in the problem's coordinates; one output for two classes
    intercepts : (n_outputs,)
    objective : F there
    gradient : its norm, as a share of that of the weights
    curvature : mean of s p (1 - p) over images and outputs
    n_iter : products with the Hessian, of which each reads all rows once
    """

    C: float
    weights: np.ndarray
    intercepts: np.ndarray
    objective: float
    gradient: float
    curvature: float
    n_iter: int
    converged: bool


class Step(NamedTuple):
    """A part of a path of C.

    n_values : values of C done since the last step, at most 1
    solution : that of a C which ended with this step
    """

    n_values: float
    solution: Solution | None


class _Point(NamedTuple):
    """A solution with its gradient by weights and by intercepts."""

    solution: Solution
    by_weights: np.ndarray
    by_intercepts: np.ndarray


class _Losses(NamedTuple):
    """The losses at weights and intercepts: their sum, mean curvature and gradient, without C and the penalty."""

    weights: np.ndarray
    intercepts: np.ndarray
    total: float
    curvature: float
    by_weights: np.ndarray
    by_intercepts: np.ndarray


class LogisticRegressionProblem:
    """The objective over rows, and its solver.

    Parameters
    ----------
    truth : ndarray (n_rows,) int64
        The number of each row's class.
    """

    def __init__(self, coordinates: Coordinates, truth: np.ndarray, n_classes: int) -> None:
        self._coordinates = coordinates
        self._truth = truth
        self._n_outputs = 1 if n_classes == 2 else n_classes
        self._workers = Workers()
        n_rows = len(truth)
        self._losses, self._curvatures = np.empty(n_rows), np.empty(n_rows)
        # Of the last point that was evaluated, for the products with its Hessian; rows on the disk compute them again.
        self._probabilities: np.ndarray | None = None
        self._last: _Losses | None = None  # of the last point that was evaluated
        self._rows: Rows
        if not coordinates.held:
            self._rows = BlockRows(coordinates.blocks, self._workers)
        elif self._n_outputs == 1:
            self._rows = hold_in_blocks(coordinates.blocks[0], self._workers)
        else:
            self._probabilities = np.empty((n_rows, self._n_outputs))
            self._rows = HeldRows(coordinates.blocks[0], self._n_outputs, self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.__exit__()

    def solve_path(
        self, values_of_C: Sequence[float], sample_weights: np.ndarray, tol: float, max_iter: int
    ) -> Iterator[Solution]:
        """Yield the solution for each C, ascending, each begun where the one before ended.

        Parameters
        ----------
        sample_weights : ndarray (n_rows,) float64
            s; a row of weight 0 is as good as not there.
        """
        for step in self.iterate_path(values_of_C, sample_weights, tol, max_iter):
            if step.solution is not None:
                yield step.solution

    def iterate_path(
        self, values_of_C: Sequence[float], sample_weights: np.ndarray, tol: float, max_iter: int
    ) -> Iterator[Step]:
        """Yield a step after each product with the Hessian and at the end of each C; see `solve_path`.

        How much of a C is done is estimated: the way of the gradient down to `tol` counts by its logarithm.
        """
        self._sample_weights, self._tol, self._last = sample_weights, tol, None
        weights = np.zeros((len(self._coordinates.eigenvalues), self._n_outputs))
        intercepts = np.zeros(self._n_outputs)
        for C in sorted(values_of_C):
            done = 0.0
            for gradient, solution in self._solve(C, weights, intercepts, max_iter):
                if solution is not None:
                    weights, intercepts = solution.weights, solution.intercepts
                    share = 1.0
                else:
                    share = max(done, _estimate_share(gradient, tol))
                yield Step(share - done, solution)
                done = share

    def _solve(
        self, C: float, weights: np.ndarray, intercepts: np.ndarray, max_iter: int
    ) -> Iterator[tuple[float, Solution | None]]:
        """Yield after each product about what the gradient is, and at the end the solution."""
        here = self._evaluate(C, weights, intercepts)
        n_iter = 0
        while not here.solution.converged and n_iter < max_iter:
            step, n_products = yield from self._find_step(here, max_iter - n_iter)
            n_iter += n_products
            there = self._search_line(here, step)
            if there is None:  # rounding hides what is lower
                break
            here = there
        yield here.solution.gradient, here.solution._replace(n_iter=n_iter)

    def _sum_losses(self, weights: np.ndarray, intercepts: np.ndarray) -> "_Losses":
        """Sum the losses and their gradient over all rows, and keep the probabilities."""
        if self._last is not None and self._last.weights is weights and self._last.intercepts is intercepts:
            return self._last  # a value of C begins where the one before ended
        sample_weights = self._sample_weights

        def _respond(rows: slice, margins: np.ndarray) -> np.ndarray:
            self._losses[rows], residuals, self._curvatures[rows] = compute_losses(margins, self._truth[rows])
            if self._probabilities is not None:
                self._probabilities[rows] = recover_probabilities(residuals, self._truth[rows])
            residuals *= sample_weights[rows, np.newaxis]
            return residuals

        gradient = self._multiply(weights, intercepts, _respond)
        curvature = float(self._curvatures @ sample_weights) / len(self._truth)
        self._last = _Losses(weights, intercepts, float(self._losses @ sample_weights), curvature, *gradient)
        return self._last

    def _evaluate(self, C: float, weights: np.ndarray, intercepts: np.ndarray) -> _Point:
        """Compute F, its gradient and the mean curvature, and keep the probabilities."""
        losses, tol = self._sum_losses(weights, intercepts), self._tol
        curvature = losses.curvature
        objective = float(np.vdot(weights, weights)) / 2 + C * losses.total
        by_weights = weights + C * losses.by_weights
        by_intercepts = C * losses.by_intercepts
        # Nothing holds the intercepts but the losses, of this second derivative; their way to go counts as well.
        way = np.linalg.norm(by_intercepts) / min(1, C * max(curvature, 1e-300) * len(self._truth))
        norm = np.hypot(np.linalg.norm(by_weights), way)
        # Where the optimum is W = 0 the norm of W is no measure; F bounds it from above.
        size = max(np.linalg.norm(weights), tol * np.sqrt(2 * objective))
        gradient = float(norm / size)
        solution = Solution(C, weights, intercepts, objective, gradient, curvature, 0, gradient <= tol)
        return _Point(solution, by_weights, by_intercepts)

    def _find_step(self, here: _Point, max_iter: int) -> Generator[tuple[float, None], None, tuple["_Pair", int]]:
        """Return Newton's step for weights and intercepts, about, and how many products it took.

        Yield after each product about what the gradient is after the step so far.

        The residual is reduced the more the nearer the optimum is (Nocedal and Wright 2006, section 7.1). Directions
        are stretched, so that the Hessian would be the identity if every image had the mean curvature, and the first
        residual has the norm 1.
        """
        C, gradient = here.solution.C, here.solution.gradient
        curvature = max(here.solution.curvature, np.finfo(np.float64).eps)
        stretch = np.sqrt(1 + C * curvature * self._coordinates.eigenvalues)[:, np.newaxis]
        stretch_b = np.sqrt(C * curvature * len(self._truth))
        residual = _Pair(-here.by_weights / stretch, -here.by_intercepts / stretch_b)
        norm = np.sqrt(residual.dot(residual))
        residual = _Pair(residual.weights / norm, residual.intercepts / norm)
        step = _Pair(np.zeros_like(residual.weights), np.zeros_like(residual.intercepts))
        direction, square, n_products = residual, 1.0, 0
        reduction = max(min(0.3, gradient**0.3), 0.3 * self._tol / gradient, MAX_REDUCTION)
        while n_products < min(max_iter, MAX_PRODUCTS) and reduction**2 < square < np.inf:
            weights = direction.weights / stretch
            by_weights, by_intercepts = self._multiply_hessian(
                here.solution, _Pair(weights, direction.intercepts / stretch_b)
            )
            n_products += 1
            image = _Pair((weights + C * by_weights) / stretch, C * by_intercepts / stretch_b)
            curved = direction.dot(image)
            if not 0 < curved < np.inf:
                break
            step = step.move(square / curved, direction)
            residual = residual.move(-square / curved, image)
            last_square, square = square, residual.dot(residual)
            direction = residual.move(square / last_square, direction)
            yield gradient * max(MIN_PROMISED, math.sqrt(square)), None
        return _Pair(norm * (step.weights / stretch), norm * (step.intercepts / stretch_b)), n_products

    def _search_line(self, here: _Point, step: "_Pair") -> _Point | None:
        """Return the first of the whole step, half of it, a quarter ... that lowers F enough, or None."""
        start = here.solution
        slope = step.dot(_Pair(here.by_weights, here.by_intercepts))
        share = 1.0
        while slope < 0 and share > 0.5**MAX_HALVINGS:
            moved = _Pair(start.weights, start.intercepts).move(share, step)
            there = self._evaluate(start.C, *moved)
            objective = there.solution.objective
            promised = -share * slope
            if promised > ROUNDING * start.objective:
                if objective <= start.objective - MIN_DECREASE * promised:
                    return there
            # Next to the optimum F is flat up to its rounding, and the gradient is not.
            elif there.solution.gradient < MIN_REDUCTION * start.gradient:
                return there
            share /= 2
        return None

    def _multiply_hessian(self, at: Solution, direction: "_Pair") -> tuple[np.ndarray, np.ndarray]:
        """Return the product of a direction with the Hessian of the losses at the point that was evaluated last."""
        weights, intercepts = direction
        scales, kept = self._sample_weights[:, np.newaxis], self._probabilities

        def _respond_of_two(rows: slice, changes: np.ndarray) -> np.ndarray:
            changes *= self._curvatures[rows, np.newaxis] * scales[rows]
            return changes

        def _respond(rows: slice, changes: np.ndarray) -> np.ndarray:
            if kept is not None:
                probabilities = kept[rows]
            else:
                changes, margins = np.split(changes, 2, axis=1)
                residuals = compute_losses(margins, self._truth[rows])[1]
                probabilities = recover_probabilities(residuals, self._truth[rows])
            answers = multiply_curvature(probabilities, changes)
            answers *= scales[rows]
            return answers

        if self._n_outputs == 1:
            return self._multiply(weights, intercepts, _respond_of_two)
        if kept is None:
            weights = np.hstack([weights, at.weights])
            intercepts = np.concatenate([intercepts, at.intercepts])
        return self._multiply(weights, intercepts, _respond)

    def _multiply(self, weights: np.ndarray, intercepts: np.ndarray, respond: Respond) -> tuple[np.ndarray, np.ndarray]:
        """Return Z' R and the sums of the columns of R for rows Z in the coordinates, R = respond(Z weights + b).

        As ((x - mean) / scale) B W + b = x ((B W) / scale) + (b - mean (B W) / scale), blocks are taken as they are.
        """
        coordinates = self._coordinates
        if coordinates.held:
            return self._rows.multiply(weights, intercepts, respond)
        if coordinates.basis is not None:
            weights = coordinates.basis @ weights
        weights = weights / coordinates.scale[:, np.newaxis]
        product, total = self._rows.multiply(weights, intercepts - coordinates.mean @ weights, respond)
        product = (product - np.outer(coordinates.mean, total)) / coordinates.scale[:, np.newaxis]
        return (product if coordinates.basis is None else coordinates.basis.T @ product), total


def _estimate_share(gradient: float, tol: float) -> float:
    """Return how much of the way from `FIRST_GRADIENT` to `tol` is done, in parts of 1,024, so that sums are exact."""
    if not gradient < FIRST_GRADIENT:
        return 0.0
    if gradient <= tol:
        return 1.0
    return math.floor(1024 * math.log(gradient / FIRST_GRADIENT) / math.log(tol / FIRST_GRADIENT)) / 1024


class _Pair(NamedTuple):
    """A direction: (n_columns, n_outputs) of the weights and (n_outputs,) of the intercepts."""

    weights: np.ndarray
    intercepts: np.ndarray

    def dot(self, other: "_Pair") -> float:
        """Return the dot product over all weights and intercepts."""
        return float(np.vdot(self.weights, other.weights)) + float(np.vdot(self.intercepts, other.intercepts))

    def move(self, length: float, other: "_Pair") -> "_Pair":
        """Return this pair plus `length` times another."""
        return _Pair(self.weights + length * other.weights, self.intercepts + length * other.intercepts)


def recover_probabilities(residuals: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probabilities p (n, n_outputs) of which `compute_losses` gave p - y, for more than two classes."""
    probabilities = residuals.copy()
    probabilities[np.arange(len(truth)), truth] += 1
    return probabilities


def multiply_curvature(probabilities: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return of each row the change of its residuals (n, n_outputs) by that of its margins: (diag(p) - p p') change.

    A change of all margins alike changes nothing, so the change of the likeliest class may be taken from all of them.
    With that no sum is a difference of large numbers, and digits are kept where p is next to 0 or 1.
    """
    likeliest = probabilities.argmax(axis=1)[:, np.newaxis]
    changes = changes - np.take_along_axis(changes, likeliest, axis=1)
    means = np.einsum("ij,ij->i", probabilities, changes)[:, np.newaxis]
    changes -= means
    changes *= probabilities
    return changes


def compute_losses(margins: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each row the loss (n,), its gradient by the margins (n, n_outputs), and the mean curvature (n,).

    Parameters
    ----------
    margins : ndarray (n, n_outputs)
        One output for two classes: the log odds of the second.
    """
    from scipy.special import expit, log_softmax

    if margins.shape[1] == 1:
        signs = np.where(truth == 1, 1.0, -1.0)
        signed = signs * margins[:, 0]
        wrong = expit(-signed)
        return np.logaddexp(0, -signed), (-signs * wrong)[:, np.newaxis], wrong * (1 - wrong)
    logs = log_softmax(margins, axis=1)
    probabilities = np.exp(logs)
    curvatures = (probabilities * (1 - probabilities)).mean(axis=1)
    rows = np.arange(len(truth))
    losses = -logs[rows, truth]
    probabilities[rows, truth] = 0  # p - 1 would lose the digits of a p next to 1; the sum of the others has them
    probabilities[rows, truth] = -probabilities.sum(axis=1)
    return losses, probabilities, curvatures
