import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from relearn import cli, paths
from relearn.errors import ParamsError, StoreError
from relearn.features import store
from relearn.features.store import FeatureStore, describe_store, read_limit_bytes
from relearn.storage.files import hash_bytes

PATH = Path("cache/features.sqlite")
SPEC = {"network": "vgg16", "layer": None, "image_size_px": 32, "precision": "float32"}
IMAGES = [hash_bytes(str(number).encode()) for number in range(40)]
FLOAT32 = np.dtype("<f4")


def make_rows(n_images, n_features=10):
    return np.arange(n_images * n_features, dtype=FLOAT32).reshape(n_images, n_features)


def test_what_was_added_is_there(workspace):
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        assert (feature_set.record, feature_set.find_missing(IMAGES[:3])) == (None, IMAGES[:3])
        feature_set.add(IMAGES[:2], make_rows(2))
        feature_set.set_record({"n_features": 10})
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        assert feature_set.record == {"n_features": 10}
        assert feature_set.find_missing([IMAGES[2], IMAGES[0], IMAGES[3], IMAGES[2]]) == [IMAGES[2], IMAGES[3]]
        assert np.array_equal(feature_set.read(IMAGES[1], FLOAT32), make_rows(2)[1])
        assert feature_set.read(IMAGES[2], FLOAT32) is None


def test_another_recipe_is_another_feature_set(workspace):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40))
        assert opened.open_feature_set(SPEC | {"image_size_px": 64}).find_missing(IMAGES) == IMAGES
        assert opened.open_feature_set(SPEC).find_missing(IMAGES) == []


def test_flipped_bits_are_not_read_as_features(workspace, caplog):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40))
    with sqlite3.connect(PATH) as database:
        database.execute("UPDATE feature SET content = zeroblob(40) WHERE image = ?", (bytes.fromhex(IMAGES[3]),))
        # The features of another image in its place, with their hash.
        database.execute(
            "UPDATE feature SET (hash, content) = (SELECT hash, content FROM feature WHERE image = ?) WHERE image = ?",
            (bytes.fromhex(IMAGES[5]), bytes.fromhex(IMAGES[4])),
        )
    database.close()
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        assert [feature_set.read(image, FLOAT32) is None for image in IMAGES[2:6]] == [False, True, True, False]
        assert f"features of image {IMAGES[3]}: damaged in the store; computed again" in caplog.text
        assert opened.remove_damaged() == 2
        assert feature_set.find_missing(IMAGES) == IMAGES[3:5]


@pytest.mark.parametrize("damage", ["text", "pages", "short"])
def test_damaged_file_is_reported_and_moved_aside(workspace, caplog, damage):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40, 5000))
    content = bytearray(PATH.read_bytes())
    if damage == "text":
        content[:] = b"no database" * 1000
    elif damage == "pages":
        content[4096:20_000] = b"\xff" * (20_000 - 4096)
    else:
        del content[len(content) // 2 :]
    PATH.write_bytes(content)
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        for image, row in zip(IMAGES, make_rows(40, 5000), strict=True):
            found = feature_set.read(image, FLOAT32)
            assert found is None or np.array_equal(found, row)
    assert "features.sqlite: damaged (" in caplog.text
    assert Path(f"{PATH}.damaged").exists()
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        feature_set.add(IMAGES, make_rows(40))
        assert feature_set.find_missing(IMAGES) == []


def test_every_flipped_byte_gives_the_features_or_none(workspace):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40))
    content = PATH.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        for path in PATH.parent.iterdir():
            path.unlink()
        PATH.write_bytes(damaged)
        with FeatureStore(PATH) as opened:
            feature_set = opened.open_feature_set(SPEC)
            for image, row in zip(IMAGES, make_rows(40), strict=True):
                found = feature_set.read(image, FLOAT32)
                assert found is None or np.array_equal(found, row)


