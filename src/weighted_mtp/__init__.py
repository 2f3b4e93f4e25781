"""weighted-mtp: train code models in which the tokens that decide whether a program works count more."""
