"""The block documents of this project as code: ``python blocks/documents.py``.

`prefect-wix setup` saves one site and one warehouse. Extend the list below for more: each document
reads its fields from environment variables or ``.env``, so this file holds no secret.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect_wix import WixCredentials
from prefect_wix.blocks.documents import DOCUMENTS, Document, read_settings, save_documents

SECOND_SITE = Document(
    WixCredentials,
    "second-site",
    {
        "api_key": "WIX_SECOND_API_KEY",
        "site_id": "WIX_SECOND_SITE_ID",
        "base_url": "WIX_BASE_URL",
    },
)

if __name__ == "__main__":
    settings = read_settings(Path.cwd())
    saved = asyncio.run(save_documents(settings, documents=(*DOCUMENTS, SECOND_SITE)))
    raise SystemExit(0 if saved else 1)
