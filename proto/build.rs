//! Compiles `asobi/**/*.proto` without protoc and writes the descriptor set that gRPC reflection serves, and which scope each method needs.

use std::{env, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, Value};

const PROTOS: &[&str] = &[
    "asobi/match/v1/match.proto",
    "asobi/matchmaker/v1/matchmaker.proto",
    "asobi/ops/v1/access.proto",
    "asobi/ops/v1/chat.proto",
    "asobi/ops/v1/directory.proto",
    "asobi/ops/v1/matches.proto",
    "asobi/ops/v1/ops.proto",
    "asobi/ops/v1/players.proto",
    "asobi/ops/v1/scope.proto",
    "asobi/social/v1/friends.proto",
    "asobi/social/v1/group_admin.proto",
    "asobi/social/v1/groups.proto",
    "asobi/social/v1/leaderboards.proto",
    "asobi/social/v1/moderation.proto",
    "asobi/social/v1/notification_admin.proto",
    "asobi/social/v1/notifications.proto",
    "asobi/social/v1/text_filter.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=asobi");
    println!("cargo:rerun-if-changed=errors.tsv");
    let mut compiler = protox::Compiler::new(["."])?;
    // With the comments, which whoever asks by reflection reads.
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    let mut descriptors = compiler.file_descriptor_set();
    // They are written for whoever calls, and are no Rust documentation.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // With the options, which `descriptors` has not.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("scopes.rs"), scope_table(&compiler.descriptor_pool()))?;
    tonic_prost_build::configure()
        // Frames and inputs are shared, never copied, between the wire and the sockets.
        .bytes(".asobi.match.v1")
        // The same message is the same bytes: request ids are checked by them.
        .btree_map(".asobi.social.v1")
        .compile_fds(descriptors)?;
    fs::write(out.join("errors.rs"), error_table(&fs::read_to_string("errors.tsv")?))?;
    Ok(())
}

/// One `(path, scope)` row for each method, in the order of paths; the scope by its number, 0: none is named.
fn scope_table(pool: &DescriptorPool) -> String {
    let option = pool.get_extension_by_name("asobi.ops.v1.scope");
    let mut rows = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            let options = method.options();
            let scope = option.as_ref().map(|option| options.get_extension(option).into_owned());
            let scope = scope.as_ref().and_then(Value::as_enum_number).unwrap_or(0);
            rows.push(format!("    (\"/{}/{}\", {scope}),\n", service.full_name(), method.name()));
        }
    }
    rows.sort_unstable();
    format!("const SCOPES: &[(&str, i32)] = &[\n{}];\n", rows.concat())
}

/// Turns `errors.tsv` into one constant per code and a table of `(code, status, reasons)` rows.
fn error_table(tsv: &str) -> String {
    let mut consts = String::new();
    let mut rows = String::new();
    for (index, line) in tsv.lines().skip(1).enumerate() {
        let mut columns = line.split('\t');
        let code = columns.next().unwrap_or_default();
        let status = columns.next().unwrap_or_default();
        let reasons: Vec<&str> = columns.next().unwrap_or_default().split(',').filter(|r| !r.is_empty()).collect();
        let name = code.replace('.', "_").to_uppercase();
        consts += &format!("    /// `{code}`, HTTP {status}.\n    pub const {name}: ErrorCode = ErrorCode({index});\n");
        rows += &format!("    Row {{ code: {code:?}, status: {status}, reasons: &{reasons:?} }},\n");
    }
    format!("impl ErrorCode {{\n{consts}}}\n\nconst TABLE: &[Row] = &[\n{rows}];\n")
}
