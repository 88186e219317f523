import pytest

from conftest import ROOT, commit, git
from relearn.errors import ParamsError, RepositoryError
from relearn.retraining.settings import override_settings, read_settings


def test_settings_are_those_that_are_committed(root):
    with pytest.raises(RepositoryError, match=r"^base: trunk: wanted a branch with a commit, got none of that name$"):
        read_settings(root, "trunk")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("margin: 0.01", "margin: 0.02"))
    commit(root)
    (root / "params.yaml").write_text("in the middle of")
    assert read_settings(root, "main").margin == 0.02
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("margin: 0.01", "margin: 2"))
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: 1 error\n  retrain.margin: wanted less than 1, got 2"):
        read_settings(root, "main")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "extract.netwrok=vgg16",
            r"params.yaml with -S extract.netwrok=vgg16: 1 error\n  extract.netwrok: unknown key, did",
        ),
        ("train.seed=x", r"params.yaml with -S train.seed=x: 1 error\n  train.seed: wanted a valid integer, got 'x'"),
        (
            "retrain.margin=0.9",
            r"-S retrain.margin=0.9: wanted keys of other blocks than retrain, got a key of retrain; ",
        ),
        ("retrain=1", "params.yaml with -S retrain=1: 1 error\n  retrain: wanted a block"),
    ],
)
def test_other_parameters_are_checked(root, override, message):
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    commit(root)
    (root / "params.yaml").write_text("in the middle of")
    assert b"network: vgg16 " in override_settings(root, "HEAD", "main", ["extract.network=vgg16"])
    with pytest.raises(ParamsError, match=f"^{message}"):
        override_settings(root, "HEAD", "main", [override])


def test_a_key_that_was_renamed_is_named_with_its_new_name(root):
    """As in a repository that was made before."""
    text = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("max_new_error_increase:", "max_surprise:"))
    commit(root)
    message = (
        r"^main:params.yaml: 1 error\n  retrain.max_surprise: was renamed; call it retrain.max_new_error_increase$"
    )
    with pytest.raises(ParamsError, match=message):
        read_settings(root, "main")


BAD_BRANCHES = [
    "a..b",
    "x.lock",
    "a//b",
    "a/",
    "a.",
    "a/.b",
    "a@{b",
    "@{-1}",
    "HEAD",
    "-x",
    "a b",
    "a\\\\b",
    "",
]


@pytest.mark.parametrize("branch", BAD_BRANCHES)
def test_a_branch_that_git_refuses_is_an_error_of_the_settings(root, branch):
    git(root, "switch", "--quiet", "--create", "earlier")  # which @{-1} names later on
    git(root, "switch", "--quiet", "main")
    text = (ROOT / "params.yaml").read_text()
    assert "branch: retrain/main " in text
    (root / "params.yaml").write_text(text.replace("branch: retrain/main ", f'branch: "{branch}" '))
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: (1 error\s+)?retrain\.branch: wanted ") as raised:
        read_settings(root, "main")
    assert "hexadecimal" not in str(raised.value)


def test_settings_that_are_no_text_are_an_error(root):
    (root / "params.yaml").write_bytes(b"retrain: \xff")
    commit(root)
    with pytest.raises(ParamsError, match=r"^main:params.yaml: wanted YAML, got: "):
        read_settings(root, "main")


def test_a_branch_that_git_takes_is_taken(root):
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("retrain/main", "rétrain/a.b-c@d"))
    commit(root)
    assert read_settings(root, "main").branch == "rétrain/a.b-c@d"


def test_a_folder_of_a_larger_repository_is_not_retrained(root):
    folder = root / "below"
    folder.mkdir()
    message = (
        rf"^{folder}: wanted the top of a git repository, .*, got the folder below/ of a larger one; retrain in a "
    )
    with pytest.raises(RepositoryError, match=message):
        read_settings(folder, "main")
