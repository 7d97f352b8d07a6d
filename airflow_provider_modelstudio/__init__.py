"""Alibaba Cloud Model Studio models through Elasticsearch ``_inference``, over Parquet, in Airflow."""

__version__ = "0.1.0"
