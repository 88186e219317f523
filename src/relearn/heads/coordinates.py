"""Coordinates in which an L2-penalised linear model is quick to fit, and the way back to its coefficients.

A model sees an image's standardized features z = (x - mean) / scale as z w + b, and pays |w|^2 / 2. What of w is
orthogonal to all training rows Z (n, d) changes no z w and only costs, so at the optimum w = Z' a. With Z Z' = Q L Q'
and v = L^(1/2) Q' a that is w = Z' Q L^(-1/2) v, so that |w| = |v| and Z w = Q L^(1/2) v. Where n < d, the rows of
Q L^(1/2) may therefore stand for the images: n columns in place of d, and the same optimum. Where n >= d the rows of
Z B do, with Z' Z = B L B' and w = B v.

In both the columns are uncorrelated, and L is what they scatter: a loss of mean curvature c has a second derivative of
about 1 + C c L along them, which tells a solver how far to go along each.

Where few outputs are fitted, the eigenvectors cost more than the products that they save; then the rows stay Z.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from relearn.runtime.threads import count_threads

STRIPE_ROWS = 512
N_STRIPES = 8  # that may be in memory at once: one that waits, and one a thread

# What a logistic regression costs, measured (benchmarks/README.md). The unit is the time of one multiplication in a
# product of matrices. The numbers need not be exact: where both ways cost about the same, either will do.
EIGENVECTORS_COST = 5  # for each cube of the number of columns
ANSWER_COST = 8  # for each number that a product with the Hessian reads, and again for each output
N_PRODUCTS = 25  # for each value of C, where the columns are uncorrelated
N_ROWS_ALIKE = 500  # up to which correlated columns take as many products; they take more by the root of the rows


class Plan(NamedTuple):
    """What to do: find uncorrelated columns, hold what the fits read, and hold all features with that."""

    rotate: bool
    hold: bool
    hold_features: bool


class Standard(NamedTuple):
    """What standardizes features, (x - mean) / scale, and their variance before that; (n_features,) float64 each."""

    mean: np.ndarray
    scale: np.ndarray
    variance: np.ndarray


class Coordinates(NamedTuple):
    """Training rows as a solver reads them: x of a block stands for the row ((x - mean) / scale) basis.

    blocks : sequence of ndarray (rows, n_block_columns); an item may be read from the disk when it is asked for
    held : `blocks` is one array in memory, float64, that needs neither mean, scale nor basis
    mean, scale : (n_block_columns,) float64
    basis : (n_block_columns, n_columns) float64, or None for the identity
    eigenvalues : (n_columns,) float64, the squares of each column summed
    restore : (n_columns, k) to (n_features, k), the coefficients of the standardized features
    """

    blocks: Sequence[np.ndarray]
    held: bool
    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray | None
    eigenvalues: np.ndarray
    restore: Callable[[np.ndarray], np.ndarray]

    def load_rows(self) -> np.ndarray:
        """Return all rows, (n_rows, n_columns) float64."""
        rows = np.concatenate([(np.asarray(block, np.float64) - self.mean) / self.scale for block in self.blocks])
        return rows if self.basis is None else rows @ self.basis


def pays_to_rotate(n_rows: int, n_features: int, n_outputs: int, n_fits: int) -> bool:
    """Return whether uncorrelated columns save a logistic regression more than they cost.

    They save products with the Hessian, and numbers in each of them where there are fewer rows than features. The
    answer depends on these numbers alone, not on the machine, so that a fit can be repeated.
    """
    n_columns = min(n_rows, n_features)
    gram = n_rows**2 * n_features / 2 if n_rows < n_features else 1.5 * n_rows * n_features**2  # with the rotation
    n_outputs = 1 if n_outputs == 2 else n_outputs
    more_products = max(1.0, math.sqrt(n_rows / N_ROWS_ALIKE))
    n_saved = n_fits * N_PRODUCTS * n_rows * (more_products * n_features - n_columns)
    return gram + EIGENVECTORS_COST * n_columns**3 < n_saved * ANSWER_COST * (1 + n_outputs)


def plan_memory(n_rows: int, n_features: int, memory_bytes: int, n_outputs: int = 1, n_fits: int | None = None) -> Plan:
    """Decide what fits, and of that what is quicker.

    What may have to fit: four matrices to find the eigenvectors by; rows, and of each output what a row answers and its
    probability; features while they are rotated; all as float64.
    """
    hold_features = n_rows * (8 * n_features + 16 * n_outputs) <= memory_bytes
    n_columns = min(n_rows, n_features)
    n_bytes = 4 * 8 * n_columns**2
    pays = not hold_features or n_fits is None or pays_to_rotate(n_rows, n_features, n_outputs, n_fits)
    if n_bytes > memory_bytes // 2 or not pays:
        return Plan(False, hold_features, hold_features)
    n_bytes += n_rows * (8 * n_columns + 16 * n_outputs)
    return Plan(True, n_bytes <= memory_bytes, n_bytes + 8 * n_rows * n_features <= memory_bytes)


def find_coordinates(
    blocks: Sequence[np.ndarray],
    standard: Standard,
    n_rows: int,
    memory_bytes: int,
    n_outputs: int = 1,
    *,
    n_fits: int | None = None,
) -> Coordinates:
    """Return the coordinates for rows of features: of those that the memory allows, the quickest.

    The same for any number of threads: each product has a fixed shape and is computed by one of them, and sums have a
    fixed order. So BLAS must be held to one thread (`threadpool_limits(1)`) by the caller.

    Parameters
    ----------
    blocks : sequence of ndarray (rows, n_features)
        In order; an item may be read from the disk when it is asked for.
    memory_bytes
        About what may be held at once, beside `blocks`.
    n_outputs
        Of the model, whose answers take memory too.
    n_fits
        How many logistic regressions the coordinates are for; with None the columns are uncorrelated if the memory
        allows it.
    """
    mean, scale, variance = standard
    n_features = len(mean)
    plan = plan_memory(n_rows, n_features, memory_bytes, n_outputs, n_fits)
    squares = n_rows * variance / scale**2
    if not plan.rotate and not plan.hold:
        return Coordinates(blocks, False, mean, scale, None, squares, lambda v: v)
    most_rows = max(1, min(STRIPE_ROWS, memory_bytes // (2 * N_STRIPES * n_features * 8)))
    stripes = Stripes(blocks, mean, scale, most_rows, plan.rotate and plan.hold_features)
    if not plan.rotate:
        return _hold(stripes.load(), squares, lambda v: v)
    if n_rows < n_features:
        eigenvalues, vectors = _decompose(_multiply_rows(stripes, n_rows))
        held = vectors * np.sqrt(eigenvalues)
        return _hold(held, eigenvalues, lambda v: _multiply_back(stripes, vectors @ (v.T / np.sqrt(eigenvalues)).T))
    eigenvalues, basis = _decompose(_multiply_columns(stripes, n_features))
    if plan.hold:
        return _hold(_rotate(stripes, basis), eigenvalues, lambda v: basis @ v)
    return Coordinates(blocks, False, mean, scale, basis, eigenvalues, lambda v: basis @ v)


def _hold(rows: np.ndarray, eigenvalues: np.ndarray, restore: Callable[[np.ndarray], np.ndarray]) -> Coordinates:
    n_columns = len(eigenvalues)
    return Coordinates([rows], True, np.zeros(n_columns), np.ones(n_columns), None, eigenvalues, restore)


class Stripes:
    """Consecutive blocks of rows, joined or cut to at most `n_rows` rows, standardized, as float64."""

    def __init__(
        self, blocks: Sequence[np.ndarray], mean: np.ndarray, scale: np.ndarray, most_rows: int, hold: bool = False
    ) -> None:
        self._blocks, self.mean, self._scale = blocks, mean, scale
        self._parts: list[list[tuple[int, int, int]]] = [[]]  # of each stripe: block, its first row, its last
        self.slices: list[slice] = []
        self._held: dict[int, np.ndarray] | None = {} if hold else None
        n_free, start = most_rows, 0
        for number, block in enumerate(blocks):
            first = 0
            while first < len(block):
                if not n_free:
                    self._parts.append([])
                    n_free = most_rows
                last = min(len(block), first + n_free)
                self._parts[-1].append((number, first, last))
                n_free -= last - first
                first = last
        for parts in self._parts:
            end = start + sum(last - first for _, first, last in parts)
            self.slices.append(slice(start, end))
            start = end

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> np.ndarray:
        if self._held is not None and number in self._held:
            return self._held[number]
        parts = [self._blocks[block][first:last] for block, first, last in self._parts[number]]
        rows = np.concatenate(parts, dtype=np.float64)
        rows -= self.mean
        rows /= self._scale
        if self._held is not None:
            self._held[number] = rows
        return rows

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        for number, place in enumerate(self.slices):
            yield place, self[number]

    def load(self) -> np.ndarray:
        """Return all rows, (n_rows, n_features) float64."""
        rows = np.empty((self.slices[-1].stop, len(self.mean)))
        for place, part in self:
            rows[place] = part
        return rows


def _multiply_rows(stripes: Stripes, n_rows: int) -> np.ndarray:
    """Return Z Z' (n_rows, n_rows), a pair of stripes at a time."""
    product = np.empty((n_rows, n_rows))
    with ThreadPoolExecutor(min(count_threads(), N_STRIPES - 1)) as executor:
        for number, (place, rows) in enumerate(stripes):

            def _multiply(other: int, place: slice = place, rows: np.ndarray = rows, number: int = number) -> None:
                part = rows @ (rows if other == number else stripes[other]).T
                product[place, stripes.slices[other]] = part
                product[stripes.slices[other], place] = part.T

            list(executor.map(_multiply, range(number, len(stripes))))
    return product


