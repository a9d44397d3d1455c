"""Delivery to MLflow of what runs have logged, by a process that no stage waits for.

A run writes what MLflow is to get into its outbox (`outbox`). A courier (`courier`) starts the process that
delivers it (`__main__`); `deliver` sends one outbox to its store (`store`, `sqlite`). MLflow is imported
when it is needed.
"""
