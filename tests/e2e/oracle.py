"""What the readers' table must hold: the events that are sent, and the row that each must become.

Owns: both sides, written down independently of the service. Does not own: sending or reading.
"""

import base64
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import otlp

LONG, DOUBLE, BOOLEAN, STRING, TIMESTAMP = "long", "double", "boolean", "string", "timestamptz"

ENVELOPE = {
    "event_id": STRING,
    "event_name": STRING,
    "category": STRING,
    "event_time": TIMESTAMP,
    "received_time": TIMESTAMP,
    "service_name": STRING,
    "service_version": STRING,
    "scope_name": STRING,
    "severity": STRING,
    "trace_id": STRING,
    "span_id": STRING,
    "consent": STRING,
    "consent_basis": STRING,
    "policy_version": STRING,
}

ATTRIBUTES = {
    "test_seq": LONG,
    "test_text": STRING,
    "test_ratio": DOUBLE,
    "test_flag": BOOLEAN,
    "test_tags": STRING,
    "test_numbers": STRING,
    "test_anything": STRING,
    "test_label": STRING,
    "test_plan": STRING,
    "test_tier": LONG,
    "user_id": STRING,
    "account_number": STRING,
}

LATER_ATTRIBUTES = {"test_currency": STRING, "test_weight": DOUBLE}

# Arrays, `any` and templates are JSON text; how it is spaced is nobody's business.
JSON_COLUMNS = ["test_tags", "test_numbers", "test_anything", "test_label"]
PSEUDONYMS = ["user_id", "account_number"]
PSEUDONYM = re.compile(r"e1_[0-9a-z]{8}_[0-9A-Za-z_-]{43}")

CATEGORIES = {
    "test.order.placed": "product",
    "test.job.finished": "operational",
    "test.login.failed": "security",
    "test.parcel.sent": "product",
}


@dataclass
class Sent:
    """One event as it is sent, and the attribute columns that it must fill."""

    name: str
    micros: int
    attributes: dict
    expected: dict
    record: dict = field(default_factory=dict)
    severity: str | None = "info"
    trace_id: str | None = None
    span_id: str | None = None
    extra_nanos: int = 0

    @property
    def seq(self) -> int:
        return self.expected["test_seq"]

    def log_record(self):
        return otlp.record(self.name, self.attributes, self.micros * 1000 + self.extra_nanos, **self.record)


def midnight(days_ago: int) -> int:
    """Microseconds of a UTC midnight some days ago."""
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((today - timedelta(days=days_ago)).timestamp()) * 1_000_000


HOUR = 3_600_000_000
DAY = 24 * HOUR


def first_run() -> list[Sent]:
    """Three days; every column type with and without a value; values at the ends of their ranges."""
    day = midnight(10)
    trace, span = bytes(range(1, 17)), bytes(range(1, 9))
    events = [
        Sent(
            "test.order.placed",
            day + 5 * HOUR + 123_456,
            {
                "test.seq": 1,
                "test.text": "grün, \"quoted\"\n日本語 🦀",
                "test.ratio": 0.1,
                "test.flag": True,
                "test.tags": ["a", "ü", ""],
                "test.numbers": [1, -2, 2**63 - 1],
                "test.anything": {"a": [1, True, None, "x"], "b": {"c": 1.5}},
                "test.label.colour": "red",
                "test.label.size": "xl",
                "test.plan": "pro",
                "test.tier": 2,
                "user.id": "user-1",
                "account.number": 42,
                "user.email": "somebody@example.com",
                "auth.token": "token-1",
                "not.declared": "nobody knows",
            },
            {
                "test_seq": 1,
                "test_text": "grün, \"quoted\"\n日本語 🦀",
                "test_ratio": 0.1,
                "test_flag": True,
                "test_tags": ["a", "ü", ""],
                "test_numbers": [1, -2, 2**63 - 1],
                "test_anything": {"a": [1, True, None, "x"], "b": {"c": 1.5}},
                "test_label": {"colour": "red", "size": "xl"},
                "test_plan": "pro",
                "test_tier": 2,
                "user_id": "user-1",
                "account_number": 42,
            },
            record={"trace_id": trace, "span_id": span, "severity_number": 17},
            severity="error",
            trace_id=trace.hex(),
            span_id=span.hex(),
            extra_nanos=999,
        ),
        # Nothing but the number: every other column is null.
        Sent("test.order.placed", day, {"test.seq": 2}, {"test_seq": 2}, record={"severity_number": 0}, severity=None),
        # The last microsecond of a day, and the first of the next.
        Sent("test.job.finished", day + DAY - 1, {"test.seq": 3, "test.flag": False}, {"test_seq": 3, "test_flag": False}),
        Sent("test.job.finished", day + DAY, {"test.seq": 4, "test.text": ""}, {"test_seq": 4, "test_text": ""}),
        # As the first user's SDK sends what is no scalar.
        Sent(
            "test.order.placed",
            day + 2 * DAY,
            {
                "test.seq": "5",
                "test.text": '"00000000-0000-4000-8000-000000000001"',
                "test.ratio": "null",
                "test.flag": "True",
                "test.tags": '["x", "y"]',
                "test.numbers": "[1, 2]",
                "test.tier": "1",
                "user.id": "user-2",
            },
            {
                "test_seq": 5,
                "test_text": "00000000-0000-4000-8000-000000000001",
                "test_ratio": None,
                "test_flag": True,
                "test_tags": ["x", "y"],
                "test_numbers": [1, 2],
                "test_tier": 1,
                "user_id": "user-2",
            },
        ),
        # An attribute that the event does not declare is not stored, though another event declares it.
        Sent("test.login.failed", day + HOUR, {"test.seq": 6, "user.id": "user-1", "test.text": "x"}, {"test_seq": 6, "user_id": "user-1"}),
        Sent("test.order.placed", day + HOUR, {"test.seq": -(2**63), "test.ratio": -1.7976931348623157e308}, {"test_seq": -(2**63), "test_ratio": -1.7976931348623157e308}),
        Sent("test.order.placed", day + HOUR, {"test.seq": 2**63 - 1, "test.ratio": 5e-324}, {"test_seq": 2**63 - 1, "test_ratio": 5e-324}),
    ]
    # Enough rows in one day, in no order, that a file's sort is worth checking.
    for index in range(200):
        seq, name = 1000 + index, ["test.order.placed", "test.job.finished", "test.login.failed"][index % 3]
        when = day + (index * 7919 % 1440) * 60_000_000
        events.append(Sent(name, when, {"test.seq": seq}, {"test_seq": seq}))
    return events


