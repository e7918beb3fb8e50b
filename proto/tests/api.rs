//! What is promised to whoever calls: `api.txt` has every package, message, field, value and rpc, one a line. What is in it stays; what is new is added to it.
//!
//! ```text
//! ASOBI_WRITE_PROTO_API=1 cargo test -p asobi-proto --test api           adds what is new
//! ASOBI_WRITE_PROTO_API=breaking cargo test -p asobi-proto --test api    also takes away what is gone: only before a release has it
//! ```
//!
//! And what buf's STANDARD rules ask of names, and that rpcs and services say what they do.

use std::{collections::BTreeSet, path::PathBuf};

use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FileDescriptor, Kind, MessageDescriptor};

const WRITE: &str = "ASOBI_WRITE_PROTO_API";
const HEAD: &str = "# The gRPC API, one promise a line; written by proto/tests/api.rs.\n";

fn pool() -> DescriptorPool {
    DescriptorPool::decode(asobi_proto::FILE_DESCRIPTOR_SET).expect("the build has made it")
}

fn files(pool: &DescriptorPool) -> impl Iterator<Item = FileDescriptor> {
    pool.files().filter(|file| file.name().starts_with("asobi/"))
}

/// Every promise of the API.
fn promises(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in files(pool) {
        lines.insert(format!("package {} in {}", file.package_name(), file.name()));
        file.messages().for_each(|message| promise_message(&message, &mut lines));
        file.enums().for_each(|values| promise_enum(&values, &mut lines));
        for method in file.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let stream = |streams: bool| if streams { "stream " } else { "" };
            lines.insert(format!(
                "rpc {} ({}{}) returns ({}{})",
                method.full_name(),
                stream(method.is_client_streaming()),
                method.input().full_name(),
                stream(method.is_server_streaming()),
                method.output().full_name()
            ));
        }
    }
    lines
}

fn promise_message(message: &MessageDescriptor, lines: &mut BTreeSet<String>) {
    if message.is_map_entry() {
        return;
    }
    let name = message.full_name();
    lines.insert(format!("message {name}"));
    for field in message.fields() {
        let label = match field.cardinality() {
            _ if field.is_map() => "map ",
            Cardinality::Repeated => "repeated ",
            _ if field.field_descriptor_proto().proto3_optional() => "optional ",
            _ => "",
        };
        let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        let within = oneof.map(|oneof| format!(" in oneof {}", oneof.name())).unwrap_or_default();
        let kind = type_name(&field.kind());
        lines.insert(format!("field {name} {:>3} = {label}{kind} {}{within}", field.number(), field.name()));
    }
    message.child_messages().for_each(|child| promise_message(&child, lines));
    message.child_enums().for_each(|child| promise_enum(&child, lines));
}

fn promise_enum(values: &EnumDescriptor, lines: &mut BTreeSet<String>) {
    for value in values.values() {
        lines.insert(format!("enum {} {:>3} = {}", values.full_name(), value.number(), value.name()));
    }
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(entry) if entry.is_map_entry() => {
            let of =
                |name: &str| entry.get_field_by_name(name).map(|field| type_name(&field.kind())).unwrap_or_default();
            format!("<{}, {}>", of("key"), of("value"))
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(values) => values.full_name().to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    }
}

/// What is promised and gone, and what is there and not promised yet.
fn compare(promised: &BTreeSet<String>, there: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    (promised.difference(there).cloned().collect(), there.difference(promised).cloned().collect())
}

#[test]
fn what_is_promised_is_kept_and_what_is_new_is_promised() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/api.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let promised = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let there = promises(&pool());
    let (gone, new) = compare(&promised, &there);
    let write = std::env::var(WRITE).unwrap_or_default();
    assert!(
        gone.is_empty() || write == "breaking",
        "callers of the last release would break. Keep what they know and add the new beside it:\n{}",
        gone.join("\n")
    );
    if write.is_empty() {
        let command = format!("{WRITE}=1 cargo test -p asobi-proto --test api");
        assert!(new.is_empty(), "api.txt lacks what is new; add it with `{command}`:\n{}", new.join("\n"));
        return;
    }
    let lines: Vec<String> = there.into_iter().collect();
    std::fs::write(&path, format!("{HEAD}{}\n", lines.join("\n"))).expect("the file is written");
}

#[test]
fn a_change_that_breaks_callers_is_seen() {
    let there = promises(&pool());
    let changed = |from: &str, to: &str| {
        let promised = there.iter().map(|line| line.replace(from, to)).collect();
        compare(&promised, &there).0
    };
    assert!(changed("", "").is_empty());
    let number = changed("ops.v1.Node   1 = string node_id", "ops.v1.Node  99 = string node_id");
    assert_eq!(number, ["field asobi.ops.v1.Node  99 = string node_id"]);
    for (from, to) in [
        ("string node_id", "int64 node_id"),
        ("int32 load", "repeated int32 load"),
        ("= SCOPE_ERASE", "= SCOPE_ALL"),
        ("OpsService.ListNodes (", "OpsService.GetNodes ("),
        (
            "returns (stream asobi.matchmaker.v1.WatchTicketResponse)",
            "returns (asobi.matchmaker.v1.WatchTicketResponse)",
        ),
        ("package asobi.ops.v1", "package asobi.operations.v1"),
        (" in oneof", ""),
    ] {
        assert!(!changed(from, to).is_empty(), "{from} → {to}");
    }
}

