"""A network and a head, each in ONNX, as one model."""

from typing import Any

from relearn.heads.graph import Graph
from relearn.inference.model_screening import FEATURES, IMAGE, UINT8
from relearn.inference.screening import FLOAT, IR_VERSION, OPSETS


def join_model(network: Graph, head: bytes, n_features: int, size_px: int | None, *, has_features: bool) -> Any:
    """Return the model whose network computes `features` from `image`, and whose head answers.

    Parameters
    ----------
    network
        Its nodes; their names differ from those of heads, which have no prefix.
    head
        The content of a `head.onnx`.
    size_px
        Height and width of the images; None for any.
    has_features
        Whether `features` are an output too.

    Returns
    -------
    onnx.ModelProto
        Input `image` uint8 (batch, height, width, 3); outputs `label` text (batch,), `probabilities` float32
        (batch, classes), and `features` float32 (batch, n_features) if they are wanted.
    """
    from onnx import helper, load_model_from_string

    answers = load_model_from_string(head).graph
    outputs = list(answers.output)
    if has_features:
        outputs.append(helper.make_tensor_value_info(FEATURES, FLOAT, ["batch", n_features]))
    for output in outputs:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
    height, width = (size_px, size_px) if size_px else ("height", "width")
    return helper.make_model(
        helper.make_graph(
            [*network.nodes, *answers.node],
            "classifier",
            [helper.make_tensor_value_info(IMAGE, UINT8, ["batch", height, width, 3])],
            outputs,
            [*network.constants, *answers.initializer],
        ),
        opset_imports=[helper.make_opsetid(*pair) for pair in OPSETS.items()],
        ir_version=IR_VERSION,
    )


def serialize_model(model: Any) -> bytes:
    """Return the same bytes for the same model in any process."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
