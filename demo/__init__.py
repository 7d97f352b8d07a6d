"""What a newcomer runs: the example Dag in a private Airflow, and questions to the vectors it wrote."""
