"""Run an inference endpoint over a Parquet dataset. Knows no Airflow.

Floors, each importing only what lies below it::

    engine                          runs a plan; the only clock, dice and loop
    survey                          where each row gets its answer from
    recall | window                 answers on record; rows on their way
    vault                           what is durable: journal, seals, manifest
    lease                           who may spend
    transport | storage | dataset   Elasticsearch, objects, Parquet
    tasks | plan | decide | governor | summary
    errors
"""
