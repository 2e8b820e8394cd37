"""The stateless edge: HTTP in, a job on a base's queue, HTTP out. No torch."""
