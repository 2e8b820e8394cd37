"""How the demo repositories are made: drawn pictures, two bases, their adapters, their cards."""
