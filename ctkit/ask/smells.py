"""Certificates that may not have been issued as they should be, as far as a table can tell."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import ibis
import ibis.expr.types as ir

from ctkit.arguments import checked
from ctkit.ask.asked import Asked, described, entries_of, midnight
from ctkit.ask.certificates import issuances
from ctkit.errors import ParameterError

Smell = Literal["backdated", "valid too long", "no certificate"]

LIMITS = {date(2029, 3, 15): 47, date(2027, 3, 15): 100, date(2026, 3, 15): 200, date(2020, 9, 1): 398}
"""Days for which a certificate may be valid that is issued on a date or later (CA/Browser Forum, Baseline Requirements,
6.3.2); the newest first."""

_EARLY = 48 * 3600
"""Seconds before its signing at which a validity may begin (Baseline Requirements, 7.1.2.7)."""


@checked
def issuance_smells(
    certificates: Asked, smells: Sequence[Smell] = ("backdated", "valid too long", "no certificate")
) -> ir.Table:
    """Return the certificates that smell of misissuance, which is a reason to look, and no verdict.

    Counted are issuances, once for each smell:

    ================== =================================================================================================
    ``backdated``      it is valid from more than 48 hours before its precertificate was seen, which logs take before
                       the certificate is signed. Without the precertificate it cannot be told. It means nothing if the
                       table lacks the log that had it first, or `seen` is when an entry was fetched, as in rows of the
                       live server
    ``valid too long`` it is valid for longer than the CA/Browser Forum allows for its first day: 398 days from
                       2020-09-01, 200 from 2026-03-15, 100 from 2027-03-15, 47 from 2029-03-15. Those of CAs, and older
                       ones, are not judged
    ``no certificate`` only its precertificates were seen. Many CAs log nothing else, and of a new one more may follow
    ================== =================================================================================================

    ``SELECT * FROM issuances WHERE promised - valid_from > INTERVAL 48 HOURS OR validity_days > limit_days OR
    precertificates = entries``

    Parameters
    ----------
    certificates
        From `ctkit.open_table`; or what `ctkit.certificates` returned, filtered or not.
    smells
        Which of them.

    Returns
    -------
    ibis.Table
        A row for each smell of each certificate: ``smell``, ``backdated_days``, from `valid_from` to `promised`,
        ``limit_days``, what is allowed, and the columns of `ctkit.issuances` but ``registrable``; the newest
        certificate first.

    Raises
    ------
    ParameterError
        The table lacks columns of `ctkit.certificates`, or there is no such smell.
    SchemaMismatchError, TableError
        As `ctkit.certificates`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     smells = ctkit.issuance_smells(ctkit.open_table(folder), ["backdated", "valid too long"])
    ...     print(smells.to_pandas().empty)
    True
    """
    if not smells:
        raise ParameterError("issuance_smells: smells: it should name one at least", keys=("smells",))
    issued = issuances(entries_of(certificates))
    early = issued.promised.epoch_seconds() - issued.not_before
    limit = ibis.cases(*((issued.valid_from >= midnight(day), days) for day, days in LIMITS.items()))
    found = {
        "backdated": early > _EARLY,
        "valid too long": ~issued.is_ca & (issued.validity_days > limit),
        "no certificate": issued.precertificates == issued.entries,
    }
    named = ibis.array([found[smell].ifelse(smell, None) for smell in dict.fromkeys(smells)])
    smelly = issued.select(
        smell=named.filter(lambda smell: smell.notnull()).unnest(),
        backdated_days=early / 86_400,
        limit_days=limit,
        **described(issued),
    )
    return smelly.order_by(ibis.desc("first_seen"), "smell", "key")
