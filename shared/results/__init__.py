"""Where images wait for the router: written before the job completes, read once it has."""
