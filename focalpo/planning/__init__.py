"""A configuration in, the stages that make it and what they need out; nothing is started."""
