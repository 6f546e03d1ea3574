"""A model answers prompts, and answers are rated; all under the token contract."""
