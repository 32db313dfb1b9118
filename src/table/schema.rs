//! The table's shape: columns to an Iceberg schema, the partition and the sort order, and how a schema may change.
//!
//! Owns: types, field ids, the check that a table is Esker's. Does not own: which columns there are (`columns`).

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{
    FormatVersion, NestedField, NestedFieldRef, NullOrder, PrimitiveType, Schema, SortDirection, SortField,
    SortOrder, TableMetadata, TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
};
use iceberg::{TableCreation, TableRequirement, TableUpdate};

use super::catalog::Loaded;
use super::error::TableError;
use crate::columns::TableColumn;
use crate::datafile::{NAME_COLUMN, TIME_COLUMN};
use crate::registry::ColumnType;

/// The partition field: the UTC day of the event's time.
pub(super) const PARTITION: &str = "event_time_day";

/// The property that records how long rows are to be kept, `90d`.
pub(super) const RETENTION: &str = "esker.retention";

/// Metadata files that the metadata log names.
const PREVIOUS_VERSIONS_MAX: &str = "100";

fn iceberg_type(ty: ColumnType) -> PrimitiveType {
    match ty {
        ColumnType::String => PrimitiveType::String,
        ColumnType::Long => PrimitiveType::Long,
        ColumnType::Double => PrimitiveType::Double,
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Timestamp => PrimitiveType::Timestamptz,
        ColumnType::Binary => PrimitiveType::Binary,
    }
}

fn field(id: i32, column: &TableColumn, required: bool) -> NestedFieldRef {
    let ty = Type::Primitive(iceberg_type(column.ty));
    Arc::new(NestedField::new(id, &column.name, ty, required).with_doc(&column.doc))
}

/// The metadata of a new, empty table.
pub(super) fn new_table(
    location: &str,
    name: &str,
    columns: &[TableColumn],
) -> Result<TableMetadata, TableError> {
    let fields = columns.iter().zip(1..).map(|(column, id)| field(id, column, column.required));
    let schema = Schema::builder().with_fields(fields).build()?;
    let id = |column: &str| {
        schema.field_id_by_name(column).ok_or_else(|| TableError::Foreign {
            location: location.to_owned(),
            problem: format!("the layout has no column {column}"),
        })
    };
    let (time, event) = (id(TIME_COLUMN)?, id(NAME_COLUMN)?);
    let partition =
        UnboundPartitionSpec::builder().add_partition_field(time, PARTITION, Transform::Day)?.build();
    let sort = |source_id| {
        SortField::builder()
            .source_id(source_id)
            .transform(Transform::Identity)
            .direction(SortDirection::Ascending)
            .null_order(NullOrder::First)
            .build()
    };
    let sort_order = SortOrder::builder()
        .with_order_id(1)
        .with_sort_field(sort(event))
        .with_sort_field(sort(time))
        .build(&schema)?;
    let creation = TableCreation::builder()
        .name(name.to_owned())
        .location(location.to_owned())
        .partition_spec(partition)
        .sort_order(sort_order)
        .schema(schema)
        .format_version(FormatVersion::V2)
        .properties(properties())
        .build();
    Ok(TableMetadataBuilder::from_table_creation(creation)?.build()?.metadata)
}

