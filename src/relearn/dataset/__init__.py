"""From the files of a source to a manifest."""
