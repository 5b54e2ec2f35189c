"""The embedded stack behind ``make demo``: two PostgreSQL servers, a mailbox, Airflow, one supervisor."""
