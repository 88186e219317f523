"""How many images of a class go to each split, and which."""

from collections import Counter
from collections.abc import Collection

from relearn.params.data import Fractions

ORDER = ("evaluation", "validation", "training")  # in which the smallest hashes are given away


def count_shares(n_units: int, fractions: Fractions) -> dict[str, int]:
    """Return how many of a class's images or groups each split should have; they sum to `n_units`.

    Each share is rounded down, and what is left goes to the largest remainders (Hamilton's method). Then a split that
    has none and should have some gets one from the largest, training first, as far as the class goes: 1 image is for
    training, 2 are for training and evaluation, 3 are one for each.
    """
    shares = {"evaluation": fractions.evaluation * n_units, "validation": fractions.validation * n_units}
    shares["training"] = n_units - sum(shares.values())
    counts = {split: int(share) for split, share in shares.items()}
    by_remainder = sorted(ORDER, key=lambda split: counts[split] - shares[split])
    for split in by_remainder[: n_units - sum(counts.values())]:
        counts[split] += 1
    for split in ("training", "evaluation", "validation")[:n_units]:
        if shares[split] > 0 and counts[split] == 0:
            counts[max(ORDER, key=lambda other: counts[other])] -= 1
            counts[split] = 1
    return counts


def cut_class(keys: Collection[str], fractions: Fractions, n_known: Counter[str]) -> dict[str, str]:
    """Return the split of each new image or group of one class, by its key, which is a hash.

    One after the other is allotted to the split that lacks most of its share, in view of those that have a split
    already. Then evaluation takes the smallest hashes, validation the next, training the rest. So it does not matter
    in which order the keys come.

    Parameters
    ----------
    n_known
        How many others of the class each split has.
    """
    wanted = count_shares(len(keys) + n_known.total(), fractions)
    open_splits = [split for split in ORDER if wanted[split]]
    n_new: Counter[str] = Counter()
    for _ in keys:
        n_new[min(open_splits, key=lambda split: (n_known[split] + n_new[split]) / wanted[split])] += 1
    splits = [split for split in ORDER for _ in range(n_new[split])]
    return dict(zip(sorted(keys), splits, strict=True))
