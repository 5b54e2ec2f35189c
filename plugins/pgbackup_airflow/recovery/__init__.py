"""Recoveries by DAG runs: what was asked for is planned, approved by somebody, carried out, reported."""
