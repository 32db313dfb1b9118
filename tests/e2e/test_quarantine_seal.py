"""Sealed payloads open with an HPKE implementation that nobody here wrote, and only with the right key and row.

The vectors are those of the unit tests of `src/privacy/seal.rs`, which make the same bytes from the same seed.
"""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey
from pyhpke.exceptions import OpenError

VECTORS = json.loads((Path(__file__).parent / "quarantine_seal.json").read_text())
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
INFO = b"esker/quarantine/1"


def key_bytes(text: str, prefix: str) -> bytes:
    assert text.startswith(prefix)
    return base64.urlsafe_b64decode(text.removeprefix(prefix) + "=")


def private_key():
    return KEMKey.from_jwk(
        {
            "kty": "OKP",
            "crv": "X25519",
            "d": VECTORS["private_key"].removeprefix("esker-open-1:"),
            "x": VECTORS["public_key"].removeprefix("esker-seal-1:"),
        }
    )


def opened(sealed: bytes, event_id: str, reason: str) -> bytes:
    context = SUITE.create_recipient_context(sealed[:32], private_key(), info=INFO)
    return context.open(sealed[32:], aad=f"{event_id}\n{reason}".encode())


def sealed() -> bytes:
    return base64.b64decode(VECTORS["sealed"], validate=True)


def test_the_vector_opens_and_is_otlp():
    payload = opened(sealed(), VECTORS["event_id"], VECTORS["reason"])
    assert payload == base64.b64decode(VECTORS["payload"])
    request = ExportLogsServiceRequest.FromString(payload)
    (resource_logs,) = request.resource_logs
    (record,) = resource_logs.scope_logs[0].log_records
    assert record.event_name == "order.placed"
    assert {a.key: a.value.string_value for a in record.attributes}["user.email"] == "bob@example.org"
    assert resource_logs.resource.attributes[0].value.string_value == "api"


def test_it_opens_in_its_own_row_only():
    for event_id, reason in [("other", VECTORS["reason"]), (VECTORS["event_id"], "leak")]:
        with pytest.raises(OpenError):
            opened(sealed(), event_id, reason)


def test_a_changed_byte_keeps_it_closed():
    changed = bytearray(sealed())
    changed[-1] ^= 1
    with pytest.raises(OpenError):
        opened(bytes(changed), VECTORS["event_id"], VECTORS["reason"])


def test_the_key_id_is_the_hash_of_the_public_key():
    public = key_bytes(VECTORS["public_key"], "esker-seal-1:")
    assert hashlib.sha256(public).hexdigest()[:16] == VECTORS["key_id"]
    assert b"bob@example.org" in base64.b64decode(VECTORS["payload"])
    assert b"bob" not in sealed()
