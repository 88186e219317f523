"""Training the upper part of a pretrained network before features are computed."""
