import pytest

from conftest import ROOT
from relearn.params.pipeline import read_params
from relearn.retraining.planning import Ending, Facts, Run, Skip, plan_ending, plan_run
from relearn.retraining.records import Record

RECORD = Record("c" * 40, "worse", "v1", "b" * 40, "tried sources", "tried landing")
# Nothing has happened since the newest record, which did not promote.
IDLE = Facts(
    RECORD, is_promotion=False, has_new_base=False, has_imports=False, waiting_sha256=None, was_fruitless=False
)
FETCHED = IDLE._replace(sources_sha256="new sources", production_sha256="production sources")


def plan(facts=IDLE, **changes):
    return plan_run(facts._replace(**changes))


def test_nothing_new():
    assert plan() == Skip("nothing new")


def test_a_new_base_runs_whatever_else_is_known():
    assert plan(has_new_base=True) == Run(("the base has new commits",))
    assert plan(has_new_base=True, record=None) == Run(("the base has new commits",))
    assert plan(has_new_base=True, waiting_sha256="tried landing", was_fruitless=True) == plan(has_new_base=True)
    assert plan(FETCHED, has_new_base=True, sources_sha256="production sources") == plan(has_new_base=True)
    assert plan(FETCHED, has_new_base=True, sources_sha256="tried sources") == plan(has_new_base=True)


@pytest.mark.parametrize(
    ("change", "reason"), [("has_overrides", "it was given other parameters"), ("is_forced", "it was forced")]
)
def test_other_parameters_and_force_run_though_nothing_is_new(change, reason):
    for facts in (IDLE, FETCHED, FETCHED._replace(sources_sha256="production sources")):
        assert plan(facts, **{change: True}) == Run((reason,))


def test_images_run_once():
    assert plan(waiting_sha256="new landing") == Run(("images wait",))
    tried = Skip(f"nothing new: what came was tried before, worse ({'c' * 12})")
    assert plan(waiting_sha256="tried landing") == tried


def test_images_that_a_kill_left_after_their_promotion_run_again():
    assert plan(waiting_sha256="tried landing", is_promotion=True) == Run(("images wait",))


def test_images_that_brought_nothing_do_not_run_again():
    fruitless = Skip("nothing new: what waits brought nothing to an earlier run, whose message says why")
    assert plan(waiting_sha256="new landing", was_fruitless=True) == fruitless
    assert plan(waiting_sha256=None, was_fruitless=True) == Skip("nothing new")


def test_imports_run_until_their_origin_has_been_asked():
    assert plan(has_imports=True) == Run(("imports may have changed",))
    assert plan(has_imports=True, waiting_sha256="tried landing") == Run(("imports may have changed",))
    assert plan(has_imports=True, waiting_sha256="new landing").reasons == ("images wait", "imports may have changed")
    assert plan(FETCHED, has_imports=True, sources_sha256="production sources") == Skip("nothing new", is_in_data=True)


def test_data_runs_if_neither_the_production_model_nor_the_record_has_it():
    assert plan(FETCHED) == Run(("the data is new",))
    assert plan(FETCHED, record=None, production_sha256=None) == Run(("the data is new",))


def test_data_that_the_production_model_has_does_not_run():
    assert plan(FETCHED, sources_sha256="production sources") == Skip("nothing new", is_in_data=True)
    assert plan(FETCHED, sources_sha256="production sources", record=None).is_in_data


def test_data_that_was_tried_does_not_run():
    tried = Skip(f"nothing new: what came was tried before, worse ({'c' * 12})")
    assert plan(FETCHED, sources_sha256="tried sources") == tried
    assert plan(FETCHED, sources_sha256="tried sources", production_sha256=None) == tried


PARAMS = read_params(ROOT / "params.yaml").retrain.model_copy(update={"landing": "data/landing", "min_images": 50})


def end(verdict, version="v1", waiting=("a.png",), is_dry=False, **changes):
    decision = {"promoted": False, "verdict": verdict, "reason": "why", "failed_checks": [], "n_judged": 100}
    return plan_ending(decision | changes, version, waiting, PARAMS, is_dry)


def test_a_promotion_names_its_version():
    message = "v2 is the production model, better: why"
    assert end("better", "v2", promoted=True) == Ending("Promoted", False, message, "v2 promoted, better")


def test_no_promotion_is_no_failure():
    message = "v1 stays the production model, worse: why"
    assert end("worse") == Ending("NotPromoted", False, message, "v1 stays, worse")
    assert end("too few images", waiting=["a.png"]).name == "NotPromoted"  # more are needed, not fewer
    assert end("worse", None).message == "nothing stays the production model, worse: why"


@pytest.mark.parametrize(
    ("waiting", "changes", "advice"),
    [
        (["a.png"], {"failed_checks": ["classes"]}, "; correct it, or take it out of data/landing"),
        (["a.png"], {}, "; correct it, or take it out of data/landing"),
        (["a.png"], {"failed_checks": ["classes"], "n_judged": 0}, "; correct it, or take it out of data/landing"),
        (
            ["a.png"],
            {"failed_checks": ["min_images: wanted 20, got 3: owl"]},
            "; add images to data/landing, or take it out of data/landing",
        ),
        (["a.png"], {"failed_checks": ["min_images: x", "types: x"]}, "; correct it, or take it out of data/landing"),
        ([], {"failed_checks": ["classes"]}, ""),
    ],
)
def test_bad_data_is_a_failure_and_advice_if_images_wait(waiting, changes, advice):
    ending = end("blocked by data", waiting=waiting, **changes)
    message = f"v1 stays the production model, blocked by data: why{advice}"
    assert ending == Ending("Blocked", True, message, "v1 stays, blocked by data")


@pytest.mark.parametrize(
    ("verdict", "promoted", "version", "told"),
    [
        ("better", True, "v1", "would be promoted, better"),
        ("worse", False, "v1", "v1 would stay, worse"),
        ("blocked by data", False, None, "nothing would stay, blocked by data"),
    ],
)
def test_a_dry_run_says_what_would_be(verdict, promoted, version, told):
    ending = end(verdict, version, is_dry=True, promoted=promoted)
    assert ending == Ending("DryRun", False, f"dry run, {told}: why; nothing is recorded", f"dry run, {told}")
