"""Transfer learning: the last layer of a known network, trained anew on labelled images."""
