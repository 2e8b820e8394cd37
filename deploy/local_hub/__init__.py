"""A Hub on this machine: serves a folder of repositories with the Hugging Face Hub's wire protocol."""
