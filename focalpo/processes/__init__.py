"""Below the ground floor, processes: exit with a parent, an object in a worker process, memory, and quiet libraries."""
