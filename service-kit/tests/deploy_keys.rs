//! Whatever the files of `deploy/` and their guide set is a key of the configuration: a process refuses to start with one that does not exist.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use asobi_service_kit::config::{ConfigArgs, DEFAULT_TOML, load_from};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The variables that a text names, outside lines that are comments: those may tell of variables that are none.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(|line| line.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_'))
        .filter(|word| word.strip_prefix("ASOBI_").is_some_and(|key| !key.is_empty()))
}

#[test]
fn every_variable_of_the_files_is_a_key() {
    let defaults: toml::Table = DEFAULT_TOML.parse().unwrap();
    let keys: Vec<String> = defaults
        .iter()
        .flat_map(|(section, keys)| keys.as_table().unwrap().keys().map(move |key| format!("ASOBI_{section}_{key}")))
        .map(|name| name.to_uppercase())
        .collect();
    let mut paths = vec![root().join("docs/deploy.md")];
    files(&root().join("deploy"), &mut paths);

    let (mut known, mut wrong) = (0, Vec::new());
    for path in paths {
        // Pictures and the like have no variables.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for name in variables(&text) {
            // Those that are no key and are right all the same, such as ASOBI_CONFIG, are passed over by the configuration itself.
            let right = keys.iter().any(|key| key == name)
                || load_from(&ConfigArgs::default(), [(name.to_owned(), String::new())]).is_ok();
            if right {
                known += 1;
            } else {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no keys of the configuration:\n{}", wrong.join("\n"));
    assert!(known > 60, "only {known} were found: are the files elsewhere?");
}

#[test]
fn every_process_of_the_examples_would_start_with_what_it_is_given() {
    let etc = root().join("deploy/systemd/etc");
    let environment = |name: &str| -> BTreeMap<String, String> {
        let text = fs::read_to_string(etc.join(name)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let config = |file: PathBuf| ConfigArgs { config: Some(file), ..ConfigArgs::default() };
    for service in ["gateway", "match-service", "matchmaker", "social-service"] {
        let mut given = environment("database.env");
        given.extend(environment(&format!("{service}.env")));
        let loaded = load_from(&config(etc.join("asobi.toml")), given).unwrap_or_else(|e| panic!("{service}: {e}"));
        assert!(loaded.node.id.ends_with("-1") && loaded.grpc.advertise.starts_with("10.0.0.11:"), "{service}");
    }
    load_from(&config(etc.join("asobi.toml")), environment("migrate.env")).unwrap();
    load_from(&config(root().join("deploy/kubernetes/base/asobi.toml")), []).unwrap();
}
