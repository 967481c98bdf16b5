"""The log lists that are known by name."""

import base64
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedList:
    """A log list that is known by name.

    Attributes
    ----------
    url
        Where it is.
    key
        DER of the ``SubjectPublicKeyInfo`` that signs it; None if its publisher does not sign it.
    """

    url: str
    key: bytes | None


# The key is published as https://www.gstatic.com/ct/log_list/v3/log_list_pubkey.pem.
_GOOGLE = base64.b64decode(
    "MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAsu0BHGnQ++W2CTdyZyxvHHRALOZPlnu/VMVgo2m+JZ8MNbAOH2cgXb8m"
    "vOj8flsX/qPMuKIaauO+PwROMjiqfUpcFm80Kl7i97ZQyBDYKm3MkEYYpGN+skAR2OebX9G2DfDqFY8+jUpOOWtBNr3LrmVcwx+F"
    "cFdMjGDlrZ5JRmoJ/SeGKiORkbbu9eY1Wd0uVhz/xI5bQb0OgII7hEj+i/IPbJqOHgB8xQ5zWAJJ0DmG+FM6o7gk403v6W3S8qRY"
    "iR84c50KppGwe4YqSMkFbLDleGQWLoaDSpEWtESisb4JiLaY4H+Kk0EyAhPSb+49JfUozYl+lf7iFN3qRq/SIXXTh6z0S7Qa8EYD"
    "hKGCrpI03/+qprwy+my6fpWHi6aUIk4holUCmWvFxZDfixoxK0RlqbFDl2JXMBquwlQpm8u5wrsic1ksIv9z8x9zh4PJqNpCah0c"
    "iemI3YGRQqSe/mRRXBiSn9YQBUPcaeqCYan+snGADFwHuXCd9xIAdFBolw9R9HTedHGUfVXPJDiF4VusfX6BRR/qaadB+bqEArF/"
    "TzuDUr6FvOR4o8lUUxgLuZ/7HO+bHnaPFKYHHSm++z1lVDhhYuSZ8ax3T0C3FZpb7HMjZtpEorSV5ElKJEJwrhrBCMOD8L01EoSP"
    "rGlS1w22i9uGHMn/uGQKo28u7AsCAwEAAQ=="
)

PUBLISHED = {
    "google": PublishedList("https://www.gstatic.com/ct/log_list/v3/log_list.json", _GOOGLE),
    "apple": PublishedList("https://valid.apple.com/ct/log_list/current_log_list.json", None),
}
"""The lists that Chrome and Apple's systems go by."""


def is_downloaded(source: str) -> bool:
    """Return whether a list comes from a host, which wants to know who asks, and not from a file."""
    return source in PUBLISHED or source.startswith(("http://", "https://"))
