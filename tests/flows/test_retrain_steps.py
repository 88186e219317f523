"""The flow of a retraining without a server, each with other steps."""

import errno
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from flows.options import Options

from conftest import ROOT, write_images
from relearn.errors import ParamsError, SourceError
from relearn.params.pipeline import read_params
from relearn.retraining.arrivals import Arrival, Left, Unused, Waiting
from relearn.retraining.growth import IGNORED
from relearn.retraining.landing import Landing
from relearn.retraining.records import Record, Start
from relearn.retraining.start import hash_waiting

NAME = "0/gnp.\u202egnp"
SHOWN = r"0/gnp.\u202egnp"


@pytest.fixture
def flow_in(tmp_path, monkeypatch, caplog):
    """The flow without a server: gives a function that runs it with other steps, and what it published and logged."""
    from flows import job
    from flows import retrain as module

    published = []

    def run(steps, **parameters):
        monkeypatch.setattr(module, "retrain", steps)
        return module.run_retraining.fn("main", **parameters)

    caplog.set_level(logging.INFO, "retrain")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "read_settings", lambda *_: read_params(ROOT / "params.yaml").retrain)
    monkeypatch.setattr(module, "clean_up", lambda: None)
    monkeypatch.setattr(job, "publish_left", lambda key, rows: published.append((key, rows)))
    for logging_module in (module, job):
        monkeypatch.setattr(logging_module, "get_run_logger", lambda: logging.getLogger("retrain"))
    return run, published, caplog


@pytest.mark.parametrize("error", [SourceError("no room"), OSError(errno.ENOSPC, "no room", "x"), ValueError("why")])
def test_what_is_left_is_told_also_if_a_run_fails(flow_in, error):
    def fail(job):
        job.note_left([Left("a.png", "a link")], "left in landing")
        raise error

    run, published, _ = flow_in
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="why"):
            run(fail)
    else:
        state = run(fail)
        told = f"{'x: ' * isinstance(error, OSError)}no room; 1 file left in landing: a.png (a link)"
        assert (state.name, state.message) == ("Failed", told)
    assert published == [("landing", [("left in landing", Left("a.png", "a link"))])]


@pytest.mark.parametrize("production", ["promotion", "earlier"])
def test_what_cannot_be_taken_is_fetched_for_once(flow_in, monkeypatch, production):
    """A file that `.dvcignore` names, or whose path is too long, lies in the landing folder and stays there."""
    from flows import retrain as module

    record = Record("promotion", "worse", "v1", "base", "sources", None)
    start = Start("base", "tip", production, record, record)
    waiting = [Waiting("a.png", "1"), Waiting("b.skip.png", "1")]
    steps = []

    def grow(job, landing, files, settings):
        job.note_left([Left(file.path, IGNORED) for file in files[1:]], "left")
        return [Arrival(files[0], "a.png", "0")] if production == "promotion" else []

    def do(name, answer):
        return lambda *_: steps.append(name) or answer

    landing = SimpleNamespace(is_remote=False)
    sources = "other" if production == "earlier" else "sources"
    for name, answer in {
        "recover": do("recover", start),
        "read_settings_of": lambda *_: read_params(ROOT / "params.yaml").retrain,
        "run_git": lambda *_: "",
        "find_landing": lambda *_: landing,
        "look_for_images": lambda *_: list(waiting),
        "list_imports": lambda *_: [],
        "has_new_base": lambda *_: False,
        "open_worktree": do("fetch", SimpleNamespace(has_remote=False)),
        "fetch_data": lambda *_: None,
        "grow_source": grow,
        "hash_sources": lambda _, commit=None: sources if commit else "sources",
        "read_excluded": lambda *_: {},
        "take_away": lambda *_: waiting.pop(0),
    }.items():
        monkeypatch.setattr(module, name, answer)
    run, *_ = flow_in
    retraining = module.retrain
    first = run(retraining)
    assert first.message.startswith("nothing new")
    assert "b.skip.png (DVC would not keep it: .dvcignore names it)" in first.message
    assert run(retraining).message.startswith("nothing new: what waits brought nothing to an earlier run, ")
    assert steps == ["recover", "fetch", "recover"]
    waiting.append(Waiting("c.png", "1"))
    run(retraining)
    assert steps == ["recover", "fetch", "recover", "recover", "fetch"]


def look(flow_in, monkeypatch, address, settle_seconds):
    """Look at a landing folder in a run that does nothing else, and return how the run ended and what it published."""
    from flows import retrain as module
    from flows import steps

    def end(job):
        ready = steps.look_for_images.fn(job, Landing(str(address)), settle_seconds)
        assert ready == []
        return module.finish(job, module.skip("nothing new"))

    run, published, _ = flow_in
    monkeypatch.setattr(steps, "get_run_logger", lambda: logging.getLogger("retrain"))
    return run(end).message, published


def test_files_that_just_arrived_are_counted_and_how_to_go_on_is_said(flow_in, monkeypatch, tmp_path):
    write_images(tmp_path / "landing", ["a/1.png", "a/2.png", "b/1.png"])
    message, published = look(flow_in, monkeypatch, tmp_path / "landing", 60)
    pattern = (
        r"nothing new; 3 files wait in \S+/landing until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, 60 s after the last "
        r"change \(retrain.settle_seconds\); `make retrain NOW=1` goes on at once"
    )
    assert re.fullmatch(pattern, message)
    ((key, rows),) = published
    assert (key, len(rows)) == ("landing", 3)


def test_a_landing_folder_that_is_not_there_is_empty_and_named(flow_in, monkeypatch, tmp_path):
    message, published = look(flow_in, monkeypatch, tmp_path / "lnading", 60)
    told = f"{tmp_path}/lnading is not there yet: put new images there, or correct retrain.landing"
    assert (message, published) == (f"nothing new; {told}", [])


