"""All knowledge of PostgreSQL: client programs, connections, snapshots, SQL, throw-away servers."""