fn properties() -> HashMap<String, String> {
    [
        ("write.format.default", "parquet"),
        ("write.parquet.compression-codec", "zstd"),
        ("write.metadata.compression-codec", "none"),
        ("write.metadata.previous-versions-max", PREVIOUS_VERSIONS_MAX),
        // Engines that delete or update this table must rewrite files: readers of all engines understand that.
        ("write.delete.mode", "copy-on-write"),
        ("write.update.mode", "copy-on-write"),
        ("write.merge.mode", "copy-on-write"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Refuses a table that was not made for Esker.
pub(super) fn check_ours(loaded: &Loaded, columns: &[TableColumn]) -> Result<(), TableError> {
    let metadata = &loaded.metadata;
    let foreign =
        |problem: String| Err(TableError::Foreign { location: metadata.location().to_owned(), problem });
    if metadata.format_version() != FormatVersion::V2 {
        return foreign(format!("its format version is {}, Esker writes 2", metadata.format_version()));
    }
    let schema = metadata.current_schema();
    if let Some(lacking) =
        columns.iter().find(|column| column.required && schema.field_by_name(&column.name).is_none())
    {
        return foreign(format!("it has no column {}", lacking.name));
    }
    let is_ours = |name: &str| columns.iter().any(|column| column.name == name);
    if let Some(demanded) =
        schema.as_struct().fields().iter().find(|field| field.required && !is_ours(&field.name))
    {
        return foreign(format!("it requires the column {}, which Esker does not fill", demanded.name));
    }
    let partition: Vec<_> = metadata
        .default_partition_spec()
        .fields()
        .iter()
        .map(|field| (schema.name_by_field_id(field.source_id), field.transform))
        .collect();
    if partition != [(Some(TIME_COLUMN), Transform::Day)] {
        return foreign(format!("it is not partitioned by day({TIME_COLUMN}) alone"));
    }
    Ok(())
}

/// Refuses a table that somebody altered since it was opened, in a way that rows which wait for it do not fit.
pub(super) fn check_unaltered(loaded: &Loaded, columns: &[TableColumn]) -> Result<(), TableError> {
    let location = || loaded.metadata.location().to_owned();
    let altered = |problem: String| TableError::Altered { location: location(), problem };
    let misfit = check_ours(loaded, columns).err().or_else(|| type_conflicts(loaded, columns).next());
    match misfit {
        Some(TableError::Foreign { problem, .. }) => return Err(altered(problem)),
        Some(other) => return Err(altered(other.to_string())),
        None => {}
    }
    let schema = loaded.metadata.current_schema();
    match columns.iter().find(|column| schema.field_by_name(&column.name).is_none()) {
        Some(lacking) => Err(altered(format!("it has no column {} any more", lacking.name))),
        None => Ok(()),
    }
}

/// A commit that changes the schema or a property, and no rows.
#[derive(Debug)]
pub(super) struct SchemaChange {
    /// What it demands.
    pub(super) requirements: Vec<TableRequirement>,
    /// What it changes.
    pub(super) updates: Vec<TableUpdate>,
}

/// The schema update that adds the columns which the table lacks; None where it lacks none. Columns that are gone from the
/// registry stay, as nulls.
pub(super) fn evolution(
    loaded: &Loaded,
    columns: &[TableColumn],
) -> Result<Option<SchemaChange>, TableError> {
    let metadata = &loaded.metadata;
    let schema = metadata.current_schema();
    let mut fields = schema.as_struct().fields().to_vec();
    let mut next_id = metadata.last_column_id();
    for column in columns {
        match schema.field_by_name(&column.name) {
            Some(existing) => check_type(existing, column)?,
            None => {
                next_id += 1;
                fields.push(field(next_id, column, false));
            }
        }
    }
    if next_id == metadata.last_column_id() {
        return Ok(None);
    }
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: metadata.uuid() },
        TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
        TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() },
    ];
    // Catalogs number schemas themselves; those that do not would take a number that is there for that schema.
    let next_schema_id = metadata.schemas_iter().map(|schema| schema.schema_id()).max().unwrap_or(0) + 1;
    let updates = vec![
        TableUpdate::AddSchema {
            schema: Schema::builder().with_schema_id(next_schema_id).with_fields(fields).build()?,
        },
        // -1 is Iceberg's way to name the schema that the same commit adds.
        TableUpdate::SetCurrentSchema { schema_id: -1 },
    ];
    Ok(Some(SchemaChange { requirements, updates }))
}

/// Every column that has another type in the table.
pub(super) fn type_conflicts<'c>(
    loaded: &'c Loaded,
    columns: &'c [TableColumn],
) -> impl Iterator<Item = TableError> + 'c {
    let schema = loaded.metadata.current_schema();
    columns.iter().filter_map(|column| check_type(schema.field_by_name(&column.name)?, column).err())
}

/// The update that makes the table record the retention in force; None where it does. What is no longer configured is
/// removed: the configuration is what counts.
pub(super) fn retention_change(loaded: &Loaded, days: Option<u32>) -> Option<SchemaChange> {
    let wanted = days.map(|days| format!("{days}d"));
    if loaded.metadata.properties().get(RETENTION) == wanted.as_ref() {
        return None;
    }
    let update = match wanted {
        Some(text) => TableUpdate::SetProperties { updates: [(RETENTION.to_owned(), text)].into() },
        None => TableUpdate::RemoveProperties { removals: vec![RETENTION.to_owned()] },
    };
    let uuid = TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() };
    Some(SchemaChange { requirements: vec![uuid], updates: vec![update] })
}

fn check_type(existing: &NestedField, column: &TableColumn) -> Result<(), TableError> {
    let wanted = Type::Primitive(iceberg_type(column.ty));
    if *existing.field_type == wanted {
        return Ok(());
    }
    Err(TableError::ColumnType {
        column: column.name.clone(),
        in_table: existing.field_type.to_string(),
        in_registry: wanted.to_string(),
    })
}
