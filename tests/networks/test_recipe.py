from conftest import ROOT, VGG16
from relearn.networks.recipe import describe_recipe
from relearn.params.pipeline import read_params

BLOCK = read_params(ROOT / "params.yaml").extract.model_copy(update=VGG16)


def test_weights_are_identified_by_their_bytes_and_not_by_their_path():
    def describe(path, sha256):
        return describe_recipe(BLOCK.model_copy(update={"weights": path, "weights_sha256": sha256}))

    assert describe("a.h5", "1" * 64) == describe("b.h5", "1" * 64) != describe("a.h5", "2" * 64)


def test_executor_decides_no_feature():
    assert describe_recipe(BLOCK) == describe_recipe(BLOCK.model_copy(update={"executor": "dask"}))
