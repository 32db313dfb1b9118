"""What the queries of `esker sql` must answer: the events that are sent, and each answer worked out in Python.

Owns: both, written down independently of any SQL. Does not own: sending, running.
Days are UTC, weeks begin on Monday, times are microseconds since the Unix epoch, as in `oracle`.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

import otlp
from oracle import HOUR, midnight

VIEWED, BOUGHT, OLD, DAY_BEGAN, JOB = (
    "shop.item.viewed",
    "shop.item.bought",
    "shop.item_viewed",
    "current.date",
    "events.unique",
)
CATEGORY = {VIEWED: "product", BOUGHT: "product", OLD: "product", DAY_BEGAN: "security", JOB: "operational"}
VIEWS = {
    VIEWED: "shop_item_viewed",
    BOUGHT: "shop_item_bought",
    OLD: "shop_item_viewed_edd4323d",
    DAY_BEGAN: "current_date",
    JOB: "events_unique_f88b6877",
}
ACTOR_COLUMNS = ["organisation_id", "session_id", "user_id"]
OWN_COLUMNS = {
    VIEWED: ["order", *ACTOR_COLUMNS],
    BOUGHT: ["event_date", "group", "order", "price", "select", "tags", *ACTOR_COLUMNS],
    OLD: ACTOR_COLUMNS,
    DAY_BEGAN: ["organisation_id"],
    JOB: ["group"],
}
# The registry has an attribute event.date, so that the views' own column must have another name.
DATE = "esker_event_date"
MINUTE = HOUR // 60


@dataclass
class Event:
    """One event as it is sent."""

    name: str
    micros: int
    attributes: dict = field(default_factory=dict)
    service: str = "shop"
    uid: str | None = None

    @property
    def day(self) -> date:
        return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=self.micros)).date()

    @property
    def week(self) -> date:
        return self.day - timedelta(days=self.day.weekday())

    def value(self, key: str):
        return self.attributes.get(key)

    def log_record(self):
        more = {"log.record.uid": self.uid} if self.uid else {}
        return otlp.record(self.name, {**self.attributes, **more}, self.micros * 1000)


def actor(organisation: int | None, user: str | None = None, session: str | None = None, **more) -> dict:
    named = {"organisation.id": organisation, "user.id": user, "session.id": session, **more}
    return {key: item for key, item in named.items() if item is not None}


def events() -> list[Event]:
    """Two months of a small shop. Nothing lies near the borders of 7, 30, 84 or 90 days ago."""
    at = lambda days_ago, hour, minute=0: midnight(days_ago) + hour * HOUR + minute * MINUTE  # noqa: E731
    bought = {"group": "a 'b' \\ c", "select": True, "price": 0.1, "tags": ["x", "ü"], "event.date": "2026-01-01"}
    return [
        # Organisation 1: one buys at once, one after twelve days.
        Event(VIEWED, at(20, 10), actor(1, "u1", "s1", order=1)),
        Event(BOUGHT, at(20, 10, 5), actor(1, "u1", "s1", order=1, **bought)),
        Event(VIEWED, at(20, 11), actor(1, "u2", "s2", order=2)),
        Event(BOUGHT, at(8, 11), actor(1, "u2", "s3", order=2, price=2.0, select=False)),
        Event(VIEWED, at(13, 9), actor(1, "u1", "s4", order=3)),
        Event(VIEWED, at(6, 9), actor(1, "u1", "s5", order=4)),
        # Organisation 2: at the ends of UTC days, where other time zones have another date.
        Event(VIEWED, midnight(3) + 24 * HOUR - 1, actor(2, "u3", "s6", order=5), service="mobile"),
        Event(VIEWED, midnight(2), actor(2, "u3", "s6", order=6), service="mobile"),
        Event(BOUGHT, at(1, 23, 30), actor(2, "u3", "s7", order=6), service="mobile"),
        # Bought before it was looked at.
        Event(BOUGHT, at(5, 0, 30), actor(2, "u4", "s8", order=7), service="mobile"),
        Event(VIEWED, at(4, 12), actor(2, "u4", "s9", order=7), service="mobile"),
        # Organisation 3, and what is older than a month.
        Event(OLD, at(40, 12), actor(3, "u5", "s10")),
        Event(VIEWED, at(12, 12), actor(3, "u5", "s11", order=8)),
        Event(OLD, at(55, 12), actor(3, "u6", "s12")),
        # Without a user, without an organisation, and with an organisation alone.
        Event(DAY_BEGAN, at(2, 0), actor(1)),
        Event(JOB, at(50, 3), {"group": "nightly"}),
        Event(JOB, at(49, 3), {}),
        # Sent twice, see `copies`.
        Event(BOUGHT, at(10, 10), actor(1, "u1", "s13", order=9), uid="copy-1"),
    ]


def copies(sent: list[Event]) -> list[Event]:
    """What a client sends again in another request."""
    return [event for event in sent if event.uid]


def broken() -> list[Event]:
    """Without the attribute that `shop.item.viewed` requires, and with a text for a number."""
    when = midnight(1) + 5 * HOUR
    return [
        Event(VIEWED, when, actor(1, "u1", "s1")),
        Event(VIEWED, when, actor(1, "u2", "s1")),
        Event(BOUGHT, when, actor(1, "u1", "s1", order="no number")),
    ]


class Between:
    """Equal to any number in a range: for what only the machine that answers can know."""

    def __init__(self, least, most):
        self.least, self.most = least, most

    def __eq__(self, other):
        return other is not None and self.least <= other <= self.most

    def __repr__(self):
        return f"between {self.least} and {self.most}"


def percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 1) if whole else None


@dataclass
class Oracle:
    """The answers to all queries, given what is stored: copies count, as in the table."""

    sent: list[Event]
    broken: list[Event]
    started: int
    ended: int

    def since(self, days: int) -> list[Event]:
        return [event for event in self.sent if event.micros >= midnight(days) - 1]

    @property
    def recent(self) -> list[Event]:
        return self.since(30)

    def answers(self) -> dict[str, list[dict]]:
        return {
            "daily_actives_by_tenant": self.daily_actives_by_tenant(),
            "daily_actives": self.daily_actives(),
            "adoption": self.adoption(),
            "funnel": self.funnel(),
            "retention": self.retention(),
            "sessions": self.sessions(),
            "top_events": self.top_events(),
            "events_per_day": self.events_per_day(),
            "freshness": self.freshness(),
            "delay": self.delay(),
            "volume_by_service": self.volume_by_service(),
            "silent_events": self.silent_events(),
            "fill_rates": self.fill_rates(),
            "consent": self.consent(),
            "policies": self.policies(),
            "duplicates": self.duplicates(),
            "quarantine_by_reason": self.quarantine_by_reason(),
        }

    def daily_actives_by_tenant(self):
        groups = grouped(self.recent, lambda one: (one.day, one.value("organisation.id")))
        rows = [
            {DATE: day, "organisation_id": tenant, "active_users": distinct(group, "user.id"), "event_count": len(group)}
            for (day, tenant), group in groups.items()
            if tenant is not None
        ]
        return sorted(rows, key=lambda row: (row[DATE], -row["active_users"], row["organisation_id"]))

    def daily_actives(self):
        groups = grouped(self.recent, lambda one: one.day)
        return [
            {
                DATE: day,
                "active_users": distinct(group, "user.id"),
                "active_organisations": distinct(group, "organisation.id"),
                "event_count": len(group),
            }
            for day, group in sorted(groups.items())
        ]

    def adoption(self):
        rows = []
        for week, group in sorted(grouped(self.since(84), lambda one: one.week).items()):
            active = distinct(group, "organisation.id")
            adopting = distinct([one for one in group if one.name == VIEWED], "organisation.id")
            rows.append(
                {
                    "week_start": week,
                    "active_organisations": active,
                    "adopting_organisations": adopting,
                    "adopting_percent": percent(adopting, active),
                }
            )
        return rows

    def funnel(self):
        first: dict[str, int] = {}
        for one in self.recent:
            if one.name == VIEWED and one.value("user.id"):
                first[one.value("user.id")] = min(first.get(one.value("user.id"), one.micros), one.micros)
        second = {
            one.value("user.id")
            for one in self.recent
            if one.name == BOUGHT
            and one.value("user.id") in first
            and 0 <= one.micros - first[one.value("user.id")] < 7 * 24 * HOUR
        }
        both = percent(len(second), len(first))
        return [{"first_step": len(first), "second_step": len(second), "second_step_percent": both}]

    def retention(self):
        weeks = defaultdict(set)
        for one in self.since(84):
            if one.value("user.id"):
                weeks[one.value("user.id")].add(one.week)
        sizes = Counter(min(active) for active in weeks.values())
        returned = Counter((min(active), (week - min(active)).days // 7) for active in weeks.values() for week in active)
        return [
            {
                "cohort_week": cohort,
                "cohort_size": sizes[cohort],
                "weeks_later": later,
                "returned_users": count,
                "returned_percent": percent(count, sizes[cohort]),
            }
            for (cohort, later), count in sorted(returned.items())
        ]

    def sessions(self):
        sessions = grouped([one for one in self.recent if one.value("session.id")], lambda one: one.value("session.id"))
        by_day = defaultdict(list)
        for group in sessions.values():
            first, last = min(group, key=lambda one: one.micros), max(group, key=lambda one: one.micros)
            by_day[first.day].append((last.micros // 1_000_000 - first.micros // 1_000_000, len(group)))
        return [
            {
                "session_date": day,
                "session_count": len(group),
                "average_seconds": round(sum(seconds for seconds, _ in group) / len(group), 1),
                "average_events": round(sum(count for _, count in group) / len(group), 1),
            }
            for day, group in sorted(by_day.items())
        ]

    def top_events(self):
        rows = [
            {
                "event_name": name,
                "category": CATEGORY[name],
                "event_count": len(group),
                "active_users": distinct(group, "user.id"),
                "first_seen": min(one.micros for one in group),
                "last_seen": max(one.micros for one in group),
            }
            for name, group in grouped(self.recent, lambda one: one.name).items()
        ]
        return sorted(rows, key=lambda row: (-row["event_count"], row["event_name"]))

    def events_per_day(self):
        groups = grouped(self.recent, lambda one: (one.day, CATEGORY[one.name]))
        return [
            {DATE: day, "category": category, "event_count": len(group), "event_names": len({one.name for one in group})}
            for (day, category), group in sorted(groups.items())
        ]

    def freshness(self):
        received = Between(self.started, self.ended)
        rows = [
            {
                "service_name": service,
                "newest_event": max(one.micros for one in group),
                "newest_received": received,
                "seconds_since_received": Between(0, 3600),
            }
            for service, group in grouped(self.recent, lambda one: one.service).items()
        ]
        # The service that was sent last comes first.
        return sorted(rows, key=lambda row: row["service_name"], reverse=True)

    def delay(self):
        rows = []
        for day, group in sorted(grouped(self.recent, lambda one: one.day).items()):
            least = self.started - max(one.micros for one in group)
            most = self.ended - min(one.micros for one in group)
            seconds = Between(least // 1_000_000 - 1, most // 1_000_000 + 1)
            row = {DATE: day, "event_count": len(group), "average_seconds": seconds, "longest_seconds": seconds}
            hour = [one for one in group if self.started - one.micros > 2 * HOUR]
            rows.append({**row, "over_an_hour": len(hour) if len(hour) == len(group) else Between(len(hour), len(group))})
        return rows

    def volume_by_service(self):
        rows = [
            {
                "service_name": service,
                "service_version": "1.2.3",
                "event_count": len(group),
                "event_names": len({one.name for one in group}),
                "first_seen": min(one.micros for one in group),
                "last_seen": max(one.micros for one in group),
            }
            for service, group in grouped(self.recent, lambda one: one.service).items()
        ]
        return sorted(rows, key=lambda row: (-row["event_count"], row["service_name"]))

    def silent_events(self):
        rows = []
        for name in sorted(CATEGORY):
            times = [one.micros for one in self.since(90) if one.name == name]
            if not times or max(times) < midnight(6):
                last = max(times) if times else None
                rows.append({"event_name": name, "category": CATEGORY[name], "last_seen": last, "event_count": len(times)})
        return rows

    def fill_rates(self):
        columns = sorted(OWN_COLUMNS[VIEWED])
        keys = {"order": "order", **{column: column.replace("_", ".") for column in ACTOR_COLUMNS}}
        rows = []
        viewed = [one for one in self.since(84) if one.name == VIEWED]
        for week, group in sorted(grouped(viewed, lambda one: one.week).items()):
            row = {"week_start": week, "event_count": len(group)}
            for column in columns:
                filled = sum(one.value(keys[column]) is not None for one in group)
                row[f"{column}_filled_percent"] = percent(filled, len(group))
            rows.append(row)
        return rows

    def consent(self):
        counts = Counter(CATEGORY[one.name] for one in self.recent)
        of = lambda category: ("unknown", "none") if category == "product" else ("not_required", "configuration")  # noqa: E731
        return [
            {"category": category, "consent": of(category)[0], "consent_basis": of(category)[1], "event_count": count}
            for category, count in sorted(counts.items())
        ]

    def policies(self):
        received = Between(self.started, self.ended)
        return [
            {
                "policy_version": Between("0", "g"),
                "event_count": len(self.recent),
                "first_received": received,
                "last_received": received,
            }
        ]

    def duplicates(self):
        twice = grouped(copies(self.sent), lambda one: one.day)
        return [
            {
                DATE: day,
                "row_count": sum(one.day == day for one in self.sent),
                "surplus_rows": len(group) - len({one.uid for one in group}),
            }
            for day, group in sorted(twice.items())
        ]

    def quarantine_by_reason(self):
        received = Between(self.started, self.ended)
        counts = Counter(
            ("type_mismatch", one.name) if one.value("order") else ("missing_required", one.name) for one in self.broken
        )
        rows = [
            {
                "reason": reason,
                "event_name": name,
                "detail": "order",
                "event_count": count,
                "services": 1,
                "last_received": received,
            }
            for (reason, name), count in counts.items()
        ]
        return sorted(rows, key=lambda row: -row["event_count"])


def grouped(sent: list[Event], key) -> dict:
    groups = defaultdict(list)
    for one in sent:
        groups[key(one)].append(one)
    return groups


def distinct(group: list[Event], key: str) -> int:
    return len({one.value(key) for one in group} - {None})
