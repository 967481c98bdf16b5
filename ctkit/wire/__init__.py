"""Bytes of RFC 6962, the Static CT API and X.690, read and written; nothing here reads a file or asks a log."""