def test_two_threads_and_two_stores_at_once(workspace):
    with FeatureStore(PATH) as one, FeatureStore(PATH) as other:

        def add(opened):
            feature_set = opened.open_feature_set(SPEC)
            for start in range(0, 40, 4):
                feature_set.add(IMAGES[start : start + 4], make_rows(40)[start : start + 4])

        threads = [threading.Thread(target=add, args=(opened,)) for opened in (one, other, one)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.open_feature_set(SPEC).find_missing(IMAGES) == []
        assert [feature_set.n_images for feature_set in other.list_feature_sets()] == [40]


def test_pruning_gives_the_room_back(workspace):
    with FeatureStore(PATH) as opened:
        for number in range(3):
            opened.open_feature_set(SPEC | {"seed": number}).add(IMAGES, make_rows(40, 20_000))
        names = [feature_set.name for feature_set in opened.list_feature_sets()]
        before = opened.measure_bytes()
        assert before > 9_600_000
        opened.prune(names[:2])
        assert opened.measure_bytes() < before / 2
        assert [feature_set.name for feature_set in opened.list_feature_sets()] == names[2:]


def test_room_is_made_by_the_feature_set_that_was_unused_for_the_longest_time(workspace, monkeypatch):
    monkeypatch.setenv("RELEARN_STORE_GB", "0.008")
    with FeatureStore(PATH) as opened:
        for number in range(2):
            opened.open_feature_set(SPEC | {"seed": number}).add(IMAGES, make_rows(40, 20_000))
            time.sleep(0.01)
        opened.open_feature_set(SPEC | {"seed": 0})  # used again
        new = opened.open_feature_set(SPEC | {"seed": 2})
        opened.make_room(2_000_000, new, IMAGES)
        assert [feature_set.recipe["seed"] for feature_set in opened.list_feature_sets() if feature_set.n_images] == [0]
        with pytest.raises(
            StoreError, match=r"wanted room for 1 GB more, got a limit of 0\.008 GB; raise RELEARN_STORE"
        ):
            opened.make_room(1_000_000_000, new, IMAGES)
        assert [feature_set.n_images for feature_set in opened.list_feature_sets()] == [
            40
        ]  # nothing is removed without success


def test_room_is_made_by_images_that_left_the_set(workspace, monkeypatch):
    monkeypatch.setenv("RELEARN_STORE_GB", "0.008")
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        feature_set.add(IMAGES, make_rows(40, 40_000))
        opened.make_room(3_000_000, feature_set, IMAGES[:20])
        assert feature_set.find_missing(IMAGES) == IMAGES[20:]
        assert opened.measure_bytes() < 5_000_000


def test_feature_set_that_another_process_removes_while_it_is_filled(workspace):
    with FeatureStore(PATH) as one, FeatureStore(PATH) as other:
        feature_set = one.open_feature_set(SPEC)
        feature_set.add(IMAGES[:20], make_rows(20))
        other.prune([feature_set.name])
        new = other.open_feature_set(SPEC | {"seed": 1})
        new.add(IMAGES, make_rows(40) + 1)
        feature_set.add(IMAGES[20:], make_rows(20))
        assert feature_set.find_missing(IMAGES) == IMAGES[:20]
        assert all(
            (new.read(image, FLOAT32) == row).all() for image, row in zip(IMAGES, make_rows(40) + 1, strict=True)
        )
        assert sorted(found.n_images for found in one.list_feature_sets()) == [20, 40]


def test_features_of_no_feature_set_are_removed(workspace):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40, 20_000))
        opened._database.execute("DELETE FROM space")
        assert opened.remove_damaged() == 0
        assert opened._database.execute("SELECT count(*) FROM feature") == [(0,)]
        assert opened.measure_bytes() < 100_000


def test_store_that_another_process_recreated_is_kept(workspace, caplog):
    """Both have the damaged file open; the first recreates it, and the second must not remove the new one."""
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40, 5000))
    content = bytearray(PATH.read_bytes())
    with FeatureStore(PATH) as one, FeatureStore(PATH) as other:
        PATH.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        feature_set = one.open_feature_set(SPEC)
        feature_set.add(IMAGES, make_rows(40))
        assert feature_set.find_missing(IMAGES) == []
        other.open_feature_set(SPEC | {"seed": 1}).add(IMAGES[:3], make_rows(3))
        assert caplog.text.count("created again") == 1
        assert one.open_feature_set(SPEC).find_missing(IMAGES) == []
        assert sorted(found.n_images for found in other.list_feature_sets()) == [3, 40]


def test_what_is_no_damage_removes_nothing(workspace):
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        feature_set.add(IMAGES[:2], make_rows(2))
        opened._database._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        with pytest.raises(OSError, match="cannot be used: string or blob too big; take smaller features, or set REL"):
            feature_set.add(IMAGES[2:4], make_rows(2, 5000))
    with FeatureStore(PATH) as opened:
        assert opened.open_feature_set(SPEC).find_missing(IMAGES[:4]) == IMAGES[2:4]


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT color FROM feature", ()),
        ("SELEKT", ()),
        ("SELECT ?", ()),
        ("SELECT ?", (object(),)),
        ("INSERT INTO feature VALUES (NULL, NULL, NULL, NULL)", ()),
    ],
)
def test_a_wrong_statement_removes_nothing(workspace, statement, values):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40))
        with pytest.raises(sqlite3.Error):
            opened._database.execute(statement, values)
        with pytest.raises(sqlite3.Error):
            opened._database.execute_many(statement, [values])
        assert opened.open_feature_set(SPEC).find_missing(IMAGES) == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened.open_feature_set(SPEC)
    with FeatureStore(PATH) as opened:
        assert opened.open_feature_set(SPEC).find_missing(IMAGES) == []
    assert not Path(f"{PATH}.damaged").exists()


def test_damaged_definition_of_a_table_is_damage(workspace, caplog):
    with FeatureStore(PATH) as opened:
        opened.open_feature_set(SPEC).add(IMAGES, make_rows(40))
    content = PATH.read_bytes()
    PATH.write_bytes(content.replace(b"image BLOB", b"imagf BLOB"))
    with FeatureStore(PATH) as opened:
        assert opened.open_feature_set(SPEC).find_missing(IMAGES) == IMAGES
    assert caplog.text.count("created again") == 1
    assert f"{PATH}.damaged: 0.0 MB of a damaged store; nothing reads it, remove it" in describe_store(PATH)


