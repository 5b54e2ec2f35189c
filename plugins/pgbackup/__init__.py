"""The engine: PostgreSQL backups that count only after they were restored and found equal to their source.

Night:    lock + snapshot -> {dump, fingerprints} -> manifest -> catalog -> verification
Recovery: target -> plan -> fetch + decrypt -> restore in isolation -> check -> cutover

Imports go one way: cli -> verbs (capture, verify) -> restore -> {catalog, store, stream, postgres} -> domain.
Nothing in here imports Airflow; ``domain`` does no I/O and reads no clock.
"""
