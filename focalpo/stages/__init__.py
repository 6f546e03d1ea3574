"""The ground floor: stages and their sealed folders, the records in them, where results come from."""
