"""What a retraining does, and how it ends: decisions by facts alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from relearn.params.pipeline import RetrainParams
from relearn.retraining.records import Record

NOTHING_NEW = "nothing new"
# Checks that more images can pass.
SHORTAGES = {"min_images", "every_class_in_every_split"}


class Facts(NamedTuple):
    """What is known before a retraining computes anything.

    Attributes
    ----------
    record
        The newest record with the base's own parameters; None before the first.
    is_promotion
        Whether that record promoted the production model.
    has_new_base
        Whether the base has commits that no record has seen.
    has_imports
        Whether some of the data was imported, so that its origin may have more.
    waiting_sha256
        Of the list of what waits in the landing folder; None if nothing does.
    was_fruitless
        Whether an earlier run found nothing new in what waits.
    sources_sha256, production_sha256
        Of the `.dvc` files of this run and of the production model; None until the data is fetched, and without one.
    has_overrides
        Whether the run was given other parameters than the base's.
    is_forced
        Whether to run though nothing is new.
    """

    record: Record | None
    is_promotion: bool
    has_new_base: bool
    has_imports: bool
    waiting_sha256: str | None
    was_fruitless: bool
    sources_sha256: str | None = None
    production_sha256: str | None = None
    has_overrides: bool = False
    is_forced: bool = False


class Skip(NamedTuple):
    """There is nothing to do; `is_in_data` if all that waited is in the production model's data already."""

    reason: str
    is_in_data: bool = False


class Run(NamedTuple):
    """There is something to do; the reasons."""

    reasons: tuple[str, ...]


def plan_run(facts: Facts) -> Skip | Run:
    """Decide whether to retrain: first by what has arrived, then, with `sources_sha256`, by what it did to the data.

    A new base, other parameters and force always run. Otherwise something must have arrived that no record has judged:
    images wait, or imports may have brought some. Once the data is there, it must differ from that of the production
    model and of the newest record.
    """
    always = {
        "the base has new commits": facts.has_new_base,
        "it was given other parameters": facts.has_overrides,
        "it was forced": facts.is_forced,
    }
    if any(always.values()):
        return Run(tuple(reason for reason, holds in always.items() if holds))
    if facts.sources_sha256 is not None:
        return _plan_by_data(facts)
    is_known = was_tried(facts) or facts.was_fruitless
    reasons = {
        "images wait": facts.waiting_sha256 is not None and not is_known,
        "imports may have changed": facts.has_imports,
    }
    if any(reasons.values()):
        return Run(tuple(reason for reason, holds in reasons.items() if holds))
    return Skip(describe_old_news(facts, facts.waiting_sha256))


def _plan_by_data(facts: Facts) -> Skip | Run:
    if facts.sources_sha256 == facts.production_sha256:
        return Skip(NOTHING_NEW, is_in_data=True)
    if facts.record and facts.sources_sha256 == facts.record.sources_sha256:
        return Skip(describe_old_news(facts, facts.sources_sha256))
    return Run(("the data is new",))


def was_tried(facts: Facts) -> bool:
    """Return whether what waits was judged before, and stays; after a promotion only a kill leaves it there."""
    record = facts.record
    return record is not None and record.landing_sha256 == facts.waiting_sha256 and not facts.is_promotion


def describe_old_news(facts: Facts, tried_sha256: str | None) -> str:
    """Return why there is nothing to do: nothing arrived, or what arrived was tried, or cannot be taken."""
    record = facts.record
    if record is None or tried_sha256 is None:
        return NOTHING_NEW
    if tried_sha256 not in (record.landing_sha256, record.sources_sha256):
        return f"{NOTHING_NEW}: what waits brought nothing to an earlier run, whose message says why"
    return f"{NOTHING_NEW}: what came was tried before, {record.verdict} ({record.commit[:12]})"


class Ending(NamedTuple):
    """How a retraining ended: the name of its state, whether it failed, the message, and a name for the run."""

    name: str
    has_failed: bool
    message: str
    title: str


def plan_ending(
    decision: Mapping[str, Any], version: str | None, waiting: Sequence[object], params: RetrainParams, is_dry: bool
) -> Ending:
    """Return how a retraining ends by what `relearn decide` wrote.

    Parameters
    ----------
    version
        The production model from then on; in a dry run the one that there is.
    waiting
        What waited in the landing folder.
    is_dry
        Whether nothing was recorded.
    """
    promoted, verdict, version = decision["promoted"], decision["verdict"], version or "nothing"
    if is_dry:
        title = f"dry run, {'would be promoted' if promoted else f'{version} would stay'}, {verdict}"
        return Ending("DryRun", False, f"{title}: {decision['reason']}; nothing is recorded", title)
    title = f"{version} {'promoted' if promoted else 'stays'}, {verdict}"
    if promoted:
        return Ending("Promoted", False, f"{version} is the production model, {verdict}: {decision['reason']}", title)
    message = f"{version} stays the production model, {verdict}: {decision['reason']}"
    if verdict != "blocked by data":
        return Ending("NotPromoted", False, message, title)
    if waiting:
        failed = {check.partition(":")[0] for check in decision["failed_checks"]}
        first = f"add images to {params.landing}" if failed and failed <= SHORTAGES else "correct it"
        message += f"; {first}, or take it out of {params.landing}"
    return Ending("Blocked", True, message, title)
