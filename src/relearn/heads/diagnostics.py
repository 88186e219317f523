"""What a user should know about a search: solvers that did not converge, and grids that end too early."""

import logging

from relearn.errors import TrainingError
from relearn.heads.fitted import Head
from relearn.heads.kinds import KINDS
from relearn.heads.selection import Trial, find_best
from relearn.params.heads import TrainParams

log = logging.getLogger(__name__)


def check_converged(chosen: Trial, head: Head, trials: list[Trial], params: TrainParams) -> None:
    """Log what did not converge; raise `TrainingError` if the chosen head must and did not."""
    for trial in trials:
        if not trial.converged:
            log.warning("%s did not converge in %s iterations", trial.name, trial.n_iter)
    if head.converged:
        return
    if params.must_converge:
        raise TrainingError(
            where=chosen.name,
            wanted="a solver that converges (train.must_converge)",
            got=f"{head.n_iter} iterations without",
            advice=f"raise {KINDS[chosen.head].max_iter} of {chosen.head}",
        )
    if chosen.fitted is None:
        log.warning("%s, fitted on all of training, did not converge in %s iterations", chosen.name, head.n_iter)


def warn_of_grid_ends(chosen: Trial, trials: list[Trial], params: TrainParams) -> None:
    """Log a warning if the best value of an option is the smallest or largest that was tried, and more are allowed.

    The best is that of the chosen kind of head, whatever `one_standard_error` makes of it.
    """
    same_kind = [trial for trial in trials if trial.head == chosen.head]
    for name, value in find_best(same_kind).options.to_dict().items():
        tried = {trial.options.to_dict()[name] for trial in same_kind}
        numbers = sorted(number for number in tried if isinstance(number, int | float))
        if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        is_smallest = value == numbers[0]
        is_capacity_end = is_smallest != (KINDS[chosen.head].capacity.get(name, -1) > 0)
        if None in tried and is_capacity_end:
            continue  # null is beyond it
        beyond = _extrapolate(value, numbers[1] if is_smallest else numbers[-2])
        if beyond != value and _is_allowed(params, chosen.head, name, beyond):
            log.warning(
                "%s: the best %s, %s, is the %s value tried; a %s one may be better: try %s too",
                chosen.head,
                name,
                value,
                "smallest" if is_smallest else "largest",
                "smaller" if is_smallest else "larger",
                beyond,
            )


def _extrapolate(value: float, neighbor: float) -> float:
    """Return the value as far beyond `value` as its neighbor is on this side, by their ratio."""
    beyond = value * value / neighbor if neighbor else value
    is_whole = isinstance(value, int) and isinstance(neighbor, int)
    return round(beyond) if is_whole else float(f"{beyond:.3g}")


def _is_allowed(params: TrainParams, head: str, name: str, value: float) -> bool:
    block = getattr(params, head)
    try:
        type(block).model_validate(block.model_dump() | {name: [value]})
    except ValueError:
        return False
    return True
