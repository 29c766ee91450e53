"""The audit log: what every node changed, what was decided, what was in conflict, what operators did.

    records.py   the streams' columns
    segment.py   the bytes of one segment: appended flushes that prove their own completeness
    rows.py      rows as bytes
    stored.py    the form in which rows are stored, and their leaves
    merkle.py    the tree of RFC 6962 and its proofs
    heads.py     signed tree heads
    store.py     the folder: segments, lock, manifest
    evidence.py  the folder: heads, the signing key, segments as they are stored; nobody else touches files
    stream.py    one stream as its writer has it
    seals.py     when a head is due
    writer.py    `AuditWriter`, one per group
    reader.py    reading and following, also while a writer is at work
    follow.py    one stream from any place on; published.py: how far Kafka has it
    verify.py    checking a log against its heads
    proofs.py    proofs that stand alone

`docs/audit.md` describes files, columns and guarantees.
"""
