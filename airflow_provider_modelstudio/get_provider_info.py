"""What Airflow reads about this provider. Imports nothing: an error in here would break the look-up of every provider."""

from __future__ import annotations


def get_provider_info() -> dict[str, object]:
    """Connection type with its form, and everything else that Airflow is to find."""
    return {
        "package-name": "airflow-provider-modelstudio",
        "name": "Alibaba Cloud Model Studio",
        "description": "Alibaba Cloud Model Studio models through the Elasticsearch _inference API, over Parquet datasets.",
        "integrations": [
            {
                "integration-name": "Alibaba Cloud Model Studio",
                "external-doc-url": "https://www.alibabacloud.com/help/en/es/user-guide/refined-model-platform",
                "tags": ["service"],
            },
        ],
        "hooks": [
            {
                "integration-name": "Alibaba Cloud Model Studio",
                "python-modules": ["airflow_provider_modelstudio.hooks.modelstudio"],
            },
        ],
        "operators": [
            {
                "integration-name": "Alibaba Cloud Model Studio",
                "python-modules": [
                    "airflow_provider_modelstudio.operators.completion",
                    "airflow_provider_modelstudio.operators.dataset",
                    "airflow_provider_modelstudio.operators.model",
                    "airflow_provider_modelstudio.operators.multi_modal_embedding",
                    "airflow_provider_modelstudio.operators.rerank",
                    "airflow_provider_modelstudio.operators.sparse_embedding",
                    "airflow_provider_modelstudio.operators.text_embedding",
                ],
            },
        ],
        "sensors": [
            {
                "integration-name": "Alibaba Cloud Model Studio",
                "python-modules": ["airflow_provider_modelstudio.sensors.model"],
            },
        ],
        "triggers": [
            {
                "integration-name": "Alibaba Cloud Model Studio",
                "python-modules": ["airflow_provider_modelstudio.triggers.model"],
            },
        ],
        "task-decorators": [
            {
                "name": "modelstudio_embed",
                "class-name": "airflow_provider_modelstudio.decorators.inference.embed_task",
            },
            {
                "name": "modelstudio_completion",
                "class-name": "airflow_provider_modelstudio.decorators.inference.completion_task",
            },
        ],
        "cli": ["airflow_provider_modelstudio.cli.get_cli_commands"],
        "connection-types": [
            {
                "connection-type": "modelstudio",
                "hook-class-name": "airflow_provider_modelstudio.hooks.modelstudio.ModelStudioHook",
                "hook-name": "Alibaba Cloud Model Studio",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {
                        "host": "Elasticsearch endpoint",
                        "login": "User (empty: API key)",
                        "password": "Password or API key",
                    },
                    "placeholders": {
                        "host": "https://es-cn-….elasticsearch.aliyuncs.com:9200",
                        "port": "9200",
                        "login": "elastic",
                        "password": "password of the user; without a user an API key of Elasticsearch",
                    },
                },
                "conn-fields": {
                    "model_studio_api_key": {
                        "label": "Model Studio API key",
                        "description": "Only for creating endpoints: Elasticsearch keeps it and sends it to the API host.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "api_host": {
                        "label": "API host",
                        "description": "Only for creating endpoints: the host of Model Studio in the region of the key.",
                        "schema": {
                            "type": ["string", "null"],
                            "examples": [
                                "https://dashscope.aliyuncs.com",
                                "https://dashscope-intl.aliyuncs.com",
                                "https://dashscope-us.aliyuncs.com",
                                "https://cn-hongkong.dashscope.aliyuncs.com",
                            ],
                        },
                    },
                    "region": {
                        "label": "Region",
                        "description": "Of the key; chooses the prices of the cost estimate.",
                        "schema": {"type": ["string", "null"], "examples": ["cn-beijing", "ap-southeast-1"]},
                    },
                    "models": {
                        "label": "Models",
                        "description": "JSON: limits and prices of models that the catalog lacks or has otherwise.",
                        "schema": {"type": ["string", "null"], "format": "multiline"},
                    },
                    "verify_tls": {
                        "label": "Verify the TLS certificate",
                        "description": "Off trusts any server, and warns in each run.",
                        "schema": {"type": ["boolean", "null"], "default": True},
                    },
                    "ca_certificate": {
                        "label": "CA certificate",
                        "description": "PEM text, or the path of a PEM file on every worker; for a private authority.",
                        "schema": {"type": ["string", "null"], "format": "multiline"},
                    },
                    "request_timeout": {
                        "label": "Seconds for the model",
                        "description": "How long Elasticsearch may wait for the model; 60 if empty.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 3600},
                    },
                    "connect_timeout": {
                        "label": "Seconds to connect",
                        "description": "10 if empty.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 3600},
                    },
                    "allow_http": {
                        "label": "Allow http://",
                        "description": "Passwords and texts travel in clear: only inside a private network.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                    "trust_env": {
                        "label": "Use the proxy of the environment",
                        "description": "Obey HTTPS_PROXY and NO_PROXY.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                    "media_type": {
                        "label": "Form of the answers",
                        "description": "auto asks for CBOR where the server speaks it.",
                        "schema": {"type": ["string", "null"], "enum": ["auto", "json", "cbor"], "default": "auto"},
                    },
                },
            },
        ],
    }
