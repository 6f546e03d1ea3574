"""A small world where the truth is known: tasks, writers, data sets and a judge, all checkable by code."""
