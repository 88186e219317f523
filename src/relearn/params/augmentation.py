"""The block `augment`: how far an augmented view of an image may differ from it."""

from typing import Annotated

from pydantic import Field, model_validator

from relearn.params.block import Block, Fraction, Seed

Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Zoom = Annotated[float, Field(ge=0.25, le=4)]
Area = Annotated[float, Field(gt=0, le=0.5)]


class AugmentParams(Block):
    """Ranges of what is drawn for each view; see `networks.augmentation`."""

    seed: Seed
    horizontal_flip: Probability
    vertical_flip: Probability
    shift: Fraction
    zoom_min: Zoom
    zoom_max: Zoom
    rotation_degrees: Degrees
    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    hue_degrees: Degrees
    erasing: Probability
    erased_area_min: Area
    erased_area_max: Area

    @model_validator(mode="after")
    def _order_ranges(self) -> "AugmentParams":
        for name in ("zoom", "erased_area"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min of at most {name}_max, got {low:g} and {high:g}")
        return self

    @property
    def is_off(self) -> bool:
        """Return whether every view is the image itself."""
        switches = self.model_dump(exclude={"seed", "zoom_min", "zoom_max", "erased_area_min", "erased_area_max"})
        return not any(switches.values()) and self.zoom_min == self.zoom_max == 1
