"""`make repro` and the flow check what DVC does not."""

import pytest
from flows.repro import check_inputs

from conftest import change_params, execute
from relearn.errors import SourceError


@pytest.mark.slow
def test_unknown_key_is_an_error_before_dvc_starts(clone):
    """DVC calls the pipeline up to date, because no stage depends on the key."""
    change_params({"train.hed": "svm"}, clone / "params.yaml")
    answer = execute(clone, "flows.repro", "--dry")
    assert answer.returncode == 3
    assert answer.stderr.startswith(
        f"relearn: {clone}/params.yaml: 1 error\n  train.hed: unknown key, did you mean head?; known here are head, "
    )


def test_a_source_that_is_not_there_is_an_error_unless_dvc_can_bring_it(workspace):
    change_params({"restructure.source": "data/raw/birds"})
    message = r"^data/raw/birds: no such file or folder; put the images there, or set restructure\.source$"
    with pytest.raises(SourceError, match=message):
        check_inputs(workspace)
    (workspace / "data/raw").mkdir(parents=True)
    (workspace / "data/raw/birds.dvc").touch()
    check_inputs(workspace)
    (workspace / "data/raw/birds.dvc").rename(workspace / "data/raw/birds")
    check_inputs(workspace)


@pytest.mark.slow
def test_unknown_key_fails_the_flow_before_a_stage_runs(workspace, monkeypatch):
    from flows import pipeline

    monkeypatch.setattr(pipeline, "ROOT", workspace)
    monkeypatch.setattr(pipeline, "run_stages", lambda lock: pytest.fail("a stage ran"))
    change_params({"train.hed": "svm"})
    state = pipeline.run_pipeline.fn()
    assert state.is_failed()
    assert "train.hed: unknown key, did you mean head?; known here are head, " in state.message
