"""The pocket world: tasks, writers, data sets and a judge, small and with a known truth that code can check."""
