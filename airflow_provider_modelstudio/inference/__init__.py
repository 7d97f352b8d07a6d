"""Run an inference endpoint over a Parquet dataset. Knows no Airflow.

Floors, each importing only what lies below it::

    engine                          runs a plan; the only clock, dice and loop
    vault                           what is durable: journal, seals, manifest
    transport | storage | dataset   Elasticsearch, objects, Parquet
    tasks | plan | decide | governor | summary
    errors
"""
