//! The keyring: what is written is read again, only by its owner; rotation keeps, destruction destroys.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|place| first + place as u8)
}

fn ring() -> Keyring {
    Keyring::from_secrets(&counting(0x40), &counting(0), &counting(0x20))
}

/// Everything that can be derived, for the given tenants.
fn derived(ring: &Keyring, tenants: &[String]) -> Vec<Option<[u8; 32]>> {
    let identity = std::iter::once(Some(ring.identity("event-id").mac(b"7")));
    let shared = ring.keys().map(|key| Some(key.derive("warehouse").mac(b"7")));
    let of_tenants = ring.keys().flat_map(|key| {
        tenants.iter().map(|tenant| key.derive_tenant(tenant, "warehouse").ok().map(|key| key.mac(b"7")))
    });
    identity.chain(shared).chain(of_tenants).collect()
}

fn reread(ring: &Keyring) -> Keyring {
    Keyring::parse(&ring.to_text(), "the test").unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_created_file_is_private_and_gives_the_same_ring_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/keys");
    let made = Keyring::load_or_create(&path, 1_700_000_000_000_000).unwrap();
    let again = Keyring::load_or_create(&path, 0).unwrap();
    let tenants = ["a".to_owned()];
    assert_eq!(derived(&made, &tenants), derived(&again, &tenants));
    assert_eq!(again.active().created().to_string(), "2023-11-14T22:13:20Z");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(path.parent().unwrap()), ["keys"], "no draft is left behind");
}

#[test]
fn creators_at_the_same_time_get_one_ring() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let rings: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Keyring::load_or_create(&path, 0).unwrap())).collect();
        running.into_iter().map(|thread| derived(&thread.join().unwrap(), &["a".to_owned()])).collect()
    });
    assert!(rings.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(names(directory.path()), ["keys"]);
}

#[test]
fn a_file_that_others_may_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    Keyring::create(&path, 0).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let message = Keyring::load(&path).unwrap_err().to_string();
        assert!(message.contains("chmod 600"), "{message}");
        assert!(matches!(Keyring::edit(&path, |_| Ok(())), Err(SecretError::Permissions { .. })));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    Keyring::load(&path).unwrap();
}

#[test]
fn a_missing_file_is_told_apart_and_not_created_by_reading_or_changing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    assert!(matches!(Keyring::load(&path), Err(SecretError::Missing { .. })));
    assert!(matches!(Keyring::edit(&path, |_| Ok(())), Err(SecretError::Missing { .. })));
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_ring_is_never_overwritten_by_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    Keyring::create(&path, 0).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(Keyring::create(&path, 0), Err(SecretError::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_change_replaces_the_file_and_removes_what_a_killed_change_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    Keyring::create(&path, 0).unwrap();
    std::fs::write(directory.path().join(".esker-keys-aaaaaaaa.tmp"), "half").unwrap();
    std::fs::write(directory.path().join("other.tmp"), "not ours").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let active = Keyring::edit(&link, |ring| ring.rotate(0).map(|key| key.id().clone())).unwrap();
    assert_eq!(Keyring::load(&path).unwrap().active().id(), &active, "the link's target was changed");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        BTreeSet::from_iter(names(directory.path())),
        ["keys", "link", "other.tmp"].map(String::from).into()
    );
}