def test_many_open_a_new_store_at_once(workspace):
    program = "import sys; from pathlib import Path; from relearn.features.store import FeatureStore as F\n"
    program += "F(Path(sys.argv[1]))"
    for number in range(3):
        path = str(PATH.with_name(f"{number}.sqlite"))
        children = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(4)]
        assert [child.wait() for child in children] == [0] * 4


@pytest.mark.parametrize("limit", ["x", "0", "-1", "nan", "inf", ""])
def test_limit_is_a_number(monkeypatch, limit):
    monkeypatch.setenv("RELEARN_STORE_GB", limit)
    with pytest.raises(ParamsError, match=r"RELEARN_STORE_GB: wanted a number above 0, such as 10, got "):
        read_limit_bytes()


def relearn(*arguments):
    return CliRunner().invoke(cli.app, ["store", *arguments])


def test_commands(workspace, monkeypatch):
    monkeypatch.setenv("RELEARN_CACHE", "cache")
    answer = relearn("show")
    assert isinstance(answer.exception, StoreError)
    assert "features-2.sqlite: no store there" in str(answer.exception)
    with FeatureStore(paths.find_feature_store()) as opened:
        for number in range(2):
            opened.open_feature_set(SPEC | {"seed": number}).add(IMAGES, make_rows(40))
        names = [feature_set.name for feature_set in opened.list_feature_sets()]
    shown = relearn("show").stdout.splitlines()
    assert " MB of at most 100,000 MB" in shown[0]
    assert f"  {names[0][:8]}  " in shown[1]
    assert shown[1].endswith("vgg16, weights None, layer last, None, float32, 32 px, seed 1: 40 images, 0.0 MB")
    assert relearn("check").stdout == "0 damaged, removed\n"
    message = f"wanted the name of one feature set, got {'f' * 64!r}, with which 0 begin"
    assert message in str(relearn("prune", "f" * 64).exception)
    name = names[0][:8]
    for wrong in (["zzz"], [""], [name.upper() + "G"], ["--unused-days", "-1"], [], ["--all", name]):
        assert relearn("prune", *wrong).exit_code == 2
    assert len(relearn("show").stdout.splitlines()) == 3
    assert relearn("prune", "--unused-days", "1").stdout.startswith("0 removed")
    assert relearn("prune", names[0][:8]).stdout.startswith("1 removed")
    assert len(relearn("show").stdout.splitlines()) == 2
    assert relearn("prune", "--all").stdout.startswith("all removed, ")
    assert "no store there" in str(relearn("prune", "--all").exception)


def test_full_disk_is_reported(workspace, monkeypatch):
    """SQLite may not let its file grow, as on a full disk."""
    with FeatureStore(PATH) as opened:
        feature_set = opened.open_feature_set(SPEC)
        opened._database.execute("PRAGMA max_page_count = 20")
        with pytest.raises(OSError, match=r"cannot be used: database or disk is full; free some room there, or set"):
            feature_set.add(IMAGES, make_rows(40, 5000))
        assert feature_set.find_missing(IMAGES) == IMAGES


KILLED = """
import sys
import numpy as np
from pathlib import Path
from relearn.features.store import FeatureStore
with FeatureStore(Path(sys.argv[1])) as opened:
    feature_set = opened.open_feature_set({"a": 1})
    for number in range(10**6):
        feature_set.add([f"{number:064x}", f"{number + 10**9:064x}"], np.full((2, 1000), number, "<f4"))
        print(number, flush=True)
"""


def test_what_was_added_outlives_a_kill(workspace):
    for attempt in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(PATH)], stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if int(line) >= 30 * (attempt + 1):
                    child.kill()
                    break
            last = max([int(line)] + [int(line) for line in child.stdout if line.strip().isdigit()])
        with FeatureStore(PATH) as opened:
            feature_set = opened.open_feature_set({"a": 1})
            for number in range(last):
                for image in (f"{number:064x}", f"{number + 10**9:064x}"):
                    assert (feature_set.read(image, FLOAT32) == number).all()


# --- where it is -----------------------------------------------------------------------------------------------------


def test_worktrees_and_experiments_share_the_store(workspace, monkeypatch):
    monkeypatch.delenv("RELEARN_CACHE", raising=False)
    assert paths.find_cache() == Path(".relearn")
    experiment = workspace / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    worktree = workspace / "worktree"
    for folder in (experiment, worktree):
        folder.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert paths.find_cache() == workspace / ".relearn"
    monkeypatch.chdir(worktree)
    Path(".git").write_text(f"gitdir: {workspace}/.git/worktrees/worktree\n")
    assert paths.find_cache() == workspace / ".relearn"
    Path(".git").write_text(f"gitdir: {workspace}/.git/modules/worktree\n")  # a submodule
    assert paths.find_cache() == Path(".relearn")
    monkeypatch.setenv("RELEARN_CACHE", "/elsewhere")
    assert paths.find_cache() == Path("/elsewhere")


def test_store_imports_nothing_heavy():
    program = "import sys; import relearn.stages.extract\n"
    program += "print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout == "[]\n"
    assert store.DEFAULT_LIMIT_GB == 100