@pytest.mark.parametrize(("is_deployed", "is_allowed"), [(True, False), (True, True), (False, False)])
def test_a_run_of_a_deployment_takes_other_parameters_only_if_allowed(flow_in, monkeypatch, is_deployed, is_allowed):
    from prefect.states import Completed

    from flows import retrain as module

    run, *_ = flow_in
    checked = []
    params = read_params(ROOT / "params.yaml").retrain.model_copy(update={"deployments_may_override": is_allowed})
    monkeypatch.setattr(module, "read_settings", lambda *_: params)
    monkeypatch.setattr(module, "deployment", SimpleNamespace(id="1" if is_deployed else None))
    monkeypatch.setattr(module, "override_settings", lambda *arguments: checked.append(arguments[-1]))
    state = run(lambda job: Completed(message=str(job.options)), overrides=["train.seed=1"], force=True)
    if is_deployed and not is_allowed:
        assert (state.name, checked) == ("Failed", [])
        assert state.message.startswith(
            "overrides: wanted none in a run of a deployment, such as a scheduled one, got "
        )
    else:
        assert state.message == str(Options(("train.seed=1",), False, True, False))
        assert checked == [("train.seed=1",)]
        monkeypatch.setattr(module, "override_settings", fail_with(ParamsError("no such key")))
        assert run(None, overrides=["train.sed=1"]).message == "no such key"
    assert run(lambda job: Completed(message="ran")).message == "ran"


def fail_with(error):
    def fail(*_arguments):
        raise error

    return fail


def test_what_cannot_be_used_is_tried_without_once_more(flow_in, monkeypatch):
    """Where a gate failed, the rest was not judged, so the record must not say that it was."""
    from flows import retrain as module

    waiting = [Waiting("a.png", "1"), Waiting("b.png", "1")]
    arrivals = [Arrival(file, file.path, "0") for file in waiting]
    decision = {"promoted": False, "verdict": "worse", "reason": "why", "failed_checks": []}
    recorded, rejected = [], []
    for name, answer in {
        "decide": lambda *_: decision,
        "publish_decision": lambda *_: None,
        "show_mistakes": lambda *_: None,
        "find_unused": lambda _: [Unused(arrivals[0], "no image")],
        "record": lambda _job, _start, _decision, sha256: recorded.append(sha256),
        "reject": lambda _job, _landing, unused: rejected.append(unused),
    }.items():
        monkeypatch.setattr(module, name, answer)
    start = Start("base", "tip", None, None, None)
    landing = SimpleNamespace(is_remote=False)
    run, *_ = flow_in

    def judge(job):
        return module.conclude(job, start, landing, waiting, arrivals)

    assert run(judge).name == "NotPromoted"
    decision |= {"verdict": "blocked by data", "failed_checks": ["excluded_share: wanted 5 %, got 50 %"]}
    assert run(judge).name == "Blocked"
    assert recorded == [hash_waiting(waiting[1:]), hash_waiting(waiting)]
    assert [[entry.reason for entry in unused] for unused in rejected] == [["no image"]] * 2
    assert run(judge, dry_run=True).name == "DryRun"
    assert len(recorded) == len(rejected) == 2


def test_what_a_kill_left_is_cleared_by_the_reasons_of_the_production_model(flow_in, monkeypatch):
    from prefect.states import Completed

    from flows import retrain as module

    waiting = [Waiting("a.png", "1"), Waiting("b.png", "1"), Waiting("c.png", "1")]
    arrivals = [Arrival(file, file.path, "0") for file in waiting[:2]]
    calls = []
    for name, answer in {
        "read_excluded": lambda _root, version: {"a.png": f"no image in {version}"},
        "reject": lambda _job, _landing, unused: calls.append(unused),
        "take_away": lambda _job, _landing, used: calls.append(used),
        "keep_fruitless": lambda _root, _start, rest: calls.append(rest),
    }.items():
        monkeypatch.setattr(module, name, answer)
    record = Record("promotion", "better", "v1", "base", "sources", None)
    start = Start("base", "tip", "promotion", record, record)

    def clear(job):
        module.forget(job, start, SimpleNamespace(is_remote=False), waiting, arrivals)
        return Completed(message="done")

    run, *_ = flow_in
    assert run(clear).message == "done"
    assert calls == [[Unused(arrivals[0], "no image in v1")], [arrivals[1]], [waiting[2]]]


def test_names_in_how_a_run_ended_steer_no_terminal(flow_in):
    from prefect.states import Completed

    from flows import retrain as module

    def end(job):
        job.note_left([Left(NAME, "a link")] * 30, "left in landing")
        return module.finish(job, Completed(message=f"worse: {NAME}"))

    def fail(job):
        raise SourceError(f"{NAME}: wanted another name")

    run, _, caplog = flow_in
    assert run(end).message.startswith(f"worse: {SHOWN}; 30 files left in landing: {SHOWN} (a link), {SHOWN} (")
    assert run(fail).message == f"{SHOWN}: wanted another name"
    assert run(lambda job: module.skip(NAME)).message == SHOWN
    logged = [record.getMessage() for record in caplog.records if record.name == "retrain"]
    assert logged == [*[f"left in landing: {SHOWN}: a link"] * 20, "left in landing: and 10 more", f"Skipped: {SHOWN}"]


def test_nothing_heavy_is_imported_to_find_nothing_new():
    program = "import sys; import flows.retrain; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["keras", "tensorflow", "sklearn", "great_expectations", "pandas", "dvc", "scipy", "onnxruntime"]
    answer = subprocess.run(
        [sys.executable, "-c", program, *heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