#[test]
fn a_change_that_fails_changes_nothing_and_one_at_a_time_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    Keyring::create(&path, 0).unwrap();
    let before = std::fs::read(&path).unwrap();
    let outcome = Keyring::edit(&path, |ring| {
        ring.rotate(0)?;
        assert!(matches!(Keyring::edit(&path, |_| Ok(())), Err(SecretError::Busy { .. })));
        ring.destroy_key("aaaaaaaa")
    });
    assert!(matches!(outcome, Err(SecretError::NoSuchKey { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    Keyring::edit(&path, |_| Ok(())).unwrap();
}

#[test]
fn rotation_keeps_the_old_keys_the_identity_and_the_destructions() {
    let tenants = ["a", "b"].map(str::to_owned);
    let mut ring = ring();
    ring.destroy_tenant("b").unwrap();
    let before = derived(&ring, &tenants);
    let id = ring.active().id().clone();
    let now = 1_700_000_000_000_000;
    ring.rotate(now).unwrap();
    let ring = reread(&ring);
    let after = derived(&ring, &tenants);
    assert_eq!(ring.keys().count(), 2);
    assert_ne!(ring.active().id(), &id);
    assert_eq!(ring.keys().nth(1).unwrap().id(), &id);
    assert_eq!(before[0], after[0], "the identity");
    assert_ne!(before[1], after[1], "the active key's");
    assert_eq!(before[1], after[2], "the old key's");
    assert_eq!(after[4], None, "a destroyed tenant stays destroyed under the new key");
    assert_eq!(after[3].is_some(), before[2].is_some());
    assert_eq!(before[2], after[5]);
}

#[test]
fn only_old_keys_can_be_destroyed() {
    let mut ring = ring();
    let first = ring.active().id().clone();
    assert!(matches!(ring.destroy_key(first.as_str()), Err(SecretError::ActiveKey { .. })));
    ring.rotate(0).unwrap();
    assert!(matches!(ring.destroy_key("aaaaaaaa"), Err(SecretError::NoSuchKey { .. })));
    ring.destroy_key(first.as_str()).unwrap();
    assert_eq!(ring.keys().count(), 1);
    for _ in 1..KEYS_MAX {
        ring.rotate(0).unwrap();
    }
    assert!(matches!(ring.rotate(0), Err(SecretError::Full { .. })));
    assert_eq!(reread(&ring).keys().count(), KEYS_MAX);
}

#[test]
fn a_destruction_reaches_every_key_once_and_names_nobody() {
    let mut ring = ring();
    ring.rotate(0).unwrap();
    assert!(ring.holds_tenant("Acme Corporation"));
    assert_eq!(ring.destroy_tenant("Acme Corporation").unwrap(), 2);
    assert_eq!(ring.destroy_tenant("Acme Corporation").unwrap(), 0);
    assert!(!ring.holds_tenant("Acme Corporation"));
    assert!(ring.keys().all(|key| key.destroyed_tenants() == 1 && key.tree().nodes().len() == 64));
    assert!(ring.keys().all(|key| key.tree().gaps() == [tree::path("Acme Corporation")]));
    assert!(!ring.to_text().contains("Acme"));
}

#[test]
fn a_full_tree_destroys_no_more_and_says_so() {
    // All but the leaves below one node at depth 50: as many as can be destroyed.
    let nodes = (1..=50).map(|depth| tree::Node {
        depth,
        prefix: 1 << (64 - depth),
        seed: Secret::new(&counting(9)),
    });
    let nodes: Vec<_> = nodes.rev().collect();
    let tree = tree::Tree::from_nodes(nodes.clone()).unwrap();
    assert_eq!(tree.destroyed(), DESTROYED_MAX);
    let active = MasterKey::new(jiff::Timestamp::UNIX_EPOCH, Secret::new(&counting(0)), tree);
    let mut ring = Keyring::from_parts(Secret::new(&counting(9)), active, Vec::new()).unwrap();
    assert!(matches!(ring.destroy_tenant("42"), Err(SecretError::Full { .. })));
    assert!(ring.holds_tenant("42"));
    assert!(tree::Tree::from_nodes(nodes[1..].to_vec()).is_err(), "a node was lost");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn destroyed_tenants_are_gone_and_all_others_keep_their_keys(
        destroyed in proptest::collection::vec(0..12_u32, 0..8),
        saved in any::<bool>(),
    ) {
        let tenants: Vec<String> = (0..12).map(|tenant| tenant.to_string()).collect();
        let mut ring = ring();
        ring.rotate(0).unwrap();
        let before = derived(&ring, &tenants);
        for tenant in &destroyed {
            ring.destroy_tenant(&tenant.to_string()).unwrap();
            if saved {
                ring = reread(&ring);
            }
        }
        let distinct: BTreeSet<_> = destroyed.into_iter().collect();
        let first_of_tenants = 1 + ring.keys().count();
        for (place, (was, is)) in before.iter().zip(derived(&ring, &tenants)).enumerate() {
            let tenant = place.checked_sub(first_of_tenants).map(|place| place as u32 % 12);
            let expected = if tenant.is_some_and(|tenant| distinct.contains(&tenant)) { &None } else { was };
            prop_assert_eq!(&is, expected);
        }
        prop_assert!(ring.keys().all(|key| key.destroyed_tenants() == distinct.len() as u64));
    }

    #[test]
    fn any_two_leaves_however_close_are_destroyed_apart(path in any::<u64>(), distance in 0..64_u32) {
        let near = path ^ (1 << distance);
        let mut tree = tree::Tree::new(Secret::new(&counting(9)));
        let before = tree.leaf(near).unwrap();
        prop_assert!(tree.puncture(path) && !tree.puncture(path));
        prop_assert_eq!(tree.leaf(path).err(), Some(Destroyed));
        prop_assert_eq!(&tree.leaf(near).unwrap().0, &before.0);
        prop_assert!(tree.puncture(near));
        prop_assert_eq!(BTreeSet::from_iter(tree.gaps()), BTreeSet::from([path, near]));
        let tree = tree::Tree::from_nodes(tree.nodes().to_vec()).unwrap();
        prop_assert_eq!(tree.destroyed(), 2);
    }
}

#[test]
fn what_is_left_of_a_tree_cannot_reach_the_destroyed_leaf() {
    let mut tree = tree::Tree::new(Secret::new(&counting(9)));
    let path = tree::path("42");
    let leaf = tree.leaf(path).unwrap();
    tree.puncture(path);
    for node in tree.nodes() {
        assert_ne!(node.prefix, path & node.prefix_mask(), "no node above the leaf is kept");
        assert_ne!(node.seed.0, leaf.0);
    }
}

/// A ring's text whose check was made to match, so that what lies behind it is met.
fn with_check(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let body: String = lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect();
    use sha2::Digest as _;
    let sum: String = Sha256::digest(&body).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{body}check {sum}\n")
}

#[test]
fn broken_rings_are_refused_without_showing_them() {
    let mut ring = ring();
    ring.destroy_tenant("42").unwrap();
    ring.rotate(0).unwrap();
    let text: String = ring
        .to_text()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(with_check(&text), text, "the check is as documented");
    let id = ring.active().id().as_str().to_owned();
    let secrets: Vec<_> =
        text.lines().filter_map(|line| line.rsplit(' ').next()).filter(|word| word.len() == 44).collect();
    assert!(secrets.len() > 100);
    let node = text.lines().find(|line| line.starts_with("node 1 ")).unwrap();
    let doubled = format!("{node}\n{node}");
    let broken = [
        (String::new(), "empty"),
        ("# only a comment".to_owned(), "empty"),
        (secrets[0].to_owned(), "begin with"),
        (text.replace("esker-keys-1", "esker-keys-9"), "begin with"),
        (text[..text.len() / 2].to_owned(), ""),
        (text.trim_end().rsplit_once('\n').unwrap().0.to_owned(), "end is missing"),
        (text.replacen("check ", "check 0", 1), "check"),
        (text.replace("1970-01-01", "1970-01-02"), "check"),
        (format!("{text}more"), "check"),
        (with_check(&text.replace(&format!("key {id}"), "key aaaaaaaa")), "another key"),
        (with_check(&text.replace(" active ", " old ")), "active"),
        (with_check(&text.replace(" old ", " active ")), "active"),
        (with_check(&text.replace("identity ", "identity  x ")), "32 bytes"),
        (with_check(&text.replace("identity ", "unknown ")), "not known"),
        (with_check(&text.replace(secrets[0], "AAAA")), "32 bytes"),
        (with_check(&text.replace(node, "")), "missing"),
        (with_check(&text.replace(node, &doubled)), "overlap"),
        (with_check(&text.replace("node 1 ", "node 65 ")), "no place"),
        (with_check(&text.replace(node, &format!("{node} more"))), "too long"),
        (with_check(&text.replace("1970-01-01T00:00:00Z", "yesterday")), "time"),
        ("esker-keys-1\nnode 0 0 AAAA\n".to_owned(), "no key"),
    ];
    for (broken, said) in broken {
        let message = Keyring::parse(&broken, "the test").expect_err(said).to_string();
        assert!(message.contains(said), "{said}: {message}");
        assert!(secrets.iter().all(|secret| !message.contains(&secret[..8])), "{message}");
    }
}

#[test]
fn white_space_at_the_ends_of_lines_means_nothing() {
    let text = ring().to_text().replace('\n', " \r\n\r\n  ");
    assert_eq!(derived(&Keyring::parse(&text, "the test").unwrap(), &[]), derived(&ring(), &[]));
}

#[test]
fn a_ring_that_is_too_long_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    Keyring::create(&path, 0).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(RING_BYTES_MAX as u64 + 1).unwrap();
    assert!(Keyring::load(&path).unwrap_err().to_string().contains("longer"));
}

fn shell(script: &str) -> Result<Keyring, SecretError> {
    command::run("sh", &["-c".to_owned(), script.to_owned()], Duration::from_secs(5), 100_000)
}

#[test]
fn a_program_can_give_the_ring() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let made = Keyring::create(&path, 0).unwrap();
    let read = Keyring::from_command("cat", &[path.display().to_string()]).unwrap();
    assert_eq!(derived(&read, &[]), derived(&made, &[]));
}

#[test]
fn a_program_that_fails_hangs_or_prints_no_ring_is_told_without_its_output() {
    for (script, said) in [
        ("echo hunter2; echo hunter2 >&2; exit 3", "exit status: 3"),
        ("echo hunter2", "begin with"),
        ("exec >&-; sleep 60", "did not end"),
        ("head -c 200000 /dev/zero; sleep 60", "more than 100000 bytes"),
        ("kill -9 $$", "signal"),
    ] {
        let message = shell(script).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("sh"), "{script}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let hang =
        command::run("sh", &["-c".to_owned(), "sleep 60 & wait".to_owned()], Duration::from_millis(200), 100);
    assert!(hang.unwrap_err().to_string().contains("longer than 0.2 s"));
    let missing = Keyring::from_command("/no/such/program", &[]).unwrap_err().to_string();
    assert!(missing.contains("/no/such/program") && missing.contains("cannot be started"), "{missing}");
}

#[test]
fn derivation_equals_hkdf_and_hmac_computed_elsewhere() {
    // Computed with Python's hmac and hashlib; docs/pseudonyms.md has the recipe and more vectors.
    assert_eq!(ring().active().id().as_str(), "a2lvxkk5");
    let hex = |mac: [u8; 32]| mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shared = ring().active().derive("warehouse").mac(b"7");
    assert_eq!(hex(shared), "832e62994d959f098de871f569736bad0362660306bad7d02a1c41bc0850993b");
}

#[test]
fn purposes_and_tenants_give_unrelated_keys() {
    let ring = ring();
    let key = ring.active();
    let of_tenant = |tenant, purpose| key.derive_tenant(tenant, purpose).unwrap().mac(b"7");
    let all = [
        key.derive("warehouse").mac(b"7"),
        key.derive("amplitude").mac(b"7"),
        of_tenant("1", "warehouse"),
        of_tenant("1", "amplitude"),
        of_tenant("2", "warehouse"),
        of_tenant("", "warehouse"),
        ring.identity("warehouse").mac(b"7"),
    ];
    assert_eq!(BTreeSet::from(all).len(), all.len());
}

#[test]
fn remembered_tenant_keys_are_the_derived_ones_and_are_bounded() {
    let mut ring = ring();
    ring.destroy_tenant("13").unwrap();
    let keys = PurposeKeys::new(ring.active(), "warehouse");
    for _ in 0..2 {
        for tenant in (0..20).map(|tenant| tenant.to_string()) {
            let derived = ring.active().derive_tenant(&tenant, "warehouse").map(|key| key.mac(b"7"));
            assert_eq!(keys.mac(Some(&tenant), b"7"), derived);
            assert_eq!(derived.is_err(), tenant == "13");
        }
    }
    assert_eq!(keys.remembered(), 19);
    assert_eq!(keys.mac(None, b"7"), Ok(ring.active().derive("warehouse").mac(b"7")));
}

#[test]
fn thousands_of_tenants_on_many_threads_stay_within_the_limit() {
    let keys = PurposeKeys::new(ring().active(), "warehouse");
    let first = keys.mac(Some("0"), b"7").unwrap();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let keys = &keys;
            scope.spawn(move || {
                (start * 1500..start * 1500 + 2000).for_each(|tenant: u32| {
                    keys.mac(Some(&tenant.to_string()), b"7").unwrap();
                })
            });
        }
    });
    let remembered = keys.remembered();
    assert!((2048..=4096).contains(&remembered), "{remembered}");
    assert_eq!(keys.mac(Some("0"), b"7"), Ok(first));
}

#[test]
fn debug_shows_no_key_material() {
    let mut ring = ring();
    ring.rotate(0).unwrap();
    let key = ring.keys().nth(1).unwrap();
    let shown = format!(
        "{ring:?} {key:?} {:?} {:?} {:?} {:?} {:#?}",
        key.derive("warehouse"),
        key.shared(),
        key.tree(),
        PurposeKeys::new(key, "warehouse"),
        ring.identity("x").start(),
    );
    assert!(shown.contains("a2lvxkk5"), "{shown}");
    for leak in ["1, 2, 3", "33, 34, 35", "[", "AAECAw"] {
        let leaked = shown.replace("old: [MasterKey", "").replace("nodes: [Node", "").contains(leak);
        assert!(!leaked, "{leak}: {shown}");
    }
}
