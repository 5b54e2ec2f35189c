"""The DAGs under a real Airflow: parsed by its DagBag, run by its scheduler, asked through its REST API."""
