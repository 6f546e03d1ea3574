"""Training: losses, packed batches and the engine; tokens in, weights and the log-probs of pairs out."""
