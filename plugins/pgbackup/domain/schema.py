"""The JSON schema of protocol.yaml, for editors; a test keeps include/config/protocol.schema.json equal to it."""

from __future__ import annotations

import json

from pgbackup.domain.settings import Settings


def settings_schema() -> str:
    """Return the schema as text."""
    document = Settings.model_json_schema()
    document["title"] = "protocol.yaml"
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
