//! Clocks that were ahead and step back: every kind of commit goes on, and nobody finds a table that cannot be read.

use super::*;
use crate::clock::FixedClock;

const AHEAD_MS: i64 = 600_000;

async fn open_at(options: &TableOptions, columns: &[TableColumn], ahead_ms: i64) -> Table {
    let clock = Arc::new(FixedClock::at(SystemClock.now_micros() + ahead_ms * 1000));
    Table::open_or_create(options, columns, clock, Arc::new(RandomIds)).await.unwrap()
}

/// The time of the table, as every reader finds it.
async fn read_ms(folder: &std::path::Path) -> i64 {
    Table::peek(&options(folder)).await.unwrap().unwrap().0.metadata.last_updated_ms()
}

#[tokio::test]
async fn every_kind_of_commit_goes_on_where_the_table_is_ahead_of_the_clock() {
    for kind in ["position", "append", "expiry", "removal", "fence", "retention", "schema"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut options, mut columns) = (options(folder.path()), columns());
        let writer = RandomIds.next_id();
        let ahead = open_at(&options, &columns, AHEAD_MS).await;
        for position in 1..=3 {
            append(&ahead, &[20_000], &claim(writer, 1, position, position)).await.unwrap();
        }
        let before_ms = read_ms(folder.path()).await;
        assert!(before_ms > SystemClock.now_micros() / 1000 + AHEAD_MS / 2);
        let table = open_at(&options, &columns, 0).await;
        match kind {
            "position" => {
                table.append(&[], &claim(writer, 1, 4, 4), &BTreeMap::new()).await.map(drop).unwrap();
            }
            "append" => append(&table, &[20_000], &claim(writer, 1, 4, 4)).await.map(drop).unwrap(),
            "expiry" => {
                let old = |history: &History| {
                    let ids = history.snapshots.iter().map(|one| one.id);
                    ids.filter(|id| Some(*id) != history.current).collect()
                };
                let expired = table.expire(&old, &mut table.needs_nothing_yet()).await.unwrap();
                assert_eq!(expired.snapshots.len(), 2);
            }
            "removal" => {
                let removed = table.remove_files(&|_| true, &BTreeMap::new()).await.unwrap();
                assert_eq!(removed.files, 3);
            }
            "fence" => table.fence_orphans(7).await.unwrap(),
            "retention" => {
                options.retention_days = Some(9);
                open_at(&options, &columns, 0).await;
            }
            _ => {
                columns.push(column("another", ColumnType::Long, false));
                open_at(&options, &columns, 0).await;
            }
        }
        let version = status(folder.path()).await.metadata_version;
        assert_eq!(version, 5, "{kind}: one more");
        assert!(read_ms(folder.path()).await >= before_ms, "{kind}");
        // And on, with the one before in its log.
        let table = open_at(&options, &columns, 0).await;
        let (_, position) = table.writer_position(writer).unwrap();
        let next = position.0 + 1;
        table.append(&[], &claim(writer, 1, next, next), &BTreeMap::new()).await.unwrap();
        append(&table, &[20_000], &claim(writer, 1, next + 1, next + 1)).await.unwrap();
        let peek = Table::peek(&options).await.unwrap().unwrap();
        let metadata = &peek.0.metadata;
        assert_eq!((peek.0.version, metadata.metadata_log().len()), (7, 6), "{kind}");
        let times: Vec<_> = metadata.metadata_log().iter().map(|entry| entry.timestamp_ms).collect();
        assert!(times.is_sorted_by(|earlier, later| later - earlier > -1000), "{kind}: {times:?}");
        assert!(metadata.snapshots().all(|one| one.timestamp_ms() >= before_ms), "{kind}");
    }
}
