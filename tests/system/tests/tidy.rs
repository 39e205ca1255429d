//! The repository's own lint: what the compiler cannot see and reviewers forget.
//!
//! - Crates import only what the table below allows; the arrows point down.
//! - Every crate stands on the map, `docs/design.md`.
//! - A change to a module that lays out bytes is acknowledged in `docs/formats.md` by its hash there.
//! - Files stay readable in length, and what is left to do has an issue.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of ours a crate may import (its dependencies; what its tests import is free, save for [`TESTS_TOO`]).
const IMPORTS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("raft", &["base"]),
    ("txn", &["base"]),
    // docs/decisions/0006-liveness-crate.md
    ("liveness", &["base"]),
    ("env", &["base"]),
    // docs/decisions/0007-placement-crate.md
    ("placement", &["base"]),
    ("log", &["base", "env"]),
    ("storage", &["base", "env"]),
    ("wire", &["base"]),
    ("transport", &["base", "env", "wire"]),
    ("replica", &["base", "raft", "txn", "storage"]),
    // docs/decisions/0006-liveness-crate.md
    (
        "node",
        &[
            "base",
            "env",
            "liveness",
            // docs/decisions/0007-placement-crate.md
            "placement",
            "raft",
            "txn",
            "log",
            "storage",
            "replica",
            "wire",
            "transport",
        ],
    ),
    // docs/decisions/0012-coordinator-in-the-client.md
    ("corelane", &["base", "txn", "wire"]),
    ("runtime", &["base", "env"]),
    // Beyond the house style: base for keys and timestamps, env for addresses, wire for error codes, log and storage for the
    // offline commands `check` and `debug` (docs/decisions/0005-cli-imports.md).
    (
        "cli",
        &[
            "base", "env", "wire", "log", "storage", "corelane", "node", "runtime", "bench",
        ],
    ),
    ("bench", &["base", "wire", "corelane"]),
    (
        "bench-criterion",
        &[
            "base", "env", "wire", "log", "storage", "runtime", "corelane", "bench",
        ],
    ),
    ("process", &["base", "wire", "corelane", "cli"]),
    ("sim", &["base", "env"]),
    (
        "system",
        &[
            "base",
            "env",
            "liveness",
            "raft",
            "txn",
            "log",
            "storage",
            "replica",
            "node",
            "wire",
            "transport",
            "corelane",
            "sim",
        ],
    ),
];

/// Crates that must not import another one even in their tests.
const TESTS_TOO: &[(&str, &str)] = &[
    ("sim", "runtime"),
    ("raft", "env"),
    ("liveness", "raft"),
    ("corelane", "runtime"),
];

/// Lines of one file. Half of that is already long.
const LINES_MAX: usize = 900;

/// What [`problems`] collects, so that one run names everything.
type Problems = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace exists")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn verdict(problems: &Problems) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

/// A package of the workspace.
struct Crate {
    /// The name by which the workspace imports it.
    name: String,
    /// The name that the map gives it.
    package: String,
    manifest: toml::Table,
}

fn crates() -> Vec<Crate> {
    let root = root();
    let workspace: toml::Table = read(&root.join("Cargo.toml"))
        .parse()
        .expect("the root manifest parses");
    let members = workspace["workspace"]["members"].as_array().expect("members");
    let mut dirs = Vec::new();
    for member in members {
        let member = member.as_str().expect("a member is a path");
        match member.strip_suffix("/*") {
            None => dirs.push(root.join(member)),
            Some(parent) => dirs.extend(
                fs::read_dir(root.join(parent))
                    .expect(parent)
                    .map(|entry| entry.expect(parent).path()),
            ),
        }
    }
    dirs.sort();
    let open = |dir: PathBuf| {
        let manifest: toml::Table = read(&dir.join("Cargo.toml")).parse().expect("a manifest parses");
        let package = manifest["package"]["name"]
            .as_str()
            .expect("a package has a name")
            .to_owned();
        Crate {
            name: short(&package).to_owned(),
            package,
            manifest,
        }
    };
    dirs.into_iter().map(open).collect()
}

/// The workspace's name for a package: `corelane-log` is `log`; the client keeps `corelane`.
fn short(package: &str) -> &str {
    package.strip_prefix("corelane-").unwrap_or(package)
}

/// The crates of ours in the tables of dependencies whose name ends in `kind`, also those for one target only.
fn imports(manifest: &toml::Table, kind: &str, ours: &[String]) -> Vec<String> {
    let mut tables: Vec<&toml::Table> = manifest
        .get(kind)
        .and_then(|table| table.as_table())
        .into_iter()
        .collect();
    let targets = manifest.get("target").and_then(|targets| targets.as_table());
    for target in targets.into_iter().flat_map(|targets| targets.values()) {
        tables.extend(target.get(kind).and_then(|table| table.as_table()));
    }
    let package = |(name, spec): (&String, &toml::Value)| {
        short(
            spec.get("package")
                .and_then(|package| package.as_str())
                .unwrap_or(name),
        )
        .to_owned()
    };
    tables
        .into_iter()
        .flatten()
        .map(package)
        .filter(|name| ours.contains(name))
        .collect()
}

