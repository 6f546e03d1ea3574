"""The door: YAML and command line in, plain checked objects out."""
