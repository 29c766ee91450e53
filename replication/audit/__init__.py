"""The audit log: what every node changed, what was decided, what was in conflict, what operators did.

    records.py   the streams' columns
    segment.py   the bytes of one segment: appended flushes that prove their own completeness
    store.py     the folder: segments, lock, manifest; the only module here that touches files
    writer.py    `AuditWriter`, one per group
    reader.py    reading and following, also while a writer is at work

`docs/audit.md` describes files, columns and guarantees.
"""