def second_run() -> list[Sent]:
    """After the registry grew: the new columns, and late events for a day that has files already."""
    day = midnight(10)
    return [
        Sent(
            "test.order.placed",
            day + 7 * HOUR,
            {"test.seq": 7, "test.currency": "EUR", "user.id": "user-1"},
            {"test_seq": 7, "test_currency": "EUR", "user_id": "user-1"},
        ),
        Sent(
            "test.parcel.sent",
            day + 5 * DAY,
            {"test.seq": 8, "test.weight": 2.5, "test.currency": "JPY"},
            {"test_seq": 8, "test_weight": 2.5, "test_currency": "JPY"},
        ),
        # Declared as a double, sent as an integer.
        Sent("test.parcel.sent", day - 30 * DAY, {"test.seq": 9, "test.weight": 3}, {"test_seq": 9, "test_weight": 3.0}),
        Sent("test.job.finished", day + DAY, {"test.seq": 10}, {"test_seq": 10}),
    ]


def expected_rows(sent: list[Sent]) -> dict[int, dict]:
    """By `test_seq`: every column but those that the service chooses. Pseudonymised columns hold the raw value."""
    rows = {}
    for event in sent:
        columns = {name: None for name in [*ATTRIBUTES, *LATER_ATTRIBUTES]}
        rows[event.seq] = {
            "event_name": event.name,
            "category": CATEGORIES[event.name],
            "event_time": event.micros,
            "service_name": "e2e",
            "service_version": "1.2.3",
            "scope_name": "e2e.scope",
            "severity": event.severity,
            "trace_id": event.trace_id,
            "span_id": event.span_id,
            # Nothing says anything of consent: product events need it by default, others do not.
            "consent": "unknown" if CATEGORIES[event.name] == "product" else "not_required",
            "consent_basis": "none" if CATEGORIES[event.name] == "product" else "configuration",
            **columns,
            **event.expected,
        }
    assert len(rows) == len(sent), "the oracle numbers two events alike"
    return rows


def comparable(row: dict, names: dict[str, object]) -> dict:
    """A read row in the oracle's terms: JSON text as values, pseudonyms as the raw values that they stand for."""
    out = {name: item for name, item in row.items() if name in ENVELOPE or name in ATTRIBUTES or name in LATER_ATTRIBUTES}
    for name in ("event_id", "received_time", "policy_version"):
        out.pop(name)
    for name in JSON_COLUMNS:
        if out[name] is not None:
            out[name] = json.loads(out[name])
    for name in PSEUDONYMS:
        if out[name] is not None:
            out[name] = names.get(out[name], out[name])
    return out


def pseudonym_names(rows: list[dict], expected: dict[int, dict]) -> dict[str, object]:
    """Which raw value each pseudonym stands for; fails unless equal values, and only they, have equal pseudonyms."""
    names, raws = {}, {}
    for row in rows:
        for column in PSEUDONYMS:
            raw, pseudonym = expected[row["test_seq"]][column], row[column]
            if raw is None:
                assert pseudonym is None
                continue
            assert PSEUDONYM.fullmatch(pseudonym), "no pseudonym where one is due"
            assert len(base64.urlsafe_b64decode(pseudonym.split("_", 2)[2] + "=")) == 32
            assert names.setdefault(pseudonym, raw) == raw, "two values share a pseudonym"
            assert raws.setdefault(raw, pseudonym) == pseudonym, "one value has two pseudonyms"
    return names
