"""Why a classifier predicts what it does: what each place of an image adds to a score."""
