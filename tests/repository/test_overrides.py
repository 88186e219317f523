import pytest

from conftest import ROOT
from relearn.errors import ParamsError
from relearn.params.pipeline import Params
from relearn.params.reading import parse_blocks
from relearn.repository.overrides import override_params

TEXT = (ROOT / "params.yaml").read_text()


@pytest.mark.slow
def test_values_are_changed_and_all_else_stays():
    changed = override_params(TEXT, ["extract.network=vgg16", "train.logistic_regression.C=[0.1,1]", "train.seed=3"])
    params = parse_blocks(changed.encode(), "x", Params)
    assert (params.extract.network, params.train.logistic_regression.C, params.train.seed) == ("vgg16", [0.1, 1], 3)
    kept = [line for line in TEXT.splitlines() if not line.strip().startswith(("network:", "C: [0.0001", "seed:"))]
    assert set(kept) <= set(changed.splitlines())
    assert override_params(TEXT, []) == TEXT
    nothing = parse_blocks(
        override_params(TEXT, ["train.class_weight=null", "train.scale=false"]).encode(), "x", Params
    )
    assert (nothing.train.class_weight, nothing.train.scale) == (None, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "train.seed",
        "train.seed=1,2",
        "train.seed=range(3)",
        "train.scale=glob(*)",
        "+train.more=1",
        "~train.seed",
        "nothing.seed=1",
        "train.seed.deeper=1",
        "other.yaml:train.seed=1",
        "train.head=dense\n\nVerdict: better",
        "",
        "=1",
    ],
)
def test_what_is_no_single_value_of_a_key_is_named(override):
    with pytest.raises(
        ParamsError, match=r"^(-S '.*': wanted KEY=VALUE with a key of params.yaml and one value, as|x: 1)"
    ):
        parse_blocks(override_params(TEXT, [override]).encode(), "x", Params)
