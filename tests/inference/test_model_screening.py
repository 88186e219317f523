"""Exported models of somebody else, whose hashes are right: each is refused in one line, before it can do harm."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.exports import build_export
from relearn.errors import IntegrityError
from relearn.inference.classifier import hash_record
from relearn.inference.exported import ExportedModel, read_export_record
from relearn.inference.model_screening import check_model
from relearn.storage.files import hash_bytes, write_json

CLASSES = ["blue", "red"]
SIZE_PX = 8


def check(model):
    check_model(model.SerializeToString(), CLASSES, 3, SIZE_PX, has_features=False)


@pytest.fixture
def model():
    return onnx.load_model_from_string(build_export(CLASSES, SIZE_PX))


def find(model, operator):
    return next(node for node in model.graph.node if node.op_type == operator)


def add_constant(model, name, values):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def put_after(model, operator, *nodes):
    """Put nodes after the first of an operator; the first takes its output, what came after takes the last one's."""
    before = find(model, operator)
    where = list(model.graph.node).index(before) + 1
    made = []
    name = before.output[0]
    for number, (kind, others, attributes) in enumerate(nodes):
        made.append(helper.make_node(kind, [name, *others], [f"put_{number}"], **attributes))
        name = f"put_{number}"
    rest = list(model.graph.node)[where:]
    for node in rest:
        node.input[:] = [name if value == before.output[0] else value for value in node.input]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*kept[:where], *made, *kept[where:]])


def add_operator(model):
    put_after(model, "Transpose", ("Tile", ["times"], {}))
    add_constant(model, "times", [1, 1, 1, 1])


def add_branch(model):
    body = helper.make_graph([], "body", [], [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)])
    put_after(model, "Transpose", ("If", [], {"then_branch": body, "else_branch": body}))


def add_huge_padding(model):
    put_after(model, "Transpose", ("Pad", ["pads"], {"mode": "constant"}))
    add_constant(model, "pads", [0, 0, 0, 0, 0, 0, 2**62, 0])


def add_large_padding(model):
    put_after(model, "Transpose", ("Pad", ["pads"], {"mode": "constant"}))
    add_constant(model, "pads", [0, 0, 0, 0, 0, 0, 2**15, 2**15])


def add_negative_padding(model):
    put_after(model, "Transpose", ("Pad", ["pads"], {"mode": "constant"}))
    add_constant(model, "pads", [0, 0, 0, 0, 0, 0, -1, 0])


def add_reflection(model):
    put_after(model, "Transpose", ("Pad", ["pads"], {"mode": "reflect"}))
    add_constant(model, "pads", [0, 0, 0, 0, 0, 0, 1, 0])


def add_images_to_positions(model):
    """As a matrix product of all pixels of all images with each other, whose size grows with their square."""
    put_after(model, "Transpose", ("Reshape", ["shape"], {}), ("Reshape", ["back"], {}))
    add_constant(model, "shape", [1, 3, 0, 0])
    add_constant(model, "back", [0, 3, 8, 8])


def mix_images(model):
    swap = ("Transpose", [], {"perm": [1, 0, 2, 3]})
    put_after(model, "Transpose", swap, ("Relu", [], {}), swap)


def add_window(model):
    put_after(model, "Transpose", ("MaxPool", [], {"kernel_shape": [1023, 1023]}))


def add_work(model):
    """Convolutions of many channels over many positions."""
    put_after(
        model,
        "Transpose",
        ("Pad", ["pads"], {"mode": "constant"}),
        ("Conv", ["first"], {"kernel_shape": [1, 1]}),
        *[("Conv", ["next"], {"kernel_shape": [64, 64], "pads": [32, 32, 31, 31]}) for _ in range(80)],
        ("Conv", ["last"], {"kernel_shape": [1, 1]}),
    )
    add_constant(model, "pads", [0, 0, 0, 0, 0, 0, 2000, 2000])
    add_constant(model, "first", np.zeros((8, 3, 1, 1), np.float32))
    add_constant(model, "next", np.zeros((8, 8, 64, 64), np.float32))
    add_constant(model, "last", np.zeros((3, 8, 1, 1), np.float32))


def divide_by_no_group(model):
    put_after(model, "Transpose", ("Conv", ["kernel"], {"kernel_shape": [1, 1], "group": 0}))
    add_constant(model, "kernel", np.zeros((3, 3, 1, 1), np.float32))


def scale_without_end(model):
    put_after(model, "Transpose", ("Resize", ["", "scales"], {"mode": "linear"}))
    add_constant(model, "scales", np.array([1, 1, 1e6, 1e6], np.float32))


def read_another_file(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == find(model, "Mul").input[1])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def look_past_the_features(model):
    find(model, "ArgMax").input[0] = find(model, "GlobalAveragePool").output[0]


def compute_features_twice(model):
    put_after(model, "Mul")
    model.graph.node.append(helper.make_node("Identity", ["image"], ["features"]))


def take_another_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def give_another_output(model):
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def change_type(model):
    find(model, "Transpose").attribute[0].CopyFrom(helper.make_attribute("perm", "0312"))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (add_operator, "no operator but those of networks and heads, got ':Tile'"),
        (add_branch, "no operator but those of networks and heads, got ':If'"),
        (add_huge_padding, "numbers from 0 to 65,536"),
        (add_negative_padding, "numbers from 0 to 65,536"),
        (add_large_padding, "at most 134,217,728 numbers"),
        (add_reflection, "Pad with mode of "),
        (add_images_to_positions, "values with one entry per image|values of known shapes"),
        (mix_images, "values with one entry per image"),
        (add_window, "MaxPool with kernel_shape from 1 to 64"),
        (add_work, "at most 8,796,093,022,208 products"),
        (divide_by_no_group, "Conv with group from 1 to 65536"),
        (scale_without_end, "Resize to a size"),
        (read_another_file, "in the file itself, got a reference to another file"),
        (look_past_the_features, "values of shape"),
        (compute_features_twice, "one node that computes the features, got 2"),
        (take_another_input, "the input "),
        (give_another_output, "the outputs "),
        (change_type, r"Transpose with \['perm'\], got 'perm', STRING"),
    ],
)
def test_what_no_export_holds_is_refused(model, change, wanted):
    check(model)
    change(model)
    with pytest.raises(IntegrityError, match=wanted):
        check(model)


def test_no_model_opens_that_the_check_refuses(model, tmp_path):
    """A folder of somebody else, whose hashes belong together."""
    from inference.exports import write_export

    write_export(tmp_path / "model")
    ExportedModel(tmp_path / "model")
    add_operator(model)
    content = model.SerializeToString()
    record = read_export_record(tmp_path / "model").model_copy(update={"model_sha256": hash_bytes(content)})
    (tmp_path / "model" / "model.onnx").write_bytes(content)
    whole = {"record_sha256": hash_record(record.model_dump()), **record.model_dump()}
    write_json(tmp_path / "model" / "model.json", whole)
    with pytest.raises(IntegrityError, match=r"model\.onnx: wanted no operator but those of networks and heads"):
        ExportedModel(tmp_path / "model")
