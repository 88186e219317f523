"""One thin module per DVC stage; stages never import each other."""
