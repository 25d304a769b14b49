//! Imports go one way: standalone and e2e to the services, the services to common.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

#[test]
fn imports_go_one_way() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let members: BTreeSet<String> =
        metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let imports: BTreeMap<&str, BTreeSet<&str>> = metadata
        .packages
        .iter()
        .map(|package| {
            let normal = package.dependencies.iter().filter(|needed| needed.kind == DependencyKind::Normal);
            let ours = normal.map(|needed| needed.name.as_str()).filter(|name| members.contains(*name));
            (package.name.as_str(), ours.collect())
        })
        .collect();
    assert_eq!(imports["common"], BTreeSet::new());
    for service in
        ["gateway", "user_manager", "data_collector", "alert_system", "notifier_system", "opensky_replay"]
    {
        assert_eq!(imports[service], BTreeSet::from(["common"]), "{service}");
    }
    for (name, imported) in &imports {
        assert!(!imported.contains("e2e") && !imported.contains("standalone"), "{name} imports {imported:?}");
    }
}
