//! Compiles `asobi/**/*.proto` without protoc and writes the descriptor set that gRPC reflection serves.

use std::{env, fs, path::PathBuf};

const PROTOS: [&str; 8] = [
    "asobi/match/v1/match.proto",
    "asobi/matchmaker/v1/matchmaker.proto",
    "asobi/social/v1/friends.proto",
    "asobi/social/v1/groups.proto",
    "asobi/social/v1/leaderboards.proto",
    "asobi/social/v1/notifications.proto",
    "asobi/ops/v1/ops.proto",
    "asobi/ops/v1/players.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=asobi");
    println!("cargo:rerun-if-changed=errors.tsv");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Frames and inputs are shared, never copied, between the wire and the sockets.
        .bytes(".asobi.match.v1")
        .compile_fds(descriptors)?;
    fs::write(out.join("errors.rs"), error_table(&fs::read_to_string("errors.tsv")?))?;
    Ok(())
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
