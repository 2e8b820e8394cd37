"""Words, data, contracts and Redis: what router and worker have in common."""
