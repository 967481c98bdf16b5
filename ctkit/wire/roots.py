"""The root certificates that a log accepts, and whether a chain may end in a certificate."""

from collections.abc import Collection

from ctkit.wire.extra_data import read_issuer
from ctkit.wire.names import canonical_name
from ctkit.wire.x509 import BASIC_CONSTRAINTS, read_basic_constraints, read_certificate


class Roots:
    """The root certificates that a log accepts, in one of which each chain has to end (RFC 6962, section 3.1).

    Parameters
    ----------
    certificates
        DER of each; None if the log does not say.
    """

    def __init__(self, certificates: Collection[bytes] | None) -> None:
        self._certificates = None if certificates is None else frozenset(certificates)
        issuers = filter(None, map(read_issuer, certificates or ()))
        self._names = frozenset(canonical_name(issuer.subject) for issuer in issuers)

    def may_be_end(self, certificate: bytes) -> bool:
        """Tell whether a chain may end in a certificate that is not self-signed.

        A root that the log accepts need not be self-signed, and the log may have accepted other roots before. But where
        the certificate has the name of a root, or names one as its issuer, that root was changed or left out.
        """
        if self._certificates is not None and certificate in self._certificates:
            return True
        last = read_issuer(certificate)
        extensions = read_certificate(certificate).extensions
        # Certificates before version 3 do not say who may issue.
        may_issue = not extensions or any(map(read_basic_constraints, extensions.get(BASIC_CONSTRAINTS, [])))
        if last is None or not may_issue:
            return False
        if self._certificates is None:
            return True
        subject, issuer = canonical_name(last.subject), canonical_name(last.issuer)
        return subject != issuer and self._names.isdisjoint((subject, issuer))