/// `[A-Z][A-Za-z0-9]*`
fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// `[a-z][a-z0-9_]*`
fn is_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `FooBar` → `FOO_BAR`
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

fn lint_message(message: &MessageDescriptor, problems: &mut Vec<String>) {
    if message.is_map_entry() {
        return;
    }
    let name = message.full_name();
    if !is_pascal(message.name()) {
        problems.push(format!("message {name} is not in PascalCase"));
    }
    let fields = message.fields().map(|field| field.name().to_owned());
    let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic()).map(|oneof| oneof.name().to_owned());
    problems.extend(fields.chain(oneofs).filter(|n| !is_snake(n)).map(|n| format!("{name}.{n} is not in snake_case")));
    message.child_messages().for_each(|child| lint_message(&child, problems));
    message.child_enums().for_each(|child| lint_enum(&child, problems));
}

fn lint_enum(values: &EnumDescriptor, problems: &mut Vec<String>) {
    let (name, prefix) = (values.full_name(), upper_snake(values.name()));
    if !is_pascal(values.name()) {
        problems.push(format!("enum {name} is not in PascalCase"));
    }
    for value in values.values() {
        if !value.name().starts_with(&format!("{prefix}_")) {
            problems.push(format!("{name}: {} does not begin with {prefix}_", value.name()));
        }
        if (value.number() == 0) != (value.name() == format!("{prefix}_UNSPECIFIED")) {
            problems.push(format!("{name}: 0, and only 0, is {prefix}_UNSPECIFIED"));
        }
    }
}

fn lint_services(file: &FileDescriptor, used: &mut BTreeSet<String>, problems: &mut Vec<String>) {
    for (at, service) in file.services().enumerate() {
        let at = i32::try_from(at).expect("few");
        if !service.name().ends_with("Service") || !is_pascal(service.name()) {
            problems.push(format!("service {} does not end with Service", service.full_name()));
        }
        if !has_comment(file, &[6, at]) {
            problems.push(format!("service {} has no comment", service.full_name()));
        }
        for (nth, method) in service.methods().enumerate() {
            let (name, full) = (method.name(), method.full_name());
            let own = [(method.input(), format!("{name}Request")), (method.output(), format!("{name}Response"))];
            for (message, wanted) in own {
                if message.name() != wanted || message.package_name() != file.package_name() {
                    problems.push(format!("{full} takes or returns {}, not its own {wanted}", message.full_name()));
                }
                if !used.insert(message.full_name().to_owned()) {
                    problems.push(format!("{} is of more than one rpc", message.full_name()));
                }
            }
            if !has_comment(file, &[6, at, 2, i32::try_from(nth).expect("few")]) {
                problems.push(format!("rpc {full} has no comment"));
            }
        }
    }
}

/// Whether there is a comment before what this path of field numbers leads to.
fn has_comment(file: &FileDescriptor, path: &[i32]) -> bool {
    let info = file.file_descriptor_proto().source_code_info.as_ref().expect("comments are compiled in");
    let found = info.location.iter().find(|location| location.path == path);
    found.is_some_and(|location| !location.leading_comments().trim().is_empty())
}

#[test]
fn names_are_as_everybody_expects_and_rpcs_say_what_they_do() {
    let (pool, mut used, mut problems) = (pool(), BTreeSet::new(), Vec::new());
    for file in files(&pool) {
        let package = file.package_name();
        let parts: Vec<&str> = package.split('.').collect();
        let version = parts.last().and_then(|last| last.strip_prefix('v')).unwrap_or_default();
        let versioned = parts.len() == 3 && version.parse::<u32>().is_ok_and(|version| version > 0);
        if !versioned || !parts.iter().all(|part| is_snake(part)) {
            problems.push(format!("package {package} is not asobi.<area>.v<number>"));
        }
        if file.name().rsplit_once('/').map(|(folder, _)| folder.replace('/', ".")).as_deref() != Some(package) {
            problems.push(format!("{} is not in the folder of its package {package}", file.name()));
        }
        file.messages().for_each(|message| lint_message(&message, &mut problems));
        file.enums().for_each(|values| lint_enum(&values, &mut problems));
        lint_services(&file, &mut used, &mut problems);
    }
    assert!(!used.is_empty());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Deeds of operators are done once per request id and written down; see `asobi_cluster::desk`.
#[test]
fn what_operators_change_has_a_request_id() {
    let pool = pool();
    let scope = pool.get_extension_by_name("asobi.ops.v1.scope").expect("the option");
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let changes = methods.filter(|method| {
        let options = method.options();
        let number = options.get_extension(&scope).as_ref().as_enum_number().unwrap_or(0);
        let reads = ["Get", "List", "Search", "Find", "Watch", "Tail", "Inspect", "Export", "Count"];
        number > 1 && !reads.iter().any(|verb| method.name().starts_with(verb))
    });
    let lacking = changes.filter(|method| method.input().get_field_by_name("request_id").is_none());
    let lacking: BTreeSet<String> = lacking.map(|method| method.full_name().to_owned()).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}
