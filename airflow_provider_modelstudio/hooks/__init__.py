"""What an Airflow connection means, and the way to Elasticsearch for operators."""
