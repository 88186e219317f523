"""The license of pretrained weights, as far as keras' documentation names one."""

from relearn.networks.recipe import ExtractorRecord
from relearn.params.networks import BUNDLED_SHA256

# https://github.com/keras-team/keras/blob/2.2.4/docs/templates/applications.md, "License" of each model. It names none
# for networks that came later.
LICENSES = {
    "densenet": "BSD 3-Clause",
    "inception": "Apache",
    "mobilenet": "Apache",
    "nasnet": "Apache",
    "resnet50": "MIT",
    "vgg": "Creative Commons Attribution",
    "xception": "MIT",
}
LATER = ("mobilenet_v3", "resnet50_v2")


def find_license(record: ExtractorRecord) -> str | None:
    """Return the license of a network's weights; None if it is not known, as for weights from a file."""
    if record.weights_sha256 == BUNDLED_SHA256:
        return "see pretraining/README.md of relearn"
    if record.weights != "imagenet" or record.network.startswith(LATER):
        return None
    return next((terms for name, terms in LICENSES.items() if record.network.startswith(name)), None)
