"""Generate answers with a model and rate them, under the token contract."""
