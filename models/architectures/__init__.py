"""Well-known networks with fixed random weights, built here: for measuring, without a download."""
