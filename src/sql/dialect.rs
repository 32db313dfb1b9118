//! What the engines spell differently: quotes, literals, days, intervals.
//!
//! Owns: each engine's spelling of what views and queries need. Does not own: what they ask.
//!
//! Names that come from the registry are always quoted, so that none can be a keyword; the envelope's are plain words and stand
//! unquoted. Snowflake turns unquoted names into upper case, so what is quoted there is written in upper case too, and people can type
//! every name without quotes.

/// A query engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// DuckDB.
    DuckDb,
    /// Snowflake.
    Snowflake,
    /// BigQuery.
    BigQuery,
    /// Apache Spark.
    Spark,
    /// Trino.
    Trino,
    /// ClickHouse.
    ClickHouse,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 6] =
        [Self::DuckDb, Self::Snowflake, Self::BigQuery, Self::Spark, Self::Trino, Self::ClickHouse];

    /// Its name, as it writes it itself.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::DuckDb => "DuckDB",
            Self::Snowflake => "Snowflake",
            Self::BigQuery => "BigQuery",
            Self::Spark => "Spark",
            Self::Trino => "Trino",
            Self::ClickHouse => "ClickHouse",
        }
    }

    /// A name in quotes.
    pub(super) fn ident(self, name: &str) -> String {
        match self {
            Self::DuckDb | Self::Trino => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::Snowflake => format!("\"{}\"", name.replace('"', "\"\"").to_uppercase()),
            Self::BigQuery | Self::Spark | Self::ClickHouse => format!("`{}`", name.replace('`', "")),
        }
    }

    /// A text literal.
    pub(super) fn text(self, text: &str) -> String {
        let escaped = match self {
            // A backslash is a letter like any other.
            Self::DuckDb | Self::Trino => text.replace('\'', "''"),
            Self::Snowflake | Self::ClickHouse => text.replace('\\', "\\\\").replace('\'', "''"),
            // Two quotes would be the end of one literal and the start of the next.
            Self::BigQuery | Self::Spark => text.replace('\\', "\\\\").replace('\'', "\\'"),
        };
        format!("'{escaped}'")
    }

    /// A view or a table in a schema; its name as SQL has it.
    pub(super) fn qualified(self, schema: &str, name: &str) -> String {
        match self {
            Self::Spark => format!("spark_catalog.{schema}.{name}"),
            Self::Trino => format!("lake.{schema}.{name}"),
            _ => format!("{schema}.{name}"),
        }
    }

    /// The UTC day of a moment, whatever the session's time zone.
    pub(super) fn utc_day(self, moment: &str) -> String {
        match self {
            Self::DuckDb | Self::Trino => format!("CAST({moment} AT TIME ZONE 'UTC' AS DATE)"),
            Self::Snowflake => format!("CAST(CONVERT_TIMEZONE('UTC', {moment}) AS DATE)"),
            Self::BigQuery => format!("DATE({moment}, 'UTC')"),
            // `to_date` would take the session's zone.
            Self::Spark => format!("DATE_FROM_UNIX_DATE(CAST(FLOOR(UNIX_SECONDS({moment}) / 86400) AS INT))"),
            Self::ClickHouse => format!("toDate({moment}, 'UTC')"),
        }
    }

    /// The Monday on or before a day.
    pub(super) fn week(self, day: &str) -> String {
        match self {
            Self::DuckDb | Self::Spark => format!("CAST(DATE_TRUNC('week', {day}) AS DATE)"),
            // DATE_TRUNC would follow the session's WEEK_START.
            Self::Snowflake => format!("DATEADD('day', 1 - DAYOFWEEKISO({day}), {day})"),
            Self::BigQuery => format!("DATE_TRUNC({day}, WEEK(MONDAY))"),
            Self::Trino => format!("DATE_TRUNC('week', {day})"),
            Self::ClickHouse => format!("toMonday({day})"),
        }
    }

    /// Now.
    pub(super) fn now(self) -> &'static str {
        match self {
            Self::DuckDb => "NOW()",
            Self::Snowflake | Self::BigQuery | Self::Spark => "CURRENT_TIMESTAMP()",
            Self::Trino => "CURRENT_TIMESTAMP",
            Self::ClickHouse => "now64(6, 'UTC')",
        }
    }

    /// A moment some days later, or earlier.
    fn shifted(self, moment: &str, days: u32, sign: char) -> String {
        match self {
            Self::DuckDb => format!("{moment} {sign} INTERVAL {days} DAY"),
            Self::Spark => format!("{moment} {sign} INTERVAL {days} DAYS"),
            Self::ClickHouse => format!("{moment} {sign} INTERVAL {days} DAY"),
            Self::Trino => format!("{moment} {sign} INTERVAL '{days}' DAY"),
            Self::Snowflake if sign == '-' => format!("DATEADD('day', -{days}, {moment})"),
            Self::Snowflake => format!("DATEADD('day', {days}, {moment})"),
            Self::BigQuery if sign == '-' => format!("TIMESTAMP_SUB({moment}, INTERVAL {days} DAY)"),
            Self::BigQuery => format!("TIMESTAMP_ADD({moment}, INTERVAL {days} DAY)"),
        }
    }

    /// Some days ago.
    pub(super) fn days_ago(self, days: u32) -> String {
        self.shifted(self.now(), days, '-')
    }

    /// Some days after a moment.
    pub(super) fn days_after(self, moment: &str, days: u32) -> String {
        self.shifted(moment, days, '+')
    }

    /// Whole weeks between two Mondays.
    pub(super) fn weeks_between(self, from: &str, to: &str) -> String {
        match self {
            Self::DuckDb | Self::Trino => format!("DATE_DIFF('week', {from}, {to})"),
            Self::Snowflake => format!("CAST(DATEDIFF('day', {from}, {to}) / 7 AS INT)"),
            Self::BigQuery => format!("DIV(DATE_DIFF({to}, {from}, DAY), 7)"),
            Self::Spark => format!("CAST(DATEDIFF({to}, {from}) / 7 AS INT)"),
            Self::ClickHouse => format!("intDiv(dateDiff('day', {from}, {to}), 7)"),
        }
    }

    /// Seconds between two moments.
    pub(super) fn seconds_between(self, from: &str, to: &str) -> String {
        match self {
            Self::DuckDb | Self::Trino => format!("DATE_DIFF('second', {from}, {to})"),
            Self::Snowflake => format!("DATEDIFF('second', {from}, {to})"),
            Self::BigQuery => format!("TIMESTAMP_DIFF({to}, {from}, SECOND)"),
            Self::Spark => format!("(UNIX_SECONDS({to}) - UNIX_SECONDS({from}))"),
            Self::ClickHouse => format!("dateDiff('second', {from}, {to})"),
        }
    }

    /// A part of a whole in percent, with one digit behind the point; null where the whole is nothing.
    pub(super) fn percent(self, part: &str, whole: &str) -> String {
        match self {
            // The product of a decimal literal and a count would be a decimal of one digit there.
            Self::Trino => format!("ROUND(1e2 * {part} / NULLIF({whole}, 0), 1)"),
            _ => format!("ROUND(100.0 * {part} / NULLIF({whole}, 0), 1)"),
        }
    }

    /// What stands at the end of a query with an outer join.
    pub(super) fn after_outer_join(self) -> &'static str {
        match self {
            // Without it, what the other side lacks is zero or the epoch, and not null.
            Self::ClickHouse => "\nSETTINGS join_use_nulls = 1",
            _ => "",
        }
    }
}