#[test]
fn crates_import_only_what_lies_below() {
    let crates = crates();
    let ours: Vec<String> = crates.iter().map(|krate| krate.name.clone()).collect();
    assert!(ours.len() >= 14, "found only {ours:?}");
    let mut problems = Problems::new();
    for krate in &crates {
        let name = &krate.name;
        let Some((_, allowed)) = IMPORTS.iter().find(|(known, _)| known == name) else {
            problems.push(format!("crate {name} is not in the import table of tidy.rs"));
            continue;
        };
        for kind in ["dependencies", "build-dependencies"] {
            for import in imports(&krate.manifest, kind, &ours) {
                if !allowed.contains(&import.as_str()) {
                    problems.push(format!("{name} imports {import}: a new arrow needs a page in docs/decisions and a row in tidy.rs"));
                }
            }
        }
        for import in imports(&krate.manifest, "dev-dependencies", &ours) {
            if TESTS_TOO.contains(&(name.as_str(), import.as_str())) {
                problems.push(format!("{name} imports {import} in its tests"));
            }
        }
        if krate
            .manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .is_none()
        {
            problems.push(format!("{name} does not inherit the workspace's lints"));
        }
    }
    verdict(&problems);
}

#[test]
fn every_crate_is_on_the_map() {
    let map = read(&root().join("docs/design.md"));
    let mut problems = Problems::new();
    for Crate { package, .. } in crates() {
        if !map.contains(&format!("| `{package}` |")) {
            problems.push(format!(
                "docs/design.md does not name `{package}` in its code map"
            ));
        }
    }
    verdict(&problems);
}

/// Every Rust source of the repository.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a directory is readable") {
            let path = entry.expect("an entry is readable").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    assert!(found.len() > 50, "found only {} sources", found.len());
    found
}

#[test]
fn files_are_short_and_honest() {
    let root = root();
    let mut problems = Problems::new();
    for path in sources() {
        let text = read(&path);
        let path = path
            .strip_prefix(&root)
            .expect("sources lie in the repository")
            .display();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!(
                "{path} has {lines} lines, more than {LINES_MAX}: split it by concept"
            ));
        }
        for (at, line) in text.lines().enumerate() {
            let place = format!("{path}:{}", at + 1);
            // The words are put together here so that this file does not report itself.
            if line.contains(concat!("FIX", "ME")) || line.contains(concat!("todo", "!(")) {
                problems.push(format!("{place}: unfinished work does not merge"));
            }
            if line.contains(concat!("TO", "DO")) && !line.contains(concat!("TO", "DO(#")) {
                problems.push(format!(
                    "{place}: name the issue, as in {}",
                    concat!("TO", "DO(#12)")
                ));
            }
            if line.trim_start().starts_with(concat!("#[", "ignore")) {
                problems.push(format!("{place}: a test that does not run proves nothing"));
            }
        }
    }
    verdict(&problems);
}

/// The heading in `docs/formats.md` below which format sources and their hashes are listed.
const HASHES: &str = "## Sources and their hashes";

/// What of a source decides its bytes: no comments, no blanks, no tests. Formatting may change, layout may not.
fn essence(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect()
}

fn hash(path: &str) -> String {
    let essence = essence(&read(&root().join(path)));
    format!("{:08x}", base::checksum::crc32c(essence.as_bytes()))
}

/// Sources that derive an archived layout: what they define is frozen.
fn archived_sources() -> Vec<String> {
    let root = root();
    let derives = |path: &PathBuf| {
        let code = essence(&read(path));
        code.split("#[derive(").skip(1).any(|rest| {
            rest.split(')')
                .next()
                .is_some_and(|list| list.split(',').any(|d| d == "Archive" || d == "rkyv::Archive"))
        })
    };
    let relative = |path: PathBuf| {
        path.strip_prefix(&root)
            .expect("in the repository")
            .display()
            .to_string()
    };
    sources()
        .into_iter()
        .filter(derives)
        .map(relative)
        .filter(|path| !path.contains("/tests/"))
        .collect()
}

#[test]
fn changed_formats_are_acknowledged() {
    let path = root().join("docs/formats.md");
    let text = read(&path);
    let (before, listed) = text
        .split_once(HASHES)
        .unwrap_or_else(|| panic!("docs/formats.md has no section `{HASHES}`"));
    let rows: BTreeMap<String, String> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |")?.split_once("` | `"))
        .map(|(path, hash)| (path.to_owned(), hash.to_owned()))
        .collect();
    assert!(
        rows.len() >= 5,
        "docs/formats.md lists only {} sources",
        rows.len()
    );
    if std::env::var_os("BLESS").is_some() {
        let intro = listed
            .split_once("| source | hash |")
            .map_or("\n\n", |(intro, _)| intro);
        let mut blessed = format!("{before}{HASHES}{intro}| source | hash |\n|---|---|\n");
        for path in rows.keys().filter(|path| root().join(path).exists()) {
            let _ = writeln!(blessed, "| `{path}` | `{}` |", hash(path));
        }
        fs::write(&path, blessed).expect("docs/formats.md is writable");
        return;
    }
    let mut problems = Problems::new();
    for (path, expected) in &rows {
        if !root().join(path).exists() {
            problems.push(format!("docs/formats.md lists {path}, which does not exist"));
        } else if hash(path) != *expected {
            problems.push(format!(
                "{path} lays out bytes and has changed: describe the change in docs/formats.md (a changed layout is a new version), \
                 then `BLESS=1 cargo test -p corelane-system --test tidy`"
            ));
        }
    }
    for path in archived_sources() {
        if !rows.contains_key(&path) {
            problems.push(format!(
                "{path} derives Archive, so its bytes are frozen: list it in docs/formats.md"
            ));
        }
    }
    verdict(&problems);
}

#[test]
fn the_hash_sees_code_only() {
    let a = "//! Doc.\nfn f() {\n    1 // why\n}\n#[cfg(test)]\nmod tests {}";
    let b = "fn f() { 1 // why\n}";
    assert_eq!(essence(a), essence(b));
    assert_ne!(essence(a), essence("fn f() { 2 // why\n}"));
}
