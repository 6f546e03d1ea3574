"""The ground floor: stages and their sealed folders, the records in them, and the provenance of results."""
