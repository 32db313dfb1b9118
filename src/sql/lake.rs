//! Where the tables are, and who knows which metadata file is the newest.
//!
//! Owns: the input that a caller fills from its configuration. Does not own: the configuration, or what an engine needs to be told.

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lake {
    /// Who knows the newest metadata.
    pub catalog: Catalog,
    /// What an engine needs to know of the store, besides its credentials.
    pub storage: Storage,
    /// The table of events.
    pub events: LakeTable,
    /// The table of what was set aside, where it is kept.
    pub quarantine: Option<LakeTable>,
    /// The table of withdrawals of consent, where it is kept.
    pub withdrawals: Option<LakeTable>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeTable {
    /// `namespace.table`.
    pub name: String,
    /// The table's folder: `file:///srv/warehouse/product/events`, `s3://bucket/prefix/product/events`, `gs://...`.
    pub location: String,
    /// The newest metadata file below it, such as `metadata/v12.metadata.json`, where it is known. Engines that follow no
    /// catalog are given a single file.
    pub metadata: Option<String>,
}

/// Who knows the newest metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Catalog {
    /// The table's folder itself: `metadata/version-hint.text`.
    Files,
    /// An Iceberg REST catalog.
    Rest {
        /// Its address.
        uri: String,
        /// The warehouse that it is asked for.
        warehouse: Option<String>,
        /// How one signs in.
        auth: Auth,
    },
}

/// How one signs in at a REST catalog. Never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// With a token.
    Bearer,
    /// With OAuth2 client credentials.
    OAuth2 {
        /// Where tokens are made; the catalog's own end point where it is not given.
        server_uri: Option<String>,
        /// The scope.
        scope: Option<String>,
    },
    /// With AWS's signature, as Glue and S3 Tables want it.
    SigV4 {
        /// `glue` or `s3tables`.
        service: String,
        /// The region.
        region: Option<String>,
    },
    /// With Google's credentials, as BigLake wants it.
    Google,
}

/// What an engine needs to know of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// An address other than the cloud's own, for S3's relatives.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The bucket stands in the path and not in the host's name.
    pub path_style: bool,
}

impl LakeTable {
    /// The namespace and the table's own name.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.name.split_once('.').unwrap_or(("", &self.name))
    }

    /// The newest metadata file, or a placeholder for it.
    pub(super) fn metadata_file(&self) -> &str {
        self.metadata.as_deref().unwrap_or("metadata/v<N>.metadata.json")
    }

    /// The location's scheme.
    pub(super) fn store(&self) -> Store {
        match self.location.split_once("://") {
            Some(("s3" | "s3a", _)) => Store::S3,
            Some(("gs", _)) => Store::Gcs,
            _ => Store::Local,
        }
    }

    /// The bucket of an object store's location and the key behind it.
    pub(super) fn bucket(&self) -> (&str, &str) {
        let rest = self.location.split_once("://").map_or(self.location.as_str(), |(_, rest)| rest);
        rest.split_once('/').unwrap_or((rest, ""))
    }

    /// The location as a path of the local file system.
    pub(super) fn path(&self) -> &str {
        self.location.strip_prefix("file://").unwrap_or(&self.location)
    }

    /// The warehouse's location: the table's without namespace and name.
    pub(super) fn warehouse(&self) -> &str {
        let (namespace, table) = self.parts();
        self.location
            .strip_suffix(table)
            .and_then(|rest| rest.strip_suffix('/'))
            .and_then(|rest| rest.strip_suffix(namespace))
            .map_or(self.location.as_str(), |rest| rest.trim_end_matches('/'))
    }
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Local,
    S3,
    Gcs,
}

impl Lake {
    /// Every table, the one of events first.
    pub(super) fn tables(&self) -> impl Iterator<Item = &LakeTable> {
        [Some(&self.events), self.quarantine.as_ref(), self.withdrawals.as_ref()].into_iter().flatten()
    }
}
