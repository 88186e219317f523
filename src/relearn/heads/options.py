"""What the options of all heads have in common."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """The options of a head, one value each; the fields are the keys of its block in `params.yaml`, in that order."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, as they are recorded."""
        return asdict(self)
