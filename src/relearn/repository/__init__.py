"""Git and the files of DVC."""
