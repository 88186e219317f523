from conftest import ROOT
from relearn.evaluation.paired import Paired
from relearn.params.pipeline import read_params
from relearn.retraining.promotion import ErrorCounts, decide_promotion

PARAMS = read_params(ROOT / "params.yaml").retrain.model_copy(update={"margin": 0.02})


def decide(n_images, n_only_first, n_only_second, failed=(), **changes):
    return decide_promotion(
        PARAMS.model_copy(update=changes), failed, Paired(n_images, n_only_first, n_only_second, 1.0)
    )


def test_clearly_better_is_promoted():
    decision = decide(300, 2, 20)
    assert (decision.promoted, decision.verdict) == (True, "better")
    assert decision.reason.startswith(
        "of 300 evaluation images 20 right with the challenger alone, 2 with the champion alone: accuracy +6.00% "
        "(95% interval +3."
    )


def test_clearly_worse_is_not_however_little():
    decision = decide(100_000, 300, 100)
    assert (decision.promoted, decision.verdict) == (False, "worse")
    assert "accuracy -0.20%" in decision.reason


def test_no_clear_difference_is_promoted_if_it_is_shown_not_to_be_worse_by_the_margin():
    alike, unsure = decide(300, 1, 1), decide(300, 12, 10)
    assert (alike.promoted, alike.verdict) == (True, "no clear difference")
    assert alike.reason.endswith("; not worse by 2.00% or more (retrain.margin)")
    assert (unsure.promoted, unsure.verdict) == (False, "no clear difference")
    assert unsure.reason.endswith("; it may be worse by 2.00% or more (retrain.margin)")
    assert decide(300, 12, 10, margin=0.05).promoted
    assert not decide(300, 1, 1, margin=0.001).promoted


def test_bad_data_blocks_whatever_the_accuracy():
    decision = decide(300, 0, 100, failed=["min_images: wanted 20, got 3", "classes: wanted 2, got 1"])
    assert (decision.promoted, decision.verdict) == (False, "blocked by data")
    assert decision.reason == "2 checks failed: min_images: wanted 20, got 3; classes: wanted 2, got 1"
    few = decide(99, 0, 50)
    assert (few.promoted, few.verdict) == (False, "too few images")
    assert few.reason == (
        "wanted at least 100 evaluation images in common (retrain.min_images), got 99; add images, of which "
        "restructure.fractions go to evaluation, or lower retrain.min_images"
    )


def test_the_margin_is_at_least_what_the_images_can_show():
    """With the sample's 375 images a margin of 1 % could never be met, not even by the very same answers."""
    alike, unsure = decide(375, 0, 0, margin=0.01), decide(375, 1, 1, margin=0.01)
    assert (alike.promoted, unsure.promoted) == (True, False)
    assert alike.reason.endswith(
        "; not worse by 1.01% or more (the least that 375 images can show; retrain.margin, 1.00%, needs 381 evaluation "
        "images)"
    )
    enough, one_less = decide(381, 0, 0, margin=0.01), decide(380, 0, 0, margin=0.01)
    assert enough.reason.endswith("; not worse by 1.00% or more (retrain.margin)")
    assert one_less.reason.endswith("needs 381 evaluation images)")


def test_the_first_is_promoted_unless_its_data_is_bad():
    assert decide_promotion(PARAMS, [], None)[:2] == (True, "first")
    assert decide_promotion(PARAMS, ["x"], None)[:2] == (False, "blocked by data")


def decide_by_errors(*counts, **changes):
    """Decide where the two are equal on 1,000 images, of which these are older, older wrong, new, new wrong."""
    return decide_promotion(PARAMS.model_copy(update=changes), [], Paired(1000, 0, 0, 1.0), ErrorCounts(*counts))


def test_labels_that_cannot_be_learned_look_wrong():
    decision = decide_by_errors(294, 4, 166, 50)
    assert (decision.promoted, decision.verdict) == (False, "blocked by data")
    assert decision.reason.startswith(
        "the labels of the new images look wrong: the error rate of the challenger is 30.1% on 166 new evaluation "
        "images and 1.4% on 294 older, higher by 2"
    )
    assert decide_by_errors(294, 4, 166, 50, max_new_error_increase=0.3).promoted


def test_new_images_that_are_a_little_harder_or_few_are_not():
    assert decide_by_errors(294, 4, 166, 12).promoted
    assert decide_by_errors(294, 4, 5, 1).promoted
    assert decide_by_errors(294, 4, 0, 0).promoted
    assert decide_by_errors(0, 0, 166, 50).promoted
    assert decide_by_errors(294, 100, 166, 10).promoted
