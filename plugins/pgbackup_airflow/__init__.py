"""The adapter: operators, hook, notifier, deadlines. The only package that imports Airflow."""
