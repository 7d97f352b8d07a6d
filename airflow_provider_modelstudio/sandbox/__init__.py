"""A local stand-in for Elasticsearch's ``_inference`` API at Alibaba Cloud: ``python -m airflow_provider_modelstudio.sandbox``.

It answers like an 8.x server, with real but small models, and says in every endpoint that it is a stand-in.
In tests and examples: :class:`~airflow_provider_modelstudio.sandbox.server.Sandbox`.
It shares no code with the client side, so that a misunderstanding there is not repeated here.
"""
