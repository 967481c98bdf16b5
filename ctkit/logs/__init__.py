"""Logs over HTTP: the only part of ctkit that touches the network."""
