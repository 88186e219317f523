"""Stage `finetune`: the upper part of the network is trained, and kept if it is better for that."""

import logging

from relearn import paths
from relearn.dataset.gate import check_gate
from relearn.dataset.manifest import read_manifest
from relearn.finetuning.progress import Epoch
from relearn.networks.tuned import RECORD
from relearn.params.augmentation import AugmentParams
from relearn.params.finetuning import FinetuneParams
from relearn.params.networks import NetworkParams
from relearn.storage.files import hash_file, write_csv, write_folder, write_json

log = logging.getLogger(__name__)


def run(params: FinetuneParams, augment: AugmentParams, extract: NetworkParams) -> None:
    """Write `models/network/`, `metrics/finetuning.json` and `reports/plots/finetuning.csv`.

    With `finetune.epochs: 0` nothing is trained, and keras is not imported. The evaluation split is not opened.

    Raises
    ------
    ValidationFailed
        The data did not pass the gate, or the report is about other data.
    RelearnError
        The network cannot be trained; see `tune_network`.
    """
    if params.epochs == 0:
        with write_folder(paths.NETWORK) as folder:
            write_json(folder / RECORD, {"tuned": False, "reason": "finetune.epochs is 0"})
        write_json(paths.FINETUNING_METRICS, {"n_epochs": 0})
        write_csv(paths.FINETUNING_CURVE, Epoch._fields, [])
        return
    from relearn.finetuning.decision import decide
    from relearn.finetuning.summary import describe_network, summarize_training, tabulate_curve
    from relearn.finetuning.tuning import tune_network

    check_gate()
    with tune_network(read_manifest(paths.MANIFEST), params, augment, extract) as (network, tuned, limits):
        decision = decide(tuned.paired, params.keep)
        goes_on = "tuned" if decision.keeps else "pretrained"
        log.info("finetune: %s; the %s network goes on", decision.reason, goes_on)
        with write_folder(paths.NETWORK) as folder:
            sha256 = None
            if decision.keeps:
                network.save_weights(folder / paths.TUNED_WEIGHTS)
                sha256 = hash_file(folder / paths.TUNED_WEIGHTS)
            write_json(folder / RECORD, describe_network(network, tuned, limits, decision, sha256))
        write_json(paths.FINETUNING_METRICS, summarize_training(tuned, decision))
        write_csv(paths.FINETUNING_CURVE, Epoch._fields, tabulate_curve(tuned.history))
