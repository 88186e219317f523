"""L2-penalised logistic regression, solved to its optimum along a path of C.

The objective is scikit-learn's: F(W, b) = |W|^2 / 2 + C sum_i s_i loss(y_i, z_i W + b), the loss being the negative log
likelihood of a softmax over the classes, or of the logistic function where there are two; b is not penalised.

F is strongly convex in W with the constant 1, so where its gradient is g, the optimum is no further from W than |g|,
and F no more than |g|^2 / 2 above its least. Hence the stopping rule: |g| <= tol |W| says that the coefficients are
within `tol` of the true ones, as a share of their norm, whatever C is.

scikit-learn's solvers take neither coordinates that are stretched by what is known of the curvature, which saves two
thirds of the iterations, nor rows that are read from the disk. So the solver is scipy's L-BFGS here, and scikit-learn
the reference that the tests hold it to.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from relearn.coordinates import Coordinates
from relearn.threads import count_threads

N_GROUPS = 16  # of blocks, each summed by one thread; fixed, so that sums are the same for any number of threads
N_CORRECTIONS = 10  # that L-BFGS remembers


class Solution(NamedTuple):
    """Where a solver ended.

    weights : (n_columns, n_outputs) in the problem's coordinates; one output for two classes
    intercepts : (n_outputs,)
    objective : F there
    gradient : its norm, as a share of that of the weights
    curvature : mean of s p (1 - p) over images and outputs
    """

    C: float
    weights: np.ndarray
    intercepts: np.ndarray
    objective: float
    gradient: float
    curvature: float
    n_iter: int
    converged: bool


class LogisticRegressionProblem:
    """The objective over rows in blocks, and its solver.

    Parameters
    ----------
    truth : ndarray (n_rows,) int64
        The number of each row's class.
    """

    def __init__(self, coordinates: Coordinates, truth: np.ndarray, n_classes: int) -> None:
        self._coordinates = coordinates
        self._truth = truth
        self._n_outputs = 1 if n_classes == 2 else n_classes
        ends = np.cumsum([0, *(len(block) for block in coordinates.blocks)])
        numbered = list(enumerate(slice(*pair) for pair in pairwise(ends)))
        self._groups = [numbered[g::N_GROUPS] for g in range(min(N_GROUPS, len(numbered)))]
        self._executor = ThreadPoolExecutor(count_threads())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def solve_path(
        self, values_of_C: Sequence[float], sample_weights: np.ndarray, tol: float, max_iter: int
    ) -> Iterator[Solution]:
        """Yield the solution for each C, ascending, each begun where the one before ended.

        Parameters
        ----------
        sample_weights : ndarray (n_rows,) float64
            s; a row of weight 0 is as good as not there.
        """
        solution = None
        for C in sorted(values_of_C):
            solution = self._solve(C, solution, sample_weights, tol, max_iter)
            yield solution

    def _solve(
        self, C: float, start: Solution | None, sample_weights: np.ndarray, tol: float, max_iter: int
    ) -> Solution:
        from scipy.optimize import OptimizeResult, minimize

        n_columns, n_outputs = len(self._coordinates.eigenvalues), self._n_outputs
        if start is None:
            share = 1 / max(2, n_outputs)
            curvature = share * (1 - share) * float(sample_weights.mean())
            start = Solution(C, np.zeros((n_columns, n_outputs)), np.zeros(n_outputs), 0, 0, curvature, 0, False)
        # In u = stretch * v the second derivative is near 1 along every axis.
        curvature = max(start.curvature, np.finfo(np.float64).eps)
        stretch = np.sqrt(1 + C * curvature * self._coordinates.eigenvalues)[:, np.newaxis]
        stretch_b = np.sqrt(C * curvature * len(self._truth))
        here = start

        def compute(u: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal here
            weights = u[:-n_outputs].reshape(n_columns, n_outputs) / stretch
            intercepts = u[-n_outputs:] / stretch_b
            loss, by_weights, by_intercepts, curvature = self._sum_losses(weights, intercepts, sample_weights)
            objective = float(np.vdot(weights, weights)) / 2 + C * loss
            by_weights = weights + C * by_weights
            by_intercepts = C * by_intercepts
            # Nothing holds the intercepts but the losses, of this second derivative; their way to go counts as well.
            way = np.linalg.norm(by_intercepts) / min(1, C * max(curvature, 1e-300) * len(self._truth))
            norm = np.hypot(np.linalg.norm(by_weights), way)
            # Where the optimum is W = 0 the norm of W is no measure; F bounds it from above.
            size = max(np.linalg.norm(weights), tol * np.sqrt(2 * objective))
            gradient = float(norm / size)
            here = Solution(C, weights, intercepts, objective, gradient, curvature, 0, gradient <= tol)
            return objective, np.concatenate([(by_weights / stretch).ravel(), by_intercepts / stretch_b])

        def stop(intermediate_result: OptimizeResult) -> None:  # noqa: ARG001 (scipy goes by the name)
            if here.converged:
                raise StopIteration

        u = np.concatenate([(start.weights * stretch).ravel(), start.intercepts * stretch_b])
        n_iter = 0
        while n_iter < max_iter:
            options: dict[str, float] = {"maxiter": max_iter - n_iter, "maxfun": 10 * max_iter, "maxcor": N_CORRECTIONS}
            options |= {"ftol": 0.0, "gtol": 0.0}
            result = minimize(compute, u, jac=True, method="L-BFGS-B", callback=stop, options=options)
            n_iter += result.nit
            if not here.converged:
                compute(result.x)
            # A line search that finds nothing lower may still find it with the memory of older steps cleared.
            if here.converged or result.nit <= 1:
                break
            u = result.x
        return here._replace(n_iter=n_iter)

    def _unfold(self, weights: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what gives the margins of a block as it is: ((x - mean) / scale) B W + b = x weights + offset."""
        if self._coordinates.basis is not None:
            weights = self._coordinates.basis @ weights
        weights = weights / self._coordinates.scale[:, np.newaxis]
        return weights, intercepts - self._coordinates.mean @ weights

    def _sum_losses(
        self, weights: np.ndarray, intercepts: np.ndarray, sample_weights: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray, float]:
        """Return the sum of the losses, its gradient by weights and by intercepts, and the mean curvature."""
        unfolded, offset = self._unfold(weights, intercepts)
        blocks = self._coordinates.blocks

        def sum_group(group: list[tuple[int, slice]]) -> tuple[float, np.ndarray, np.ndarray, float]:
            loss, curvature = 0.0, 0.0
            by_weights, by_intercepts = np.zeros_like(unfolded), np.zeros_like(offset)
            for number, rows in group:
                block = np.asarray(blocks[number], np.float64)
                margins = block @ unfolded + offset
                losses, residuals, curvatures = compute_losses(margins, self._truth[rows])
                residuals *= sample_weights[rows, np.newaxis]
                loss += float(losses @ sample_weights[rows])
                curvature += float(curvatures @ sample_weights[rows])
                by_weights += block.T @ residuals
                by_intercepts += residuals.sum(axis=0)
            return loss, by_weights, by_intercepts, curvature

        parts = list(self._executor.map(sum_group, self._groups))
        loss, by_weights, by_intercepts, curvature = parts[0]
        for part in parts[1:]:
            loss, by_weights, by_intercepts = loss + part[0], by_weights + part[1], by_intercepts + part[2]
            curvature += part[3]
        by_weights = (by_weights - np.outer(self._coordinates.mean, by_intercepts)) / self._coordinates.scale[
            :, np.newaxis
        ]
        if self._coordinates.basis is not None:
            by_weights = self._coordinates.basis.T @ by_weights
        return loss, by_weights, by_intercepts, curvature / len(self._truth)


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
    probabilities[rows, truth] -= 1
    return losses, probabilities, curvatures
