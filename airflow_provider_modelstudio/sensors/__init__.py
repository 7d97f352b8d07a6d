"""Waiting for something outside of Airflow."""
