"""Configuration: YAML and command line in, validated plain objects out."""
