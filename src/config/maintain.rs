//! The section `[maintain]`: how often tables are cared for, and what is kept for how long.
//!
//! Owns: its keys, their defaults and messages. Does not own: what a run does (`maintain`); a table's retention (`tables`).

use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::raw::problem;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Longer than any retention is worth waiting for, and far from what a timer cannot count.
const INTERVAL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Section `maintain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintainConfig {
    /// About how long `esker serve` waits between two runs; None: it never runs.
    pub interval: Option<Duration>,
    /// A snapshot is expired once it has not been the newest for this long.
    pub snapshots_min_age: Duration,
    /// The newest snapshots that are kept whatever their age.
    pub snapshots_min_count: u64,
    /// Files that nothing names are deleted once they are this old.
    pub orphans_min_age: Duration,
    /// A metadata file is deleted once it has not been the newest for this long.
    pub metadata_min_age: Duration,
    /// The newest metadata files that are kept whatever their age.
    pub metadata_min_count: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMaintain {
    #[serde(with = "humantime_serde")]
    interval: Duration,
    #[serde(with = "humantime_serde")]
    snapshots_min_age: Duration,
    snapshots_min_count: u64,
    #[serde(with = "humantime_serde")]
    orphans_min_age: Duration,
    #[serde(with = "humantime_serde")]
    metadata_min_age: Duration,
    metadata_min_count: u64,
}

impl Default for RawMaintain {
    fn default() -> Self {
        Self {
            interval: HOUR,
            snapshots_min_age: HOUR * 24,
            snapshots_min_count: 10,
            orphans_min_age: HOUR * 24 * 3,
            metadata_min_age: HOUR * 24,
            metadata_min_count: 100,
        }
    }
}

impl RawMaintain {
    pub(super) fn validate(self) -> Result<MaintainConfig, ConfigError> {
        let interval = (self.interval > Duration::ZERO).then_some(self.interval);
        if interval.is_some_and(|interval| interval < Duration::from_secs(1)) {
            return Err(problem("maintain.interval", "the least is 1s; \"0s\" switches the schedule off"));
        }
        if interval.is_some_and(|interval| interval > INTERVAL_MAX) {
            return Err(problem("maintain.interval", "the most is 365d; \"0s\" switches the schedule off"));
        }
        if self.snapshots_min_count == 0 {
            return Err(problem("maintain.snapshots_min_count", "the least is 1: the newest always stays"));
        }
        if self.metadata_min_count < 10 {
            return Err(problem(
                "maintain.metadata_min_count",
                "the least is 10: readers and writers look for the newest version near the hint",
            ));
        }
        if self.orphans_min_age < HOUR * 48 {
            return Err(problem(
                "maintain.orphans_min_age",
                "the least is 2d: a younger file may wait for its commit, which a writer tries for a day",
            ));
        }
        if self.metadata_min_age < HOUR {
            return Err(problem(
                "maintain.metadata_min_age",
                "the least is 1h: readers and writers may be at work with a younger one",
            ));
        }
        Ok(MaintainConfig {
            interval,
            snapshots_min_age: self.snapshots_min_age,
            snapshots_min_count: self.snapshots_min_count,
            orphans_min_age: self.orphans_min_age,
            metadata_min_age: self.metadata_min_age,
            metadata_min_count: self.metadata_min_count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(section: &str) -> Result<MaintainConfig, ConfigError> {
        Config::from_toml(&format!("[maintain]\n{section}")).map(|config| config.maintain)
    }

    #[test]
    fn every_key_has_a_default_and_is_read() {
        let config = read("").unwrap();
        assert_eq!(config.interval, Some(HOUR));
        assert_eq!((config.snapshots_min_age, config.snapshots_min_count), (HOUR * 24, 10));
        assert_eq!((config.orphans_min_age, config.metadata_min_count), (HOUR * 72, 100));
        let config = read(
            "interval = '5m'\nsnapshots_min_age = '0s'\nsnapshots_min_count = 1\norphans_min_age = '2d'\n\
             metadata_min_age = '2h'\nmetadata_min_count = 10",
        )
        .unwrap();
        assert_eq!(config.interval, Some(Duration::from_secs(300)));
        assert_eq!((config.snapshots_min_age, config.snapshots_min_count), (Duration::ZERO, 1));
        assert_eq!((config.metadata_min_age, config.metadata_min_count), (HOUR * 2, 10));
    }

    #[test]
    fn the_schedule_can_be_switched_off() {
        assert_eq!(read("interval = '0s'").unwrap().interval, None);
    }

    #[test]
    fn what_would_endanger_a_table_is_refused() {
        for (section, key) in [
            ("interval = '10ms'", "maintain.interval"),
            ("interval = '1000000000000y'", "maintain.interval"),
            ("interval = '366d'", "the most is 365d"),
            ("snapshots_min_count = 0", "maintain.snapshots_min_count"),
            ("metadata_min_count = 1", "maintain.metadata_min_count"),
            ("orphans_min_age = '47h'", "maintain.orphans_min_age"),
            ("metadata_min_age = '1s'", "maintain.metadata_min_age"),
            ("snapshot_min_age = '1s'", "snapshot_min_age"),
        ] {
            let text = read(section).unwrap_err().to_string();
            assert!(text.contains(key), "{text}");
        }
    }
}
