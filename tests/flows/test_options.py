import pytest
from flows.options import Options, parse_arguments


def test_a_command_line_names_base_and_options():
    assert parse_arguments([]) == ("main", Options())
    line = ["trunk", "--now", "--force", "--dry-run", "-S", "extract.network=vgg16", "-S", "train.seed=1"]
    assert parse_arguments(line) == ("trunk", Options(("extract.network=vgg16", "train.seed=1"), True, True, True))


def test_wrong_usage_has_its_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--soon"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --soon" in capsys.readouterr().err
