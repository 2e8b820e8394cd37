"""The demo: small trained repositories and the Hub that serves them."""