def _multiply_columns(stripes: Stripes, n_columns: int) -> np.ndarray:
    """Return Z' Z (n_columns, n_columns), a stripe at a time."""
    product = np.zeros((n_columns, n_columns))
    starts = range(0, n_columns, STRIPE_ROWS)
    with ThreadPoolExecutor(count_threads()) as executor:
        for _, rows in stripes:

            def _add(first: int, rows: np.ndarray = rows) -> None:
                product[first:, first : first + STRIPE_ROWS] += rows[:, first:].T @ rows[:, first : first + STRIPE_ROWS]

            list(executor.map(_add, starts))
    for first in starts:  # the other half is the same
        last = first + STRIPE_ROWS
        product[first:last, last:] = product[last:, first:last].T
    return product


def _rotate(stripes: Stripes, basis: np.ndarray) -> np.ndarray:
    """Return Z basis (n_rows, n_columns), a stripe at a time."""
    product = np.empty((stripes.slices[-1].stop, basis.shape[1]))
    with ThreadPoolExecutor(count_threads()) as executor:
        for place, rows in stripes:

            def _multiply(first: int, place: slice = place, rows: np.ndarray = rows) -> None:
                columns = slice(first, first + STRIPE_ROWS)
                product[place, columns] = rows @ basis[:, columns]

            list(executor.map(_multiply, range(0, basis.shape[1], STRIPE_ROWS)))
    return product


def _multiply_back(stripes: Stripes, weights: np.ndarray) -> np.ndarray:
    """Return Z' weights: (n_rows, k) to (n_features, k)."""
    product = np.zeros((len(stripes.mean), weights.shape[1]))
    with ThreadPoolExecutor(count_threads()) as executor:
        for place, rows in stripes:

            def _add(first: int, place: slice = place, rows: np.ndarray = rows) -> None:
                columns = slice(first, first + STRIPE_ROWS)
                product[columns] += rows[:, columns].T @ weights[place]

            list(executor.map(_add, range(0, len(product), STRIPE_ROWS)))
    return product


def _decompose(product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above the noise, and their vectors as columns; `product` is overwritten."""
    from scipy.linalg import eigh

    eigenvalues, vectors = eigh(product, overwrite_a=True, check_finite=False, driver="evd")
    kept = eigenvalues > max(eigenvalues[-1], 0) * len(eigenvalues) * np.finfo(np.float64).eps
    return eigenvalues[kept], vectors[:, kept]
