"""Plan the stages of a configuration and estimate what they need; nothing is started."""
