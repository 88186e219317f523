"""Files and databases that are whole or absent."""
