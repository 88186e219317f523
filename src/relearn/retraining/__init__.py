"""From images that arrive to a promoted classifier."""
