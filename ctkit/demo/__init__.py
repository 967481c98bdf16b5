"""Logs in this process, with real keys, certificates and Merkle trees, and the cycle that is shown on them."""
