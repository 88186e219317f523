"""A network in two parts: the lower one stays as it is, the upper one learns."""

import difflib
import re
from itertools import chain
from typing import Any

from relearn.errors import NetworkError

# The first layer of each network's last block: of the layers that see the image at the last resolution, or that halve
# it to this. A network without an entry is one whose name begins with a key; a test holds all against keras.
LAST_BLOCKS = {
    "convnext": "{network}_downsampling_block_2",
    "densenet": "conv5_block1_0_bn",
    "efficientnet": "block6a_expand_conv",
    "inception_resnet_v2": "mixed_7a",
    "inception_v3": "mixed8",
    "mini_vgg": "block3_conv1",
    "mobilenet": "conv_dw_12",
    "mobilenet_v2": "block_13_expand",
    "mobilenet_v3_large": "expanded_conv_12_expand",
    "mobilenet_v3_small": "expanded_conv_8_expand",
    "nasnet_large": "reduction_concat_reduce_12",
    "nasnet_mobile": "reduction_concat_reduce_8",
    "resnet": "conv5_block1_1_conv",
    "resnet50_v2": "conv5_block1_preact_bn",
    "resnet101_v2": "conv5_block1_preact_bn",
    "resnet152_v2": "conv5_block1_preact_bn",
    "vgg": "block5_conv1",
    "xception": "block13_sepconv1_act",
}

# Where a layer's name names its block; a layer without one belongs to the block before it.
BLOCK_NAME = re.compile(
    r"conv\d+_block\d+|stage_\d+_block_\d+|downsampling_block_\d+|expanded_conv_\d+|block_?\d+[a-z]?|mixed_?\d+[a-z]?|"
    r"conv_[dp]w_(\d+)|(?:adjust|normal|reduction|separable)_.*?_((?:reduce_)?\d+)$"
)


def find_last_block(network: str) -> str:
    """Return the name of the first layer of a network's last block."""
    key = max((key for key in LAST_BLOCKS if network.startswith(key)), key=len)
    return LAST_BLOCKS[key].format(network=network)


def name_block(layer: str) -> str | None:
    """Return the part of a layer's name that names its block; None without one."""
    found = BLOCK_NAME.search(layer)
    return found[found.lastindex or 0] if found else None


def choose_first_layer(model: Any, network: str, from_layer: str | None) -> str:
    """Return the name of the first layer that learns: by default that of the last block.

    If `extract.layer` cuts that off, it is the block of the last layer that is left and has one in its name.

    Raises
    ------
    NetworkError
        The network, cut at `extract.layer`, has no such layer.
    """
    names: list[str] = [operation.name for operation in model.operations[1:]]
    first = from_layer or find_last_block(network)
    if first in names:
        return first
    blocks = [name_block(name) for name in names]
    if from_layer is None and (last := next(filter(None, reversed(blocks)), None)):
        return names[blocks.index(last)]
    close = difflib.get_close_matches(first, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise NetworkError(
        where="finetune.from_layer",
        wanted=f"a layer of {network} up to extract.layer",
        got=f"{first}{hint}" if from_layer else f"null, which is {first}",
        advice=f"it has {', '.join(names)}",
    )


def split_network(keras: Any, model: Any, first: str) -> tuple[Any, Any]:
    """Return the part of a functional model below the layer `first`, and the part from there on.

    The upper part is that layer and all after it in the model's order, in which every layer stands behind its inputs.
    Its inputs are the outputs of the lower part: every value that crosses the cut, also past `first`, such as that of a
    residual connection. Both parts share the model's layers; one after the other they compute what it does.
    """
    names = [operation.name for operation in model.operations]
    upper = {id(operation) for operation in model.operations[max(1, names.index(first)) :]}
    crossing = {
        id(tensor): tensor
        for node in chain.from_iterable(model._nodes_by_depth.values())
        if id(node.operation) in upper
        for tensor in node.input_tensors
        if id(tensor._keras_history.operation) not in upper
    }
    ordered = sorted(crossing.values(), key=lambda tensor: names.index(tensor._keras_history.operation.name))
    return keras.Model(model.input, ordered), keras.Model(ordered, model.output)


def hold_batch_norm(keras: Any, model: Any) -> None:
    """Keep batch norm in inference mode while the model is trained, and its weights as they are.

    Only the layer's own `trainable` does: calling the model with `training=False` does not hold in a model that trains
    (https://github.com/keras-team/keras/issues/20285).
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def count_blocks_above(model: Any) -> dict[str, int]:
    """Return for each weight that learns, by its path, how many blocks with such weights come after its own."""
    block, blocks = "", []
    by_path = {}
    for layer in model.layers:
        block = name_block(layer.name) or block
        for weight in layer.trainable_weights:
            if block not in blocks:
                blocks.append(block)
            by_path[weight.path] = blocks.index(block)
    return {path: len(blocks) - 1 - number for path, number in by_path.items()}
