import sqlite3
from contextlib import closing

import pytest

from relearn.storage.database import Database, name_damaged

SCHEMA = ("CREATE TABLE IF NOT EXISTS number (value INTEGER PRIMARY KEY)",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "numbers.sqlite"


def add(path, value, **options):
    with Database(path, SCHEMA, **options) as database:
        database.execute("INSERT INTO number VALUES (?)", (value,))


def read(path, **options):
    with Database(path, SCHEMA, **options) as database:
        return [value for (value,) in database.execute("SELECT value FROM number ORDER BY value")]


def read_version(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_rows_are_kept(path):
    add(path, 1)
    add(path, 2)
    assert read(path) == [1, 2]


@pytest.mark.parametrize(("options", "version"), [({}, 1), ({"version": 7}, 7)])
def test_file_holds_the_version_of_its_schema(path, options, version):
    add(path, 1, **options)
    assert read_version(path) == version


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_file_of_another_version_is_moved_aside_and_not_read(path, caplog, before, after):
    add(path, 1, version=before)
    assert read(path, version=after) == []
    (message,) = caplog.messages
    assert message == (
        f"{path}: from another release (wanted schema version {after}, got {before}); moved to {path}.damaged, "
        "and created again"
    )
    assert read_version(path) == after
    assert read_version(name_damaged(path)) == before
    add(path, 2, version=after)
    assert read(path, version=after) == [2]
    assert len(caplog.messages) == 1


def test_file_of_a_release_without_versions_is_read(path, caplog):
    add(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert read(path, version=3) == [1]
    assert read_version(path) == 3
    assert caplog.messages == []


def test_other_version_of_another_schema_is_not_used(path, caplog):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE number (value TEXT, unit TEXT NOT NULL)")
        connection.execute("PRAGMA user_version = 9")
    add(path, 1)
    assert read(path) == [1]
    assert len(caplog.messages) == 1


def test_version_stays_when_a_damaged_file_is_recreated(path, caplog):
    add(path, 1, version=4)
    path.write_bytes(b"no database at all" * 100)
    assert read(path, version=4) == []
    assert f"{path}: damaged (file is not a database); moved to" in caplog.text
    assert read_version(path) == 4


def test_two_that_open_another_version_move_it_aside_once(path, caplog):
    add(path, 1, version=1)
    with Database(path, SCHEMA, 2) as one, Database(path, SCHEMA, 2) as other:
        one.execute("INSERT INTO number VALUES (5)")
        assert other.execute("SELECT value FROM number") == [(5,)]
    assert len(caplog.messages) == 1


def test_wrong_statement_leaves_the_file_as_it_is(path):
    add(path, 1)
    with Database(path, SCHEMA) as database, pytest.raises(sqlite3.OperationalError, match="no such table: other"):
        database.execute("SELECT * FROM other")
    assert read(path) == [1]
    assert not name_damaged(path).exists()


def test_many_rows_are_written_together_or_not_at_all(path):
    with Database(path, SCHEMA) as database:
        with pytest.raises(sqlite3.IntegrityError):
            database.execute_many("INSERT INTO number VALUES (?)", [(1,), (2,), (1,)])
        assert database.execute("SELECT * FROM number") == []
        database.execute_many("INSERT INTO number VALUES (?)", [(1,), (2,)])
    assert read(path) == [1, 2]
