"""Processes: one that ends with another, one that holds an object, memory, quiet libraries."""
