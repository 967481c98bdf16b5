"""Tree heads: signed tree heads of RFC 6962 and checkpoints of the Static CT API, read into one type."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """What a log says its tree is.

    Attributes
    ----------
    origin
        The first line of a Static CT checkpoint; the log's canonical URL for a signed tree head, which has none.
    tree_size
        Number of entries; the indices are ``[0, tree_size)``.
    root_hash
        32 bytes, the Merkle tree hash of RFC 6962, section 2.1.
    timestamp
        Milliseconds since the Unix epoch.
    signature
        The ``digitally-signed`` struct over ``TreeHeadSignature`` (RFC 6962, section 3.5), as the log sent it.
    """

    origin: str
    tree_size: int
    root_hash: bytes
    timestamp: int
    signature: bytes
